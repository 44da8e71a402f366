package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"forebay/internal/proc"
)

// stopGrace is how long a daemon may take to end after SIGTERM: its own promise is 30 s.
const stopGrace = 40 * time.Second

// spawner starts child processes that die with this one, each the leader of its own process group. The kernel ends a child
// when the thread that started it ends, so that all are started from one thread that lives as long as the spawner.
type spawner struct {
	requests chan func()
	tied     bool // children die with this process

	mu       sync.Mutex
	children []*child
}

// newSpawner returns a spawner whose children die with this process if tied.
func newSpawner(tied bool) *spawner {
	s := &spawner{requests: make(chan func()), tied: tied}
	go func() { // ends at close
		runtime.LockOSThread()
		for start := range s.requests {
			start()
		}
		// Still locked: the thread ends with the goroutine, after all children.
	}()
	return s
}

// child is a process of this program.
type child struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended; err is set then
	err  error

	expected atomic.Bool  // its end is wanted
	peak     atomic.Int64 // bytes of resident memory, the highest seen
}

// start runs the executable with args, its output in the file log. onExit is called when it ends without being asked to.
func (s *spawner) start(name, executable string, args, env []string, log string, onExit func(*child)) (*child, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the child has its own
	cmd := exec.Command(executable, args...)
	cmd.Env = env
	cmd.Dir = filepath.Dir(log)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if s.tied {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error, 1)
	s.requests <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	s.mu.Lock()
	s.children = append(s.children, c)
	s.mu.Unlock()
	go func() { // ends when the process does
		c.err = cmd.Wait()
		close(c.done)
		if !c.expected.Load() && onExit != nil {
			onExit(c)
		}
	}()
	return c, nil
}

// killAll ends every child and its group and waits for them. The spawner is at its end then.
func (s *spawner) killAll() {
	s.mu.Lock()
	children := s.children
	s.children = nil
	s.mu.Unlock()
	for _, c := range children {
		c.kill()
	}
	for _, c := range children {
		<-c.done
	}
	close(s.requests)
}

// all returns every child that was started.
func (s *spawner) all() []*child {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.children)
}

// running returns the children that have not ended.
func (s *spawner) running() []*child {
	var out []*child
	for _, c := range s.all() {
		if c.alive() {
			out = append(out, c)
		}
	}
	return out
}

func (c *child) pid() int { return c.cmd.Process.Pid }

func (c *child) alive() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// kill sends SIGKILL to the process and whatever it started. It does not wait.
func (c *child) kill() {
	c.expected.Store(true)
	if c.alive() {
		_ = syscall.Kill(-c.pid(), syscall.SIGKILL) // gone already is what we want
	}
}

// stop asks the process to end by SIGTERM, and waits. An end that is not clean is an error.
func (c *child) stop(ctx context.Context) error {
	c.sample()
	c.expected.Store(true)
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", c.name, err)
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-c.done:
	case <-timer.C:
		c.kill()
		<-c.done
		return fmt.Errorf("%s did not end within %s after SIGTERM; its log is %s", c.name, stopGrace, c.log)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.err != nil {
		return fmt.Errorf("%s ended with %w after SIGTERM; the end of its log:\n%s", c.name, c.err, tail(c.log))
	}
	return nil
}

// written is how many bytes the process has written with write calls.
func (c *child) written() (bytes int64, ok bool) {
	n, err := proc.Field(c.pid(), "io", "wchar:")
	return n, err == nil
}

// sample notes the process's peak of resident memory. The kernel's own record at the end of a child would count the memory
// of this process at the fork too.
func (c *child) sample() {
	if peak, err := proc.Peak(c.pid()); err == nil && peak > c.peak.Load() {
		c.peak.Store(peak)
	}
}

// tail returns the last lines of a log.
func tail(path string) string {
	const most = 2048
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	if st, err := f.Stat(); err == nil && st.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // from the start then
	}
	raw, _ := io.ReadAll(io.LimitReader(f, most))
	lines := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
	return "    " + strings.Join(lines[max(0, len(lines)-8):], "\n    ")
}
