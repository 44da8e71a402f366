package scan

import (
	"sync"
	"time"
)

// asking is what a scan has asked the disk for. A disk that hangs neither fails nor answers, so whoever wants to know looks from outside.
type asking struct {
	mu    sync.Mutex
	dir   string
	since time.Time // zero: nothing is asked
}

// Standing returns which directory a scan waits for the disk in, and since when; a zero time where it does not wait: between two scans, and in the
// pauses of a Pacer.
func (s *Scanner) Standing() (dir string, since time.Time) {
	s.asking.mu.Lock()
	defer s.asking.mu.Unlock()
	return s.asking.dir, s.asking.since
}

// ask is called before the disk is asked for something in a directory.
func (s *Scanner) ask(dir string) {
	now := s.now()
	s.asking.mu.Lock()
	defer s.asking.mu.Unlock()
	s.asking.dir, s.asking.since = dir, now
}

// answered is called when nothing is asked of the disk for a while.
func (s *Scanner) answered() {
	s.asking.mu.Lock()
	defer s.asking.mu.Unlock()
	s.asking.dir, s.asking.since = "", time.Time{}
}
