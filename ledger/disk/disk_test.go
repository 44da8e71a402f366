package disk

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"forebay/internal/crashfs"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
)

func open(t *testing.T, fs vfs.FS) *Ledger {
	t.Helper()
	l, err := Open(Config{Dir: "led", FS: fs, Fatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	return l
}

// begin makes a dataset with a holder and a link.
func begin(t *testing.T, l interface{ Update(...ledger.Entry) error }) (proto.DatasetID, proto.HolderID, ledger.LinkID) {
	t.Helper()
	ds := proto.Dataset{Cluster: "primary", Name: "files"}
	h := &ledger.RegisterHolder{Dataset: ds, Node: "node-a", Root: "/srv", Index: "i"}
	k := &ledger.SetLink{Name: "nas", From: ds, Target: "dir:/nas", Coalesce: true}
	require.NoError(t, l.Update(&ledger.Start{Relay: 1, Name: "relay-1"}, h, k))
	return h.Holder.Dataset, h.Holder.ID, k.Link.ID
}

// objects is a segment of n small objects in a folder of its own.
func objects(seq uint64, ds proto.DatasetID, h proto.HolderID, n int) *ledger.StoreSegment {
	e := &ledger.StoreSegment{Seq: seq, Dataset: ds, Length: int64(n) * 100, Stored: int64(n) * 150, Placement: make([]byte, 100), NowNs: 1, Holder: h}
	for i := range n {
		d := proto.BlockDigest(fmt.Appendf(nil, "%d/%d", seq, i))
		e.Pieces = append(e.Pieces, segment.Piece{
			Kind: segment.PieceObject, Path: fmt.Sprintf("dir%06d/file-with-a-name-%06d", seq, i), Epoch: proto.Epoch{Generation: 1, Counter: 1}, At: uint32(i) * 100, Length: 100, Blocks: []proto.Digest{d},
			Desc: &proto.Desc{Kind: proto.KindFile, Size: 100, Digest: d, Meta: proto.Meta{Mode: 0o644, UID: 1000, GID: 1000, User: "user", Group: "user", MtimeNs: 1234567890}},
		})
	}
	return e
}

func TestRowsAreThereAfterReopening(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "led")
	l, err := Open(Config{Dir: dir})
	require.NoError(t, err)
	ds, h, link := begin(t, l)
	mem := ledgertest.New()
	begin(t, mem)
	require.NoError(t, l.Update(objects(1, ds, h, 10), objects(2, ds, h, 10)))
	require.NoError(t, mem.Update(objects(1, ds, h, 10), objects(2, ds, h, 10)))
	require.NoError(t, l.Update(&ledger.Confirm{Link: link, Versions: []proto.VersionID{1, 2, 15}}))
	require.NoError(t, mem.Update(&ledger.Confirm{Link: link, Versions: []proto.VersionID{1, 2, 15}}))
	require.NoError(t, l.Close())

	l, err = Open(Config{Dir: dir})
	require.NoError(t, err)
	require.NoError(t, ledgertest.Check(l))
	require.Equal(t, dump(t, mem), dump(t, l), "both doors give the same rows")
	require.NoError(t, l.Close())
}

// dump lists all rows but a door's own.
func dump(t *testing.T, r ledger.Rows) (out []string) {
	t.Helper()
	require.NoError(t, r.Scan(nil, nil, func(k, v []byte) (bool, error) {
		if k[0] == ledger.DoorKey {
			return true, nil
		}
		out = append(out, fmt.Sprintf("%q=%x", k, v))
		return true, nil
	}))
	return out
}

func TestViewStandsStill(t *testing.T) {
	t.Parallel()
	l := open(t, vfs.NewMem())
	defer func() { require.NoError(t, l.Close()) }()
	ds, h, link := begin(t, l)
	require.NoError(t, l.Update(objects(1, ds, h, 3)))
	require.NoError(t, l.View(func(r ledger.Rows) error {
		if err := l.Update(&ledger.Confirm{Link: link, Versions: []proto.VersionID{1, 2, 3}}); err != nil {
			return err
		}
		owed, err := ledger.Owed(r, link, 0, 10)
		require.Len(t, owed, 3)
		return errors.Join(err, ledgertest.Check(r))
	}))
	owed, err := ledger.Owed(l, link, 0, 10)
	require.NoError(t, err)
	require.Empty(t, owed)
}

// An update without entries is how others wait for what they have read to be durable.
func TestAnUpdateWaitsForAllThatCanBeRead(t *testing.T) {
	t.Parallel()
	var syncs atomic.Int64
	held, release := make(chan struct{}, 8), make(chan struct{})
	var slow atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
			syncs.Add(1)
			if slow.Load() {
				held <- struct{}{}
				<-release
			}
		}
		return nil
	}))
	applied := make(chan struct{}, 8)
	l, err := Open(Config{Dir: "led", FS: fs, Fault: func(p faultpoint.Point) {
		if slow.Load() && p == faultpoint.LedgerApplied {
			applied <- struct{}{}
		}
	}})
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	letGo := sync.OnceFunc(func() {
		slow.Store(false)
		close(release)
	})
	defer letGo()
	ds, h, link := begin(t, l)
	slow.Store(true)
	wrote, waited := make(chan error, 1), make(chan error, 1)
	go func() { wrote <- l.Update(objects(1, ds, h, 3)) }() // ends when the sync is let go
	<-applied
	<-held
	owed, err := ledger.Owed(l, link, 0, 10)
	require.NoError(t, err)
	require.Len(t, owed, 3, "it can be read")
	go func() { waited <- l.Update() }() // likewise
	select {
	case err := <-waited:
		t.Fatalf("what was read is not durable, and it was said to be (%v)", err)
	case <-applied: // it is about to wait
	}
	letGo()
	require.NoError(t, <-wrote)
	require.NoError(t, <-waited)
	before := syncs.Load()
	for range 100 {
		require.NoError(t, l.Update())
	}
	require.Equal(t, before, syncs.Load(), "nothing was new")
}

func TestWhatFailsChangesNothing(t *testing.T) {
	t.Parallel()
	l := open(t, vfs.NewMem())
	defer func() { require.NoError(t, l.Close()) }()
	ds, h, _ := begin(t, l)
	before := dump(t, l)
	err := l.Update(objects(1, ds, h, 3), &ledger.Confirm{Link: 99})
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	require.Equal(t, before, dump(t, l))
	require.NoError(t, l.Update(objects(1, ds, h, 3)), "and stops nothing")
}

// A crash at any moment: everything that Update returned for is there, and of everything else all or nothing.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, percent := range []int{0, 50, 100} {
		t.Run(fmt.Sprintf("unsynced=%d", percent), func(t *testing.T) {
			t.Parallel()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 1))
			mem := crashfs.New()
			l := open(t, mem)
			ds, h, link := begin(t, l)
			for round := range 3 {
				crashed, returned := crashAmid(t, l, mem, ds, h, link, round, vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
				again := open(t, crashed)
				require.NoError(t, ledgertest.Check(again))
				for _, seq := range returned {
					requireSegment(t, again, ds, seq)
				}
				require.NoError(t, again.Update(&ledger.Start{Name: "relay-1"}), "it goes on from there")
				require.NoError(t, again.Close())
			}
			require.NoError(t, l.Close())
		})
	}
}

// crashAmid takes a picture of the disk while writers are at work, and returns it with the segments that were
// acknowledged before.
func crashAmid(t *testing.T, l *Ledger, mem *crashfs.FS, ds proto.DatasetID, h proto.HolderID, link ledger.LinkID, round int, cfg vfs.CrashCloneCfg) (*crashfs.FS, []uint64) {
	t.Helper()
	const writers, each = 4, 15
	var mu sync.Mutex
	var acked []uint64
	reached := make(chan struct{})
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() { // ends when its segments are written
			for i := range each {
				seq := uint64(1 + round*writers*each + w*each + i)
				e := objects(seq, ds, h, 5)
				// The blob takes the log through several files in the course of the test.
				err := l.Update(e, &ledger.SetStores{Stores: make([]byte, 40<<10)})
				if err == nil {
					err = l.Update(&ledger.Confirm{Link: link, Versions: []proto.VersionID{e.Results[0].Version}})
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if acked = append(acked, seq); len(acked) == writers*each/2 {
					close(reached)
				}
				mu.Unlock()
			}
		})
	}
	<-reached
	mu.Lock()
	returned := append([]uint64(nil), acked...)
	mu.Unlock()
	crashed := mem.CrashClone(cfg)
	wg.Wait()
	return crashed, returned
}

// requireSegment holds that a segment whose first object was confirmed is wholly there.
func requireSegment(t *testing.T, l *Ledger, ds proto.DatasetID, seq uint64) {
	t.Helper()
	s, ok, err := ledger.Segment(l, seq)
	require.NoError(t, err)
	require.True(t, ok, "segment %d was acknowledged", seq)
	require.EqualValues(t, 8, s.Refs, "four objects are owed")
	for i := range 5 {
		o, _, err := ledger.Object(l, ds, fmt.Sprintf("dir%06d/file-with-a-name-%06d", seq, i))
		require.NoError(t, err)
		require.NotZero(t, o.Current.Version)
	}
}

// faulty is a file system whose log fails when told to.
func faulty(kinds ...errorfs.OpKind) (vfs.FS, *atomic.Bool) {
	on := new(atomic.Bool)
	return errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		for _, k := range kinds {
			if on.Load() && op.Kind == k {
				return errorfs.ErrInjected
			}
		}
		return nil
	})), on
}

func TestFailedWritesEndTheLedger(t *testing.T) {
	t.Parallel()
	for name, kinds := range map[string][]errorfs.OpKind{
		"write": {errorfs.OpFileWrite},
		"sync":  {errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo},
		"any":   {errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpCreate, errorfs.OpReuseForWrite},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fs, on := faulty(kinds...)
			var told atomic.Int32
			l, err := Open(Config{Dir: "led", FS: fs, Fatal: func(error) { told.Add(1) }})
			require.NoError(t, err)
			ds, h, _ := begin(t, l)
			require.NoError(t, l.Update(objects(1, ds, h, 3)))
			on.Store(true)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() { // ends when Update returns, which it must
					err := l.Update(objects(uint64(10+i), ds, h, 3))
					if err == nil || !strings.Contains(err.Error(), "ledger failed, restart the relay") {
						t.Errorf("update %d: %v", i, err)
					}
				})
			}
			wg.Wait()
			on.Store(false)
			require.Error(t, l.Update(objects(30, ds, h, 1)), "a disk that is well again makes no difference")
			require.EqualValues(t, 1, told.Load())
			require.Error(t, l.Close())
		})
	}
}

func TestOpenOnAFailingDisk(t *testing.T) {
	t.Parallel()
	fs, on := faulty(errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo)
	on.Store(true)
	_, err := Open(Config{Dir: "led", FS: fs})
	require.Error(t, err)
}

// Opening writes what the log has into tables. Where there is no room for them it fails with the reason, for the relay to be
// started again; pebble by itself would try for ever. With room again it opens with all it had.
func TestOpenOnAFullDisk(t *testing.T) {
	t.Parallel()
	mem := vfs.NewCrashableMem()
	l := open(t, mem)
	ds, h, _ := begin(t, l)
	require.NoError(t, l.Update(objects(1, ds, h, 3)))
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	require.NoError(t, l.Close())
	full := errorfs.Wrap(crashed, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	}))
	_, err := Open(Config{Dir: "led", FS: full})
	require.ErrorContains(t, err, "no space left on device")
	l = open(t, crashed.CrashClone(vfs.CrashCloneCfg{})) // as a new process finds it
	require.NoError(t, ledgertest.Check(l))
	require.NoError(t, l.Close())
}

func TestNewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	mem := vfs.NewMem()
	l := open(t, mem)
	require.NoError(t, l.db.Set([]byte("M"), proto.Marshal(ledger.Meta{Format: ledger.Format + 1}), nil))
	require.NoError(t, l.Close())
	_, err := Open(Config{Dir: "led", FS: mem})
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	require.ErrorContains(t, err, "ledger led has format 2, this program knows up to 1: use a newer release")
	_, err = Open(Config{Dir: "led", FS: mem})
	require.ErrorContains(t, err, "newer release", "nothing is left locked")
}

func TestSecondOpener(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, cfg := range map[string]Config{"memory": {Dir: "led", FS: vfs.NewMem()}, "disk": {Dir: dir}} {
		l, err := Open(cfg)
		require.NoError(t, err, name)
		_, err = Open(cfg)
		require.Equal(t, proto.ClassConflict, proto.ClassOf(err), name)
		require.ErrorContains(t, err, "the data directory "+cfg.Dir+" is in use by another relay", name)
		require.NoError(t, l.Close(), name)
		l, err = Open(cfg)
		require.NoError(t, err, name)
		require.NoError(t, l.Close(), name)
	}
}

var otherDir = flag.String("other-dir", "", "used by TestSecondProcess for its second process")

// Locks of one process do not bar it: so the second opener is another process.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	if *otherDir != "" {
		_, err := Open(Config{Dir: *otherDir})
		require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
		require.ErrorContains(t, err, *otherDir+" is in use by another relay")
		return
	}
	dir := t.TempDir()
	l, err := Open(Config{Dir: dir})
	require.NoError(t, err)
	out, err := exec.Command(os.Args[0], "-test.run=^TestSecondProcess$", "-other-dir="+dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, l.Close())
}

func TestDirectoryThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	_, err := Open(Config{Dir: filepath.Join(dir, "file")})
	require.ErrorContains(t, err, "open ledger "+dir)
	require.NotEqual(t, proto.ClassConflict, proto.ClassOf(err))
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere: the rest needs an ordinary user")
	}
	require.NoError(t, os.Chmod(dir, 0o500))
	_, err = Open(Config{Dir: filepath.Join(dir, "led")})
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	require.ErrorContains(t, err, "right to write")
	require.NoError(t, os.Chmod(dir, 0o700))
}

// Callers that come together share a sync.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	const callers = 32
	var syncs atomic.Int32
	gate := make(chan struct{})
	var armed atomic.Bool
	fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
			if armed.Load() && strings.HasSuffix(op.Path, ".log") {
				syncs.Add(1)
				<-gate
			}
		}
		return nil
	}))
	l := open(t, fs)
	begin(t, l)
	armed.Store(true)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() { // ends when its event is durable
			if err := l.Update(&ledger.AddEvent{Event: proto.Event{What: "x"}}); err != nil {
				t.Error(err)
			}
		})
	}
	require.Eventually(t, func() bool { // all are applied and most wait for the sync under way
		m, err := ledger.ReadMeta(l)
		return err == nil && m.LastEvent == callers
	}, waitLimit, waitStep)
	close(gate)
	wg.Wait()
	t.Logf("%d callers, %d syncs", callers, syncs.Load())
	require.Less(t, syncs.Load(), int32(callers))
	armed.Store(false)
	require.NoError(t, l.Close())
}

const (
	waitLimit = 30 * time.Second
	waitStep  = time.Millisecond
)

// TestPowerCutAfterTheFirstUpdate takes the names of the directories that nobody synced: a ledger that was answered for must
// not go with them.
func TestPowerCutAfterTheFirstUpdate(t *testing.T) {
	t.Parallel()
	fs := vfs.NewCrashableMem()
	l, err := Open(Config{Dir: "/var/lib/forebay/ledger", FS: fs})
	require.NoError(t, err)
	require.NoError(t, l.Update(&ledger.Start{Relay: 7, Name: "relay-1"}))
	left := fs.CrashClone(vfs.CrashCloneCfg{})
	require.NoError(t, l.Close())
	l, err = Open(Config{Dir: "/var/lib/forebay/ledger", FS: left})
	require.NoError(t, err)
	m, err := ledger.ReadMeta(l)
	require.NoError(t, err)
	require.EqualValues(t, 7, m.Relay)
	require.NoError(t, l.Close())
}
