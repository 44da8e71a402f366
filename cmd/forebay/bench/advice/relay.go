package advice

import (
	"fmt"
	"slices"
	"strings"

	"forebay/internal/show"
	"forebay/shard"
	"forebay/units"
)

// What counts as slow.
const (
	slowSync  = 0.010 // seconds: an acknowledgement waits for several
	laggard   = 0.5   // of the median of the stores
	autoShare = 0.9   // of the file systems, what cache.capacity is when nothing is set
	busyPart  = 4     // upkeep goes at this part of its rate while the cache takes data in
)

// disks judges where the stores and the ledger lie.
func (a *adviser) disks() {
	stores := a.stores()
	devices, counts := perDevice(stores)
	for i, dev := range devices {
		if counts[i] < 2 {
			continue
		}
		var paths []string
		for _, d := range stores {
			if d.Device == dev {
				paths = append(paths, d.Path)
			}
		}
		lost := min(counts[i], a.s.Relay.Coding.Shards())
		text := fmt.Sprintf("%s lie on one disk (%s): they do not survive its loss, for with coding %s it takes %d of %d shards with it and "+
			"%d may be lost. Give each store a disk of its own",
			strings.Join(paths, ", "), dev, a.s.Relay.Coding, lost, a.s.Relay.Coding.Shards(), a.s.Relay.Coding.Parity)
		level := Warn
		if lost <= a.s.Relay.Coding.Parity {
			level, text = Note, fmt.Sprintf("%s lie on one disk (%s); coding %s survives its loss, with less to spare", strings.Join(paths, ", "),
				dev, a.s.Relay.Coding)
		}
		a.add(level, "cache.stores", "", text)
	}
	for _, d := range a.m.Disks {
		if d.InMemory {
			key := "cache.stores"
			if d.Role == RoleLedger {
				key = "data"
			}
			a.add(Warn, key, "", fmt.Sprintf("%s is in memory (%s): what was acknowledged is lost with the power. Name a directory on a disk",
				d.Path, d.FileSystem))
		}
	}
	a.laggards(a.stores())
	for _, d := range a.m.Disks {
		if d.Role == RoleLedger && d.SyncP50 >= slowSync {
			a.add(Set, "data", "", fmt.Sprintf("an fsync on %s takes %s (p99 %s), and every acknowledgement waits for one: small objects gain "+
				"most from a disk that is quicker at that",
				d.Path, millis(d.SyncP50), millis(d.SyncP99)))
		}
	}
}

// laggards names stores that hold the others up.
func (a *adviser) laggards(stores []Disk) {
	if devices, _ := perDevice(stores); len(devices) < 2 {
		return // of one disk, the figures differ by chance
	}
	rates := make([]float64, len(stores))
	for i, d := range stores {
		rates[i] = d.Write
	}
	slices.Sort(rates)
	median := rates[len(rates)/2]
	for _, d := range stores {
		if d.Write < laggard*median {
			a.add(Warn, "cache.stores", "", fmt.Sprintf("%s writes %s where the others write %s: each segment waits for its slowest shard. "+
				"Replace the disk (forebay stores replace), or do without it (forebay stores drain)",
				d.Path, show.Rate(d.Write), show.Rate(median)))
		}
	}
}

// codings says which codings the stores allow and whether another one would do better.
func (a *adviser) codings() {
	stores := a.stores()
	if len(stores) == 0 {
		return
	}
	chosen := a.s.Relay.Coding
	a.out.Codings = append(a.out.Codings, options(stores, chosen)...)
	devices, counts := perDevice(stores)
	better := shard.Default(len(devices))
	switch now := survives(chosen, counts); {
	case len(devices) == 1 && chosen.Parity > 0:
		one := shard.Geometry{Data: 1}
		text := fmt.Sprintf("all stores are on one disk, where the parity of %s guards against damaged tables but not against the loss of "+
			"the disk; it writes %.2f times the bytes. On a single disk one store with 1+0 is the honest setting: holders still have the data",
			chosen, 1/usable(chosen))
		if len(stores) > 1 {
			text += ", and one entry in cache.stores"
		}
		a.add(Set, "cache.coding", one.String(), text)
	case now == 0 && survives(better, counts) > 0 && better != chosen:
		a.add(Set, "cache.coding", better.String(), fmt.Sprintf("%s survives the loss of no disk, %s of %s; %.0f %% of the raw bytes are "+
			"content then, and the stores take %s of it",
			chosen, better, show.Things(int64(survives(better, counts)), "disk"), 100*usable(better), orUnknown(raw(a.stores())*usable(better))))
	case len(devices) == 1:
		a.add(Note, "cache.coding", "", fmt.Sprintf("%s on one disk: its loss loses the cache, and what was acknowledged is asked for again "+
			"from the holders; two disks with 1+1 would survive it", chosen))
	}
}

// room is how many raw bytes the stores can hold: each gets the same part, and stores on one disk share it.
func room(stores []Disk) (now, auto int64) {
	devices, counts := perDevice(stores)
	least := int64(-1)
	var seen []string
	for _, d := range stores {
		n := int64(counts[slices.Index(devices, d.Device)])
		own := int64(0)
		for _, o := range stores {
			if o.Device == d.Device {
				own += o.OwnBytes
			}
		}
		if part := (d.FreeBytes + own) / n; least < 0 || part < least {
			least = part
		}
		if !slices.Contains(seen, d.Device) {
			seen = append(seen, d.Device)
			auto += d.SizeBytes
		}
	}
	if least < 0 {
		return 0, 0
	}
	return least * int64(len(stores)), int64(autoShare * float64(auto))
}

// space judges cache.capacity and says what it holds.
func (a *adviser) space() {
	stores, r := a.stores(), a.s.Relay
	if len(stores) == 0 {
		return
	}
	has, auto := room(stores)
	fits := floor(autoShare * float64(has))
	capacity := r.Capacity
	if in, ack := r.Inflow, a.out.Acknowledged; ack > 0 && in > ack {
		a.add(Warn, "cache.stores", "", fmt.Sprintf("%s a day come in, %s, and the relay acknowledges %s, bounded by %s: the rest waits "+
			"with the agents",
			show.Bytes(int64(in*daySeconds)), show.Rate(in), show.Rate(ack), a.out.Bottleneck))
	}
	switch {
	case fits <= 0:
		a.add(Warn, "cache.capacity", "", fmt.Sprintf("the stores have room for %s: too little for a cache", show.Bytes(has)))
		return
	case capacity == 0 && float64(fits) < 0.9*float64(auto):
		a.add(Set, "cache.capacity", units.Size(fits).String(), fmt.Sprintf("without it 90 %% of the file systems are taken for the cache, "+
			"%s; other data leave %s, of which this is 90 %%", show.Bytes(auto), show.Bytes(has)))
		capacity = fits
	case capacity == 0:
		capacity = auto
	case capacity > has:
		a.add(Warn, "cache.capacity", units.Size(fits).String(), fmt.Sprintf("%s are set and the stores have room for %s: their disks would "+
			"be full before high water", units.Size(capacity), show.Bytes(has)))
		capacity = fits
	}
	holds := float64(capacity) * r.HighWater * usable(r.Coding)
	text := fmt.Sprintf("%s raw hold %s of content up to high water", show.Bytes(capacity), show.Bytes(int64(holds)))
	if a.out.Acknowledged > 0 {
		text += fmt.Sprintf(": at %s that is full after %s without a flush", show.Rate(a.out.Acknowledged),
			show.Seconds(holds/a.out.Acknowledged))
	}
	a.add(Note, "cache.capacity", "", text)
	if r.Inflow > 0 {
		a.outage(capacity, fits, holds)
	}
}

// outage compares what the cache holds with what comes while no link may flush.
func (a *adviser) outage(capacity, fits int64, holds float64) {
	r := a.s.Relay
	closed, link := 0.0, ""
	for _, l := range r.Links {
		if l.LongestClosed > closed {
			closed, link = l.LongestClosed, l.Name
		}
	}
	a.add(Note, "cache.capacity", "", fmt.Sprintf("at %s a day it takes a target's outage of %s",
		show.Bytes(int64(r.Inflow*daySeconds)), show.Seconds(holds/r.Inflow)))
	content := r.Inflow * closed
	if content <= holds {
		return
	}
	text := fmt.Sprintf("link %s may not flush for %s, in which %s come in, and %s raw hold %s up to high water: ",
		link, show.Seconds(closed), show.Bytes(int64(content)), show.Bytes(capacity), show.Bytes(int64(holds)))
	if need := ceil(content / r.HighWater / usable(r.Coding)); need <= fits {
		a.add(Warn, "cache.capacity", units.Size(need).String(), text+"enlarge the cache, or open the window more often")
	} else {
		a.add(Warn, "flush.window", "", text+fmt.Sprintf("open it more often, or add disks: it takes %s of raw room", show.Bytes(need)))
	}
}

// upkeep judges the rates of scrub and rebuild.
func (a *adviser) upkeep() {
	stores, r := a.stores(), a.s.Relay
	if len(stores) == 0 {
		return
	}
	has, _ := room(stores)
	capacity := float64(r.Capacity)
	if capacity == 0 {
		capacity = autoShare * float64(has)
	}
	if r.Scrub > 0 && r.ScrubRate > 0 && capacity/r.ScrubRate > r.Scrub {
		a.add(Set, "cache.scrub_rate", rate(capacity/r.Scrub), fmt.Sprintf("a scrub of %s at %s takes %s, longer than cache.scrub: it never "+
			"keeps up",
			show.Bytes(int64(capacity)), show.Rate(r.ScrubRate), show.Seconds(capacity/r.ScrubRate)))
	}
	bound := raw(stores) * usable(r.Coding)
	if r.Coding.Parity == 0 || bound <= 0 {
		return
	}
	if busy := r.RebuildRate / busyPart; r.RebuildRate == 0 || busy > bound/2 {
		a.add(Set, "cache.rebuild_rate", rate(bound/2), fmt.Sprintf("the stores take %s of content: at more than half of it a rebuild keeps "+
			"uploads waiting", show.Rate(bound)))
	}
}
