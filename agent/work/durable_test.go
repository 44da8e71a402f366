package work

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/proto"
)

// indexOn opens the one index on a disk.
func indexOn(t *testing.T, fs vfs.FS) (*index.DB, *index.Root) {
	t.Helper()
	db, err := index.OpenFS("index", fs)
	require.NoError(t, err)
	root, err := db.Root("media")
	require.NoError(t, err)
	return db, root
}

// dying is a relay whose answers never come: each time that it is told something, the power of the agent's machine fails.
type dying struct {
	Relay
	disk  *vfs.MemFS
	after *vfs.MemFS // what the disk has then
}

func (d *dying) Claim(context.Context, proto.ClaimBatch) (proto.ClaimReply, error) {
	d.after = d.disk.CrashClone(vfs.CrashCloneCfg{})
	return proto.ClaimReply{}, context.Canceled
}

func (d *dying) Report(context.Context, proto.Report) (proto.ReportReply, error) {
	d.after = d.disk.CrashClone(vfs.CrashCloneCfg{})
	return proto.ReportReply{}, context.Canceled
}

// What the relay was told of is known here after a power cut: if the object is gone then, nobody else reports it gone (I13, I16).
func TestWhatTheRelayHearsOfIsDurableHere(t *testing.T) {
	t.Parallel()
	for name, tell := range map[string]func(ctx context.Context, w *Worker, list []claim) error{
		"claim": func(ctx context.Context, w *Worker, list []claim) error { _, _, err := w.ask(ctx, list); return err },
		"have":  func(ctx context.Context, w *Worker, list []claim) error { return w.reportHave(ctx, list) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk := vfs.NewCrashableMem()
			db, root := indexOn(t, disk)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			e := index.Entry{Path: "x", Kind: proto.KindFile, State: index.StatePending}
			require.NoError(t, root.Edit(func(tx *index.Tx) error { return tx.Put(e) }))
			relay := &dying{disk: disk}
			w := New(Deps{Log: zerolog.Nop(), Relay: relay, Index: root, Shared: Shared{Now: time.Now}})
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // it does not rest before the next try
			require.NoError(t, tell(ctx, w, []claim{{entry: e}}))
			require.NotNil(t, relay.after, "the relay was told")

			again, root := indexOn(t, relay.after)
			t.Cleanup(func() { require.NoError(t, again.Close()) })
			got, ok, err := root.Get("x")
			require.NoError(t, err)
			require.True(t, ok && got.Claimed, "%+v", got)
		})
	}
}

// ending is a disk that takes so many writes to the index's log and then no more.
type ending struct {
	vfs.FS
	left atomic.Int64
}

func (d *ending) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	if err != nil || !strings.HasSuffix(name, ".log") {
		return f, err
	}
	return endingFile{f, d}, nil
}

type endingFile struct {
	vfs.File
	disk *ending
}

func (f endingFile) Write(p []byte) (int, error) {
	if f.disk.left.Add(-1) < 0 {
		return 0, errors.New("input/output error")
	}
	return f.File.Write(p)
}

// An index that knows more than its relay is set back wherever that was interrupted before: as long as anything is settled at a
// version that the relay lost, the cursor says so (I1, I5).
func TestRewindMayBeInterrupted(t *testing.T) {
	t.Parallel()
	const objects, lost = 150, 100 // several blocks of the log, less than what pebble begins another log for
	cut := func(writes int64) (done bool) {
		mem := vfs.NewCrashableMem()
		disk := &ending{FS: mem}
		disk.left.Store(1 << 40)
		db, root := indexOn(t, disk)
		require.NoError(t, root.Edit(func(tx *index.Tx) error {
			for i := range objects {
				e := index.Entry{Path: fmt.Sprintf("%060d", i), Kind: proto.KindFile, State: index.StateSettled, Version: lost + proto.VersionID(i)}
				if err := tx.Put(e); err != nil {
					return err
				}
			}
			tx.SetCursor(lost + objects)
			return nil
		}))
		require.NoError(t, root.Sync())
		disk.left.Store(writes)
		done = Rewind(root, lost-1, time.Unix(1, 0)) == nil && root.Sync() == nil
		after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
		_ = db.Close() // its disk may have ended

		db, root = indexOn(t, after)
		defer func() { require.NoError(t, db.Close()) }()
		if root.Counts().Cursor > lost-1 {
			require.False(t, done)
			return done // it is done again when the relay's head is seen
		}
		settled, err := root.InState(index.StateSettled, "", 1)
		require.NoError(t, err)
		require.Empty(t, settled, "after %d writes", writes)
		return done
	}
	n := int64(0)
	for ; !cut(n); n++ {
	}
	require.Greater(t, n, int64(1), "it takes several writes")
}
