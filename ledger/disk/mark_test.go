package disk_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/ledger/disk"
	"forebay/proto"
)

const written = 60

func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// notes writes what can be counted, an update each.
func notes(t *testing.T, l *disk.Ledger, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, l.Update(&ledger.SetNote{Name: fmt.Sprint(i), Value: make([]byte, 300)}))
	}
}

func countNotes(t *testing.T, l *disk.Ledger) int {
	t.Helper()
	n := 0
	require.NoError(t, l.View(func(r ledger.Rows) error {
		for i := range written {
			v, err := ledger.Note(r, fmt.Sprint(i))
			if err != nil {
				return err
			}
			if v != nil {
				n++
			}
		}
		return nil
	}))
	return n
}

// A log that was cut, or whose last records are rotten, looks to pebble like one that a crash left. What it lacks was acknowledged.
func TestALogThatLostItsEndIsToldOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := disk.Open(disk.Config{Dir: dir})
	require.NoError(t, err)
	notes(t, l, 0, written)
	killed := t.TempDir() // as a killed process leaves it
	require.NoError(t, os.CopyFS(killed, os.DirFS(dir)))
	require.NoError(t, l.Close())
	logs, err := filepath.Glob(filepath.Join(killed, "*.log"))
	require.NoError(t, err)
	log := slices.Max(logs) // an older one may not be removed yet
	whole, err := os.ReadFile(log)
	require.NoError(t, err)

	rng := dice(t)
	told, refused := 0, 0
	for i := range 40 {
		b := append([]byte(nil), whole...)
		at := len(b) - 1 - rng.IntN(len(b)/2)
		if i == 0 {
			at = len(b) // nothing was lost
		}
		if i%2 == 0 {
			b = b[:at]
		} else {
			b[at] ^= 1 << rng.IntN(8)
		}
		ill := t.TempDir()
		require.NoError(t, os.CopyFS(ill, os.DirFS(killed)))
		require.NoError(t, os.WriteFile(filepath.Join(ill, filepath.Base(log)), b, 0o600))
		l, err := disk.Open(disk.Config{Dir: ill})
		if err != nil {
			require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), "%v", err)
			refused++
			continue
		}
		lost := written - countNotes(t, l)
		require.EqualValues(t, lost, l.Lacks(), "at %d of %d bytes", at, len(whole))
		if lost > 0 {
			told++
		}
		require.NoError(t, l.Close())

		l, err = disk.Open(disk.Config{Dir: ill}) // nothing was written: it lacks them still
		require.NoError(t, err)
		require.EqualValues(t, lost, l.Lacks())
		notes(t, l, 0, 1)
		require.NoError(t, l.Close())
		l, err = disk.Open(disk.Config{Dir: ill})
		require.NoError(t, err)
		require.Zero(t, l.Lacks(), "whoever wrote since knew of it")
		require.NoError(t, l.Close())
	}
	require.Positive(t, told)
	t.Logf("%d told of, %d refused", told, refused)
}

// A power cut takes what was not synced, the mark's latest numbers with it: nothing is lacking after that, at whatever moment it came.
func TestNothingIsLackingAfterAPowerCut(t *testing.T) {
	t.Parallel()
	rng := dice(t)
	fsys := vfs.NewCrashableMem()
	var amid *vfs.MemFS // cut between a batch and its sync
	cut := func() *vfs.MemFS {
		return fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(rng.Uint64(), 1))})
	}
	after := 0
	for i := range 200 {
		cfg := disk.Config{Dir: "/ledger", FS: fsys, Fault: func(p faultpoint.Point) {
			if p == faultpoint.LedgerApplied && rng.IntN(3) == 0 {
				amid = cut()
			}
		}}
		l, err := disk.Open(cfg)
		require.NoError(t, err)
		require.Zero(t, l.Lacks(), "opening %d", i)
		for range rng.IntN(4) {
			notes(t, l, i%written, i%written+1)
			if rng.IntN(3) == 0 {
				require.NoError(t, l.Apply(&ledger.SetNote{Name: "not waited for", Value: []byte{byte(i)}}))
			}
		}
		last := cut()
		require.NoError(t, l.Close())
		switch rng.IntN(3) {
		case 0:
			fsys = last
		case 1:
			if amid != nil {
				fsys, after = amid, after+1
			}
		}
		amid = nil
	}
	require.Positive(t, after)
}

// Nothing depends on the mark: what is in its place keeps no ledger from being opened.
func TestLedgerWithoutAMark(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l, err := disk.Open(disk.Config{Dir: dir})
	require.NoError(t, err)
	require.NoError(t, l.Unmarked())
	notes(t, l, 0, 3)
	require.NoError(t, l.Close())
	mark := filepath.Join(dir, "MARK")
	for what, spoil := range map[string]func() error{
		"a directory": func() error { return os.Mkdir(mark, 0o700) },
		"damaged":     func() error { return os.WriteFile(mark, []byte("forebay mark of something else"), 0o600) },
		"empty":       func() error { return os.WriteFile(mark, nil, 0o600) },
		"gone":        func() error { return nil },
	} {
		require.NoError(t, os.RemoveAll(mark), what)
		require.NoError(t, spoil(), what)
		l, err := disk.Open(disk.Config{Dir: dir})
		require.NoError(t, err, what)
		require.Equal(t, what == "a directory", l.Unmarked() != nil, "%s: %v", what, l.Unmarked())
		require.Zero(t, l.Lacks(), what)
		notes(t, l, 3, 4)
		require.Equal(t, 4, countNotes(t, l), what)
		require.NoError(t, l.Close())
	}
}
