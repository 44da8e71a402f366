package scale

import (
	"math"
	"math/rand/v2"
	"runtime/metrics"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// count is what was seen of one kind of message, or of work.
type count struct {
	calls     int64 // requests, or messages that were published
	delivered int64 // of the latter, to subscribers
	in, out   int64 // bytes to the relay or the bus, and from there; payload apart
	objects   int64
	cpu       time.Duration // of this process, while the relay worked on it
	allocs    int64         // and what it allocated, in objects
}

// meter counts by kind.
type meter struct{ by map[string]*count }

func newMeter() meter { return meter{map[string]*count{}} }

func (m meter) of(kind string) *count {
	c := m.by[kind]
	if c == nil {
		c = &count{}
		m.by[kind] = c
	}
	return c
}

// time adds the CPU time of all threads of the process while fn runs.
func (m meter) time(kind string, fn func()) {
	c := m.of(kind)
	made, from := allocs(), cpu()
	fn()
	c.cpu += cpu() - from
	c.allocs += allocs() - made
}

// allocs is how many objects this process has allocated, but for those of caches of its threads that are not full.
func allocs() int64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64())
}

// cpu is the time that this process has used, user and system.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// since returns what came since an earlier copy.
func (m meter) since(was meter) meter {
	out := newMeter()
	for k, c := range m.by {
		d, o := *c, was.of(k)
		d.calls, d.delivered, d.in, d.out, d.objects, d.cpu, d.allocs = d.calls-o.calls, d.delivered-o.delivered, d.in-o.in, d.out-o.out, d.objects-o.objects, d.cpu-o.cpu, d.allocs-o.allocs
		out.by[k] = &d
	}
	return out
}

func (m meter) copy() meter { return m.since(newMeter()) }

// sum adds up some kinds, or all without any.
func (m meter) sum(kinds ...string) (s count) {
	for k, c := range m.by {
		if len(kinds) == 0 || slices.Contains(kinds, k) {
			s.calls, s.delivered, s.in, s.out, s.objects, s.cpu, s.allocs = s.calls+c.calls, s.delivered+c.delivered, s.in+c.in, s.out+c.out, s.objects+c.objects, s.cpu+c.cpu, s.allocs+c.allocs
		}
	}
	return s
}

// The kinds of messages.
var (
	objectKinds = []string{"claim", "segment", "report", "feed", "abandon"} // requests that objects cause
	busKinds    = []string{"gossip", "nudge"}
)

// tally is what was counted besides messages.
type tally struct {
	verdicts map[string]int64
	waits    []time.Duration // from when an object was first found to the acknowledgement of its content
	sent     int64           // bytes
	wasted   int64           // of them, sent for nothing
	sealed   int64           // versions
	hashed   int64           // objects that were read for their digest
	members  int64           // member lists that were fetched
	leases   int64           // granted, and not sent yet
	most     int64           // of them, at any moment
}

func (t *tally) verdict(v string) {
	if t.verdicts == nil {
		t.verdicts = map[string]int64{}
	}
	t.verdicts[v]++
}

// quantile is the q-th of the waits.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ds))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// imbalance is the largest of some sums over their mean.
func imbalance(sums []int64) float64 {
	total := int64(0)
	for _, s := range sums {
		total += s
	}
	if total == 0 {
		return 0
	}
	return float64(slices.Max(sums)) * float64(len(sums)) / float64(total)
}

// sizeOf draws a size from a log-normal distribution: a median of 16 KiB, a mean of about 120 KiB, and at most a segment's payload.
func sizeOf(rng *rand.Rand) int64 {
	return min(int64(math.Exp(math.Log(16<<10)+2*rng.NormFloat64()))+1, 8<<20)
}
