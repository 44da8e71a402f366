package index

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

func testRoot(t *testing.T) *Root {
	t.Helper()
	d, err := OpenFS("index", vfs.NewMem())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	r, err := d.Root("media /srv/media")
	require.NoError(t, err)
	return r
}

func put(t *testing.T, r *Root, es ...Entry) {
	t.Helper()
	require.NoError(t, r.Edit(func(tx *Tx) error {
		for _, e := range es {
			require.NoError(t, tx.Put(e))
		}
		return nil
	}))
}

func paths(es []Entry) []string {
	out := []string{}
	for _, e := range es {
		out = append(out, e.Path)
	}
	return out
}

func file(path string, s State) Entry {
	return Entry{Path: path, Kind: proto.KindFile, State: s, Stat: Stat{Size: 10, Ino: 7}}
}

func TestEntryKeepsEveryField(t *testing.T) {
	t.Parallel()
	r := testRoot(t)
	e := Entry{
		Path: "a/b\n\xff", Kind: proto.KindHardlink, State: StateDivergent,
		Stat:   Stat{Size: 1, MtimeNs: -2, CtimeNs: 3, Ino: 1<<64 - 1, Dev: 5, Mode: 0o100644, UID: 6, GID: 7, Nlink: 8},
		LinkTo: "\xfe", Digest: proto.Digest{1}, HasDigest: true, Version: 9, MetaSum: [4]uint64{1, 2, 3, 1<<64 - 1},
		Heard: 10, HeardKind: proto.KindFile, HeardSize: 11, HeardDigest: proto.Digest{31: 2},
		Due: -12, FirstSeen: 13, Waited: true, Attempts: 14, Reason: "why", Unlisted: "because", Claimed: true,
	}
	put(t, r, e)
	got, ok, err := r.Get(e.Path)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, e, got)
	_, ok, err = r.Get("a/b")
	require.NoError(t, err)
	require.False(t, ok)
}

func TestChildrenAndBelow(t *testing.T) {
	t.Parallel()
	r := testRoot(t)
	// Names around the separators, where a wrong key order would mix directories up.
	for _, p := range []string{"a", "a/b", "a/c", "a/c/d", "a/c/d/e", "a-b", "a-b/x", "a.b/x", "a0", "a0/x", "a/\x01", "a/c\x01/x", "b"} {
		put(t, r, file(p, StateSettled))
	}
	for _, c := range []struct {
		dir, after string
		limit      int
		want       []string
	}{
		{"", "", 0, []string{"a", "a-b", "a0", "b"}},
		{"", "a-b", 0, []string{"a0", "b"}},
		{"a", "", 0, []string{"a/\x01", "a/b", "a/c"}},
		{"a", "", 2, []string{"a/\x01", "a/b"}},
		{"a", "b", 2, []string{"a/c"}},
		{"a/c", "", 0, []string{"a/c/d"}},
		{"b", "", 0, []string{}},
	} {
		es, err := r.Children(c.dir, c.after, c.limit)
		require.NoError(t, err)
		require.Equal(t, c.want, paths(es), "children of %q after %q", c.dir, c.after)
	}
	want := []string{"a/\x01", "a/b", "a/c", "a/c/d", "a/c\x01/x", "a/c/d/e"}
	for _, limit := range []int{0, 1, 2, 3, 100} {
		got, last := []string{}, ""
		for {
			es, err := r.Below("a", last, limit)
			require.NoError(t, err)
			got = append(got, paths(es)...)
			if limit == 0 || len(es) < limit {
				break
			}
			last = es[len(es)-1].Path
		}
		require.ElementsMatch(t, want, got, "limit %d", limit)
	}
	all, err := r.Below("", "", 0)
	require.NoError(t, err)
	require.Len(t, all, 13)
}

func TestQueue(t *testing.T) {
	t.Parallel()
	r := testRoot(t)
	at := func(path string, s State, due, first int64) Entry {
		e := file(path, s)
		e.Due, e.FirstSeen = due, first
		return e
	}
	_, ok, err := r.NextDue()
	require.NoError(t, err)
	require.False(t, ok)
	put(t, r, at("b", StatePending, 20, 3), at("a", StatePending, 20, 2), at("c", StateUnreadable, 10, 5),
		at("d", StateGone, -5, 1), at("e", StateSettled, 1, 1), at("f", StateUnsettled, 30, 9))
	es, err := r.Due(time.Unix(0, 20), 0)
	require.NoError(t, err)
	require.Equal(t, []string{"d", "c", "a", "b"}, paths(es))
	next, ok, err := r.NextDue()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, int64(-5), next.UnixNano())
	oldest, ok, err := r.OldestUnsent()
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, int64(2), oldest.UnixNano(), "gone entries are not unsent")

	put(t, r, at("a", StateSettled, 20, 2), at("d", StateGone, 100, 1))
	es, err = r.Due(time.Unix(0, 50), 2)
	require.NoError(t, err)
	require.Equal(t, []string{"c", "b"}, paths(es))
	for s, want := range map[State][]string{StatePending: {"b"}, StateSettled: {"a", "e"}, StateGone: {"d"}, StateLagging: {}} {
		es, err := r.InState(s, "", 0)
		require.NoError(t, err)
		require.Equal(t, want, paths(es), "state %d", s)
	}
	es, err = r.InState(StateSettled, "a", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"e"}, paths(es))
}

func TestEditIsAllOrNothing(t *testing.T) {
	t.Parallel()
	r := testRoot(t)
	put(t, r, file("keep", StateSettled))
	before := r.Counts()
	fault := errors.New("fault")
	require.ErrorIs(t, r.Edit(func(tx *Tx) error {
		require.NoError(t, tx.Put(file("new", StatePending)))
		require.NoError(t, tx.Delete("keep"))
		require.NoError(t, tx.SetLeader(1, 2, "new"))
		tx.AddUploaded(5)
		_, ok, err := tx.Get("keep")
		require.NoError(t, err)
		require.False(t, ok, "a Tx sees its own changes")
		return fault
	}), fault)
	require.Equal(t, before, r.Counts())
	_, ok, err := r.Get("keep")
	require.NoError(t, err)
	require.True(t, ok)
	_, ok, err = r.Leader(1, 2)
	require.NoError(t, err)
	require.False(t, ok)
	require.Error(t, r.Edit(func(tx *Tx) error { return tx.Put(file("../x", StatePending)) }))
}

func TestLeadersSuspectsAndMarks(t *testing.T) {
	t.Parallel()
	r := testRoot(t)
	require.NoError(t, r.Edit(func(tx *Tx) error {
		tx.Suspect("b/x")
		tx.Suspect("a")
		return tx.SetLeader(1, 2, "a/b")
	}))
	p, ok, err := r.Leader(1, 2)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, "a/b", p)
	require.NoError(t, r.Edit(func(tx *Tx) error { return tx.DeleteLeader(1, 2) }))
	_, ok, err = r.Leader(1, 2)
	require.NoError(t, err)
	require.False(t, ok)
	s, err := r.Suspects("", 1)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, s)
	s, err = r.Suspects("a", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"b/x"}, s)
	require.NoError(t, r.Edit(func(tx *Tx) error { tx.Acquit("a"); tx.Acquit("b/x"); tx.Acquit("none"); return nil }))
	s, err = r.Suspects("", 0)
	require.NoError(t, err)
	require.Empty(t, s)
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "index")
	d, err := Open(dir)
	require.NoError(t, err)
	_, err = Open(dir)
	require.ErrorIs(t, err, ErrInUse)
	r, err := d.Root("one")
	require.NoError(t, err)
	other, err := d.Root("two")
	require.NoError(t, err)
	require.NotEqual(t, r.ID(), other.ID())
	require.NoError(t, r.SetIdentity(Identity{FSType: 1, FSID: 1<<64 - 1, Ino: 3}))
	require.NoError(t, r.SetCursor(77))
	require.NoError(t, r.AddUploaded(5))
	require.NoError(t, r.SetScanned(time.Unix(0, 99)))
	require.NoError(t, r.SetAnswered(4))
	require.EqualValues(t, 99, r.Counts().LastScanNs)
	require.EqualValues(t, 4, r.Counts().ScanToken)
	put(t, r, file("a", StatePending))
	put(t, other, file("b", StatePending))
	require.NoError(t, r.Sync())
	id, counts := r.ID(), r.Counts()
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
	_, _, err = r.Get("a")
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, r.SetCursor(78), ErrClosed)
	_, err = r.Suspects("", 0)
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, r.Sync(), ErrClosed)

	d, err = Open(dir)
	require.NoError(t, err)
	r, err = d.Root("one")
	require.NoError(t, err)
	require.Equal(t, id, r.ID())
	require.Equal(t, counts, r.Counts())
	got, ok := r.Identity()
	require.True(t, ok)
	require.Equal(t, Identity{FSType: 1, FSID: 1<<64 - 1, Ino: 3}, got)
	all, err := r.Below("", "", 0)
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, paths(all))

	require.NoError(t, d.Drop("one"))
	names, err := d.Roots()
	require.NoError(t, err)
	require.Equal(t, []string{"two"}, names)
	r, err = d.Root("one")
	require.NoError(t, err)
	require.NotEqual(t, id, r.ID())
	all, err = r.Below("", "", 0)
	require.NoError(t, err)
	require.Empty(t, all)
	require.NoError(t, d.Close())
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	made := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "index")
		d, err := Open(dir)
		require.NoError(t, err)
		r, err := d.Root("one")
		require.NoError(t, err)
		put(t, r, file("a", StatePending))
		require.NoError(t, d.pdb.Flush())
		require.NoError(t, d.Close())
		return dir
	}
	glob := func(t *testing.T, dir, pattern string) string {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, m)
		return m[0]
	}
	t.Run("newer format", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		d, err := Open(dir)
		require.NoError(t, err)
		require.NoError(t, d.pdb.Set([]byte{kindFormat}, []byte{format + 1}, pebble.Sync))
		require.NoError(t, d.Close())
		_, err = Open(dir)
		require.ErrorIs(t, err, ErrNewer)
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	})
	t.Run("newer pebble", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		old := glob(t, dir, "marker.format-version.*")
		require.NoError(t, os.Rename(old, filepath.Join(dir, "marker.format-version.000009.999")))
		_, err := Open(dir)
		require.ErrorIs(t, err, ErrNewer)
	})
	t.Run("manifest", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		m := glob(t, dir, "MANIFEST-*")
		require.NoError(t, os.WriteFile(m, []byte("this is not a manifest, not at all, not by far"), 0o600))
		_, err := Open(dir)
		require.ErrorIs(t, err, ErrCorrupt)
		require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
	})
	t.Run("table missing", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		require.NoError(t, os.Remove(glob(t, dir, "*.sst")))
		_, err := Open(dir)
		require.ErrorIs(t, err, ErrCorrupt)
	})
	t.Run("table rotten", func(t *testing.T) {
		t.Parallel()
		dir := made(t)
		f := glob(t, dir, "*.sst")
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		for i := 0; i < len(b)/2; i++ {
			b[i] ^= 0x55
		}
		require.NoError(t, os.WriteFile(f, b, 0o600))
		d, err := Open(dir)
		if err == nil { // found by the first read
			_, err = d.Root("one")
			require.NotNil(t, d.Err())
			require.NoError(t, d.Close())
		}
		require.ErrorIs(t, err, ErrCorrupt)
	})
	t.Run("foreign", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(t.TempDir(), "index")
		p, err := pebble.Open(dir, &pebble.Options{Logger: quiet{}})
		require.NoError(t, err)
		require.NoError(t, p.Set([]byte("x"), nil, pebble.Sync))
		require.NoError(t, p.Close())
		_, err = Open(dir)
		require.ErrorIs(t, err, ErrCorrupt)
	})
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}

// TestModel compares the index with a map under random edits: entries, queue, states and counts.
func TestModel(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	r := testRoot(t)
	model := map[string]Entry{}
	names := []string{"a", "b", "a/x", "a/y", "a/x/1", "a-", "c/d/e", "c"}
	kinds := []proto.Kind{proto.KindNone, proto.KindFile, proto.KindDir, proto.KindHardlink}
	for range 300 {
		require.NoError(t, r.Edit(func(tx *Tx) error {
			for range rnd.IntN(4) {
				p := names[rnd.IntN(len(names))]
				if rnd.IntN(4) == 0 {
					require.NoError(t, tx.Delete(p))
					delete(model, p)
					continue
				}
				e := Entry{Path: p, Kind: kinds[rnd.IntN(len(kinds))], State: State(1 + rnd.IntN(9)), Due: rnd.Int64N(20), FirstSeen: rnd.Int64N(20)}
				e.Stat.Size = rnd.Int64N(100)
				if e.Kind == proto.KindDir && rnd.IntN(2) == 0 {
					e.Unlisted = "permission denied"
				}
				require.NoError(t, tx.Put(e))
				model[p] = e
			}
			return nil
		}))
		var c Counts
		var all, due []string
		oldest := int64(-1)
		for p, e := range model {
			c.add(e, 1)
			all = append(all, p)
			if e.State.Queued() && e.Due <= 10 {
				due = append(due, fmt.Sprintf("%02d%s", e.Due, p))
			}
			if e.Present() && e.State.unsent() && (oldest < 0 || e.FirstSeen < oldest) {
				oldest = e.FirstSeen
			}
		}
		require.Equal(t, c, r.Counts())
		got, err := r.Below("", "", 0)
		require.NoError(t, err)
		require.ElementsMatch(t, all, paths(got))
		for _, e := range got {
			require.Equal(t, model[e.Path], e)
		}
		var unreadable []string
		for p, e := range model {
			if e.State == StateUnreadable || e.unlisted() {
				unreadable = append(unreadable, p)
			}
		}
		un, err := r.InState(StateUnreadable, "", 0)
		require.NoError(t, err)
		require.ElementsMatch(t, unreadable, paths(un))
		sort.Strings(due)
		es, err := r.Due(time.Unix(0, 10), 0)
		require.NoError(t, err)
		var gotDue []string
		for _, e := range es {
			gotDue = append(gotDue, fmt.Sprintf("%02d%s", e.Due, e.Path))
		}
		require.Equal(t, due, gotDue)
		at, ok, err := r.OldestUnsent()
		require.NoError(t, err)
		require.Equal(t, oldest >= 0, ok)
		if ok {
			require.Equal(t, oldest, at.UnixNano())
		}
	}
}

// TestFailedDisk: a failed write-ahead log marks the database failed and ends neither the process nor a caller.
func TestFailedDisk(t *testing.T) {
	t.Parallel()
	disk := &failing{FS: vfs.NewMem()}
	d, err := OpenFS("index", disk)
	require.NoError(t, err)
	r, err := d.Root("one")
	require.NoError(t, err)
	disk.broken.Store(true)
	require.Eventually(t, func() bool {
		return r.Edit(func(tx *Tx) error { return tx.Put(file("a", StatePending)) }) != nil || r.Sync() != nil
	}, 10*time.Second, time.Millisecond)
	<-d.Failed()
	require.ErrorContains(t, d.Err(), "restart the agent")
	require.Error(t, r.Sync())
	_, _, err = r.Get("a")
	require.Error(t, err)
	require.NoError(t, d.Close())
}

// TestFailedDiskThatNobodySyncs: the log's disk fails, and what notices is not a sync but the next log.
func TestFailedDiskThatNobodySyncs(t *testing.T) {
	t.Parallel()
	disk := &failing{FS: vfs.NewMem()}
	d, err := OpenFS("index", disk)
	require.NoError(t, err)
	r, err := d.Root("one")
	require.NoError(t, err)
	disk.broken.Store(true)
	for i := 0; err == nil; i++ {
		err = r.Edit(func(tx *Tx) error {
			for j := range 100 {
				if err := tx.Put(file(fmt.Sprintf("%d/%d", i, j), StatePending)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	<-d.Failed()
	require.ErrorContains(t, d.Err(), "restart the agent")
	require.NoError(t, d.Close())
}

// TestOpenOnAFullDisk: opening writes what the log has into tables. Where there is no room for them it fails with the reason,
// for the agent to be started again; pebble by itself would try for ever. With room again it opens with all it had.
func TestOpenOnAFullDisk(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	disk := &failing{FS: mem}
	d, err := OpenFS("index", disk)
	require.NoError(t, err)
	r, err := d.Root("one")
	require.NoError(t, err)
	put(t, r, file("a", StatePending))
	require.NoError(t, r.Sync())
	after := &failing{FS: mem.CrashClone(vfs.CrashCloneCfg{})}
	require.NoError(t, d.Close())
	after.full.Store(true)
	_, err = OpenFS("index", after)
	require.ErrorContains(t, err, "no space left on device")

	again := &failing{FS: after.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})} // as a new process finds it
	d, err = OpenFS("index", again)
	require.NoError(t, err)
	r, err = d.Root("one")
	require.NoError(t, err)
	_, found, err := r.Get("a")
	require.NoError(t, err)
	require.True(t, found)
	require.NoError(t, d.Close())
}

// TestDiskThatFillsUp: a memtable that cannot be written out marks the database failed.
func TestDiskThatFillsUp(t *testing.T) {
	t.Parallel()
	disk := &failing{FS: vfs.NewMem()}
	d, err := OpenFS("index", disk)
	require.NoError(t, err)
	r, err := d.Root("one")
	require.NoError(t, err)
	disk.full.Store(true)
	for i := 0; ; i++ { // memtables fill up; writers are not kept waiting for ever
		if err := r.Edit(func(tx *Tx) error {
			for j := range 1000 {
				if err := tx.Put(file(fmt.Sprintf("%d/%d", i, j), StatePending)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			break
		}
	}
	<-d.Failed()
	require.ErrorContains(t, d.Err(), "no space left on device")
	_ = d.Close() // what a failed database says at its end is no news
}

func BenchmarkPut(b *testing.B) {
	d, err := Open(filepath.Join(b.TempDir(), "index"))
	require.NoError(b, err)
	defer func() { _ = d.Close() }()
	r, err := d.Root("one")
	require.NoError(b, err)
	for i := 0; b.Loop(); i += 256 {
		require.NoError(b, r.Edit(func(tx *Tx) error {
			for j := range 256 {
				e := file(fmt.Sprintf("dir%d/sub/file-%d", (i+j)/1000, i+j), StatePending)
				e.Due, e.FirstSeen = int64(i), int64(i)
				require.NoError(b, tx.Put(e))
			}
			return nil
		}))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/entry")
}

func BenchmarkChildren(b *testing.B) {
	d, err := Open(filepath.Join(b.TempDir(), "index"))
	require.NoError(b, err)
	defer func() { _ = d.Close() }()
	r, err := d.Root("one")
	require.NoError(b, err)
	require.NoError(b, r.Edit(func(tx *Tx) error {
		for j := range 1000 {
			e := file(fmt.Sprintf("dir/sub/file-%d", j), StateSettled)
			e.Digest[0], e.HasDigest, e.Version, e.MetaSum = 1, true, 9, [4]uint64{1 << 60, 1 << 61, 1 << 62, 1 << 63}
			e.Stat = Stat{Size: 1 << 20, MtimeNs: 1 << 60, CtimeNs: 1 << 60, Ino: 1 << 30, Dev: 1 << 20, Mode: 0o100644, UID: 1000, GID: 1000, Nlink: 1}
			require.NoError(b, tx.Put(e))
		}
		return nil
	}))
	for b.Loop() {
		es, err := r.Children("dir/sub", "", 0)
		require.NoError(b, err)
		require.Len(b, es, 1000)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/entry")
}
