package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"forebay/internal/baddisk"
)

// program is the built forebay, the same for all tests.
var program string

// seed makes a run with randomness repeatable: every test that uses it prints it.
var seed = flag.Int64("seed", 0, "seed of the tests that need one; 0 draws one")

// built names a program to test instead of building one.
var built = flag.String("program", "", "forebay to test; default: the one that is built from here")

// slow stretches the deadlines of waits.
var slow = flag.Int("slow", 1, "how many times longer than usual tests wait, for large objects and slow machines")

// sites bounds how many sites run at once.
var sites = make(chan struct{}, maxSites)

// maxSites is twice the processors of a small machine: four sites keep three quarters of two busy, and the tests take a fifth less time than
// with three. With many more the agents, which are nice, starve so long that the relay takes them for dead, which is a test of something else.
const maxSites = 4

func TestMain(m *testing.M) {
	flag.Parse()
	patience, settling = patience*time.Duration(*slow), settling*time.Duration(*slow)
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "forebay-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if swept, err := baddisk.Sweep(); err != nil || len(swept) > 0 {
		fmt.Println("disks that an earlier run left behind, taken away:", swept, err)
	}
	began := time.Now()
	if program = *built; program != "" {
		program, err = filepath.Abs(program)
	} else {
		program, err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if *seed == 0 {
		*seed = time.Now().UnixNano()
	}
	// The tests wait for processes: as many run at once as there may be sites, unless the command line says otherwise.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set(fmt.Sprint(maxSites))
	}
	fmt.Printf("%s is there after %s (race detector: %t); seed %d\n", program, time.Since(began).Round(time.Millisecond), withRace, *seed)
	return m.Run()
}

// build builds the program into a directory, with the race detector when the tests run with it, and with build tags. Anybody
// may execute it.
func build(dir string, tags ...string) (string, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	to := filepath.Join(dir, "forebay")
	args := []string{"build", "-o", to, "-tags", strings.Join(tags, ",")}
	if withRace {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "forebay/cmd/forebay")...)
	cmd.Env = os.Environ()
	if !withRace {
		cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return to, os.Chmod(to, 0o755)
}
