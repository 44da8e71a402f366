package crash

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/shard"
	"forebay/shard/store"
)

// judge brings everything to rest and compares: the mirrors with the source, the targets with their journals, the stores with
// the ledger.
func (w *world) judge() {
	w.t.Helper()
	w.calm()
	for range 3 {
		w.turn(true) // sweeps
	}
	w.calm()
	for _, link := range []string{"main", "off"} {
		w.compare(link)
		require.NoError(w.t, w.life.flush.Verify(context.Background(), link, true, false, func(l proto.VerifyLine) error {
			if l.Problem != "" {
				w.t.Errorf("%s: verify of %s: %+v", w, link, l)
			}
			return nil
		}))
		if left := w.staged(link); len(left) > 0 {
			w.t.Errorf("%s: %s has staged contents that nobody wants: %v", w, link, left)
		}
	}
	led := w.life.relay.Ledger()
	require.NoError(w.t, ledgertest.Check(led), "%s", w)
	id, known := w.life.relay.ID(), map[uint64]bool{}
	require.NoError(w.t, ledger.EachSegment(led, func(seq uint64, s ledger.SegmentRow) (bool, error) {
		known[seq] = true
		if s.Refs == 0 {
			w.t.Errorf("%s: segment %d is not freed", w, seq)
		}
		return true, nil
	}))
	disks := w.life.fs
	w.down()
	set, err := store.Open(store.Config{Paths: w.config().Stores, Relay: id, Coding: shard.Geometry{Data: 2, Parity: 1}, Tend: -1}, store.Deps{FS: disks, Now: func() time.Time { return w.at }})
	require.NoError(w.t, err)
	for _, s := range set.States() {
		require.Equal(w.t, store.OK, s.State, "%s: %s %s", w, s.Path, s.LastError)
		require.NoError(w.t, set.Each(context.Background(), s.ID, func(f store.Found) error {
			if !known[f.ID.Seq] {
				w.t.Errorf("%s: store %s has segment %d, of which the ledger knows nothing", w, s.Path, f.ID.Seq)
			}
			return nil
		}))
	}
	require.NoError(w.t, set.Close())
}

// compare holds a mirror against the source.
func (w *world) compare(link string) {
	w.t.Helper()
	root, seen := w.place(link), 0
	require.NoError(w.t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		require.NoError(w.t, err)
		rel, err := filepath.Rel(root, p)
		require.NoError(w.t, err)
		if rel == "." {
			return nil
		}
		if rel == proto.ReservedName {
			return fs.SkipDir
		}
		seen++
		o, ok := w.truth[rel]
		if !ok {
			w.t.Errorf("%s: %s has %q, which is deleted", w, link, rel)
			return nil
		}
		switch {
		case d.IsDir():
			require.Equal(w.t, proto.KindDir, o.kind)
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			require.NoError(w.t, err)
			require.Equal(w.t, o.linkTo, to)
		default:
			b, err := os.ReadFile(p)
			require.NoError(w.t, err)
			if string(b) != o.content {
				w.t.Errorf("%s: %s has another content of %q (%d bytes, the source has %d)", w, link, rel, len(b), len(o.content))
			}
			info, err := d.Info()
			require.NoError(w.t, err)
			if uint32(info.Mode().Perm()) != o.mode {
				w.t.Errorf("%s: %s has %q with mode %o, the source with %o", w, link, rel, info.Mode().Perm(), o.mode)
			}
		}
		return nil
	}))
	if seen != len(w.truth) {
		w.t.Errorf("%s: %s has %d objects, the source %d", w, link, seen, len(w.truth))
	}
}

// staged lists what is left staged on a target.
func (w *world) staged(link string) (out []string) {
	_ = filepath.WalkDir(filepath.Join(w.place(link), proto.ReservedName, target.StageDir), func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name()[0] != '.' { // dot files are the driver's own
			out = append(out, filepath.Base(p))
		}
		return nil
	})
	return out
}
