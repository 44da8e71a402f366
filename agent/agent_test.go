package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
	"forebay/proto"
	"forebay/proto/bus"
)

func TestReplicasWithOtherTimesAreSentOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		bus  *bus.Memory
	}{
		{"with a bus", bus.NewMemory(bus.Faults{})},
		{"without a bus", nil},
		{"all messages dropped", dropping()},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := &agenttest.Relay{Wanted: true}
			with := func(*Config, *Deps) {}
			if c.bus != nil {
				r.Bus, r.BusURLs = c.bus.Peer(), []string{"memory"}
				with = func(_ *Config, d *Deps) { d.DialBus = busFor(c.bus) }
			}
			r.Start(t)
			one := t.TempDir()
			sample(t, one)
			trees := []string{one, replica(t, one), replica(t, one)}
			var nodes []*running
			for i, tree := range trees {
				nodes = append(nodes, node(t, r, fmt.Sprintf("node-%d", i), with, tree))
			}
			settled(t, r, one, nodes...)
			r.Look("media", func(d *agenttest.Dataset, s *agenttest.Stats) {
				for p, n := range s.Objects {
					assert.Equal(t, 1, n, "versions of %q", p)
				}
				assert.Zero(t, s.Duplicate)
				for p, row := range d.Rows {
					assert.Len(t, row.Holders, 3, "holders of %q", p)
				}
			})
		})
	}
}

func dropping() *bus.Memory {
	m := bus.NewMemory(bus.Faults{})
	m.DropEverything(true)
	return m
}

// A holder that finds its content published already tells how its metadata differs, and sends it when the relay wants it: be it found
// in the feed, or by a claim that was made without that.
func TestMetadataIsSentWhereItIsWanted(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	first, second := t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		write(t, filepath.Join(dir, "x"), 100, 1)
		require.NoError(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
		require.NoError(t, os.Symlink("x", filepath.Join(dir, "s")))
		require.NoError(t, os.Chtimes(filepath.Join(dir, "x"), time.Time{}, time.Unix(1234567890, 5)))
	}
	a := node(t, r, "a", nil, first)
	settled(t, r, first, a)
	metas := func() (x, d, s int) {
		r.Look("media", func(_ *agenttest.Dataset, st *agenttest.Stats) { x, d, s = st.Metas["x"], st.Metas["d"], st.Metas["s"] })
		return x, d, s
	}

	require.NoError(t, os.Chmod(filepath.Join(second, "x"), 0o600))
	require.NoError(t, os.Chmod(filepath.Join(second, "d"), 0o700))
	b := node(t, r, "b", nil, second)
	settled(t, r, first, a, b)
	x, d, s := metas()
	assert.Zero(t, x+d+s, "replicas may differ")

	a.stop() // this relay wants the metadata of each that tells of other: two would send theirs in turns
	b.stop()
	r.Look("media", func(*agenttest.Dataset, *agenttest.Stats) { r.WantMeta = true })
	require.NoError(t, os.RemoveAll(b.cfg.DataDir))
	b = b.again(t)
	settled(t, r, second, b)
	x, d, s = metas()
	assert.Equal(t, [3]int{1, 1, 0}, [3]int{x, d, s})
}

func TestChangesAreFollowed(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	dir := t.TempDir()
	sample(t, dir)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	r.Look("media", func(d *agenttest.Dataset, s *agenttest.Stats) {
		assert.Less(t, s.Payload, int64(22<<20), "of 16 MiB sparse with 1 MiB of data, the holes do not travel")
		assert.NotEmpty(t, d.Rows["sparse"].Desc.Extents)
	})

	touched := filepath.Join(dir, "src/d2/f2.go")
	require.NoError(t, os.Chtimes(touched, time.Time{}, time.Unix(1234567890, 5)))
	require.NoError(t, os.Chmod(filepath.Join(dir, "whole"), 0o600))
	require.NoError(t, os.Remove(filepath.Join(dir, "src/d3/f3.go")))
	require.NoError(t, os.Rename(filepath.Join(dir, "src/d4"), filepath.Join(dir, "moved")))
	require.NoError(t, os.Remove(filepath.Join(dir, "src/link")))
	write(t, filepath.Join(dir, "src/link"), 77, 9) // a file where a link was
	write(t, filepath.Join(dir, "src/d0/f0.go"), 100, 4711)
	r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) { d.ScanToken = 3 })
	eventually(t, func() bool { s := r.Status("a"); return len(s) == 1 && s[0].ScanToken == 3 && s[0].UnsentCount == 0 }, "the token is answered")
	settled(t, r, dir, n)
	r.Look("media", func(d *agenttest.Dataset, s *agenttest.Stats) {
		assert.Equal(t, int64(1234567890e9+5), d.Rows["src/d2/f2.go"].Desc.Meta.MtimeNs)
		assert.Equal(t, 1, s.Objects["src/d2/f2.go"], "a touch sends no content")
		assert.Equal(t, 1, s.Objects["whole"], "nor does a chmod")
		assert.Positive(t, s.Metas["whole"])
		assert.Equal(t, 2, s.Objects["src/d0/f0.go"])
		assert.Equal(t, proto.KindTombstone, d.Rows["src/d4/f4.go"].Desc.Kind)
		assert.Equal(t, proto.KindFile, d.Rows["src/link"].Desc.Kind)
	})
	assert.Zero(t, n.roots[0].ix.Counts().Gone, "what the relay knows to be gone is forgotten")

	// A restart sends nothing again.
	var before agenttest.Stats
	r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) { before = *s })
	n = n.again(t)
	settled(t, r, dir, n)
	r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) { assert.Equal(t, before.Payload, s.Payload) })
}

func TestNodeNameInUseIsSaidAndTriedAgain(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	first := node(t, r, "same", nil, t.TempDir())
	eventually(t, func() bool { return first.Status().Session.ID != 0 }, "first is known")
	second := node(t, r, "same", nil, t.TempDir())
	eventually(t, func() bool {
		s := second.Status()
		return s.Health == "red" && strings.Contains(s.Problems[0].What, "another live agent has the node name same")
	}, "second is refused")
	first.stop()
	eventually(t, func() bool { return second.Status().Session.ID != 0 && second.Status().Health == "green" }, "second takes over")
}

func TestRootThatIsExchangedStopsTheDataset(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	base := t.TempDir()
	dir, other := filepath.Join(base, "data"), t.TempDir()
	sample(t, dir)
	sample(t, other)
	n := node(t, r, "a", nil, dir, other)
	settled(t, r, dir, n)
	require.NoError(t, os.Rename(dir, filepath.Join(base, "elsewhere")))
	require.NoError(t, os.Mkdir(dir, 0o755))
	eventually(t, func() bool { s := r.Status("a"); return len(s) == 2 && s[0].Problem != "" }, "the problem is reported")
	assert.Empty(t, r.Status("a")[1].Problem, "the other root goes on")
	r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) {
		for p, row := range d.Rows {
			assert.NotEqual(t, proto.KindTombstone, row.Desc.Kind, p)
			assert.Empty(t, row.Gone, p)
		}
	})
}

func TestUnwantedDatasetIsNotUploaded(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{}).Start(t)
	dir := t.TempDir()
	sample(t, dir)
	n := node(t, r, "a", nil, dir)
	eventually(t, func() bool { s := r.Status("a"); return len(s) == 1 && s[0].LastScanNs != 0 }, "scanned")
	r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) { assert.Zero(t, s.Segments) })
	r.Set(func(r *agenttest.Relay) { r.Wanted = true })
	settled(t, r, dir, n)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	err := Config{Node: "a b", Datasets: []Dataset{
		{Name: "x", Paths: []string{"/srv/x", "rel"}, Scan: 1},
		{Name: "x", Paths: []string{"/srv/x/y"}},
	}}.Validate()
	for _, want := range []string{"node:", "cluster:", "relays:", "data", `path "rel"`, "named twice", "within one another", "scan every"} {
		assert.ErrorContains(t, err, want)
	}
	ok := Config{Node: "a", Cluster: "c", Relays: []string{"http://x"}, DataDir: "/d", Datasets: []Dataset{{Name: "x", Paths: []string{"/srv/x", "/srv/xy"}}}}
	assert.NoError(t, ok.Validate())
}
