package e2e

import (
	"errors"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// restartPause is how long a supervisor waits before it starts a daemon again: systemd's RestartSec in the shipped units,
// made short.
const restartPause = 200 * time.Millisecond

// supervisor keeps a daemon running as the shipped units do, Restart=on-failure and no limit: it is started again when it
// ends with a code, is killed, or ends by a signal that nobody sent; not when it ends well.
type supervisor struct {
	t      testing.TB
	launch func() *process
	quit   chan struct{}
	done   chan struct{}

	hold sync.Mutex // held while the daemon is started, or has to stay down

	mu       sync.Mutex
	now      *process
	restarts int
	codes    map[int]int // how often it ended with which code; -1 for signals
}

// supervise starts a daemon and keeps it running until the site is closed, or end.
func (s *site) supervise(launch func() *process) *supervisor {
	v := &supervisor{t: s.t, launch: launch, quit: make(chan struct{}), done: make(chan struct{}), codes: map[int]int{}}
	v.now = launch()
	v.now.expected.Store(true)
	go v.run() // ends at end, which the site's close calls
	s.atEnd(v.end)
	return v
}

func (v *supervisor) run() {
	defer close(v.done)
	for {
		p := v.process()
		select {
		case <-v.quit:
			return
		case <-p.done:
		}
		var exit *exec.ExitError
		if p.err == nil {
			return // it ended well: it was told to
		}
		v.mu.Lock()
		v.restarts++
		if errors.As(p.err, &exit) {
			v.codes[exit.ExitCode()]++
		}
		v.mu.Unlock()
		select {
		case <-v.quit:
			return
		case <-time.After(restartPause):
		}
		v.again()
	}
}

// again starts the daemon.
func (v *supervisor) again() {
	v.hold.Lock()
	defer v.hold.Unlock()
	next := v.launch()
	next.expected.Store(true)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = next
}

// down kills the daemon and does something before it is started again.
func (v *supervisor) down(do func()) {
	defer v.gone()()
	do()
}

// gone kills the daemon, and keeps it from being started again until back is called.
func (v *supervisor) gone() (back func()) {
	v.hold.Lock()
	v.process().kill()
	return v.hold.Unlock
}

// tell sends a signal to the daemon, if it is there.
func (v *supervisor) tell(sig syscall.Signal) { _ = v.process().cmd.Process.Signal(sig) }

// process is the daemon as it runs, or last ran.
func (v *supervisor) process() *process {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now
}

// ended says how often the daemon ended with a code.
func (v *supervisor) ended(code int) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.codes[code]
}

// end ends supervision and the daemon.
func (v *supervisor) end() {
	select {
	case <-v.quit:
	default:
		close(v.quit)
	}
	<-v.done
	v.process().kill()
}
