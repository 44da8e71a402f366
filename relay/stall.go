package relay

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"forebay/proto"
)

// The ledger's disk is watched from outside of everything that waits for it: a call that hangs may have the fence and whatever else with
// it, and nothing is done about it, for a sync cannot be taken back and may come to its end. But nothing is acknowledged or confirmed
// meanwhile, which nobody else would tell (I17).
const (
	// ledgerStalls is from when on a call that has not come back is a stall. A disk that is busy takes seconds.
	ledgerStalls = 10 * time.Second
	// ledgerSlow and ledgerCalm: a stall is over once no call has taken so long for so long. A disk that takes 20 s for each sync is one
	// stall, not many.
	ledgerSlow = 2 * time.Second
	ledgerCalm = 5 * time.Second
	// ledgerLook is how often the watch looks.
	ledgerLook = 500 * time.Millisecond
)

// stall is what the watch of the ledger's disk saw.
type stall struct {
	mu    sync.Mutex
	at    int64  // the running time of the last look
	call  uint64 // the oldest call at the last look, 0: none
	since int64  // the running time of the first look that saw it
	began int64  // of the stall that is told, 0: there is none
	late  int64  // of the last look that saw a call take longer than ledgerSlow

	hung   map[uint64]int64 // status that is being gathered, and since when
	glance uint64
	last   proto.Status // as it was gathered last
	has    bool
}

// look is told of the oldest call under way. It returns for how long the stall that begins or ends with this look lasts by now, 0 when
// none does.
func (s *stall) look(call uint64, up int64) (begins, ends time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stood := up - s.at - int64(ledgerLook); s.at != 0 && stood > int64(ledgerSlow) { // this process stood still, not the disk
		s.since += stood
		for id := range s.hung {
			s.hung[id] += stood
		}
	}
	if s.at = up; call == 0 || call != s.call {
		s.call, s.since = call, up
	}
	first := s.since
	for _, at := range s.hung {
		first = min(first, at)
	}
	waited := time.Duration(up - first)
	if waited >= ledgerSlow {
		s.late = up
	}
	switch {
	case s.began == 0 && waited >= ledgerStalls:
		s.began = first
		return waited, 0
	case s.began != 0 && up-s.late >= int64(ledgerCalm):
		lasted := time.Duration(s.late - s.began)
		s.began = 0
		return 0, lasted
	}
	return 0, 0
}

// waiting returns for how long the ledger's disk has not answered, 0 when it does.
func (s *stall) waiting(up int64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began == 0 {
		return 0
	}
	return time.Duration(up - s.began)
}

// glances notes that status is being gathered. ok is false when an earlier one has not come back for patience: this one would not either.
func (s *stall) glances(up int64, patience time.Duration) (id uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.hung {
		if up-at >= int64(patience) {
			return 0, false
		}
	}
	if s.hung == nil {
		s.hung = map[uint64]int64{}
	}
	s.glance++
	s.hung[s.glance] = up
	return s.glance, true
}

// gathered notes what came of it.
func (s *stall) gathered(id uint64, st proto.Status, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.hung, id)
	if err == nil {
		s.last, s.has = st, true
	}
}

func (s *stall) before() (proto.Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.has
}

// watchLedger looks at the ledger's disk. It ends when ctx does.
func (r *Relay) watchLedger(ctx context.Context) error {
	return every(ctx, ledgerLook, func(int) { r.ledgerRound() })
}

// ledgerRound is one look. It takes no lock that is held while the disk is waited for. The event is in the log at once, and in the ledger
// once that takes it.
func (r *Relay) ledgerRound() {
	begins, ends := r.stall.look(r.ledger.Oldest(), r.up())
	fields := map[string]string{"path": r.ledgerDir()}
	if begins > 0 {
		r.event("ledger-stalled", fmt.Sprintf("the disk of the ledger %s has not answered for %s: nothing is acknowledged or confirmed until it does", r.ledgerDir(), begins.Round(time.Second)), fields)
	}
	if ends > 0 {
		fields["seconds"] = fmt.Sprintf("%.0f", ends.Seconds())
		r.event("ledger-answers", fmt.Sprintf("the disk of the ledger %s answers again, after %s", r.ledgerDir(), ends.Round(time.Second)), fields)
	}
}

func (r *Relay) ledgerDir() string { return filepath.Join(r.cfg.Data, "ledger") }

// ledgerStatus is read from memory alone.
func (r *Relay) ledgerStatus() proto.LedgerStatus {
	s := proto.LedgerStatus{Path: r.ledgerDir(), State: "ok"}
	if w := r.stall.waiting(r.up()); w > 0 {
		s.State, s.WaitingSeconds = "stalled", w.Seconds()
	}
	return s
}

func (f *finder) ledger(l proto.LedgerStatus) {
	if l.State != "stalled" {
		return
	}
	waited := time.Duration(l.WaitingSeconds) * time.Second
	what := fmt.Sprintf("ledger's disk: nothing was answered for %s in %s, nothing is acknowledged or confirmed", waited, l.Path)
	if l.AsOf != "" {
		what += "; what else is shown is as of " + l.AsOf
	}
	f.add("ledger-stalled", proto.Red, "see to the disk of data: (the kernel's log, a frozen file system, a controller that hangs); the relay goes on by itself once it answers, and nothing acknowledged is lost", "%s", what)
}

// statusPatience is how long a status may take to gather, and statusHurry while the ledger's disk is known to hang.
const (
	statusPatience = ledgerStalls
	statusHurry    = 2 * time.Second
)

// Status says how things are. While the ledger cannot be read, it is what could be read last, with that as a problem.
func (r *Relay) Status(ctx context.Context) (proto.Status, error) {
	if r.deps.Driven {
		return r.gather()
	}
	patience := statusPatience
	if r.stall.waiting(r.up()) > 0 {
		patience = statusHurry
	}
	id, ok := r.stall.glances(r.up(), patience)
	if !ok {
		return r.statusBefore()
	}
	type result struct {
		status proto.Status
		err    error
	}
	done := make(chan result, 1)
	go func() { // ends when the ledger answers
		s, err := r.gather()
		r.stall.gathered(id, s, err)
		done <- result{s, err}
	}()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case res := <-done:
		return res.status, res.err
	case <-late.C:
		return r.statusBefore()
	case <-ctx.Done():
		return proto.Status{}, proto.Errorf(proto.ClassTransient, "status: %w", ctx.Err())
	}
}

// statusBefore is the last status that could be gathered, with how the ledger's disk is now.
func (r *Relay) statusBefore() (proto.Status, error) {
	s, ok := r.stall.before()
	if !ok {
		return s, proto.Errorf(proto.ClassTransient, "the ledger in %s does not answer", r.ledgerDir())
	}
	asOf := s.Now
	s.Now, s.Ledger = stamp(r.now()), r.ledgerStatus()
	s.Ledger.AsOf = asOf
	f := finder{out: slices.DeleteFunc(slices.Clone(s.Problems), func(p proto.Problem) bool { return p.Code == "ledger-stalled" })}
	f.ledger(s.Ledger)
	s.Health = proto.Green
	for i := range f.out {
		if f.out[i].Since == "" {
			f.out[i].Since = stamp(r.now().Add(-time.Duration(s.Ledger.WaitingSeconds * float64(time.Second))))
		}
		s.Health = worse(s.Health, f.out[i].Health)
	}
	slices.SortStableFunc(f.out, func(a, b proto.Problem) int { return rank(b.Health) - rank(a.Health) })
	s.Problems = f.out
	return s, nil
}
