package advice

import (
	"cmp"
	"fmt"
	"slices"

	"forebay/proto"
	"forebay/shard"
)

// Shares of a bound that count as having reached it, and of the cores as having used them up.
const (
	reached = 0.6
	allBusy = 0.85
)

// raw is what n stores write together when all get the same share: the slowest holds the others up.
func raw(stores []Disk) float64 {
	if len(stores) == 0 {
		return 0
	}
	least := 0.0
	for _, d := range stores {
		rate := d.Write
		if d.Together > 0 {
			rate = d.Together
		}
		if least == 0 || rate < least {
			least = rate
		}
	}
	return least * float64(len(stores))
}

// usable is the part of raw bytes that is content.
func usable(g shard.Geometry) float64 {
	if g.Shards() == 0 {
		return 0
	}
	return float64(g.Data) / float64(g.Shards())
}

// bounds finds what each part lets through, and which of them holds the ingest.
func (a *adviser) bounds() {
	var all []Bound
	add := func(part string, rate float64) {
		if rate > 0 {
			all = append(all, Bound{part, rate})
		}
	}
	if a.s.Relay != nil {
		add("stores", raw(a.stores())*usable(a.s.Relay.Coding))
	}
	for _, d := range a.m.Disks {
		if d.Role == RoleLedger && d.SyncP50 > 0 {
			add("fsync of the ledger", proto.DefaultWindow/d.SyncP50)
		}
	}
	if c := a.m.Coding; c != nil {
		add("coding", c.EncodeAll)
		add("digests", c.DigestAll/2) // the sender's and the relay's
	}
	if n := a.m.Network; n != nil {
		add("network", n.Upload)
	}
	slices.SortStableFunc(all, func(x, y Bound) int { return cmp.Compare(x.Rate, y.Rate) })
	a.out.Bounds = append(a.out.Bounds, all...)
	a.expect(all)
}

func (a *adviser) expect(all []Bound) {
	in := a.m.Ingest
	if in == nil || in.Large <= 0 {
		if len(all) > 0 && a.s.Relay != nil && len(a.stores()) > 0 {
			a.out.Acknowledged, a.out.Bottleneck = all[0].Rate, all[0].Part
		}
		return
	}
	a.out.Acknowledged = in.Large
	switch {
	case len(all) > 0 && in.Large >= reached*all[0].Rate:
		a.out.Bottleneck = all[0].Part
	case in.Busy >= allBusy:
		a.out.Bottleneck = "the cores of this machine, which sender and relay shared"
	case len(all) > 0:
		a.out.Bottleneck = fmt.Sprintf("waiting: one sender has at most %d MiB under way, and each commit group waits for the disks; "+
			"several agents together get more", proto.DefaultWindow>>20)
	default:
		a.out.Bottleneck = "not known: measure the disks too"
	}
}

// choices are the codings that are offered, the plainest first.
func choices() []shard.Geometry {
	return []shard.Geometry{{Data: 1}, {Data: 1, Parity: 1}, {Data: 2, Parity: 1}, {Data: 3, Parity: 1}, {Data: 4, Parity: 1}, {Data: 2,
		Parity: 2}, {Data: 4, Parity: 2}, {Data: 6, Parity: 2}, {Data: 8, Parity: 2}, {Data: 8, Parity: 3}}
}

// survives is how many disks may be lost at once, whichever they are, without losing more than the parity. counts is how many stores
// each disk has.
func survives(g shard.Geometry, counts []int) int {
	counts = slices.Clone(counts)
	slices.SortFunc(counts, func(x, y int) int { return cmp.Compare(y, x) })
	lost := 0
	for n, c := range counts {
		if lost += c; min(lost, g.Shards()) > g.Parity {
			return n
		}
	}
	return len(counts)
}

// perDevice counts the stores of each disk, in the order in which the disks come.
func perDevice(stores []Disk) (devices []string, counts []int) {
	for _, d := range stores {
		i := slices.Index(devices, d.Device)
		if i < 0 {
			devices, counts = append(devices, d.Device), append(counts, 0)
			i = len(devices) - 1
		}
		counts[i]++
	}
	return devices, counts
}

// options are the codings that the stores allow, with what each would cost and give.
func options(stores []Disk, chosen shard.Geometry) (out []Option) {
	_, counts := perDevice(stores)
	all := choices()
	if !slices.Contains(all, chosen) {
		all = append(all, chosen)
	}
	for _, g := range all {
		if g.Shards() > len(stores) || g.Shards() == 0 {
			continue
		}
		out = append(out, Option{Coding: g.String(), Chosen: g == chosen, Disks: survives(g, counts), Usable: usable(g),
			Rate: raw(stores) * usable(g)})
	}
	return out
}
