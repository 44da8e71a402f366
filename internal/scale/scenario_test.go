package scale

import (
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

// phase is what came to pass in a part of a simulation.
type phase struct {
	meter
	tally
	took    time.Duration // simulated
	by      []int64       // bytes that each node uploaded
	objects []int64       // and how many objects
}

// phase runs fn and returns what was counted meanwhile.
func (w *world) phase(fn func()) phase {
	was, from := w.meter.copy(), w.now
	w.tally = tally{}
	by, objects := make([]int64, len(w.nodes)), make([]int64, len(w.nodes))
	for i, n := range w.nodes {
		by[i], objects[i], n.firstAck = -n.uploaded, -n.sealed, 0
	}
	fn()
	for i, n := range w.nodes {
		by[i], objects[i] = by[i]+n.uploaded, objects[i]+n.sealed
	}
	return phase{meter: w.meter.since(was), tally: w.tally, took: time.Duration(w.now - from), by: by, objects: objects}
}

// settle runs until all is settled, and the feed is followed to its end.
func (w *world) settle() {
	w.run(24*time.Hour, func() bool { return w.left == 0 && w.coming == 0 })
	require.Zero(w.t, w.left+w.coming, "it does not come to rest")
	w.run(2*time.Second, never)
}

// joinAll starts all nodes within a time and waits until each knows who is there.
func (w *world) joinAll(within time.Duration) phase {
	return w.phase(func() {
		for _, n := range w.nodes {
			w.after(w.between(0, within), n.start)
		}
		w.run(within+5*time.Second, never)
		for _, n := range w.nodes {
			require.NotZero(w.t, n.session)
			require.Len(w.t, n.roots[0].members, min(replicas, w.settings.nodes))
		}
	})
}

// scan has each node find its objects from..to, root after root.
func (w *world) scan(from, to int) {
	const step = 500
	for _, n := range w.nodes {
		at := w.now + int64(w.between(0, 2*time.Second))
		for _, r := range n.roots {
			for k := from; k < to; k += step {
				end := min(k+step, to)
				w.coming += end - k
				at += int64(end-k) * int64(time.Second) / scanRate
				w.at(at, func() {
					w.coming -= end - k
					for i := k; i < end; i++ {
						r.find(i, 1, epoch.UnixNano()-int64(time.Hour))
					}
					r.soon(0)
				})
			}
		}
	}
}

// fill is the first backup of objects that are on all nodes already.
func (w *world) fill(from, to int) phase {
	return w.phase(func() {
		w.scan(from, to)
		w.settle()
	})
}

// idle is a time in which nothing changes.
func (w *world) idle(d time.Duration) phase { return w.phase(func() { w.run(d, never) }) }

// churn changes objects, one at a time or all at once, on all holders within a second, and waits until all is settled.
func (w *world) churn(changes int, within time.Duration) phase {
	return w.phase(func() {
		changes = min(changes, len(w.datasets)*w.objects/2)
		type place struct{ d, k int }
		seen := map[place]bool{}
		for len(seen) < changes {
			p := place{w.rng.IntN(len(w.datasets)), w.rng.IntN(w.objects)}
			if seen[p] || w.datasets[p.d].acked[p.k] == 0 {
				continue
			}
			seen[p] = true
			d := w.datasets[p.d]
			at := w.now + w.rng.Int64N(int64(within)+1)
			gen := d.acked[p.k] + 1
			d.found[p.k] = 0
			for _, r := range d.roots {
				w.coming++
				changed := at + int64(w.between(0, time.Second))
				w.at(changed+int64(500*time.Millisecond), func() { // the watch tells, and the agent looks
					w.coming--
					r.find(p.k, gen, epoch.UnixNano()+changed)
				})
			}
		}
		w.settle()
	})
}

// confirm has all links confirm what they owe, a thousand at a time, as the flush does when its targets are done.
func (w *world) confirm() phase {
	return w.phase(func() {
		links, err := ledger.Links(w.r.Ledger())
		require.NoError(w.t, err)
		for _, l := range links {
			for {
				owed, err := ledger.Owed(w.r.Ledger(), l.ID, 0, proto.MaxClaims)
				require.NoError(w.t, err)
				if len(owed) == 0 {
					break
				}
				e := &ledger.Confirm{Link: l.ID, NowNs: w.clock().UnixNano()}
				for _, o := range owed {
					e.Versions = append(e.Versions, o.Version)
				}
				w.meter.of("confirm").calls++
				w.meter.of("confirm").objects += int64(len(owed))
				w.meter.time("confirm", func() { require.NoError(w.t, w.r.Ledger().Update(e)) })
			}
		}
		w.run(time.Minute, never)
	})
}

// uptake is how a fill went in which something happens on the way.
type uptake struct {
	phase
	allAcked time.Duration // from the beginning until the relay had everything
	at       time.Duration // when it happened
	missing  int           // objects that the relay did not have then, of the datasets of the node in question
}

// fillAnd is a fill in which something happens to a node once half of the objects are acknowledged.
func (w *world) fillAnd(from, to int, n *node, happens func(), after func()) (u uptake) {
	u.phase = w.phase(func() {
		begin, total := w.now, int64(to-from)*int64(len(w.datasets))
		w.scan(from, to)
		w.run(24*time.Hour, func() bool { return w.tally.sealed >= total/2 })
		u.at = time.Duration(w.now - begin)
		for _, r := range n.roots {
			for k := from; k < to; k++ {
				if r.d.acked[k] == 0 {
					u.missing++
				}
			}
		}
		happens()
		w.run(24*time.Hour, func() bool { return w.tally.sealed >= total })
		require.Equal(w.t, total, w.tally.sealed)
		u.allAcked = time.Duration(w.now - begin)
		after()
		w.settle()
	})
	return u
}

// rejoin is a power cut of some nodes, who are missed, and come back all at once.
func (w *world) rejoin(nodes []*node) (gone, back phase) {
	gone = w.phase(func() {
		for _, n := range nodes {
			n.stop()
		}
		w.run(10*time.Second, never)
	})
	back = w.phase(func() {
		for _, n := range nodes {
			n.start()
		}
		w.run(5*time.Second, never)
		for _, n := range w.nodes {
			require.Len(w.t, n.roots[0].members, min(replicas, w.settings.nodes), n.name)
		}
	})
	return gone, back
}
