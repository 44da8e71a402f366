package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"forebay/flush/policy"
	"forebay/proto"
	"forebay/shard"
)

// roomy is a cache that never fills.
const roomy = 4 << 30

// settings is what a seed draws before it begins.
type settings struct {
	nodes, stores, paths int
	coding               shard.Geometry
	capacity             int64
	suspicion            time.Duration
	round                time.Duration // between two rounds of the relay
	scan                 time.Duration // between two full scans of an agent
	grace                time.Duration
	lag                  time.Duration // of the application's own copies, now and then
	pace                 time.Duration // between two ranges of a large object
	large                float64       // share of large objects
	unspread, unwatched  float64       // changes that are not copied, or not seen by the watch
	tempo                time.Duration // at most, between two faults
	work                 time.Duration // between two changes
	checkEvery           int
	deepEvery            int
	faults               map[string]bool // kinds that are on
	hintless             bool            // no message on the bus ever arrives
	theme                string          // what the seed presses on; "" for a bit of everything
}

// themes are seeds that press on one thing: what needs several conditions at once is seldom met by chance in a short run.
var themes = map[string][]string{
	"room":    {"agent crash", "lost disk", "wiped index", "target away", "week"},                                               // a small cache, targets that are away for long, partial holders
	"uploads": {"mid-object", "slow requests", "agent stop", "one-way", "read error", "bad network"},                            // large objects, short leases
	"older":   {"snapshot", "wiped index", "partition"},                                                                         // nodes that are put back to what they were
	"deletes": {"files lost", "wiped index", "lost disk", "agent stop", "agent crash", "bad network", "slow requests", "clock"}, // what is gone from some
}

// press sets a seed's theme.
func (s *settings) press(theme string, without []string) {
	s.theme, s.faults = theme, map[string]bool{}
	for _, k := range themes[theme] {
		if !slices.Contains(without, k) {
			s.faults[k] = true
		}
	}
	switch theme {
	case "room":
		s.capacity, s.large, s.unspread, s.tempo, s.work = 6<<20, 0.3, 0.5, time.Minute, 10*time.Second
	case "uploads":
		s.suspicion, s.large, s.pace, s.work, s.unwatched, s.tempo = 3*time.Second, 0.5, 3*time.Second, 5*time.Second, 0.05, time.Minute
	case "older":
		s.paths, s.work, s.tempo, s.scan, s.unspread = 3+s.paths/5, 10*time.Second, time.Minute, min(s.scan, time.Minute), 0.1
	case "deletes":
		s.grace, s.tempo, s.work, s.scan, s.unspread = 10*time.Minute, time.Minute, 10*time.Second, min(s.scan, 30*time.Second), 0.4
	}
}

// kinds of faults, in the order in which they are drawn.
var kinds = []string{
	"agent crash", "agent power cut", "agent stop", "relay crash", "relay stop", "relay restart", "partition", "one-way", "bad network", "unmount", "empty root",
	"wiped index", "lost disk", "snapshot", "bit rot", "read error", "target away", "target fails", "target full", "target crash", "store rot", "clock", "relay clock", "files lost", "week",
	"mid-object", "slow requests",
}

func between(rng *rand.Rand, a, b time.Duration) time.Duration {
	return a + time.Duration(rng.Int64N(int64(b-a)+1))
}

func drawSettings(rng *rand.Rand, without []string) settings {
	s := settings{
		nodes: 2 + rng.IntN(4), paths: 4 + rng.IntN(25), capacity: roomy, suspicion: []time.Duration{3 * time.Second, 10 * time.Second, 30 * time.Second}[rng.IntN(3)],
		round: between(rng, 300*time.Millisecond, 5*time.Second), scan: between(rng, 20*time.Second, 5*time.Minute), grace: []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour}[rng.IntN(3)],
		lag: between(rng, 10*time.Second, 10*time.Minute), pace: between(rng, 5*time.Millisecond, 3*time.Second), large: []float64{0.05, 0.2, 0.5}[rng.IntN(3)],
		unspread: []float64{0.02, 0.1, 0.5}[rng.IntN(3)], tempo: []time.Duration{20 * time.Second, time.Minute, 4 * time.Minute}[rng.IntN(3)], unwatched: []float64{0.05, 1}[rng.IntN(2)], work: between(rng, time.Second, 30*time.Second), checkEvery: 200, deepEvery: 3000, faults: map[string]bool{},
	}
	switch rng.IntN(3) {
	case 0:
		s.stores, s.coding = 1, shard.Geometry{Data: 1}
	case 1:
		s.stores, s.coding = 3, shard.Geometry{Data: 2, Parity: 1}
	default:
		s.stores, s.coding = 2, shard.Geometry{Data: 1, Parity: 1}
	}
	if rng.IntN(3) == 0 {
		s.capacity = int64(6+rng.IntN(8)) << 20 // it fills
	}
	s.hintless = rng.IntN(6) == 0
	for _, k := range kinds {
		if on := rng.Float64() < 0.6; on && !slices.Contains(without, k) {
			s.faults[k] = true
		}
	}
	theme := *flagTheme
	if names := slices.Sorted(maps.Keys(themes)); theme == "" && rng.IntN(2) == 0 {
		theme = names[rng.IntN(len(names))]
	}
	if themes[theme] != nil {
		s.press(theme, without)
	}
	return s
}

// drawLinks makes one or two links with policies.
func (w *world) drawLinks() {
	for i := range 1 + w.rng.IntN(2) {
		l := &linkModel{name: fmt.Sprintf("l%d", i+1), policy: policy.Default(), propagate: w.chance(0.7)}
		set := func(key, value string) { w.must(policy.Set(&l.policy, key, value)) }
		set("delete.propagate", fmt.Sprint(l.propagate))
		set("delete.grace", w.cfg.grace.String())
		if w.chance(0.7) {
			set("delete.guard.share", "100%")
			set("delete.guard.objects", "100000")
		} else {
			l.guarded = true
		}
		if w.chance(0.3) {
			l.window = [2]int{w.rng.IntN(24), 0}
			l.window[1] = (l.window[0] + 1 + w.rng.IntN(12)) % 24
			set("flush.window", fmt.Sprintf("%02d:00-%02d:00", l.window[0], l.window[1]))
			if w.chance(0.5) {
				l.deadline = between(w.rng, 10*time.Minute, 5*time.Hour).Round(time.Second)
				set("flush.deadline", l.deadline.String())
			}
		}
		if l.window == [2]int{} && !w.cfg.faults["relay clock"] && w.chance(0.7) { // of a day; a clock that is set may have it twice
			l.budget = int64(policy.MinBudget)
			set("flush.budget", fmt.Sprintf("%dMiB", l.budget>>20))
		}
		if w.chance(0.3) {
			l.rate = float64((20 + w.rng.IntN(200)) << 10)
			set("flush.bandwidth", fmt.Sprint(int(l.rate)>>10))
		}
		switch w.rng.IntN(5) {
		case 0:
			set("flush.age", between(w.rng, time.Minute, time.Hour).Round(time.Second).String())
		case 1:
			set("flush.objects", fmt.Sprint(2+w.rng.IntN(20)))
			set("flush.age", "1h")
		}
		if w.chance(0.2) {
			set("coalesce", "false")
		}
		if w.chance(0.2) {
			set("confirm", "reread")
		}
		l.target = newTarget(w, l)
		w.links = append(w.links, l)
	}
}

// fault makes one fault happen, and plans its end.
func (w *world) fault() {
	var on []string
	for _, k := range kinds {
		if w.cfg.faults[k] && k != "mid-object" && k != "slow requests" { // these two come by themselves
			on = append(on, k)
		}
	}
	if len(on) == 0 {
		return
	}
	kind := on[w.rng.IntN(len(on))]
	a := w.agents[w.rng.IntN(len(w.agents))]
	link := w.links[w.rng.IntN(len(w.links))]
	long := w.between(time.Second, 5*time.Minute)
	if w.chance(0.15) {
		long = w.between(time.Minute, 3*time.Hour)
	}
	suspicions := time.Duration([]float64{0.5, 1, 2, 10}[w.rng.IntN(4)] * float64(w.cfg.suspicion))
	w.note("%s at %s, %s", kind, a.node, link.name)
	w.count("fault: " + kind)
	until := func(d time.Duration, what string, fn func()) { w.after(d, what, fn) }
	restart := func(d time.Duration) {
		boot := a.boot
		until(d, "start "+a.node, func() {
			if !a.up && a.boot == boot {
				a.start()
			}
		})
	}
	switch kind {
	case "agent crash", "agent power cut":
		if !a.up {
			return
		}
		s := a.session
		a.stop(kind == "agent power cut")
		if s != nil && kind == "agent crash" && w.chance(0.7) { // the kernel closes its connections
			w.seesTheEnd(a, s)
		}
		restart(long)
	case "agent stop":
		a.until = max(a.until, w.now+int64(suspicions))
	case "relay crash":
		if w.relay.r != nil {
			keep := []int{0, 50, 100}[w.rng.IntN(3)]
			w.note("keeps %d%%", keep)
			w.relay.crash(keep)
			until(min(long, 20*time.Minute), "start relay", w.startRelay)
		}
	case "relay restart":
		if w.relay.r != nil {
			w.relay.stop()
			until(w.between(0, 10*time.Second), "start relay", w.startRelay)
		}
	case "relay stop":
		w.relay.until = max(w.relay.until, w.now+int64(suspicions))
	case "partition", "one-way":
		pairs := []pair{{a.node, relayName}, {relayName, a.node}}
		if kind == "one-way" {
			pairs = pairs[:1]
			if w.chance(0.5) {
				pairs[0] = pair{relayName, a.node}
			}
		} else if w.chance(0.5) {
			for _, b := range w.agents {
				pairs = append(pairs, pair{a.node, b.node}, pair{b.node, a.node})
			}
		}
		for _, p := range pairs {
			w.net.cut[p] = true
		}
		until(long, "heal "+a.node, func() {
			for _, p := range pairs {
				delete(w.net.cut, p)
			}
		})
	case "bad network":
		w.net.drop, w.net.repeat, w.net.delay, w.net.reset, w.net.hintLoss = 0.3*w.rng.Float64(), 0.3*w.rng.Float64(), w.between(0, badNetwork), w.rng.Float64(), w.rng.Float64()
		until(long, "better network", w.goodNetwork)
	case "unmount":
		if a.disk.mounted {
			a.disk.mounted = false
			d := a.disk
			until(long, "mount "+a.node, func() { d.mounted = true })
		}
	case "empty root": // a file system that was not mounted: the mount point below it
		if d := a.disk; d.mounted && !d.below {
			a.disk = newDisk(a, d.fsid)
			a.disk.below = true
			if w.chance(0.5) {
				a.disk.fsid = 0
			}
			below := a.disk
			a.under = d
			until(long, "mount "+a.node, func() {
				if a.disk == below {
					a.disk, a.under = d, nil
				}
			})
		}
	case "wiped index":
		a.wipe()
		restart(w.between(0, 10*time.Second))
	case "lost disk": // a new one, which the application fills, and a new index
		if !a.disk.mounted || a.disk.below {
			return
		}
		w.fsids++
		a.disk = newDisk(a, uint64(w.fsids))
		w.oracle.lostDisk(a.node)
		d := a.disk
		if w.chance(0.5) {
			a.wipe()
			restart(w.between(0, 10*time.Second))
		} else {
			until(w.between(time.Minute, 20*time.Minute), "wipe "+a.node, func() {
				a.wipe()
				restart(w.between(0, 10*time.Second))
			})
		}
		until(w.between(0, 10*time.Minute), "fill "+a.node, func() { w.app.roundOf(d, false) })
	case "snapshot":
		if a.shot == nil || w.chance(0.3) {
			if a.disk.below || !a.disk.mounted {
				return
			}
			a.shot = &snapshot{a.disk.copyOf(), a.ix.copyOf()}
			return
		}
		if a.disk.below || !a.disk.mounted {
			return
		}
		w.note("restored")
		w.count("nodes put back to a snapshot")
		whole := w.chance(0.5) // the machine with its agent, or the data alone
		if whole {
			a.stop(false)
			a.ix, a.synced = a.shot.ix.copyOf(), a.shot.ix.copyOf()
			restart(w.between(0, 30*time.Second))
		}
		fsid := a.disk.fsid
		a.disk = a.shot.disk.copyOf()
		a.disk.mounted = true
		if !whole {
			a.disk.fsid = fsid
			now := a.clock.now().UnixNano()
			for _, f := range a.disk.files {
				f.ctime = now
			}
		}
		w.oracle.replaced(a)
		d := a.disk
		until(w.between(0, 30*time.Minute), "catch up "+a.node, func() { w.app.roundOf(d, false) })
	case "bit rot":
		if p := a.somefile(); p != "" && a.disk.files[p].data.size() > 0 {
			a.disk.rot(p)
			w.note("%s", p)
		}
	case "read error":
		if p := a.somefile(); p != "" {
			f := a.disk.files[p]
			f.eio = true
			w.note("%s", p)
			until(long, "readable "+p, func() { f.eio = false })
		}
	case "files lost": // one holder loses some files, and the application does not know
		for range 1 + w.rng.IntN(3) {
			if p := a.somefile(); p != "" {
				a.disk.remove(p, 0)
				w.note("%s", p)
			}
		}
		d := a.disk
		until(w.between(time.Minute, time.Hour), "repair "+a.node, func() { w.app.roundOf(d, true) })
	case "target away":
		if w.cfg.theme == "room" {
			long = w.between(10*time.Minute, 2*time.Hour)
		}
		link.target.downFrom = w.now
		link.target.down = max(link.target.down, w.now+int64(long))
	case "target fails":
		link.target.failAt, link.target.failHow = 1+w.rng.IntN(40), w.rng.IntN(failWays)
	case "target full":
		link.target.full = true
		until(long, "room at "+link.name, func() {
			link.target.full = false
			link.target.down = max(link.target.down, w.now) // the link tries again when it is time for that
		})
	case "target crash":
		link.target.crash(long)
	case "store rot":
		if w.cfg.coding.Parity > 0 {
			w.relay.rot()
		}
	case "clock":
		w.clockFault(a)
	case "relay clock":
		w.relay.jump()
	case "week":
		if a.up && w.chance(0.2) { // a node is away for long
			a.stop(false)
			restart(w.between(time.Hour, 8*time.Hour))
		}
	}
}

// midObject makes something happen to an agent between two ranges of a large object, now and then: faults that come by the clock
// seldom meet an upload.
func (w *world) midObject(a *agent, j *job) {
	if w.calm || !w.cfg.faults["mid-object"] || !w.chance(0.15) {
		return
	}
	w.count("fault: mid-object")
	f := a.disk.files[j.entry.Path]
	switch w.rng.IntN(4) {
	case 0:
		w.crashFor(a, w.between(time.Second, 5*time.Minute))
	case 1:
		a.until = max(a.until, w.now+int64(w.between(w.cfg.suspicion/2, 5*w.cfg.suspicion)))
		w.note("stop")
	case 2:
		p := pair{a.node, relayName}
		w.net.cut[p] = true
		w.note("cut")
		w.after(w.between(w.cfg.suspicion/2, 5*w.cfg.suspicion), "heal "+a.node, func() { delete(w.net.cut, p) })
	default: // for a moment: the same holder may go on in the same session
		if f != nil {
			f.eio = true
			w.note("read error")
			w.after(w.between(time.Millisecond, 2*w.cfg.pace), "readable "+j.entry.Path, func() { f.eio = false })
		}
	}
}

// halfThere ends an agent of whose object the relay has a part, now and then, and lets those that may carry on have another content of the
// same size: what the relay has is then the beginning of something else, which must not be sealed (I8).
func (w *world) halfThere(a *agent, j *job) {
	f, boot := a.disk.files[j.entry.Path], a.boot
	if w.calm || !w.cfg.faults["mid-object"] || f == nil || f.kind != proto.KindFile || f.data.size() != j.entry.Stat.Size || !w.chance(0.1) {
		return
	}
	w.count("uploads that only holders of another content could carry on")
	w.after(0, "half an object of "+a.node, func() {
		if !a.up || a.boot != boot {
			return
		}
		w.crashFor(a, w.between(time.Minute, 10*time.Minute))
		if c := w.app.truth[j.entry.Path]; w.chance(0.5) && !c.gone && c.obj.data == f.data { // the application writes a block of it
			w.app.rewrite(w.otherThan(a), j.entry.Path, f.data.rotten(w.rng.Int64N(f.data.size())))
			return
		}
		for _, b := range w.agents { // their disks have turned a bit: nothing tells it but reading
			if g := b.disk.files[j.entry.Path]; b != a && g != nil && g.kind == proto.KindFile && g.data.size() > 0 {
				b.disk.rot(j.entry.Path)
			}
		}
	})
}

// otherThan draws a node other than one.
func (w *world) otherThan(a *agent) *agent {
	for {
		if b := w.agents[w.rng.IntN(len(w.agents))]; b != a {
			return b
		}
	}
}

// crashFor ends an agent for a while, and the relay sees its connections close.
func (w *world) crashFor(a *agent, d time.Duration) {
	boot, s := a.boot, a.session
	w.note("%s crashes", a.node)
	a.stop(false)
	if s != nil {
		w.seesTheEnd(a, s)
	}
	w.after(d, "start "+a.node, func() {
		if !a.up && a.boot == boot {
			a.start()
		}
	})
}

// seesTheEnd has the relay see that an agent's connections were closed.
func (w *world) seesTheEnd(a *agent, s *session) {
	w.after(w.net.latency(), relayName+" sees the end of "+a.node, func() {
		w.relay.awake("end", func(up bool) {
			if up {
				w.relay.r.EndSession(s.id, "the connection was lost")
			}
		})
	})
}

// clockFault sets an agent's clock.
func (w *world) clockFault(a *agent) {
	c := &a.clock
	jump := []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour, 400 * 24 * time.Hour}[w.rng.IntN(5)]
	if w.chance(0.5) {
		jump = -jump
	}
	switch w.rng.IntN(3) {
	case 0:
		c.off = 0
	case 1:
		c.off += int64(jump)
	default:
		c.off = int64(w.between(-time.Minute, time.Minute))
	}
	w.note("off %s", time.Duration(c.off))
}

func (w *world) startRelay() {
	if w.relay.r == nil {
		w.relay.up()
	}
}

func (w *world) goodNetwork() {
	w.net.drop, w.net.repeat, w.net.delay, w.net.reset, w.net.hintLoss = 0, 0, 0, 0, 0
}

// wipe ends the agent and forgets its index.
func (a *agent) wipe() {
	a.stop(false)
	if a.lost == "" {
		a.lost, a.wiped = a.ix.id, a.w.now
	}
	a.indexes++
	a.ix = newIndex(fmt.Sprintf("%s-%d", a.node, a.indexes))
	a.synced = a.ix.copyOf()
	a.shot = nil
}

// somefile draws a file on the disk.
func (a *agent) somefile() string {
	var list []string
	for p, f := range a.disk.files {
		if f.kind == proto.KindFile {
			list = append(list, p)
		}
	}
	if !a.disk.mounted || a.disk.below || len(list) == 0 {
		return ""
	}
	slices.Sort(list)
	return list[a.w.rng.IntN(len(list))]
}

// lostDisk forgets what a disk had: it is gone, with the node's knowledge of it.
func (o *oracle) lostDisk(node string) { clear(o.has[node]) }

// replaced takes note of what is on a disk that was exchanged for a copy.
func (o *oracle) replaced(a *agent) {
	for p := range o.has[a.node] {
		if a.disk.files[p] == nil {
			o.removed(a.node, p)
		}
	}
	for p := range a.disk.files {
		o.present(a.node, p)
	}
}

// calmDown ends all faults, and lets links flush at any time: waiting for windows is nothing new.
func (w *world) calmDown() {
	for _, l := range w.links {
		l.window, l.budget = [2]int{}, 0
		w.must(policy.Set(&l.policy, "flush.window", "always"))
		w.must(policy.Set(&l.policy, "flush.budget", "none"))
	}
	if w.relay.r != nil {
		w.relay.setLinks()
	}
	w.calm, w.oracle.since = true, w.now
	w.goodNetwork()
	clear(w.net.cut)
	w.startRelay()
	w.relay.until = 0
	for _, l := range w.links {
		l.target.down, l.target.full, l.target.dead, l.target.failAt = 0, false, false, 0
	}
	for _, a := range w.agents {
		a.until = 0
		if a.disk.below {
			a.disk, a.under = a.under, nil
		}
		a.disk.mounted = true
		if a.ix.known && a.ix.fsid != a.disk.fsid {
			a.wipe() // what an operator does about an exchanged root
		}
		if !a.up {
			a.start()
		}
	}
}
