package e2e

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/internal/testnet"
)

// stopTime is how long a daemon may take to end after SIGTERM: the program promises 30 s.
const stopTime = 40 * time.Second

// forks starts processes from one thread that never ends: the kernel ends a child with the thread that started it
// (Pdeathsig), and so with the test's process, however that ends, and not sooner.
var forks = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() { // ends with the test's process
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// process is a daemon under test.
type process struct {
	t    testing.TB
	name string
	log  string // file
	from int64  // where its own output begins there
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set then
	err  error

	expected atomic.Bool // its end is wanted
}

// start runs a program with args. Its output goes to the end of the file log. An end that the test did not ask for fails
// the test. With a host it runs in the host's network.
func start(t testing.TB, name, log string, on *testnet.Host, as *syscall.Credential, env []string, program string, args ...string) *process {
	t.Helper()
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	require.NoError(t, err)
	defer func() { _ = out.Close() }() // the child has its own
	p := &process{t: t, name: name, log: log, from: logged(t, log), done: make(chan struct{}), cmd: exec.Command(program, args...)}
	p.cmd.Env, p.cmd.Dir = env, "/"
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: as}
	started := make(chan error)
	forks() <- func() { started <- startOn(on, p.cmd) }
	require.NoError(t, <-started, "start %s", name)
	go func() { // ends when the process does, which the site's cleanup waits for
		p.err = p.cmd.Wait()
		if !p.expected.Load() {
			p.t.Errorf("%s ended by itself: %v", p.name, p.err)
		}
		close(p.done)
	}()
	return p
}

// logged returns how long a log is.
func logged(t testing.TB, log string) int64 {
	t.Helper()
	st, err := os.Stat(log)
	require.NoError(t, err)
	return st.Size()
}

// startOn starts a command from a locked thread, on a host unless that is nil.
func startOn(on *testnet.Host, cmd *exec.Cmd) error {
	if on == nil {
		return cmd.Start()
	}
	leave, err := on.Enter()
	if err != nil {
		return err
	}
	return errors.Join(cmd.Start(), leave())
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends a signal to this very process.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(s), "signal %s", p.name)
}

// kill ends the process by SIGKILL and waits for its end.
func (p *process) kill() {
	if p == nil {
		return
	}
	p.expected.Store(true)
	_ = p.cmd.Process.Kill() // it may have ended already
	<-p.done
}

// stop ends the process as a service manager does, and requires that it ends well.
func (p *process) stop() {
	p.t.Helper()
	p.expected.Store(true)
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
		if logged(p.t, p.log) > p.from { // else it had only begun, and did not handle signals yet
			require.NoError(p.t, p.err, "%s after SIGTERM", p.name)
		}
	case <-time.After(stopTime):
		p.kill()
		require.FailNow(p.t, p.name+" did not end after SIGTERM")
	}
}

// freeze stops the process where it stands; thaw lets it go on.
func (p *process) freeze() { p.signal(syscall.SIGSTOP) }
func (p *process) thaw()   { p.signal(syscall.SIGCONT) }

// tail returns the last bytes of a log, from the start of a line.
func tail(log string, most int64) string {
	f, err := os.Open(log)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	raw, _ := io.ReadAll(f)
	if int64(len(raw)) == most {
		if _, rest, ok := bytes.Cut(raw, []byte("\n")); ok {
			raw = rest
		}
	}
	return string(raw)
}

// raced returns what the race detector wrote into a log, "" for nothing.
func raced(log string) string {
	raw, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	i := bytes.Index(raw, []byte("WARNING: DATA RACE"))
	if i < 0 {
		return ""
	}
	return string(raw[i:min(len(raw), i+8<<10)])
}
