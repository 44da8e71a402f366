package flush

import (
	"fmt"
	"time"

	"forebay/flush/target"
)

// The states of a link, as status shows them.
const (
	StateIdle     = "idle"
	StateSeeding  = "seeding"
	StateFlushing = "flushing"
	StateWaiting  = "waiting"
	StatePaused   = "paused"
	StateStalled  = "stalled"
	StateHeld     = "held"
	StateOrphaned = "orphaned"
)

// State is what a link is doing, for status. Counts of what is owed are in the ledger; here is what only the loop knows.
type State struct {
	Link        string
	State       string // one of the constants above
	Reason      string // for operators
	NextTry     time.Time
	LastError   string // the last failure of the target or of an object, also when it is over
	LastErrorAt time.Time
	StalledAt   time.Time // since when nothing gets through; zero while it does

	RateBytesPerSecond float64
	ETA                time.Duration // of the backlog at that rate; 0 when unknown or nothing is owed
	WindowOpens        time.Time     // zero while open and without windows
	WindowCloses       time.Time
	Forced             bool // the batch under way goes only because the policy forces it

	Budget, BudgetSpent       int64     // of the present window; 0 = none. Forced bytes may bring the latter over the former
	BudgetSince, BudgetRenews time.Time // when that window opened, and when the next one does

	InFlightObjects, InFlightBytes int64 // of the batch under way
	StagedBytes                    int64 // of them: written to the target's stage
	HeldDeletes                    int64
	DeferredObjects                int64 // failed for now, each with its own next try

	Confirm target.ConfirmClass // in force; "" until the target was reached
	Target  target.Info         // as last probed
	Notes   []string

	KeptVersions, KeptBytes int64     // what the target keeps of the past; 0 until it was counted
	HistoryReaches          time.Time // from when on the tree is known at any moment; zero when it is not
	HistoryHeld             string    // why kept versions wait for an operator; "" when none do
}

// shared is the part of a link's state that is written by its loop and read by anybody. It is never held while something
// blocks.
type shared struct {
	State
	backlogBytes int64
	reusedBytes  int64 // of StagedBytes: the target had them, and backlogBytes does not count them
	unstable     bool  // the target does not keep what is staged, see errUnstable
}

// silentFor is from when on a target that does not answer is told of: drivers of networks give up only after a minute, and a directory whose file
// system hangs never does. From deadFor on its link is stalled, unless a batch is under way: to sync and commit much may take long.
const (
	silentFor = 5 * time.Second
	deadFor   = 75 * time.Second
)

// silent shows a target that has not answered since a moment.
func (s *State) silent(since, now time.Time) {
	d := now.Sub(since)
	if since.IsZero() || d < silentFor {
		return
	}
	note := fmt.Sprintf("the target has not answered for %s", d.Round(time.Second))
	s.Notes = append(s.Notes, note)
	switch {
	case s.State == StateIdle && d < deadFor:
		s.State, s.Reason = StateWaiting, note
	case (s.State == StateIdle || s.State == StateWaiting) && d >= deadFor:
		s.State, s.StalledAt = StateStalled, since
		s.Reason = fmt.Sprintf("the target has not answered since %s: see to its disk, or to the server that it is mounted from", since.UTC().Format(time.RFC3339))
	}
}

// State returns what a link is doing; ok is false when no link of that name is configured or orphaned.
func (e *Engine) State(name string) (State, bool) {
	l := e.find(name)
	if l == nil {
		return e.orphan(name)
	}
	now := e.deps.Clock.Now()
	l.mu.Lock()
	s, backlog, reused, past := l.shared.State, l.shared.backlogBytes, l.shared.reusedBytes, l.past
	l.mu.Unlock()
	s.Notes = append([]string(nil), s.Notes...)
	s.silent(l.under.Since(), now)
	if past.known {
		s.KeptVersions, s.KeptBytes, s.HistoryReaches, s.HistoryHeld = past.versions, past.bytes, past.reach, past.held
	}
	if past.trouble != "" {
		s.Notes = append(s.Notes, past.trouble)
	}
	if past.locked > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d kept contents are past their time and locked by the target, %s", past.locked, untilText(past.until)))
	}
	l.purse.mu.Lock()
	switch {
	case !s.BudgetRenews.IsZero() && !now.Before(s.BudgetRenews):
		s.BudgetSince, s.BudgetRenews, s.BudgetSpent = s.BudgetRenews, time.Time{}, 0 // nothing was done since
	case s.BudgetSince.Equal(l.purse.since):
		s.BudgetSpent = l.purse.sent()
	}
	l.purse.mu.Unlock()
	s.RateBytesPerSecond = l.meter.perSecond(now)
	if left := backlog - (s.StagedBytes - reused); left > 0 && s.RateBytesPerSecond > 0 {
		s.ETA = time.Duration(float64(left) / s.RateBytesPerSecond * float64(time.Second))
	}
	return s, true
}

func untilText(t time.Time) string {
	if t.IsZero() {
		return "it does not say until when"
	}
	return "the first of them until " + t.UTC().Format(time.RFC3339)
}

// publish changes the shared state.
func (l *link) publish(fn func(s *shared)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn(&l.shared)
}

// sentBytes is what the batch under way has sent.
func (l *link) sentBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shared.StagedBytes - l.shared.reusedBytes
}

// staged counts bytes that reached the target's stage.
func (l *link) staged(n int64) {
	l.meter.add(l.e.deps.Clock.Now(), n)
	l.stagedHole(n)
}

// stagedHole is staged for zeros that cost nothing.
func (l *link) stagedHole(n int64) {
	l.publish(func(s *shared) { s.StagedBytes += n })
}

// stagedAgain is staged for what the target uses again, which was not to be sent.
func (l *link) stagedAgain(n int64) {
	l.publish(func(s *shared) { s.StagedBytes, s.reusedBytes = s.StagedBytes+n, s.reusedBytes+n })
}
