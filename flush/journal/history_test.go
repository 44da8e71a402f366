package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// acked is present with a stamp.
func acked(path string, v proto.VersionID, ns int64) Entry {
	e := present(path, v, int64(v))
	e.AckedNs = ns
	return e
}

// ending does a batch that ends what is there of the entries' paths, at the running time up.
func ending(t *testing.T, j *Journal, up int64, entries ...Entry) {
	t.Helper()
	var paths []string
	for _, e := range entries {
		paths = append(paths, e.Path)
	}
	slices.Sort(paths)
	found, err := j.Lookup(t.Context(), paths)
	require.NoError(t, err)
	b, err := j.Begin(t.Context(), entries)
	require.NoError(t, err)
	var past []Entry
	for _, e := range entries {
		if f := found[e.Path]; f.InMirror() && f.Holds < e.Version {
			past = append(past, f.End(e.Version, e.AckedNs, up))
		}
	}
	require.NoError(t, b.Past(t.Context(), past))
	require.NoError(t, b.Done(t.Context(), entries))
}

// at is what the journal says that paths had at a moment: versions by path.
func at(t *testing.T, j *Journal, ns int64) map[string]proto.VersionID {
	t.Helper()
	h, _ := j.History()
	out := map[string]proto.VersionID{}
	require.NoError(t, j.EachVersions(t.Context(), "", func(v Versions) error {
		if e, _ := v.At(ns, h.Horizon); e.Desc.Kind != proto.KindNone {
			out[v.Path] = e.Holds
		}
		return nil
	}, nil))
	return out
}

func TestTreeAtEachStamp(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, j.SetHistory(t.Context(), History{On: true, Reach: time.Unix(0, 5), Keep: time.Hour}))
	ending(t, j, 1, acked("a", 1, 10), acked("b", 2, 20))
	ending(t, j, 2, acked("a", 3, 30))
	ending(t, j, 3, Entry{Path: "b", Version: 4, State: StateDeleted, AckedNs: 40})
	ending(t, j, 4, acked("b", 5, 50), Entry{Path: "a", Version: 6, State: StateKept, AckedNs: 60})
	ending(t, j, 5, acked("a", 7, 70))
	for _, merged := range []bool{false, true} {
		if merged {
			require.NoError(t, j.CompactAll(t.Context(), 100))
			require.NoError(t, j.SweepPast(t.Context()))
			j = mustOpen(t, rec)
		}
		for ns, want := range map[int64]map[string]proto.VersionID{
			5: {}, 10: {"a": 1}, 29: {"a": 1, "b": 2}, 30: {"a": 3, "b": 2}, 40: {"a": 3}, 49: {"a": 3}, 50: {"a": 3, "b": 5},
			60: {"b": 5}, 70: {"a": 7, "b": 5}, 1000: {"a": 7, "b": 5},
		} {
			assert.Equal(t, want, at(t, j, ns), "at %d, merged %v", ns, merged)
		}
		v, ok, err := j.GetVersions(t.Context(), "a")
		require.NoError(t, err)
		require.True(t, ok)
		require.Len(t, v.Past, 2)
		assert.Equal(t, []proto.VersionID{1, 3}, []proto.VersionID{v.Past[0].Version, v.Past[1].Version})
		assert.EqualValues(t, 60, v.Past[1].Ended.Ns, "it ended at the source when it was deleted there, not when it was replaced here")
	}
	assert.Len(t, rec.files, 3, "one run of each, and the record")
	require.NoError(t, j.CheckAt(time.Unix(0, 5)))
	require.ErrorContains(t, j.CheckAt(time.Unix(0, 4)), "reaches back to")
}

// A version that ended in a batch that was cut short, and again in a later one, ended then.
func TestTheLastEndCounts(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, newMemRecords())
	require.NoError(t, j.SetHistory(t.Context(), History{On: true}))
	ending(t, j, 1, acked("a", 1, 10))
	e, _, _, err := j.Get(t.Context(), "a")
	require.NoError(t, err)
	b, err := j.Begin(t.Context(), []Entry{acked("a", 2, 20)})
	require.NoError(t, err)
	require.NoError(t, b.Past(t.Context(), []Entry{e.End(2, 20, 7)}))
	b.Abandon()
	found, err := j.Lookup(t.Context(), []string{"a"})
	require.NoError(t, err)
	require.NotNil(t, found["a"].Pending, "the mirror may have either")
	assert.EqualValues(t, 1, found["a"].Holds)
	ending(t, j, 9, acked("a", 3, 30))
	v, _, err := j.GetVersions(t.Context(), "a")
	require.NoError(t, err)
	require.Len(t, v.Past, 1)
	assert.Equal(t, End{Ns: 30, Up: 9, By: 3}, *v.Past[0].Ended)
	assert.Equal(t, map[string]proto.VersionID{"a": 1}, at(t, j, 25))
}

// What is swept leaves the journal; what is only given up stays, for its content may be there.
func TestSweptEntriesGo(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, j.SetHistory(t.Context(), History{On: true}))
	ending(t, j, 1, acked("a", 1, 10))
	for v := range int64(20) {
		ending(t, j, v+2, acked("a", proto.VersionID(v+2), 10*(v+2)))
	}
	h, _ := j.History()
	h.Horizon, h.Swept = 15, 10
	require.NoError(t, j.SetHistory(t.Context(), h))
	require.NoError(t, j.SweepPast(t.Context()))
	assert.Equal(t, 11, j.PastEntries(), "those that ended at 11 to 21")
	assert.Equal(t, map[string]proto.VersionID{}, at(t, j, 140), "given up")
	assert.Equal(t, map[string]proto.VersionID{"a": 15}, at(t, j, 150))
	h.Horizon, h.Swept = 100, 100
	require.NoError(t, j.SetHistory(t.Context(), h))
	require.NoError(t, j.SweepPast(t.Context()))
	assert.Zero(t, j.PastEntries())
	require.NoError(t, j.DropHistory(t.Context()))
	j = mustOpen(t, rec)
	_, ok := j.History()
	assert.False(t, ok)
	for name := range rec.files {
		assert.NotContains(t, name, "past", "an older release knows all that is left")
		assert.NotContains(t, name, "history")
	}
}

// A lookup finds what a reading of everything finds, with runs of several parts, merges and batches that never ended.
func TestLookupAgreesWithEach(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 3))
	rec := newMemRecords()
	j := mustOpen(t, rec)
	for v := range 60 {
		var entries []Entry
		for i := range 300 {
			if rng.IntN(10) == 0 {
				entries = append(entries, acked(fmt.Sprintf("p%03d", i), proto.VersionID(v*1000+i+1), int64(v)))
			}
		}
		b, err := j.Begin(t.Context(), entries)
		require.NoError(t, err)
		if rng.IntN(5) == 0 {
			b.Abandon()
		} else {
			require.NoError(t, b.Done(t.Context(), entries))
		}
		require.NoError(t, j.Compact(t.Context(), 0))
		if v%20 == 10 {
			j = mustOpen(t, rec) // which knows no bounds of files
		}
	}
	want := map[string]Found{}
	require.NoError(t, j.Each(t.Context(), "", func(e Entry, pending *Entry) error {
		want[e.Path] = Found{e, pending}
		return nil
	}))
	for range 50 {
		paths := []string{fmt.Sprintf("p%03d", rng.IntN(310)), fmt.Sprintf("p%03d", rng.IntN(310)), "a", "zz"}
		slices.Sort(paths)
		got, err := j.Lookup(t.Context(), slices.Compact(paths))
		require.NoError(t, err)
		for _, p := range paths {
			w, known := want[p]
			g, found := got[p]
			require.Equal(t, known, found, "seed %d: %s", seed, p)
			require.Equal(t, w, g, "seed %d: %s", seed, p)
		}
	}
}

func TestNewerHistoriesAreRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]proto.Class{`{"format":2}`: proto.ClassPermanent, `{"format":0}`: proto.ClassCorrupt, `{`: proto.ClassCorrupt} {
		rec := newMemRecords()
		require.NoError(t, rec.Put(t.Context(), "journal/root/history", []byte(text)))
		_, err := Open(t.Context(), rec, "root")
		require.Equal(t, want, proto.ClassOf(err), text)
	}
}

// FuzzPastDecoder is FuzzDecoder for files of versions that have ended.
func FuzzPastDecoder(f *testing.F) {
	var p part
	for v := range proto.VersionID(3) {
		_ = p.add(acked("a", v+1, 1).End(v+2, 2, 3))
	}
	f.Add(p.encode())
	f.Add((&part{}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := newDecoder("f", true, bytes.NewReader(b))
		if err != nil {
			require.NotEmpty(t, proto.ClassOf(err))
			return
		}
		var last Entry
		for {
			e, err := d.next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
				return
			}
			require.NotNil(t, e.Ended)
			require.Positive(t, byVersion(e, last))
			last = e
		}
	})
}
