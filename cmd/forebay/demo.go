package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"forebay/demo"
	"forebay/internal/show"
	"forebay/units"
)

// leastLarge is the smallest object whose upload can be met half way.
const leastLarge = 64 << 20

// demoSeed makes the demo's generated object the same each time.
const demoSeed = 0x666f7265626179

func newDemo(c *cli) *cobra.Command {
	var f struct {
		source, dir string
		large       sizeFlag
		keep, json  bool
	}
	f.large = sizeFlag(units.GiB)
	cmd := &cobra.Command{
		Use: "demo [--source DIR] [--dir DIR] [--keep] [--json]", Short: "All of it on one machine: backup, kill, takeover, flush, restore, compared",
		Args: usageArgs(cobra.NoArgs), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Unlike other verbs it keeps the signals until it has cleaned up: an impatient second one would leave files.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			o := demo.Options{Dir: f.dir, LargeBytes: int64(f.large), Seed: demoSeed, Keep: f.keep}
			if o.LargeBytes < leastLarge {
				return usagef("--large %s: what is smaller than %s may be there before its sender can be killed", units.Size(o.LargeBytes), units.Size(leastLarge))
			}
			if o.Dir == "" {
				o.Dir = os.TempDir()
			}
			var err error
			if o.Source, err = demoSource(ctx, f.source); err != nil {
				return err
			}
			return c.demo(ctx, o, f.json)
		},
	}
	cmd.Flags().StringVar(&f.source, "source", "", "any tree (default: the source tree of the Go installation)")
	cmd.Flags().StringVar(&f.dir, "dir", "", "where the demo makes its own directory (default: the temporary directory)")
	cmd.Flags().Var(&f.large, "large", "size of the generated object")
	cmd.Flags().BoolVar(&f.keep, "keep", false, "leave it all running and say how to look at it")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the summary as JSON")
	return cmd
}

func (c *cli) demo(ctx context.Context, o demo.Options, asJSON bool) (err error) {
	if o.Executable, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	for _, dir := range []*string{&o.Dir, &o.Source} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	p := c.progress()
	defer p.Close()
	sum, err := demo.New(o, demo.Deps{Now: c.now, Progress: p, Environ: childEnviron(os.Environ())}).Run(ctx)
	p.Close()
	if sum == nil {
		return err
	}
	if asJSON {
		err = errors.Join(err, c.encodeJSON(sum))
	} else {
		sum.Print(c.out)
	}
	if err == nil && sum.Verdict == demo.VerdictPart {
		return partly("%s of the source could not be backed up, listed above; all else is equal", show.Things(int64(len(sum.LeftOut)), "path"))
	}
	return err
}

// childEnviron is the environment without flags that are meant for this process.
func childEnviron(environ []string) (out []string) {
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "FOREBAY_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			out = append(out, kv)
		}
	}
	return out
}

// demoSource is the tree that the demo protects: the one asked for, or the source of the Go installation.
func demoSource(ctx context.Context, asked string) (string, error) {
	if asked != "" {
		return asked, nil
	}
	var roots []string
	if out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output(); err == nil {
		roots = append(roots, strings.TrimSpace(string(out)))
	}
	roots = append(roots, runtime.GOROOT()) //nolint:staticcheck // where the go command is not in the PATH
	for _, root := range roots {
		src := filepath.Join(root, "src")
		if st, err := os.Stat(src); root != "" && err == nil && st.IsDir() {
			return src, nil
		}
	}
	return "", errors.New("there is no Go installation here whose source tree could be used: name a tree with --source DIR")
}

// sizeFlag is a size with its unit.
type sizeFlag units.Size

// String prints the value.
func (s *sizeFlag) String() string { return units.Size(*s).String() }

// Set reads the value.
func (s *sizeFlag) Set(text string) error {
	v, err := units.ParseSize(text)
	*s = sizeFlag(v)
	return err
}

// Type names the value in help texts.
func (s *sizeFlag) Type() string { return "size" }
