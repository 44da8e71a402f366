package sim

import (
	"container/heap"
	"crypto/sha256"
	"fmt"
	"hash"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// world is one simulation. Everything in it happens in one goroutine, in the order of the events.
type world struct {
	seed uint64
	rng  *rand.Rand
	cfg  settings
	now  int64 // true time since the beginning, ns
	seq  uint64
	todo events

	app    *app
	relay  *relayProc
	agents []*agent
	links  []*linkModel
	net    network
	oracle *oracle

	trace    trace
	steps    int
	calm     bool // faults are over
	counts   map[string]int
	failed   []string // what is wrong
	dirty    bool     // something happened that the ledger may show
	fsids    int
	nowheres int             // debts that nobody can pay, in the end
	left     map[string]bool // paths that are gone and kept, in the end: no index can tell
}

// event is something that happens at a moment.
type event struct {
	at   int64
	seq  uint64
	what string
	fn   func()
}

type events []*event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].seq < e[j].seq
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(*event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}

// after does something when d has passed.
func (w *world) after(d time.Duration, what string, fn func()) {
	w.seq++
	heap.Push(&w.todo, &event{w.now + max(int64(d), 0), w.seq, what, fn})
}

// step does the next event. It reports whether there was one.
func (w *world) step() bool {
	if len(w.todo) == 0 {
		return false
	}
	e := heap.Pop(&w.todo).(*event)
	w.now = max(w.now, e.at)
	w.steps++
	w.trace.begin(w.now, e.what)
	e.fn()
	w.trace.end()
	if w.steps%w.cfg.checkEvery == 0 || w.dirty {
		w.check()
		w.dirty = false
	}
	return true
}

// note adds to the trace of the step under way.
func (w *world) note(format string, args ...any) { w.trace.add(fmt.Sprintf(format, args...)) }

// count counts something for the report.
func (w *world) count(what string) { w.counts[what]++ }

// wrong notes that an invariant does not hold.
func (w *world) wrong(invariant, format string, args ...any) {
	if len(w.failed) < 20 {
		text := invariant + ": " + fmt.Sprintf(format, args...)
		w.failed = append(w.failed, text)
		w.note("WRONG %s", text)
	}
}

// chance is true with probability p.
func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// between draws a duration.
func (w *world) between(a, b time.Duration) time.Duration {
	if b <= a {
		return a
	}
	return a + time.Duration(w.rng.Int64N(int64(b-a)))
}

// trace keeps the last lines, and a hash of all.
type trace struct {
	sum  hash.Hash
	last []string
	line strings.Builder
	tell func(string) // hears every line, if set
}

const traceKept = 400

func newTrace() trace { return trace{sum: sha256.New()} }

func (t *trace) begin(now int64, what string) {
	t.line.Reset()
	fmt.Fprintf(&t.line, "%.6f %s", time.Duration(now).Seconds(), what)
}

func (t *trace) add(s string) { t.line.WriteString(" | " + s) }

func (t *trace) end() {
	line := t.line.String()
	_, _ = t.sum.Write([]byte(line + "\n")) // a hash takes everything
	if t.tell != nil {
		t.tell(line)
	}
	t.last = append(t.last, line)
	if len(t.last) > 2*traceKept {
		t.last = slices.Delete(t.last, 0, traceKept)
	}
}

// hash is that of all lines so far.
func (t *trace) hash() string { return fmt.Sprintf("%x", t.sum.Sum(nil)[:12]) }
