package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/internal/crashfs"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/segment"
	"forebay/relay"
)

// relayProc is the machine of the relay: its disks, and the relay and the flush engine on them, which ship, while they run.
type relayProc struct {
	w      *world
	clock  clock
	fs     *crashfs.FS
	cfg    relay.Config
	r      *relay.Relay // nil while it is down
	e      *flush.Engine
	boot   int
	until  int64 // stopped until then
	due    int64 // of the next flush step that is planned
	upFrom int64 // since when it runs
	starts int
	// setBack is when its clock was set back first, true time; 0 for never.
	setBack int64
}

// jump sets the clock of the relay's machine: by seconds to years, back or forward, or right again.
func (p *relayProc) jump() {
	w, was := p.w, p.clock.off
	by := []time.Duration{time.Second, 10 * time.Second, time.Minute, time.Hour, 25 * time.Hour, 400 * 24 * time.Hour, 10 * 365 * 24 * time.Hour}[w.rng.IntN(7)]
	switch w.rng.IntN(5) {
	case 0, 1:
		p.clock.off += int64(by)
	case 2, 3:
		p.clock.off -= int64(by)
	default:
		p.clock.off = 0
	}
	if p.clock.off < was && p.setBack == 0 {
		p.setBack = w.now
	}
	w.note("off %s", time.Duration(p.clock.off))
	p.soon()
}

// newRelay makes the machine. dir is on a real disk: the lock of the data directory lies there.
func newRelay(w *world, dir string) *relayProc {
	p := &relayProc{w: w, clock: clock{w: w}, fs: crashfs.New()}
	p.cfg = relay.Config{Name: "relay-1", Data: filepath.Join(dir, "relay"), Coding: w.cfg.coding, Capacity: w.cfg.capacity, High: 0.85, Low: 0.7,
		Suspicion: w.cfg.suspicion, Software: "sim"}
	for i := range w.cfg.stores {
		p.cfg.Stores = append(p.cfg.Stores, fmt.Sprintf("/store%d", i))
	}
	for _, d := range append([]string{filepath.Join(p.cfg.Data, "ledger")}, p.cfg.Stores...) {
		w.must(p.fs.MkdirAll(d, 0o700))
		for ; ; d = path.Dir(d) { // the directories themselves were made long ago
			f, err := p.fs.OpenDir(d)
			w.must(err)
			w.must(f.Sync())
			w.must(f.Close())
			if d == "/" {
				break
			}
		}
	}
	return p
}

func (w *world) must(err error) {
	if err != nil {
		panic(err)
	}
}

// awake calls fn when the relay's machine is not stopped; up says whether the relay runs then.
func (p *relayProc) awake(what string, fn func(up bool)) {
	if p.w.now < p.until {
		boot := p.boot
		p.w.after(time.Duration(p.until-p.w.now), relayName+" wakes to "+what, func() {
			if p.boot == boot {
				p.awake(what, fn)
			} else {
				fn(false)
			}
		})
		return
	}
	fn(p.r != nil)
}

// up opens the relay, as relayd does.
func (p *relayProc) up() {
	w := p.w
	p.cfg.Links = nil
	for _, l := range w.links {
		p.cfg.Links = append(p.cfg.Links, relay.Link{Name: l.name, From: media, Target: "mem:" + l.name, To: l.name, Coalesce: l.policy.Coalesce,
			Grace: time.Duration(l.policy.Delete.Grace), Hold: l.policy.WhenFull == "hold"})
	}
	r, err := relay.Open(p.cfg, relay.Deps{Log: zerolog.Nop(), Now: p.clock.now, Mono: func() time.Duration { return time.Duration(p.clock.mono()) }, FS: p.fs, Driven: true, Bus: func() (bus.Bus, error) { return simBus{w}, nil }})
	if err != nil {
		w.wrong("I5", "the relay does not start: %v", err)
		return
	}
	e, err := flush.New(flush.Config{Relay: r.ID(), Workers: 1}, flush.Deps{
		Ledger: r.Ledger(), Cache: simCache{r}, Clock: flushClock{&p.clock}, OpenTarget: p.openTarget,
		HighWater: r.HighWater, LostSegment: r.SuspectSegment, Loose: r.NoteLoose, Events: func(ev flush.Event) { w.oracle.flushEvent(ev) },
	})
	w.must(err)
	r.SetFlusher(simFlusher{e: e, wake: p.soon})
	p.r, p.e, p.upFrom = r, e, w.now
	p.setLinks()
	p.boot++
	p.starts++
	p.due = 0
	w.oracle.started()
	w.dirty = true
	p.rounds(p.boot)
	p.soon()
}

// setLinks puts the links' policies in force.
func (p *relayProc) setLinks() {
	rows, err := ledger.Links(p.r.Ledger())
	p.w.must(err)
	var cfgs []flush.LinkConfig
	for _, row := range rows {
		for _, l := range p.w.links {
			if l.name == row.Name {
				l.id = row.ID
				cfgs = append(cfgs, flush.LinkConfig{ID: row.ID, Name: l.name, Target: l.name, Policy: l.policy})
			}
		}
	}
	p.e.SetLinks(cfgs)
}

// crash ends the relay where it is. Of what was not synced, keep percent stays.
func (p *relayProc) crash(keep int) {
	if p.r == nil {
		return
	}
	w := p.w
	w.oracle.crashing()
	clone := p.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: rand.New(rand.NewPCG(w.rng.Uint64(), 2))})
	_ = p.r.Close() // on the disks that nobody sees any more
	p.r, p.e, p.fs = nil, nil, clone
	p.boot++
	for _, l := range w.links {
		l.target.connected = false
	}
}

// stop is a clean stop.
func (p *relayProc) stop() {
	if p.r == nil {
		return
	}
	p.w.oracle.crashing()
	p.w.must(p.r.Close())
	p.r, p.e = nil, nil
	p.boot++
}

// rounds does what is due at the relay, again and again.
func (p *relayProc) rounds(boot int) {
	p.w.after(p.w.cfg.round, relayName+" round", func() {
		p.awake("round", func(up bool) {
			if !up || p.boot != boot {
				return
			}
			p.round()
			p.step()
			p.rounds(boot)
		})
	})
}

func (p *relayProc) round() {
	if err := p.r.Round(context.Background()); err != nil {
		p.w.wrong("I5", "the ledger failed: %v", err)
	}
	p.w.dirty = p.w.dirty || p.w.oracle.ledgerMoved()
}

// soon has the flush look in a moment.
func (p *relayProc) soon() { p.stepAt(p.w.now + int64(20*time.Millisecond)) }

func (p *relayProc) stepAt(at int64) {
	if p.r == nil || p.due > p.w.now && p.due <= at {
		return
	}
	p.due = at
	boot := p.boot
	p.w.after(time.Duration(at-p.w.now), "flush", func() {
		p.awake("flush", func(up bool) {
			if !up || p.boot != boot || p.due > p.w.now {
				return
			}
			p.due = 0
			p.step()
		})
	})
}

// step has each link do what is due.
func (p *relayProc) step() {
	p.w.oracle.seeHigh()
	next := p.e.Step(context.Background())
	p.w.dirty = p.w.dirty || p.w.oracle.ledgerMoved()
	if !next.IsZero() {
		p.stepAt(p.w.now + max(int64(next.Sub(p.clock.now())), int64(10*time.Millisecond)))
	}
}

// segment takes a segment in, with the oracle as witness.
func (p *relayProc) segment(a *agent, s proto.SessionID, raw []byte) (proto.SegmentReply, error) {
	p.w.oracle.learn() // what was deleted before: the segment may follow it
	rep, err := p.r.Segment(context.Background(), s, slices.Clone(raw))
	if err == nil {
		seg, derr := segment.Decode(raw)
		p.w.must(derr)
		p.w.oracle.accepted(a, seg, rep)
	}
	return rep, err
}

func (p *relayProc) openTarget(l flush.LinkConfig) (target.Target, error) {
	for _, m := range p.w.links {
		if m.name == l.Name {
			return m.target.open()
		}
	}
	return nil, fmt.Errorf("no target %s", l.Name)
}

type simCache struct{ r *relay.Relay }

func (c simCache) Read(ctx context.Context, seq uint64) (*segment.Segment, error) {
	return c.r.ReadSegment(ctx, seq)
}

// flushClock is the relay's clock for the flush. A wait within a step passes at once: the step takes that long.
type flushClock struct{ c *clock }

func (f flushClock) Now() time.Time { return f.c.now() }
func (f flushClock) Timer(d time.Duration) (<-chan time.Time, func()) {
	f.c.w.now += max(int64(d), 0)
	fired := make(chan time.Time, 1)
	fired <- f.c.now()
	return fired, func() {}
}

// simFlusher is the flush as the relay asks it. What only operators ask for is not there.
type simFlusher struct {
	relay.Flusher
	e    *flush.Engine
	wake func()
}

func (f simFlusher) Wake(link string) {
	f.e.Wake(link)
	f.wake()
}

func (f simFlusher) Stalled(link string) bool {
	s, ok := f.e.State(link)
	return ok && s.State == flush.StateStalled
}
func (f simFlusher) Failures(link string, limit int) ([]proto.FailureInfo, error) {
	return f.e.Failures(link, limit)
}
func (f simFlusher) CanStage(link string) bool            { return f.e.CanStage(link) }
func (f simFlusher) Bandwidth() (b proto.BandwidthStatus) { return b }

func (f simFlusher) Status(link string, out *proto.LinkStatus) {
	s, ok := f.e.State(link)
	if !ok {
		return
	}
	out.State, out.Reason, out.LastError, out.HeldDeletes, out.Forced = s.State, s.Reason, s.LastError, s.HeldDeletes, s.Forced
}

// simBus carries what the relay says on the bus through the network.
type simBus struct{ w *world }

var _ bus.Bus = simBus{}

func (b simBus) Publish(subject string, data []byte) error {
	if !strings.Contains(subject, ".nudge.") {
		return nil
	}
	var n proto.Nudge
	if err := proto.Unmarshal(slices.Clone(data), &n); err != nil {
		return err
	}
	for _, a := range b.w.agents {
		boot := a.boot
		b.w.net.hint(relayName, a.node, "nudge", func() { a.awake(boot, "nudge", func() { a.nudged(n) }) })
	}
	return nil
}
func (b simBus) Subscribe(string, func([]byte)) (func(), error) { return func() {}, nil }
func (b simBus) Connected() bool                                { return true }
func (b simBus) Close()                                         {}

// rot turns a bit in, cuts, or empties a table of one of the stores. It reports whether there was one.
func (p *relayProc) rot() bool {
	w := p.w
	store := p.cfg.Stores[0] // always the same: no segment has more bad shards than parity
	names, err := p.fs.List(store)
	if err != nil {
		return false
	}
	tables := map[string]bool{}
	for _, n := range names {
		if strings.HasSuffix(n, ".sst") {
			tables[n] = true
		}
	}
	list := slices.Sorted(maps.Keys(tables))
	if len(list) == 0 {
		return false
	}
	name := p.fs.PathJoin(store, list[w.rng.IntN(len(list))])
	f, err := p.fs.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil || st.Size() < 64 {
		return false
	}
	at := w.rng.Int64N(st.Size())
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return false
	}
	b[0] ^= 1 << w.rng.IntN(8)
	_, err = f.WriteAt(b, at)
	w.note("%s byte %d", name, at)
	return err == nil
}
