package child

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// Config says what to start.
type Config struct {
	Command []string // the program, absolute, and its arguments
	Env     []string // all of its environment but for GOMEMLIMIT
	Memory  int64    // bytes that it may have resident, 0 for no limit
	// Patience is how long it has to end once its input has, 3 s when 0.
	Patience time.Duration
}

// Deps is what a child is given.
type Deps struct {
	Now func() time.Time
	// Say is told each line of the standard error, cut to a bearable length and rate. It is called from one goroutine at a time.
	Say func(line string)
}

// Child is a running program. Its standard input and output are the stream.
type Child struct {
	cfg  Config
	cmd  *exec.Cmd
	in   *os.File // its standard input, our end
	out  *os.File // its standard output, our end
	gone chan struct{}
	said *said

	mu     sync.Mutex
	reaped bool  // its number may be another's
	why    error // why it was ended, nil when it ended by itself
	end    error // once gone is closed
}

// Start starts the program in a process group of its own. It ends with this process, whatever ends that.
func Start(cfg Config, deps Deps) (*Child, error) {
	if len(cfg.Command) == 0 {
		return nil, proto.Errorf(proto.ClassPermanent, "no command is given")
	}
	if cfg.Patience == 0 {
		cfg.Patience = 3 * time.Second
	}
	c := &Child{cfg: cfg, gone: make(chan struct{})}
	theirs, err := c.pipes()
	if err != nil {
		return nil, proto.Errorf(proto.ClassTransient, "start %s: %w", cfg.Command[0], err)
	}
	cmd := &exec.Cmd{Path: cfg.Command[0], Args: cfg.Command, Env: slices.Clone(cfg.Env), Dir: "/", Stdin: theirs[0], Stdout: theirs[1], Stderr: theirs[2],
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	if cfg.Memory > 0 {
		cmd.Env = append(cmd.Env, "GOMEMLIMIT="+strconv.FormatInt(cfg.Memory/10*9, 10))
	}
	c.cmd = cmd
	// What this process opens is closed in children, but not what it was itself given open. An older kernel cannot do it for all.
	_ = unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC)
	started := make(chan error, 1)
	go func() { // ends with the child. The kernel ends a child with the thread that started it: that is kept until then
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			// The child may have ended already, and not every kernel lets it be: then it is as any other process.
			_ = os.WriteFile(c.proc("oom_score_adj"), []byte("1000"), 0)
		}
		started <- err
		if err == nil {
			c.wait(deps)
		}
	}()
	err = <-started
	for _, f := range theirs {
		_ = f.Close() // the child has its own
	}
	if err != nil {
		c.closeOurs()
		return nil, proto.Errorf(proto.ClassTransient, "start the driver: %w", err)
	}
	return c, nil
}

// pipes makes the three pipes: ours are kept, theirs returned, input first.
func (c *Child) pipes() (theirs [3]*os.File, err error) {
	var all []*os.File
	pipe := func() (r, w *os.File) {
		if err == nil {
			if r, w, err = os.Pipe(); err == nil {
				all = append(all, r, w)
			}
		}
		return r, w
	}
	inR, inW := pipe()
	outR, outW := pipe()
	errR, errW := pipe()
	if err != nil {
		for _, f := range all {
			_ = f.Close() // nothing was written
		}
		return theirs, err
	}
	c.in, c.out, c.said = inW, outR, &said{from: errR}
	return [3]*os.File{inR, outW, errW}, nil
}

func (c *Child) closeOurs() {
	for _, f := range [...]*os.File{c.in, c.out, c.said.from} {
		_ = f.Close() // nothing more is wanted of it
	}
}

func (c *Child) proc(file string) string {
	return filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid), file)
}

// wait watches the child until it has ended, then ends what it has started in its group, while the group's number is still its own.
func (c *Child) wait(deps Deps) {
	ctx, stop := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { c.watchMemory(ctx) }) // ends with ctx
	listened := make(chan struct{})
	go func() { // ends when the last process that has the standard error open does
		defer close(listened)
		if err := c.said.listen(deps); err != nil {
			c.Kill(err)
		}
	}()
	for {
		err := unix.Waitid(unix.P_PID, c.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // none may be left
	c.mu.Lock()
	c.reaped = true
	c.mu.Unlock()
	err := c.cmd.Wait()
	stop()
	watching.Wait()
	<-listened
	c.mu.Lock()
	c.end = c.conclude(err)
	c.mu.Unlock()
	close(c.gone)
}

// conclude says in words how it ended.
func (c *Child) conclude(err error) error {
	what := "it ended: " + c.cmd.ProcessState.String()
	if c.why != nil {
		return c.why
	}
	if last := c.said.lastLine(); last != "" && err != nil {
		what += fmt.Sprintf("; the last it said was %q", last)
	}
	return errors.New(what)
}

// Read reads from its standard output.
func (c *Child) Read(p []byte) (int, error) { return c.out.Read(p) }

// Write writes to its standard input.
func (c *Child) Write(p []byte) (int, error) { return c.in.Write(p) }

// Kill ends it and its group at once. Reads and writes under way fail.
func (c *Child) Kill(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.reaped {
		if c.why == nil {
			c.why = why
		}
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // it may have ended by itself
	}
	c.closeOurs()
}

// End closes its input, upon which a driver ends by itself, and ends it where it does not. It returns when nothing of it is left.
func (c *Child) End() {
	_ = c.in.Close() // it may be closed
	c.await("it did not end when its input did, and was ended")
	c.closeOurs()
}

// Ended says how it ended; a child that only closed its output is given a moment, and then ended.
func (c *Child) Ended() error {
	c.await("it closed its output and went on: it was ended")
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end
}

// await gives it a moment to end, and ends it.
func (c *Child) await(late string) {
	timer := time.NewTimer(c.cfg.Patience)
	defer timer.Stop()
	select {
	case <-c.gone:
	case <-timer.C:
		c.Kill(errors.New(late))
		<-c.gone
	}
}

// lookEvery is how often memory is looked at.
const lookEvery = 250 * time.Millisecond

func (c *Child) watchMemory(ctx context.Context) {
	if c.cfg.Memory <= 0 {
		return
	}
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if used := c.resident(); used > c.cfg.Memory {
			c.Kill(fmt.Errorf("it used %d MiB of memory, %d MiB are allowed: it was ended. Raise memory for this target if it needs more", used>>20, c.cfg.Memory>>20))
			return
		}
	}
}

// resident is how many bytes it has in memory, 0 when it has ended.
func (c *Child) resident() int64 {
	b, err := os.ReadFile(c.proc("statm"))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
