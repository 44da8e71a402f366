package flush_test

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/policy"
	"forebay/flush/policy/simulate"
	"forebay/flush/target"
	"forebay/internal/figures"
	"forebay/ledger"
	"forebay/proto"
)

var livedReport = flag.String("report", "", "where TestSimulatedAndLivedThrough puts its report; empty: nowhere")

// drivenClock goes on when somebody waits: a wait ends at once, and as much later as it was to take.
type drivenClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *drivenClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *drivenClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *drivenClock) Timer(d time.Duration) (<-chan time.Time, func()) {
	c.advance(max(d, 0))
	fired := make(chan time.Time, 1)
	fired <- c.Now()
	return fired, func() {}
}

// paced is a target that takes bytes at a rate, by the driven clock.
type paced struct {
	target.Target
	clock *drivenClock
	rate  float64
}

func (p paced) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	s, err := p.Target.Stage(ctx, c)
	return pacedStage{s, p}, err
}

type pacedStage struct {
	target.Stage
	of paced
}

func (s pacedStage) Write(p []byte) (int, error) {
	s.of.clock.advance(time.Duration(float64(len(p)) / s.of.rate * float64(time.Second)))
	return s.Stage.Write(p)
}

// life is a trace that is lived through by the engine itself, in compressed time, with the cache's marks.
type life struct {
	w         *world
	clock     *drivenClock
	trace     simulate.Trace
	size      int // of an object
	high, low int64
	next      int // the next object
	due       []time.Time
	waiting   []time.Time // objects at the source: the cache is full
	full      bool
	from      proto.VersionID // all below it is confirmed, or superseded
	born      []time.Time     // by version, from 1
	lags      []lasting
	peak      int64
}

const livedRate = 64 << 10 // bytes a second of the target

// lasting is a lag, and for how many seconds it was about that.
type lasting struct{ lag, seconds float64 }

// arrive brings the objects that are due, as far as the cache takes them.
func (l *life) arrive() {
	now := l.clock.Now()
	l.w.clock.advance(now.Sub(l.w.clock.Now())) // acknowledgements bear the world's stamps
	for l.next < len(l.due) && !l.due[l.next].After(now) {
		l.waiting = append(l.waiting, l.due[l.next])
		l.next++
	}
	for len(l.waiting) > 0 {
		cached := l.w.row("a").CachedBytes
		switch {
		case cached < l.low:
			l.full = false
		case cached+int64(l.size) > l.high:
			l.full = true
		}
		if l.full {
			break
		}
		l.born = append(l.born, l.waiting[0])
		l.waiting = l.waiting[1:]
		l.w.put("media", file(fmt.Sprintf("f%06d", len(l.born)), strings.Repeat("x", l.size)))
	}
	l.peak = max(l.peak, l.w.row("a").CachedBytes)
}

// lag is the age of the oldest that is not confirmed, from when it was at the source.
func (l *life) lag() float64 {
	oldest := time.Time{}
	if len(l.waiting) > 0 {
		oldest = l.waiting[0]
	}
	require.NoError(l.w.t, ledger.EachDebt(l.w.led, l.w.links[0].ID, l.from, func(ver proto.VersionID, _ ledger.OwedRow) (bool, error) {
		l.from = ver - 1
		if b := l.born[ver-1]; oldest.IsZero() || b.Before(oldest) {
			oldest = b
		}
		return false, nil
	}))
	if oldest.IsZero() {
		return 0
	}
	return l.clock.Now().Sub(oldest).Seconds()
}

// run lives until end.
func (l *life) run(e *flush.Engine, end time.Time) {
	for l.clock.Now().Before(end) {
		l.arrive()
		l.w.wake()
		before := l.lag() // a batch may take long: what it did not confirm was this old until then
		began := l.clock.Now()
		next := e.Step(l.w.t.Context())
		for took := l.clock.Now().Sub(began); took > 0; took -= time.Minute {
			l.lags = append(l.lags, lasting{before + took.Seconds(), min(took, time.Minute).Seconds()})
		}
		l.arrive()
		wait := l.clock.Now().Add(time.Minute)
		if !next.IsZero() && next.Before(wait) {
			wait = next
		}
		if l.next < len(l.due) && l.due[l.next].Before(wait) {
			wait = l.due[l.next]
		}
		if d := wait.Sub(l.clock.Now()); d > 0 {
			l.lags = append(l.lags, lasting{l.lag(), d.Seconds()}) // a minute at most
			l.clock.advance(d)
		}
	}
}

// The same policy, simulated and lived through: the same trace goes through the engine that runs in production, in compressed time,
// with a paced target, and through the simulator. The figures agree within a tenth, or within what one object or one batch makes.
func TestSimulatedAndLivedThrough(t *testing.T) {
	t.Parallel()
	all := [...]struct {
		name      string
		settings  []string
		high, low int64
	}{
		{"as it comes", nil, 0, 0},
		{"window", []string{"window=22:00-06:00", "deadline=17h"}, 0, 0},
		{"window, budget", []string{"window=00:00-01:00,12:00-13:00", "budget=8MiB"}, 0, 0},
		{"budget, deadline forces", []string{"budget=8MiB", "deadline=6h"}, 0, 0},
		{"size and age", []string{"size=4MiB", "age=3h"}, 0, 0},
		{"bandwidth", []string{"bandwidth=00:00,1 06:00,64 18:00,off"}, 0, 0},
		{"window, a small cache", []string{"window=22:00-06:00"}, 5 * mib, 3 * mib},
	}
	var found [len(all)]figures.Table
	t.Run("policies", func(t *testing.T) {
		for i, c := range all {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				columns, cells := []string{"policy"}, []string{c.name}
				if len(c.settings) > 0 {
					cells[0] += ": " + strings.Join(c.settings, " ")
				}
				simulatedAndLived(t, c.settings, c.high, c.low, func(what string, simulated, lived float64) {
					columns, cells = append(columns, what), append(cells, fmt.Sprintf("%.3g / %.3g", simulated, lived))
				})
				found[i] = figures.Table{Columns: columns, Rows: [][]string{cells}}
			})
		}
	})
	if *livedReport == "" || t.Failed() {
		return
	}
	table := figures.Table{Columns: found[0].Columns}
	for _, f := range found {
		table.Rows = append(table.Rows, f.Rows...)
	}
	require.NoError(t, figures.Report{Layer: "policies", Command: "make targets REPORT=docs/targets", Measured: time.Now().UTC().Format(time.DateOnly),
		Table: &table}.Save(*livedReport))
}

// simulatedAndLived compares three days of a policy, in which by day three objects come in ten minutes, by night one in half an hour:
// 26 MiB a day.
func simulatedAndLived(t *testing.T, settings []string, high, low int64, tell func(what string, simulated, lived float64)) {
	const size, days = 128 << 10, 3
	start := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	l := &life{clock: &drivenClock{now: start}, size: size, high: high, low: low, trace: simulate.Trace{Step: 5 * time.Minute}}
	if high == 0 {
		l.high, l.low = 1<<60, 1<<60
	}
	for i := range days * 288 {
		at, n := start.Add(time.Duration(i)*5*time.Minute), 0
		switch h := at.Hour(); {
		case h >= 8 && h < 18:
			n = 1 + i%2
		case i%6 == 0:
			n = 1
		}
		if n == 0 {
			continue
		}
		l.trace.Slots = append(l.trace.Slots, simulate.Slot{At: at, Bytes: int64(n * size), Objects: int64(n)})
		for k := range n {
			l.due = append(l.due, at.Add(5*time.Minute*time.Duration(2*k+1)/time.Duration(2*n)))
		}
	}
	p := policy.Default()
	for _, s := range settings {
		k, v, _ := strings.Cut(s, "=")
		require.NoError(t, policy.Set(&p, k, v))
	}
	require.NoError(t, policy.Validate(&p))
	sim, err := simulate.Run(simulate.Setup{Policy: p, Trace: l.trace, Length: days * 24 * time.Hour, HighWater: high, LowWater: low, Rate: livedRate})
	require.NoError(t, err)

	w := newWorld(t)
	w.clock.advance(start.Sub(w.clock.Now()))
	l.w = w
	w.link("a", "media", settings...)
	w.cfg.Workers, w.cfg.Relay = 1, 7
	e, err := flush.New(w.cfg, flush.Deps{Ledger: w.led, Cache: w, Clock: l.clock, HighWater: func() bool { return l.full },
		OpenTarget: func(c flush.LinkConfig) (target.Target, error) {
			tgt, err := w.open(c)
			return paced{tgt, l.clock, livedRate}, err
		},
		Events: func(ev flush.Event) { w.mu.Lock(); defer w.mu.Unlock(); w.events = append(w.events, ev) },
	})
	require.NoError(t, err)
	e.SetLinks(w.links)
	w.engine = e
	l.run(e, start.Add(days*24*time.Hour))
	w.engine = nil

	slices.SortFunc(l.lags, func(a, b lasting) int { return cmp.Compare(a.lag, b.lag) })
	at := func(part float64) float64 {
		seconds := part * days * 24 * 3600
		for _, x := range l.lags {
			if seconds -= x.seconds; seconds <= 0 {
				return x.lag
			}
		}
		return l.lags[len(l.lags)-1].lag
	}
	row := w.row("a")
	var windows []int64
	budget, err := ledger.Budget(w.led, row.ID)
	require.NoError(t, err)
	for _, x := range budget.Windows {
		windows = append(windows, x.Bytes)
	}
	var simulated []int64
	for _, x := range sim.Windows {
		simulated = append(simulated, x.Bytes)
	}
	forced := int64(w.happened(flush.LinkForced))
	compare := func(what string, scale, simulated, lived, within float64) {
		t.Helper()
		tell(what, simulated/scale, lived/scale)
		t.Logf("%-24s %12.0f %12.0f", what, simulated, lived)
		assert.InDelta(t, lived, simulated, max(within, 0.1*math.Abs(lived)), what)
	}
	compare("lag p50, h", 3600, sim.LagP50, at(0.5), 600) // of objects that come every five minutes at most
	compare("lag p95, h", 3600, sim.LagP95, at(0.95), 600)
	compare("lag max, h", 3600, sim.LagMax, at(1), 600)
	compare("cache peak, MiB", mib, float64(sim.PeakCacheBytes), float64(l.peak), 2*size)
	compare("sent, MiB", mib, float64(sim.SentBytes), float64(w.written("a")), 2*size)
	compare("forced flushes", 1, float64(sim.ForcedFlushes), float64(forced), 2)
	compare("forced, MiB", mib, float64(sim.ForcedBytes), float64(row.ForcedBytes), 4*size)
	t.Logf("bytes a window: simulated %v", simulated)
	t.Logf("bytes a window: lived     %v", windows)
	require.Equal(t, len(windows), len(simulated))
	for i := range windows {
		assert.InDelta(t, windows[i], simulated[i], max(2*size, 0.1*float64(windows[i])), "window %d", i)
	}
}
