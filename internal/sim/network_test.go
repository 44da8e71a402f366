package sim

import (
	"time"

	"forebay/proto"
)

// network is what lies between agents and relay, and between agents: it drops, repeats, reorders and delays, and cuts.
type network struct {
	w        *world
	drop     float64
	repeat   float64
	reset    float64 // of the drops: the sender learns at once
	delay    time.Duration
	cut      map[pair]bool
	hintLoss float64 // of messages on the bus
}

// pair is one direction between two processes; the relay is "relay".
type pair struct{ from, to string }

const relayName = "relay"

// slowRequest is how late a message may be that is slow, badNetwork one on a bad network.
const (
	slowRequest = 40 * time.Second
	badNetwork  = 10 * time.Second
)

func (n *network) latency() time.Duration {
	d := n.w.between(200*time.Microsecond, 2*time.Millisecond)
	if n.w.chance(0.1) {
		d += n.w.between(0, n.delay)
	}
	if n.w.cfg.faults["slow requests"] && !n.w.calm && n.w.chance(0.01) { // it comes when nobody waits for it any more
		n.w.count("fault: slow requests")
		d += n.w.between(0, slowRequest)
	}
	return d
}

// errLost is what a sender sees of a call without an answer.
func errLost(what string) error { return proto.Errorf(proto.ClassTransient, "%s: no answer", what) }

// call carries a request of an agent to the relay and the answer back. serve runs at the relay and returns what is to be
// done with the answer at the agent; it may run twice. lost is called when there is none. Exactly one of them is called, if
// the agent still runs.
func (n *network) call(a *agent, what string, timeout time.Duration, serve func() func(), lost func(error)) {
	w, boot := n.w, a.boot
	ended := false
	back := func(d time.Duration, then func()) {
		w.after(d, a.node+" "+what, func() {
			a.awake(boot, what, func() {
				if !ended {
					ended = true
					then()
				}
			})
		})
	}
	fail := func(d time.Duration) {
		back(d, func() {
			w.note("lost")
			lost(errLost(what))
		})
	}
	gone := func() time.Duration {
		if w.chance(n.reset) {
			return n.latency()
		}
		return timeout
	}
	carry := func() {
		w.after(n.latency(), relayName+" < "+a.node+" "+what, func() {
			w.relay.awake(what, func(up bool) {
				if !up {
					fail(n.latency())
					return
				}
				w.oracle.seen[a.node] = w.now
				answer := serve()
				if what != "poll" {
					w.dirty = w.dirty || w.oracle.ledgerMoved()
					w.relay.soon()
				}
				if n.cut[pair{relayName, a.node}] || w.chance(n.drop) {
					w.count("answers dropped")
					fail(gone())
					return
				}
				back(n.latency(), answer)
			})
		})
	}
	if n.cut[pair{a.node, relayName}] || w.chance(n.drop) {
		w.count("requests dropped")
		fail(gone())
		return
	}
	if w.chance(n.repeat) {
		w.count("requests repeated")
		carry()
	}
	carry()
	fail(timeout) // a timer; it finds the call ended when an answer came
}

// hint carries a message on the bus from one process to another: perhaps, and perhaps twice.
func (n *network) hint(from, to, what string, deliver func()) {
	w := n.w
	if n.cut[pair{from, to}] || w.cfg.hintless || w.chance(n.hintLoss) {
		w.count("hints dropped")
		return
	}
	times := 1
	if w.chance(n.repeat) {
		times = 2
	}
	for range times {
		w.after(n.latency(), to+" < "+from+" "+what, deliver)
	}
}
