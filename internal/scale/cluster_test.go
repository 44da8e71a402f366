package scale

import (
	"fmt"
	"testing"
	"time"
)

// The life of a large cluster: first fill, changes, deaths, power cuts, a slow node.
func TestScaleCluster(t *testing.T) {
	add, save := campaign(t, "cluster")
	part := max(*flagSize/3/(*flagNodes), 10)
	w := newWorld(t, settings{seed: 1, nodes: *flagNodes, objects: 3 * part, skewed: true})
	sec := func(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
	wait := func(name string, p phase) {
		add(name+": from found to acknowledged", fmt.Sprintf("p50 %s, p99 %s, max %s", sec(quantile(p.waits, 0.5)), sec(quantile(p.waits, 0.99)), sec(quantile(p.waits, 1))), "simulated; an object counts as found when its first holder's scan has it and it has been left alone for two seconds")
	}
	cost := func(name string, p phase) {
		all, bus := p.sum(objectKinds...), p.sum(busKinds...)
		add(name+": CPU of the relay", fmt.Sprintf("%.0f s for a million objects", all.cpu.Seconds()/float64(p.sealed)*1e6), "measured")
		add(name+": messages", fmt.Sprintf("%.2f requests and %.2f on the bus an object", float64(all.calls)/float64(p.sealed), float64(bus.calls)/float64(p.sealed)), "all three holders together; polls apart")
		add(name+": claims", fmt.Sprintf("%.2f an object", float64(p.of("claim").objects)/float64(p.sealed)), fmt.Sprintf("answered with send %d, hash %d, leased %d, have %d", p.verdicts["send"], p.verdicts["hash"], p.verdicts["leased"], p.verdicts["have"]))
		add(name+": sent for nothing", fmt.Sprintf("%.3f %%", 100*float64(p.wasted)/float64(max(p.sent, 1))), "")
	}
	join := w.joinAll(5 * time.Second)
	add("All nodes start within 5 s", fmt.Sprintf("%.2f s of CPU", join.sum("hello", "poll").cpu.Seconds()), fmt.Sprintf("%d hellos and %d polls in 10 s", join.of("hello").calls, join.of("poll").calls))

	p := w.fill(0, part)
	first := []time.Duration{}
	for _, n := range w.nodes {
		first = append(first, time.Duration(n.firstAck))
	}
	began := time.Duration(w.now) - p.took
	name := fmt.Sprintf("First fill of %d objects", p.sealed)
	add(name, sec(p.took), fmt.Sprintf("%.1f GB through a line of 10 Gbit/s; sizes log-normal, 16 KiB median, at most 8 MiB", float64(p.sent)/1e9))
	add(name+": a node's first acknowledgement", fmt.Sprintf("p50 %s, p99 %s", sec(quantile(first, 0.5)-began), sec(quantile(first, 0.99)-began)), "from the beginning; scans begin within two seconds")
	wait(name, p)
	cost(name, p)
	add(name+": most bytes of a node, over the mean", fmt.Sprintf("%.3f", imbalance(p.by)), fmt.Sprintf("of %d objects of a node; with 100,000 of them it is what pick says", part))
	add(name+": most objects of a node, over the mean", fmt.Sprintf("%.3f", imbalance(p.objects)), "")
	add(name+": leases at once", fmt.Sprint(p.most), "granted, and not sent yet")
	plain := p

	one := w.churn(min(700, part*(*flagNodes)/10), time.Minute)
	name = "Changes, 11.6 a second"
	add(name, fmt.Sprintf("%d objects in a minute", one.sealed), "the rate of 1 % of 100 million objects a day; written on the three replicas within a second, each seen by the watch after half a second")
	wait(name, one)
	cost(name, one)
	burst := w.churn(part*(*flagNodes)/100, 0)
	name = "A burst of 1 %"
	add(name, fmt.Sprintf("%d objects at once, all over the datasets", burst.sealed), "")
	wait(name, burst)
	cost(name, burst)

	dead := w.nodes[len(w.nodes)/2]
	u := w.fillAnd(part, 2*part, dead, dead.stop, dead.start)
	name = "A node loses its power amid a fill"
	add(name, fmt.Sprintf("%d objects of its three datasets were not acknowledged", u.missing), fmt.Sprintf("half of all %d were; it comes back when all are", u.sealed))
	add(name+": from then until the relay has everything", sec(u.allAcked-u.at), fmt.Sprintf("the first fill, in which nothing happens, takes %s of as many objects in all; its silence is noticed after 3 s", sec(plain.took)))
	wait(name, u.phase)
	cost(name, u.phase)
	add(name+": most bytes of a node, over the mean", fmt.Sprintf("%.3f", imbalance(u.by)), "")

	var some []*node
	for i := 0; i < len(w.nodes); i += 10 {
		some = append(some, w.nodes[i])
	}
	gone, back := w.rejoin(some)
	name = "A tenth of the nodes loses its power"
	add(name, fmt.Sprintf("%d nodes", len(some)), "and comes back ten seconds later, all at the same moment")
	add(name+": CPU of the relay when they are missed", fmt.Sprintf("%.2f s", gone.sum("poll", "round").cpu.Seconds()), fmt.Sprintf("in 10 s, with what these cost otherwise; %d member lists were fetched", gone.members))
	add(name+": CPU of the relay when they come back", fmt.Sprintf("%.2f s", back.sum("hello", "poll", "round").cpu.Seconds()), fmt.Sprintf("in 5 s; %d member lists were fetched, all others know them after that", back.members))
	w.settle()

	slow := w.nodes[len(w.nodes)/3]
	slow.uplink /= 1000
	s := w.fill(2*part, 3*part)
	mean := int64(0)
	for _, b := range s.by {
		mean += b / int64(len(s.by))
	}
	name = "A node with a thousandth of the line (125 kB/s)"
	add(name, sec(s.took), fmt.Sprintf("for a fill; without it %s", sec(plain.took)))
	wait(name, s)
	cost(name, s)
	add(name+": what it sent itself", fmt.Sprintf("%.1f %% of the mean", 100*float64(s.by[slow.i])/float64(mean)), "what it was granted it sends, for its leases do not end while it is there; the rest was sent by the two other holders of each of its datasets once they had waited for their turn")
	save("loops of the agents, network and disks are models; the line, not the relay's CPU, is what a fill waits for in them", "one relay's CPU is modelled as 200 µs a message and 30 µs an object, one after the other, for simulated times only",
		"objects of more than 8 MiB, deletes, HTTP and NATS themselves (see transport)")
}
