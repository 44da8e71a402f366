package advice

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/shard"
	"forebay/units"
)

const (
	mib = 1 << 20
	gib = 1 << 30
	day = daySeconds
)

// stores are stores on devices, each of 1 TiB and as quick as 100 MiB a second, and a ledger on a disk of its own.
func stores(devices ...string) (out []Disk) {
	for i, dev := range devices {
		out = append(out, Disk{Role: RoleStore, Path: fmt.Sprintf("/d%d", i+1), Device: dev, FileSystem: "ext4", SizeBytes: 1000 * gib,
			FreeBytes: 1000 * gib, Write: 100 * mib, Read: 100 * mib, SyncP50: 0.001, SyncP99: 0.002})
	}
	return append(out, Disk{Role: RoleLedger, Path: "/var/lib/forebay", Device: "ledger", FileSystem: "ext4", SizeBytes: 100 * gib,
		FreeBytes: 100 * gib, Write: 100 * mib, SyncP50: 0.001, SyncP99: 0.002})
}

func three() []Disk { return stores("sda", "sdb", "sdc") }

// standard is a relay to which nothing is to be said; change makes another of it.
func standard(change func(*Relay)) Setup {
	r := &Relay{Stores: 3, Coding: shard.Geometry{Data: 2, Parity: 1}, HighWater: 0.85, RebuildRate: 64 * mib, ScrubRate: 16 * mib,
		Scrub:     14 * day,
		Suspicion: 3}
	if change != nil {
		change(r)
	}
	return Setup{Relay: r}
}

func coded(stores, data, parity int) func(*Relay) {
	return func(r *Relay) { r.Stores, r.Coding = stores, shard.Geometry{Data: data, Parity: parity} }
}

func with(disks []Disk, change func([]Disk)) Measured {
	change(disks)
	return Measured{Disks: disks}
}

// nightly is a link that may flush for eight hours a day.
func nightly(r *Relay) {
	l := Link{Name: "l", Target: "nas", Window: "22:00-06:00", Open: 7 * 8 * 3600, LongestClosed: 16 * 3600, Windows: 7, Bandwidth: "off"}
	r.Links = append(r.Links, l)
}

func nas(write float64) []Target {
	return []Target{{Name: "nas", Type: "dir", Where: "/mnt/nas", Device: "nfs", Confirm: "sync", Write: write, Read: write, Small: 200}}
}

func always(change func(*Relay, *Link)) func(*Relay) {
	return func(r *Relay) {
		l := Link{Name: "l", Target: "nas", Window: "always", Open: weekSeconds, Windows: 7, Bandwidth: "off"}
		if change != nil {
			change(r, &l)
		}
		r.Links = append(r.Links, l)
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		m     Measured
		s     Setup
		level Level
		key   string
		value string
		says  string // "" with level "": nothing of the key is said but notes
	}{
		{"three disks", Measured{Disks: three()}, standard(nil), "", "", "", ""},
		{"stores on one disk", Measured{Disks: stores("sda", "sda", "sda")}, standard(nil), Warn, "cache.stores", "",
			"it takes 3 of 3 shards with it and 1 may be lost"},
		{"parity on one disk", Measured{Disks: stores("sda", "sda", "sda")}, standard(nil), Set, "cache.coding", "1+0", "1.50 times the bytes"},
		{"two of three on one disk", Measured{Disks: stores("sda", "sda", "sdb")}, standard(nil), Warn, "cache.stores", "",
			"/d1, /d2 lie on one disk (sda)"},
		{"two of six on one disk", Measured{Disks: stores("a", "a", "b", "c", "d", "e")}, standard(coded(6, 4, 2)), Note, "cache.stores", "",
			"survives its loss, with less to spare"},
		{"no parity on two disks", Measured{Disks: stores("sda", "sdb")}, standard(coded(2, 2, 0)), Set, "cache.coding", "1+1",
			"2+0 survives the loss of no disk, 1+1 of 1 disk"},
		{"no parity on six disks", Measured{Disks: stores("a", "b", "c", "d", "e", "f")}, standard(coded(6, 6, 0)), Set, "cache.coding", "4+2",
			"67 % of the raw bytes"},
		{"one disk, honest", Measured{Disks: stores("sda")}, standard(coded(1, 1, 0)), Note, "cache.coding", "",
			"two disks with 1+1 would survive it"},
		{"in memory", with(three(), func(d []Disk) { d[1].InMemory, d[1].FileSystem = true, "tmpfs" }), standard(nil), Warn, "cache.stores",
			"", "/d2 is in memory (tmpfs)"},
		{"ledger in memory", with(three(), func(d []Disk) { d[3].InMemory = true }), standard(nil), Warn, "data", "", "lost with the power"},
		{"slow fsync of the ledger", with(three(), func(d []Disk) { d[3].SyncP50 = 0.02 }), standard(nil), Set, "data", "", "takes 20.0 ms"},
		{"slow store", with(three(), func(d []Disk) { d[2].Write = 20 * mib }), standard(nil), Warn, "cache.stores", "",
			"/d3 writes 20.0 MiB/s where the others write 100.0 MiB/s"},
		{"other data on the disks", with(three(), func(d []Disk) { d[0].FreeBytes = 200 * gib }), standard(nil), Set, "cache.capacity",
			"540GiB", "other data leave 600.0 GiB"},
		{"own data are no others", with(three(), func(d []Disk) { d[0].FreeBytes, d[0].OwnBytes = 200*gib, 800*gib }), standard(nil), "",
			"cache.capacity", "", ""},
		{"capacity over the disks", Measured{Disks: three()}, standard(func(r *Relay) { r.Capacity = 4000 * gib }), Warn, "cache.capacity",
			"2700GiB", "have room for 2.9 TiB"},
		{"no room", with(three(), func(d []Disk) { d[0].FreeBytes = 0 }), standard(nil), Warn, "cache.capacity", "", "too little for a cache"},
		{"one disk is as slow as itself", with(stores("sda", "sda", "sda"), func(d []Disk) { d[2].Write = 20 * mib }), standard(nil), Warn,
			"cache.stores", "", "/d1, /d2, /d3 lie on one disk"},
		{"some stores are away", Measured{Disks: stores("sda", "sda")}, standard(nil), "", "", "", ""},
		{"more comes than is acknowledged", Measured{Disks: three()}, standard(func(r *Relay) { r.Inflow = 300 * mib }), Warn, "cache.stores", "",
			"300.0 MiB/s, and the relay acknowledges 200.0 MiB/s, bounded by stores"},
		{"no cache is large enough for the day", Measured{Disks: three()}, standard(func(r *Relay) { nightly(r); r.Inflow = 100 * mib }), Warn,
			"flush.window", "",
			"add disks: it takes 9.7 TiB of raw room"},
		{"what it holds", Measured{Disks: three()}, standard(func(r *Relay) { r.Capacity = 300 * gib }), Note, "cache.capacity", "",
			"hold 170.0 GiB of content up to high water: at 200.0 MiB/s that is full after 14 min 30 s"},
		{"scrub never keeps up", Measured{Disks: three()}, standard(func(r *Relay) { r.ScrubRate = mib }), Set, "cache.scrub_rate", "2MiB/s",
			"longer than cache.scrub"},
		{"rebuild without a limit", Measured{Disks: three()}, standard(func(r *Relay) { r.RebuildRate = 0 }), Set, "cache.rebuild_rate",
			"100MiB/s", "keeps uploads waiting"},
		{"rebuild of slow disks", with(three(), func(d []Disk) {
			for i := range d {
				d[i].Write = 10 * mib
			}
		}), standard(func(r *Relay) { r.RebuildRate = 128 * mib }), Set, "cache.rebuild_rate", "10MiB/s", ""},
		{"target on a store's disk", Measured{Disks: three(), Targets: []Target{{Name: "nas", Where: "/mnt", Device: "sdb", Write: mib}}},
			standard(nil), Warn, "targets", "", "is on the disk of store /d2"},
		{"bandwidth over the target", Measured{Disks: three(), Targets: nas(10 * mib)}, standard(always(func(_ *Relay, l *Link) {
			l.Peak,
				l.Paced, l.Bandwidth = 50*mib, 50*mib, "50MiB/s"
		})), Note, "flush.bandwidth", "", "50MiB/s is more than target nas takes"},
		{"confirm over the target", Measured{Targets: nas(mib)}, standard(always(func(_ *Relay, l *Link) { l.Confirm = "reread" })), Warn,
			"confirm", "sync", "would stall"},
		{"how much a window carries", Measured{Disks: three(), Targets: nas(10 * mib)}, standard(func(r *Relay) { nightly(r) }), Note,
			"flush.window", "", "carries 281.2 GiB a day (the target takes 10.0 MiB/s, in windows of 2 d 8 h a week)"},
		{"budget carries less", Measured{Targets: nas(10 * mib)}, standard(always(func(_ *Relay, l *Link) { l.Budget = gib })), Note,
			"flush.window", "", "carries 1.0 GiB a day (flush.budget lets 1.0 GiB through in each window"},
		{"window too short", Measured{Targets: nas(10 * mib)}, standard(func(r *Relay) { nightly(r); r.Inflow = 5 * mib }), Warn,
			"flush.window", "", "Windows of 12 hours a day would do"},
		{"window long enough", Measured{Targets: nas(10 * mib)}, standard(func(r *Relay) { nightly(r); r.Inflow = 2 * mib }), Note,
			"flush.window", "", "67 % to spare"},
		{"budget too small", Measured{Targets: nas(10 * mib)}, standard(always(func(r *Relay, l *Link) { l.Budget, r.Inflow = gib, mib })),
			Warn, "flush.budget", "85GiB", "its backlog grows by 83.4 GiB a day"},
		{"bandwidth too small", Measured{Targets: nas(10 * mib)}, standard(always(func(r *Relay, l *Link) {
			l.Paced, l.Peak, r.Inflow = mib,
				mib, 5*mib
		})), Warn, "flush.bandwidth", "6MiB/s", "bandwidth lets 1.0 MiB/s through"},
		{"target too slow", Measured{Targets: nas(mib)}, standard(always(func(r *Relay, _ *Link) { r.Inflow = 5 * mib })), Warn, "links", "",
			"No setting helps"},
		{"cache too small for the day", Measured{Disks: three(), Targets: nas(100 * mib)}, standard(func(r *Relay) {
			nightly(r)
			r.Capacity,
				r.Inflow = 100*gib, 5*mib
		}), Warn, "cache.capacity", "497GiB", "may not flush for 16 h, in which 281.2 GiB come in"},
		{"deadline in the drain", Measured{Disks: three(), Targets: nas(10 * mib)}, standard(func(r *Relay) {
			nightly(r)
			r.Links[0].Deadline,
				r.Inflow = 17*3600, 3*mib
		}), Set, "flush.deadline", "23h", "needs another 6 h 51 min to drain"},
		{"try others", Measured{Targets: nas(10 * mib)}, standard(always(nil)), Note, "", "",
			"policy simulate l KEY=VALUE --rate 10MiB/s --per-object 5ms"},
		{"far away", Measured{Network: &Network{Relay: "r", TripP50: 0.1, TripP99: 0.5, Upload: mib}}, standard(nil), Set, "suspicion", "5s",
			"taken for dead"},
		{"limit over the network", Measured{Network: &Network{Relay: "r", Upload: 10 * mib}}, Setup{Agent: &Agent{Upload: 20 * mib}}, Note,
			"limits.upload", "", "holds nothing back"},
		{"no limit", Measured{Network: &Network{Relay: "r", Upload: 10 * mib}}, Setup{Agent: &Agent{}}, Note, "limits.upload", "8MiB/s",
			"leaves a fifth for others"},
		{"nothing measured", Measured{}, Setup{}, "", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := Give(c.m, c.s)
			found := false
			for _, i := range got.Items {
				checkItem(t, i)
				found = found || i.Level == c.level && i.Key == c.key && i.Value == c.value && strings.Contains(i.Text, c.says)
				if c.level == "" && (c.key == "" || c.key == i.Key) {
					assert.Equal(t, Note, i.Level, "%+v", i)
				}
			}
			assert.True(t, found || c.level == "", "want %s %s %q %q in %s", c.level, c.key, c.value, c.says, printed(got.Items))
		})
	}
}

func printed(items []Item) string {
	var b strings.Builder
	for _, i := range items {
		fmt.Fprintf(&b, "\n  %s %s %q %s", i.Level, i.Key, i.Value, i.Text)
	}
	return b.String()
}

// checkItem proves that a key is one of the configuration, and its value one that the configuration reads.
func checkItem(t *testing.T, i Item) {
	t.Helper()
	require.NotEmpty(t, i.Text)
	page, err := os.ReadFile("../../../../docs/operating.md")
	require.NoError(t, err)
	if i.Key != "" {
		assert.Regexp(t, "\\| `([a-z._]+`, `)*"+regexp.QuoteMeta(i.Key)+"`", string(page), "operating.md does not know the key")
	}
	if i.Value == "" {
		return
	}
	switch i.Key {
	case "cache.capacity", "flush.budget":
		_, err = units.ParseSize(i.Value)
	case "cache.rebuild_rate", "cache.scrub_rate", "flush.bandwidth", "limits.upload":
		_, err = units.ParseRate(i.Value)
	case "flush.deadline", "suspicion":
		_, err = units.ParseDuration(i.Value)
	case "cache.coding":
		_, err = shard.ParseGeometry(i.Value)
	case "confirm":
		assert.Positive(t, class(i.Value))
	default:
		assert.Fail(t, "a value for a key that has none", "%+v", i)
	}
	assert.NoError(t, err, "%+v", i)
}

func TestBottleneck(t *testing.T) {
	t.Parallel()
	coding := &Coding{EncodeAll: 4000 * mib, DigestAll: 2000 * mib}
	for _, c := range []struct {
		name   string
		ingest *Ingest
		disks  []Disk
		rate   float64
		by     string
	}{
		{"stores", &Ingest{Large: 180 * mib}, three(), 180 * mib, "stores"},
		{"cores", &Ingest{Large: 80 * mib, Busy: 0.9}, three(), 80 * mib, "the cores of this machine, which sender and relay shared"},
		{"waiting", &Ingest{Large: 80 * mib, Busy: 0.3}, three(), 80 * mib, "waiting"},
		{"not measured", nil, three(), 200 * mib, "stores"},
		{"no disks", nil, nil, 0, ""},
	} {
		got := Give(Measured{Disks: c.disks, Coding: coding, Ingest: c.ingest}, standard(nil))
		assert.InDelta(t, c.rate, got.Acknowledged, 1, c.name)
		assert.True(t, strings.HasPrefix(got.Bottleneck, c.by), "%s: %s", c.name, got.Bottleneck)
	}
	got := Give(Measured{Disks: three(), Coding: coding}, standard(nil))
	assert.Equal(t, []Bound{{"stores", 200 * mib}, {"digests", 1000 * mib}, {"coding", 4000 * mib}, {"fsync of the ledger", 32000 * mib}},
		got.Bounds)
}

// Stores that write at once are as quick as the slowest then.
func TestCodings(t *testing.T) {
	t.Parallel()
	disks := stores("a", "b", "c", "c")
	for i := range disks {
		disks[i].Together = float64(50+i) * mib
	}
	got := Give(Measured{Disks: disks}, standard(coded(4, 2, 1))).Codings
	third := usable(shard.Geometry{Data: 2, Parity: 1})
	assert.Equal(t, []Option{
		{"1+0", false, 0, 1, 200 * mib},
		{"1+1", false, 0, 0.5, 100 * mib},
		{"2+1", true, 0, third, 200 * mib * third},
		{"3+1", false, 0, 0.75, 150 * mib},
		{"2+2", false, 1, 0.5, 100 * mib},
	}, got)
}

func TestSurvives(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		data, parity int
		counts       []int
		want         int
	}{{1, 0, []int{1}, 0}, {1, 1, []int{1, 1}, 1}, {2, 1, []int{1, 1, 1}, 1}, {2, 1, []int{1, 2}, 0}, {4, 2, []int{2, 2, 2}, 1}, {4, 2,
		[]int{1, 1, 1, 1, 1, 1}, 2}, {1, 1, []int{2}, 0}} {
		assert.Equal(t, c.want, survives(shard.Geometry{Data: c.data, Parity: c.parity}, c.counts), "%+v", c)
	}
}

// Lists are never null for who reads the JSON.
func TestEmptyIsNotNull(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(Give(Measured{}, Setup{}))
	require.NoError(t, err)
	assert.NotContains(t, string(b), "null")
}
