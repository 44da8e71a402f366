package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

func present(path string, v proto.VersionID, size int64) Entry {
	return Entry{Path: path, Version: v, State: StatePresent, Desc: proto.Desc{Kind: proto.KindFile, Size: size, Digest: proto.BlockDigest([]byte(fmt.Sprint(path, v)))}}
}

func mustOpen(t *testing.T, rec *memRecords) *Journal {
	t.Helper()
	j, err := Open(t.Context(), rec, "root")
	require.NoError(t, err)
	return j
}

func batch(ctx context.Context, j *Journal, entries ...Entry) error {
	b, err := j.Begin(ctx, entries)
	if err != nil {
		return err
	}
	return b.Done(ctx, entries)
}

type seen struct {
	Entry
	pending *Entry
}

func dump(t *testing.T, j *Journal, prefix string) (out []seen) {
	t.Helper()
	last := ""
	require.NoError(t, j.Each(t.Context(), prefix, func(e Entry, p *Entry) error {
		require.Greater(t, e.Path, last)
		last = e.Path
		out = append(out, seen{e, p})
		return nil
	}))
	return out
}

func TestHighestVersionWinsWhateverTheOrder(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, batch(t.Context(), j, present("b", 5, 50), present("a/x", 2, 20)))
	require.NoError(t, batch(t.Context(), j, present("b", 3, 30), present("a-b", 4, 40)))
	for _, compact := range []bool{false, true} {
		if compact {
			require.NoError(t, j.CompactAll(t.Context(), 0))
		}
		got := dump(t, mustOpen(t, rec), "")
		require.Len(t, got, 3)
		assert.Equal(t, []string{"a-b", "a/x", "b"}, []string{got[0].Path, got[1].Path, got[2].Path})
		assert.Equal(t, present("b", 5, 50).Desc, got[2].Desc, "I18: never back to an older version")
	}
	assert.Len(t, rec.files, 1, "the merged run alone is left")
}

func TestKeptAndParkedSayWhatTheMirrorStillHas(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, batch(t.Context(), j, present("k", 1, 10), present("p", 2, 20)))
	require.NoError(t, batch(t.Context(), j,
		Entry{Path: "k", Version: 3, State: StateKept, Desc: proto.Desc{Kind: proto.KindTombstone}},
		Entry{Path: "p", Version: 4, State: StateParked},
		Entry{Path: "q", Version: 5, State: StateParked}))
	check := func(j *Journal) {
		got := dump(t, j, "")
		require.Len(t, got, 3)
		assert.Equal(t, StateKept, got[0].State)
		assert.Equal(t, proto.VersionID(1), got[0].Holds)
		assert.Equal(t, int64(10), got[0].Desc.Size)
		assert.Equal(t, StateParked, got[1].State)
		assert.Equal(t, proto.VersionID(4), got[1].Version)
		assert.Equal(t, int64(20), got[1].Desc.Size)
		assert.False(t, got[2].InMirror())
	}
	check(j)
	require.NoError(t, j.CompactAll(t.Context(), 0))
	check(mustOpen(t, rec))
	require.NoError(t, batch(t.Context(), j, Entry{Path: "k", Version: 3, State: StateDeleted}))
	e, _, ok, err := j.Get(t.Context(), "k")
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, StateDeleted, e.State, "the same version, written later, counts")
}

func TestDeletedPathsAreForgottenOnlyBelowTheCut(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, newMemRecords())
	require.NoError(t, batch(t.Context(), j, present("a", 1, 1), present("b", 2, 1)))
	require.NoError(t, batch(t.Context(), j, Entry{Path: "a", Version: 3, State: StateDeleted}, Entry{Path: "b", Version: 4, State: StateDeleted}))
	require.NoError(t, j.CompactAll(t.Context(), 4))
	got := dump(t, j, "")
	require.Len(t, got, 1)
	assert.Equal(t, "b", got[0].Path)
	assert.Equal(t, proto.VersionID(4), got[0].Version)
}

// A merge that leaves an older run out must keep the deletes of what is in that run, or it would be there again.
func TestDeletesOutliveAMergeOfTheYoungerRuns(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, newMemRecords())
	var first []Entry
	for i := range 100 {
		first = append(first, present(fmt.Sprintf("f%02d", i), 1, 1))
	}
	require.NoError(t, batch(t.Context(), j, first...))
	require.NoError(t, batch(t.Context(), j, Entry{Path: "f50", Version: 2, State: StateDeleted}))
	for i := range fanIn {
		require.NoError(t, batch(t.Context(), j, present("g", proto.VersionID(3+i), 1)))
	}
	require.NoError(t, j.Compact(t.Context(), 1000))
	j.mu.Lock()
	runs := len(j.l.done)
	j.mu.Unlock()
	require.Equal(t, 2, runs, "the large run stays as it is")
	for _, e := range dump(t, j, "") {
		if e.Path == "f50" {
			assert.Equal(t, StateDeleted, e.State, "it is back")
		}
	}
}

func TestPendingUntilALaterBatchCarriesItOut(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, batch(t.Context(), j, present("a", 1, 1)))
	_, err := j.Begin(t.Context(), []Entry{{Path: "a", Version: 2, Desc: proto.Desc{Kind: proto.KindFile, Size: 2}, Stage: "s-2"}, {Path: "n", Version: 3, Desc: proto.Desc{Kind: proto.KindDir}}})
	require.NoError(t, err)

	j = mustOpen(t, rec) // the process died before Done
	got := dump(t, j, "")
	require.Len(t, got, 2)
	assert.Equal(t, int64(1), got[0].Desc.Size)
	require.NotNil(t, got[0].pending)
	assert.Equal(t, int64(2), got[0].pending.Desc.Size)
	assert.Equal(t, StateNone, got[1].State)
	require.NotNil(t, got[1].pending)

	require.NoError(t, batch(t.Context(), j, present("a", 2, 2)))
	require.NoError(t, j.CompactAll(t.Context(), 0))
	got = dump(t, mustOpen(t, rec), "")
	assert.Nil(t, got[0].pending)
	require.NotNil(t, got[1].pending, "n was never carried out")
	require.NoError(t, batch(t.Context(), j, present("n", 3, 0)))
	require.NoError(t, j.CompactAll(t.Context(), 0))
	assert.Len(t, rec.files, 1, "all intents are settled")
}

func TestAMergeDoesNotSwallowAnOpenBatch(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, batch(t.Context(), j, present("a", 1, 1)))
	slow, err := j.Begin(t.Context(), []Entry{present("slow", 2, 2)})
	require.NoError(t, err)
	for v := range proto.VersionID(20) {
		require.NoError(t, batch(t.Context(), j, present("a", 3+v, 1)))
		require.NoError(t, j.Compact(t.Context(), 0))
	}
	require.NoError(t, j.CompactAll(t.Context(), 0))
	require.NoError(t, slow.Done(t.Context(), []Entry{present("slow", 2, 2)}))
	require.NoError(t, j.CompactAll(t.Context(), 0))
	got := dump(t, mustOpen(t, rec), "")
	require.Len(t, got, 2)
	assert.Equal(t, "slow", got[1].Path)
	assert.Nil(t, got[1].pending)
	assert.Equal(t, StatePresent, got[1].State)
}

// A number that is raised is the last, after a restart and a merge, too, and adds nothing.
func TestRaise(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.Zero(t, j.Last())
	there, err := j.There(t.Context(), j.Newest())
	require.NoError(t, err)
	require.True(t, there, "nothing was ever written")
	require.NoError(t, batch(t.Context(), j, present("a", 1, 10)))
	require.EqualValues(t, 1, j.Last())
	require.NoError(t, j.Raise(t.Context(), 50))
	require.EqualValues(t, 50, j.Last())
	require.EqualValues(t, 50, mustOpen(t, rec).Last())
	for i := range 40 {
		require.NoError(t, batch(t.Context(), j, present(fmt.Sprint("b", i), proto.VersionID(2+i), 10)))
		require.NoError(t, j.Compact(t.Context(), 0))
	}
	again := mustOpen(t, rec)
	require.EqualValues(t, 90, again.Last())
	require.Len(t, dump(t, again, ""), 41)
	there, err = j.There(t.Context(), j.Newest())
	require.NoError(t, err)
	require.True(t, there)
	clear(rec.files)
	there, err = j.There(t.Context(), j.Newest())
	require.NoError(t, err)
	require.False(t, there)
}

func TestPrefixIsAPathNotAString(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, newMemRecords())
	var all []Entry
	for i, p := range []string{"d", "d-x", "d/1", "d/2/z", "d0", "e"} {
		all = append(all, present(p, proto.VersionID(i+1), 1))
	}
	require.NoError(t, batch(t.Context(), j, all...))
	for _, e := range all {
		require.NoError(t, batch(t.Context(), j, e))
	}
	var names []string
	for _, s := range dump(t, j, "d") {
		names = append(names, s.Path)
	}
	assert.Equal(t, []string{"d", "d/1", "d/2/z"}, names)
}

// TestCrashAtEveryStep runs a seeded history and cuts the power at each change of the records in turn. What was done
// before the cut must be there after it, versions never go back, and the history can go on.
func TestCrashAtEveryStep(t *testing.T) {
	t.Parallel()
	const seed = 7
	t.Logf("seed %d", seed)
	history := func(rec *memRecords) (durable map[string]proto.VersionID, err error) {
		durable = map[string]proto.VersionID{}
		rng := rand.New(rand.NewPCG(seed, 1))
		j, err := Open(t.Context(), rec, "root")
		if err != nil {
			return durable, err
		}
		v := proto.VersionID(0)
		for range 40 {
			var es []Entry
			for range 1 + rng.IntN(4) {
				v++
				es = append(es, present(fmt.Sprintf("p%d", rng.IntN(12)), v, int64(v)))
			}
			if err := batch(t.Context(), j, es...); err != nil {
				return durable, err
			}
			for _, e := range es {
				durable[e.Path] = max(durable[e.Path], e.Version)
			}
			if err := j.Compact(t.Context(), 0); err != nil {
				return durable, err
			}
		}
		return durable, nil
	}
	for cut := 0; ; cut++ {
		rec := newMemRecords()
		rec.ops = cut
		durable, err := history(rec)
		if err == nil {
			require.Greater(t, cut, 80, "the history is too short to prove anything")
			return
		}
		require.ErrorIs(t, err, errPower)
		rec.ops = -1
		for range 2 { // once as the crash left it, once after cleaning up
			j := mustOpen(t, rec)
			got := map[string]proto.VersionID{}
			for _, s := range dump(t, j, "") {
				if s.State != StateNone {
					got[s.Path] = s.Version
				}
			}
			for p, v := range durable {
				require.GreaterOrEqualf(t, got[p], v, "cut %d: %s went back", cut, p)
			}
			require.NoError(t, batch(t.Context(), j, present("after", 1000, 1)))
			require.NoError(t, j.CompactAll(t.Context(), 0))
		}
		_, err = history(rec)
		require.NoError(t, err, "cut %d: the same again must work", cut)
	}
}

func TestNumberOfFilesStaysSmall(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	for v := range proto.VersionID(1000) {
		require.NoError(t, batch(t.Context(), j, present(fmt.Sprintf("f%04d", v), v+1, 1)))
		require.NoError(t, j.Compact(t.Context(), 0))
		require.Less(t, len(rec.files), 2*fanIn+12)
	}
	assert.Len(t, dump(t, j, ""), 1000)
}

func TestPlan(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		counts []int
		from   int
		ok     bool
	}{
		{nil, 0, false},
		{[]int{1}, 0, false},
		{[]int{1, 1, 1, 1, 1, 1, 1, 1}, 0, true},
		{[]int{100, 1, 1, 1, 1, 1, 1, 1, 1}, 1, true},
		{[]int{16, 1, 1, 1, 1, 1, 1, 1, 1}, 0, true},
		{[]int{100, 0, 0, 0, 0, 0, 0, 0, 0}, 1, true},
	} {
		from, ok := plan(c.counts)
		assert.Equal(t, c.ok, ok, c.counts)
		if c.ok {
			assert.Equal(t, c.from, from, c.counts)
		}
	}
}

func TestDamageIsNamedAndTheRestCanBeRead(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, batch(t.Context(), j, present("a", 1, 1), present("b", 2, 2)))
	require.NoError(t, batch(t.Context(), j, present("c", 3, 3)))
	hurt := ""
	for name := range rec.files {
		if strings.Contains(name, "0001-0000") {
			hurt = name
		}
	}
	whole := rec.files[hurt]
	for _, mutate := range []func() []byte{
		func() []byte { return whole[:len(whole)-1] },
		func() []byte { return whole[:0] },
		func() []byte { return append(append([]byte{}, whole...), 0) },
		func() []byte { b := append([]byte{}, whole...); b[len(b)/2] ^= 4; return b },
		func() []byte { b := append([]byte{}, whole...); b[len(b)-8] ^= 4; return b },
	} {
		rec.files[hurt] = mutate()
		err := mustOpen(t, rec).Each(t.Context(), "", func(Entry, *Entry) error { return nil })
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt)
		assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
		assert.Equal(t, "journal/root/"+corrupt.File, hurt)
		var names []string
		var told []error
		require.NoError(t, j.EachReadable(t.Context(), "", func(e Entry, _ *Entry) error {
			names = append(names, e.Path)
			return nil
		}, func(err error) { told = append(told, err) }))
		assert.Contains(t, names, "c")
		assert.Len(t, told, 1)
	}
	delete(rec.files, hurt)
}

// What can be read of a damaged journal is all there after it was mended, whatever was damaged and wherever mending was cut short, and
// the damage is gone.
func TestMend(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(rec *memRecords, name string){
		"a flipped bit": func(rec *memRecords, name string) { rec.files[name][len(rec.files[name])/2] ^= 4 },
		"cut":           func(rec *memRecords, name string) { rec.files[name] = rec.files[name][:20] },
		"empty":         func(rec *memRecords, name string) { rec.files[name] = nil },
	} {
		for _, hurt := range []string{"done-0000000000000002", "done-0000000000000001", "intent-", "past-"} {
			t.Run(name+" "+hurt, func(t *testing.T) {
				t.Parallel()
				for cut := 0; ; cut++ {
					rec := newMemRecords()
					j := mustOpen(t, rec)
					require.NoError(t, j.SetHistory(t.Context(), History{On: true}))
					require.NoError(t, batch(t.Context(), j, present("a", 1, 1), present("b", 2, 2)))
					require.NoError(t, batch(t.Context(), j, present("c", 3, 3)))
					b, err := j.Begin(t.Context(), []Entry{present("x", 7, 1)})
					require.NoError(t, err)
					require.NoError(t, b.Past(t.Context(), []Entry{{Path: "x", Version: 6, Holds: 6, State: StatePast, Desc: present("x", 6, 1).Desc, Ended: &End{Up: 5, By: 7}}}))
					require.NoError(t, b.Done(t.Context(), []Entry{present("x", 7, 1)}))
					b, err = j.Begin(t.Context(), []Entry{present("d", 4, 4)})
					require.NoError(t, err)
					b.Abandon()
					for name := range rec.files {
						if strings.Contains(name, hurt) {
							damage(rec, name)
						}
					}
					j = mustOpen(t, rec)
					bad := map[string]bool{}
					require.NoError(t, j.EachReadable(t.Context(), "", func(Entry, *Entry) error { return nil }, func(err error) {
						var c *CorruptError
						require.ErrorAs(t, err, &c)
						bad[c.File] = true
					}))
					rec.ops = cut
					met, err := j.Mend(t.Context(), bad)
					if err != nil {
						require.ErrorIs(t, err, errPower)
						rec.ops = -1
						j = mustOpen(t, rec)
						_, err = j.Mend(t.Context(), bad)
						require.NoError(t, err, "cut %d", cut)
					} else {
						require.Equal(t, proto.ClassCorrupt, proto.ClassOf(met))
					}
					done := rec.ops >= 0
					rec.ops = -1
					for range 2 { // as it is, and as the next one finds it
						var paths []string
						require.NoError(t, j.Each(t.Context(), "", func(e Entry, _ *Entry) error {
							if e.State != StateNone {
								paths = append(paths, e.Path)
							}
							return nil
						}))
						for p, in := range map[string]string{"a": "done-0000000000000001", "b": "done-0000000000000001", "c": "done-0000000000000002", "x": ""} {
							if in != hurt {
								require.Contains(t, paths, p, "cut %d", cut)
							}
						}
						require.NoError(t, j.CompactAll(t.Context(), 0))
						require.NoError(t, j.SweepPast(t.Context()))
						j = mustOpen(t, rec)
					}
					if done {
						require.Greater(t, cut, 4, "nothing was cut")
						return
					}
				}
			})
		}
	}
}

func TestALostPartIsDamageNotGarbage(t *testing.T) {
	t.Parallel()
	var p part
	require.NoError(t, p.add(present("b", 1, 1)))
	for _, f := range []file{{kind: kindDone, lo: 1, hi: 4, part: 1, count: 1, last: true}, {kind: kindDone, lo: 3, hi: 3, part: 1, count: 1, last: true}} {
		rec := newMemRecords()
		rec.files["journal/root/"+f.name()] = p.encode()
		j := mustOpen(t, rec)
		err := j.Each(t.Context(), "", func(Entry, *Entry) error { return nil })
		assert.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), f.name())
		var names []string
		var told []error
		require.NoError(t, j.EachReadable(t.Context(), "", func(e Entry, _ *Entry) error {
			names = append(names, e.Path)
			return nil
		}, func(err error) { told = append(told, err) }))
		assert.Equal(t, []string{"b"}, names)
		assert.Len(t, told, 1)
		require.NoError(t, batch(t.Context(), j, present("c", 9, 1)), "work goes on")
		require.Error(t, j.CompactAll(t.Context(), 0), "what is left is not merged away")
		assert.Contains(t, rec.files, "journal/root/"+f.name())
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	require.NoError(t, batch(t.Context(), j, present("a", 1, 1)))
	for _, b := range rec.files {
		b[len(magic)+1] = Format + 1
	}
	err := j.Each(t.Context(), "", func(Entry, *Entry) error { return nil })
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	assert.ErrorContains(t, err, "newer release")
	rec.files["journal/root/index-2"] = nil
	_, err = Open(t.Context(), rec, "root")
	assert.ErrorContains(t, err, "newer release")
}

func TestBadEntriesAreRefused(t *testing.T) {
	t.Parallel()
	j := mustOpen(t, newMemRecords())
	for _, e := range []Entry{{Path: "../x", Version: 1}, {Path: "", Version: 1}, {Path: ".forebay/x", Version: 1}, {Path: "x"}} {
		_, err := j.Begin(t.Context(), []Entry{e})
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), e.Path)
	}
	b, err := j.Begin(t.Context(), []Entry{present("a", 1, 1)})
	require.NoError(t, err)
	assert.Error(t, b.Done(t.Context(), []Entry{{Path: "a", Version: 1}}), "an outcome has a state")
}

func TestMarks(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	_, err := ReadMark(t.Context(), rec, "a")
	require.ErrorIs(t, err, fs.ErrNotExist)
	o := Owner{Relay: proto.RelayID(1).String(), Link: "l", Dataset: proto.Dataset{Cluster: "c", Name: "d"}, Prefix: []byte("a\xff"), MadeAt: time.Unix(1700000000, 0).UTC()}
	first, err := Mark(t.Context(), rec, o)
	require.NoError(t, err)
	again := o
	again.Link, again.MadeAt = "renamed", time.Unix(1800000000, 0)
	got, err := Mark(t.Context(), rec, again)
	require.NoError(t, err)
	assert.Equal(t, first, got, "the earlier mark stays")
	other := o
	other.Relay = proto.RelayID(2).String()
	for _, prefix := range []string{"a\xff", "a\xff/in", ""} {
		other.Prefix = []byte(prefix)
		_, err = Mark(t.Context(), rec, other)
		assert.Equal(t, proto.ClassConflict, proto.ClassOf(err), prefix)
	}
	other.Prefix = []byte("b")
	_, err = Mark(t.Context(), rec, other)
	require.NoError(t, err)
	marks, err := Marks(t.Context(), rec)
	require.NoError(t, err)
	assert.Len(t, marks, 2)

	// The ledger is rebuilt: the one before it is kept off, and whose the mark is and since when stays.
	again.Rebuilt = 7
	for range 2 {
		_, err = Mark(t.Context(), rec, again)
		require.NoError(t, err)
	}
	now, err := ReadMark(t.Context(), rec, "a\xff")
	require.NoError(t, err)
	first.Rebuilt = 7
	assert.Equal(t, first, now)
	for _, before := range []uint32{0, 6} {
		o.Rebuilt = before
		_, err = Mark(t.Context(), rec, o)
		assert.ErrorContains(t, err, "was rebuilt")
		assert.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	}
}

func TestFailedBatchIsAbandonedAndMergingGoesOn(t *testing.T) {
	t.Parallel()
	rec := newMemRecords()
	j := mustOpen(t, rec)
	b, err := j.Begin(t.Context(), []Entry{present("a", 1, 1)})
	require.NoError(t, err)
	b.Abandon()
	require.NoError(t, batch(t.Context(), j, present("a", 1, 1)))
	require.NoError(t, batch(t.Context(), j, present("b", 2, 1)))
	require.NoError(t, j.CompactAll(t.Context(), 0))
	assert.Len(t, rec.files, 1)
	rec.ops = 0
	_, err = j.Begin(t.Context(), []Entry{present("c", 3, 1)})
	require.True(t, errors.Is(err, errPower))
	assert.Empty(t, j.open)
}
