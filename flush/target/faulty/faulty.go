// Package faulty wraps a target so that it fails as real ones do: with errors of every class, with writes that end early,
// with calls that are carried out although they report an error, and with delays. What happens is drawn from a seed. It is
// for tests and stacks on any driver, on itself too; it imports target and proto only.
package faulty

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"forebay/flush/target"
	"forebay/proto"
)

// Call is a call of the contract.
type Call string

// The calls. Commit is drawn for each change.
const (
	CallProbe   Call = "probe"
	CallStage   Call = "stage"
	CallWrite   Call = "write" // Write and Hole
	CallSync    Call = "sync"
	CallBarrier Call = "barrier"
	CallReread  Call = "reread"
	CallCommit  Call = "commit"
	CallUnstage Call = "unstage"
	CallRead    Call = "read" // Open, Stat, List
	CallRecord  Call = "record"
	CallKeep    Call = "keep" // drawn for each content, of Keep and of Remove; Open and List of a history are CallRead
)

// Fault is what happens to a call.
type Fault uint8

// The faults.
const (
	Fail    Fault = 1 // it is not carried out
	Unknown Fault = 2 // it is carried out, and reports an error
	Short   Fault = 3 // a write is carried out in part; any other call as with Fail
	Delay   Fault = 4 // it takes Delay longer
)

// Rule says how often a fault comes about.
type Rule struct {
	Call  Call // "" is every call
	Fault Fault
	Class proto.Class // of the error; ClassTransient when empty
	Share float64     // probability, 0 to 1
	Times int         // at most so often; 0 is without limit
	Delay time.Duration
}

// Config is the faults and their seed.
type Config struct {
	Seed  uint64
	Rules []Rule
	// Sleep waits, on the clock of the test; it is needed when a rule delays.
	Sleep func(ctx context.Context, d time.Duration) error
}

// ErrInjected is in the chain of every injected error.
var ErrInjected = errors.New("injected fault")

// Target is a target with faults.
type Target struct {
	target.Target
	cfg Config

	mu    sync.Mutex
	rng   *rand.Rand
	left  []int // per rule, when limited
	hits  int
	quiet bool
}

// Wrap returns t with faults. Closing it closes t.
func Wrap(t target.Target, cfg Config) *Target {
	f := &Target{Target: t, cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x666f726562617921))}
	for _, r := range cfg.Rules {
		f.left = append(f.left, r.Times)
	}
	return f
}

// Heal ends all faults; Hits says how many there were.
func (f *Target) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.quiet = true
}

// Hits returns how many faults were injected, delays included.
func (f *Target) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// draw decides what happens to a call: the first rule that hits. Delays are waited for.
func (f *Target) draw(ctx context.Context, c Call) (Fault, error) {
	f.mu.Lock()
	var hit *Rule
	for i := range f.cfg.Rules {
		r := &f.cfg.Rules[i]
		if f.quiet || r.Call != "" && r.Call != c || r.Times > 0 && f.left[i] == 0 || f.rng.Float64() >= r.Share {
			continue
		}
		f.left[i]--
		f.hits++
		hit = r
		break
	}
	f.mu.Unlock()
	if hit == nil {
		return 0, nil
	}
	if hit.Fault == Delay {
		return 0, f.cfg.Sleep(ctx, hit.Delay)
	}
	class := hit.Class
	if class == "" {
		class = proto.ClassTransient
	}
	return hit.Fault, proto.Errorf(class, "%s: %w", c, ErrInjected)
}

// around runs do with the fault drawn for a call.
func (f *Target) around(ctx context.Context, c Call, do func() error) error {
	fault, err := f.draw(ctx, c)
	if err != nil && fault != Unknown {
		return err
	}
	if derr := do(); derr != nil {
		return derr
	}
	return err
}

// Probe implements target.Target.
func (f *Target) Probe(ctx context.Context) (info target.Info, err error) {
	err = f.around(ctx, CallProbe, func() (err error) { info, err = f.Target.Probe(ctx); return err })
	info.Reuses = false // our stages do not
	return info, err
}

// Stage implements target.Writer.
func (f *Target) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	fault, err := f.draw(ctx, CallStage)
	if err != nil && fault != Unknown {
		return nil, err
	}
	s, serr := f.Target.Stage(ctx, c)
	if serr != nil {
		return nil, serr
	}
	if err != nil {
		_ = s.Close() // the caller never learns of it
		return nil, err
	}
	return &stage{Stage: s, f: f, ctx: ctx}, nil
}

// Barrier implements target.Writer.
func (f *Target) Barrier(ctx context.Context, ids []target.StageID) error {
	return f.around(ctx, CallBarrier, func() error { return f.Target.Barrier(ctx, ids) })
}

// Reread implements target.Writer.
func (f *Target) Reread(ctx context.Context, id target.StageID) (r io.ReadCloser, err error) {
	if _, err := f.draw(ctx, CallReread); err != nil {
		return nil, err
	}
	return f.Target.Reread(ctx, id)
}

// Commit implements target.Writer; each change has a fault of its own.
func (f *Target) Commit(ctx context.Context, changes []target.Change) []error {
	return each(ctx, f, CallCommit, changes, f.Target.Commit)
}

// each draws a fault for each of several steps, and has those carried out that it does not keep from it.
func each[T any](ctx context.Context, f *Target, call Call, steps []T, do func(context.Context, []T) []error) []error {
	errs := make([]error, len(steps))
	var pass []T
	var at []int
	for i, s := range steps {
		fault, err := f.draw(ctx, call)
		errs[i] = err
		if err == nil || fault == Unknown {
			pass = append(pass, s)
			at = append(at, i)
		}
	}
	for k, err := range do(ctx, pass) {
		if err != nil {
			errs[at[k]] = err
		}
	}
	return errs
}

// Unstage implements target.Writer.
func (f *Target) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	return f.around(ctx, CallUnstage, func() error { return f.Target.Unstage(ctx, keep) })
}

// Open implements target.Reader.
func (f *Target) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	if _, err := f.draw(ctx, CallRead); err != nil {
		return nil, err
	}
	return f.Target.Open(ctx, path)
}

// Stat implements target.Reader.
func (f *Target) Stat(ctx context.Context, path string) (target.Entry, error) {
	if _, err := f.draw(ctx, CallRead); err != nil {
		return target.Entry{}, err
	}
	return f.Target.Stat(ctx, path)
}

// List implements target.Reader.
func (f *Target) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	return f.around(ctx, CallRead, func() error { return f.Target.List(ctx, prefix, fn) })
}

// Records implements target.Target.
func (f *Target) Records() target.Records { return records{f, f.Target.Records()} }

// History implements target.Target.
func (f *Target) History() target.History {
	h := f.Target.History()
	if h == nil {
		return nil
	}
	return history{f, h}
}

type history struct {
	f *Target
	h target.History
}

// Keep implements target.History; each keep has a fault of its own.
func (h history) Keep(ctx context.Context, keeps []target.Keep) []error {
	return each(ctx, h.f, CallKeep, keeps, h.h.Keep)
}

// Open implements target.History.
func (h history) Open(ctx context.Context, name target.KeptName) (io.ReadCloser, error) {
	if _, err := h.f.draw(ctx, CallRead); err != nil {
		return nil, err
	}
	return h.h.Open(ctx, name)
}

// List implements target.History.
func (h history) List(ctx context.Context, fn func(target.Kept) error) error {
	return h.f.around(ctx, CallRead, func() error { return h.h.List(ctx, fn) })
}

// Remove implements target.History; each name has a fault of its own.
func (h history) Remove(ctx context.Context, names []target.KeptName) []error {
	return each(ctx, h.f, CallKeep, names, h.h.Remove)
}

type records struct {
	f   *Target
	rec target.Records
}

func (r records) Put(ctx context.Context, name string, data []byte) error {
	return r.f.around(ctx, CallRecord, func() error { return r.rec.Put(ctx, name, data) })
}

func (r records) Create(ctx context.Context, name string, data []byte) error {
	return r.f.around(ctx, CallRecord, func() error { return target.Create(ctx, r.rec, name, data) })
}

func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if _, err := r.f.draw(ctx, CallRecord); err != nil {
		return nil, err
	}
	return r.rec.Open(ctx, name)
}

func (r records) List(ctx context.Context, dir string) ([]string, error) {
	if _, err := r.f.draw(ctx, CallRecord); err != nil {
		return nil, err
	}
	return r.rec.List(ctx, dir)
}

func (r records) Remove(ctx context.Context, name string) error {
	return r.f.around(ctx, CallRecord, func() error { return r.rec.Remove(ctx, name) })
}

// stage is a staged content with faults.
type stage struct {
	target.Stage
	f   *Target
	ctx context.Context // of the call of Stage, whose write it is
}

// Write implements target.Stage.
func (s *stage) Write(p []byte) (int, error) {
	fault, err := s.f.draw(s.ctx, CallWrite)
	if err == nil {
		return s.Stage.Write(p)
	}
	switch fault {
	case Short:
		p = p[:len(p)/2]
	case Fail:
		p = nil
	}
	n, werr := s.Stage.Write(p)
	if werr != nil {
		return n, werr
	}
	return n, err
}

// Hole implements target.Stage.
func (s *stage) Hole(n int64) error {
	return s.f.around(s.ctx, CallWrite, func() error { return s.Stage.Hole(n) })
}

// Sync implements target.Stage.
func (s *stage) Sync() (n int64, err error) {
	err = s.f.around(s.ctx, CallSync, func() (err error) { n, err = s.Stage.Sync(); return err })
	return n, err
}
