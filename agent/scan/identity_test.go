package scan

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/fsmeta"
	"forebay/internal/testfs"
	"forebay/proto"
)

// numbered is a rig on a file system of which the test says how it is recognised.
type numbered struct {
	*rig
	is     index.Identity
	lasts  bool     // the id is no device's number
	proofs []string // Deps.Moved
}

func newNumbered(t *testing.T) *numbered {
	t.Helper()
	n := &numbered{rig: newRig(t), is: index.Identity{FSType: unix.XFS_SUPER_MAGIC, FSID: 0x700, Ino: 128, UUID: [16]byte{1}, BornNs: 5}}
	n.watch()
	for _, p := range []string{"a", "d/b", "d/c", "d/e/f", "g"} {
		n.write(p, p)
	}
	return n
}

// watch has the test's identity used, and notes what is told.
func (n *numbered) watch() {
	n.scan.identify = func(*fsmeta.Root) (index.Identity, bool, error) { return n.is, !n.lasts, nil }
	n.scan.moved = func(why string) { n.proofs = append(n.proofs, why) }
}

// scanned scans and settles all, and says that this was long enough ago for all of it to be on the disk.
func (n *numbered) scanned() {
	n.t.Helper()
	n.full()
	n.settle()
	require.NoError(n.t, n.ix.SetScanned(n.now.Add(time.Hour)))
}

// old has the index remember what the first releases did.
func (n *numbered) old() {
	n.t.Helper()
	require.NoError(n.t, n.ix.SetIdentity(index.Identity{FSType: n.is.FSType, FSID: n.is.FSID, Ino: n.is.Ino}))
}

// found requires that the root is recognised, by what the proof says.
func (n *numbered) found(proof string) Result {
	n.t.Helper()
	res := n.full()
	require.Len(n.t, n.proofs, 1)
	require.Contains(n.t, n.proofs[0], proof)
	n.proofs = nil
	known, ok := n.ix.Identity()
	require.True(n.t, ok)
	require.Equal(n.t, n.is, known)
	n.full()
	require.Empty(n.t, n.proofs, "told once")
	return res
}

func (n *numbered) refused(why string) {
	n.t.Helper()
	before, ok := n.ix.Identity()
	require.True(n.t, ok)
	n.rig.refused(RootExchanged)
	_, err := n.scan.Scan(n.t.Context(), nil)
	require.ErrorContains(n.t, err, why)
	root, err := fsmeta.OpenRoot(n.dir, 0)
	require.NoError(n.t, err)
	knows, err := n.scan.Knows(root)
	require.NoError(n.t, err)
	require.False(n.t, knows)
	require.NoError(n.t, root.Close())
	after, _ := n.ix.Identity()
	require.Equal(n.t, before, after)
	require.Empty(n.t, n.proofs)
}

// The machine was started, and the disk has another number now (I16).
func TestRootWhoseDeviceGotAnotherNumber(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.scanned()
	n.is.FSID = 0x705
	require.Zero(t, n.found("UUID 01").Gone)
	require.Empty(t, n.in(index.StatePending))

	// What happened meanwhile is found, in objects that changed last, too.
	require.NoError(t, os.Remove(n.path("g")))
	require.NoError(t, os.RemoveAll(n.path("d/e")))
	n.write("a", "other")
	n.write("new", "x")
	n.is.FSID = 0x706
	require.EqualValues(t, 3, n.found("UUID 01").Gone)
	require.Equal(t, []string{"d/e", "d/e/f", "g"}, n.in(index.StateGone))
	require.Contains(t, n.in(index.StatePending), "new")
}

// The number says nothing of the file system: neither is another one the dataset because it got that, nor one that was made anew (I13).
func TestRootThatIsAnotherByItsVolume(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.scanned()
	was := n.is
	for _, id := range []uint64{was.FSID, was.FSID + 1} {
		n.is = was
		n.is.FSID, n.is.UUID = id, [16]byte{2}
		n.refused("UUID 02")
		n.is = was
		n.is.FSID, n.is.BornNs = id, 6 // made with the former one's UUID, or removed and made again
		n.refused("")
		n.is.Ino++
		n.refused("inode 129")
		n.is = was
		n.is.FSID, n.is.FSType = id, 1
		n.refused("")
	}
	n.is = was
	require.Zero(t, n.full().Gone)
}

// An id that lasts is not another one for nothing, whatever is there.
func TestRootWhoseIdLasts(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.is.UUID, n.is.BornNs, n.lasts = [16]byte{}, 0, true
	n.scanned()
	n.is.FSID++
	n.refused("file system 701")
}

// Where no UUID is known, by an index of a former release or on another file system, the objects themselves have to be there.
func TestRootWhoseUUIDIsNotKnown(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.scanned()
	n.old()
	n.full()
	require.Empty(t, n.proofs, "with its former number it is believed, as ever")
	known, _ := n.ix.Identity()
	require.Equal(t, n.is, known)

	n.old()
	n.is.FSID++
	n.found("7 of 7 objects")

	uuid := n.is.UUID
	n.is.UUID = [16]byte{} // the kernel does not tell: what was known stays
	n.full()
	known, _ = n.ix.Identity()
	require.Equal(t, uuid, known.UUID)
	n.is.UUID = uuid

	n.old()
	n.is.FSID++
	n.edit("", func(e *index.Entry) { e.Stat.Ino += 1000 }) // what cp -a makes: all names, other inodes, new ctimes
	n.edit("", func(e *index.Entry) { e.Stat.CtimeNs -= int64(time.Hour) })
	n.refused("0 of 7 objects")
	n.edit("", func(e *index.Entry) { e.Stat.Ino -= 1000 }) // the same inodes by chance
	n.refused("0 of 7 objects")
	n.edit("d", func(e *index.Entry) { e.Stat.CtimeNs += int64(time.Hour) })
	n.edit("d/b", func(e *index.Entry) { e.Stat.CtimeNs += int64(time.Hour) })
	n.edit("d/c", func(e *index.Entry) { e.Stat.CtimeNs += int64(time.Hour) })
	n.refused("3 of 7 objects")
	n.edit("g", func(e *index.Entry) { e.Stat.CtimeNs += int64(time.Hour) })
	n.found("4 of 7 objects")
}

// A snapshot, or a copy of the disk, that is older than what was seen has the UUID and the inodes, and lacks what came since (I13, I18).
func TestRootThatIsAnOlderCopy(t *testing.T) {
	t.Parallel()
	for what, since := range map[string]func(e *index.Entry) bool{
		"an object had changed":            func(e *index.Entry) bool { return e.Path == "d/b" },
		"one had come":                     func(e *index.Entry) bool { e.Path = "d/e/new"; return true },
		"one had come into the root":       func(e *index.Entry) bool { e.Path = "new"; return true },
		"one had come below a new folder":  func(e *index.Entry) bool { e.Path = "x/y/new"; return true },
		"one had been put in another's":    func(e *index.Entry) bool { e.Stat.Ino++; return e.Path == "d/c" },
		"a folder had got another content": func(e *index.Entry) bool { return e.Path == "d/e" },
	} {
		for _, release := range []string{"this", "former"} {
			t.Run(what+", "+release, func(t *testing.T) {
				t.Parallel()
				n := newNumbered(t)
				n.scanned()
				if release == "former" {
					n.old()
				}
				n.is.FSID++
				all, err := n.ix.Below("", "", 0)
				require.NoError(t, err)
				require.NoError(t, n.ix.Edit(func(tx *index.Tx) error {
					for _, e := range all {
						if since(&e) {
							e.Stat.CtimeNs = n.now.Add(time.Minute).UnixNano()
							return tx.Put(e)
						}
					}
					return nil
				}))
				n.refused("an older copy")
			})
		}
	}
}

// What something is mounted over cannot be looked at, which says nothing.
func TestRootWhoseLastChangeIsMountedOver(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	testfs.Tmpfs(t, n.path("d"), "64k")
	n.write("d/inside", "x")
	require.NoError(t, os.Remove(n.path("d/inside")))
	n.full()
	n.settle()
	d := n.get("a")
	d.Path, d.Kind, d.Stat.Mode = "d", proto.KindDir, unix.S_IFDIR|0o755
	d.State, d.Stat.CtimeNs = index.StateSettled, n.now.Add(time.Minute).UnixNano()
	f := n.get("a")
	f.Path, f.Stat.CtimeNs = "d/b", d.Stat.CtimeNs
	require.NoError(t, n.ix.Edit(func(tx *index.Tx) error { return errors.Join(tx.Put(d), tx.Put(f)) }))
	require.NoError(t, n.ix.SetScanned(n.now.Add(time.Hour)))
	n.is.FSID++
	require.Zero(t, n.found("UUID 01").Gone)
}

// A power cut takes the last changes with it, and the index may have them.
func TestRootThatLostItsLastChanges(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.scanned()
	last := time.Unix(0, n.ix.Counts().LastScanNs)
	lost := func(ctime time.Time) {
		e := n.get("a")
		e.Path, e.Stat.CtimeNs = "lost", ctime.UnixNano()
		require.NoError(t, n.ix.Edit(func(tx *index.Tx) error { return tx.Put(e) }))
	}
	n.is.FSID++
	lost(last.Add(-settledBy))
	n.refused("an older copy")
	lost(last.Add(-settledBy + 1))
	require.EqualValues(t, 1, n.found("UUID 01").Gone)

	// Something that was found after the last full scan shows that the machine ran on.
	n.is.FSID++
	lost(last.Add(-settledBy + 1))
	n.edit("g", func(e *index.Entry) { e.FirstSeen = last.Add(1).UnixNano() })
	n.refused("an older copy")

	// Before the first full scan nothing does.
	n.edit("g", func(e *index.Entry) { e.FirstSeen = 0 })
	require.NoError(t, n.ix.SetScanned(time.Unix(0, 0)))
	lost(time.Unix(0, math.MaxInt64))
	n.refused("an older copy")
}

// Only so many are looked at, and among them those that changed last.
func TestSampleOfALargeRoot(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.scanned()
	require.NoError(t, n.ix.SetScanned(time.Unix(0, math.MaxInt64)))
	e := n.get("a")
	require.NoError(t, n.ix.Edit(func(tx *index.Tx) error {
		for i := range int64(2000) {
			e.Path, e.Stat.CtimeNs = "d/"+time.Unix(i, 0).Format("150405"), i*7919%2000
			if err := tx.Put(e); err != nil {
				return err
			}
		}
		return nil
	}))
	newest, spread, err := n.scan.sample()
	require.NoError(t, err)
	require.Len(t, newest, sampleSize)
	for i, e := range newest[7:] { // those that are there came first
		require.EqualValues(t, 1999-i, e.Stat.CtimeNs)
	}
	require.GreaterOrEqual(t, len(spread), sampleSize)
	require.Less(t, len(spread), 2*sampleSize)
}

// Of an index that has only what is gone, or what is never sent, another root is none the less not the dataset.
func TestRootExchangedBelowAnIndexWithoutObjects(t *testing.T) {
	t.Parallel()
	for what, make1 := range map[string]func(r *rig){
		"skipped": func(r *rig) { require.NoError(t, unix.Mkfifo(r.path("pipe"), 0o600)) },
		"gone": func(r *rig) {
			r.write("a", "x")
			r.full()
			r.settle()
			require.NoError(t, os.Remove(r.path("a")))
			r.edit("a", func(e *index.Entry) { e.State = index.StateGone })
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			make1(r)
			r.full()
			require.Zero(t, r.ix.Counts().Objects)
			require.NotZero(t, r.ix.Counts().Skipped+r.ix.Counts().Gone)
			require.NoError(t, os.Rename(r.dir, r.dir+".aside"))
			require.NoError(t, os.Mkdir(r.dir, 0o755))
			r.write("other", "x")
			r.refused(RootExchanged)
		})
	}
}

// While a scan is under way even the same file system with another number is another: the scan has the former one open.
func TestRootThatGetsAnotherNumberDuringAScan(t *testing.T) {
	t.Parallel()
	n := newNumbered(t)
	n.scanned()
	require.NoError(t, os.Remove(n.path("a")))
	looks := 0
	n.scan.identify = func(*fsmeta.Root) (index.Identity, bool, error) {
		if looks++; looks == 3 { // once before the walk, once for it
			n.is.FSID++
		}
		return n.is, true, nil
	}
	_, err := n.scan.Scan(t.Context(), nil)
	require.ErrorContains(t, err, "during the scan")
	require.Empty(t, n.in(index.StateGone))
	n.proofs = nil
	n.watch()
	require.EqualValues(t, 1, n.full().Gone)
}

// The same with real disks.
func TestRootsOnXFS(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	disk := testfs.NewXFS(t, r.dir)
	var proofs []string
	r.scan.moved = func(why string) { proofs = append(proofs, why) }
	for _, p := range []string{"a", "d/b", "d/c", "d/e/f", "d/e/g"} {
		r.write(p, p)
	}
	require.NoError(t, os.Link(r.path("d/b"), r.path("link")))
	scanned := func() {
		require.Zero(t, r.full().Gone)
		r.settle()
		require.NoError(t, r.ix.SetScanned(r.now.Add(time.Hour)))
	}
	scanned()
	known, _ := r.ix.Identity()
	require.NotZero(t, known.UUID)
	require.NotZero(t, known.BornNs)

	disk.Unmount()
	r.refused(RootExchanged)
	older := disk.Copy()
	disk.Mount()
	res := r.full()
	require.Zero(t, res.Gone)
	require.Zero(t, res.Changed)
	require.Len(t, proofs, 1)
	renumbered, _ := r.ix.Identity()
	require.NotEqual(t, known.FSID, renumbered.FSID)
	require.Equal(t, known.UUID, renumbered.UUID)
	require.Equal(t, proto.KindHardlink, r.get("d/b").Kind)

	r.write("d/e/new", "x") // what a copy from before does not have
	scanned()
	disk.Unmount()
	newest := disk.Copy()
	disk.PutBack(older)
	disk.Mount()
	r.refused(RootExchanged)
	_, err := r.scan.Scan(t.Context(), nil)
	require.ErrorContains(t, err, "an older copy")

	disk.Unmount()
	disk.Remake() // the same inode of the root, as ever
	disk.Mount()
	r.refused(RootExchanged)
	for _, p := range []string{"a", "d/b", "d/c", "d/e/f", "d/e/g", "d/e/new"} {
		r.write(p, p) // a copy that was restored to it
	}
	r.refused(RootExchanged)
	require.NoError(t, r.ix.SetIdentity(index.Identity{FSType: known.FSType, FSID: renumbered.FSID, Ino: known.Ino}))
	r.refused(RootExchanged) // an index of a former release, which has no UUID

	disk.Unmount()
	disk.PutBack(newest)
	disk.Mount()
	scanned()
	require.Len(t, proofs, 2)
	require.FileExists(t, filepath.Join(r.dir, "d/e/new"))
}
