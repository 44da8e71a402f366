package work

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/semaphore"

	"forebay/agent/heard"
	"forebay/agent/index"
	"forebay/agent/upload"
	"forebay/fsmeta"
	"forebay/proto"
	"forebay/proto/segment"
)

// granting is a relay that answers every claim alike and takes every segment.
type granting struct {
	Relay
	answer proto.ClaimAnswer
	claims int
	asked  []proto.Claim
	sent   []segment.Piece
}

func (g *granting) Claim(_ context.Context, b proto.ClaimBatch) (r proto.ClaimReply, err error) {
	g.claims += len(b.Claims)
	g.asked = append(g.asked, b.Claims...)
	for range b.Claims {
		r.Answers = append(r.Answers, g.answer)
	}
	return r, nil
}

func (g *granting) Segment(_ context.Context, _ proto.SessionID, raw []byte) (r proto.SegmentReply, err error) {
	s, err := segment.Decode(raw)
	if err != nil {
		return r, err
	}
	for _, p := range s.Header.Pieces {
		g.sent = append(g.sent, p)
		r.Pieces = append(r.Pieces, proto.PieceResult{State: proto.PieceAccepted, Version: 8})
	}
	return r, nil
}

// alone is a session and a root of a holder that knows of no other.
type alone struct{ dir string }

func (alone) Members(string) []proto.HolderID { return []proto.HolderID{1} }
func (alone) Dataset(string) (proto.DatasetStatus, bool) {
	return proto.DatasetStatus{Wanted: true}, true
}
func (alone) Suspicion() time.Duration   { return time.Second }
func (alone) Broken(error)               {}
func (alone) Problem() string            { return "" }
func (alone) Rescan(string)              {}
func (alone) Scans() (int, uint64, bool) { return 1, 0, false }
func (alone) ScanUp() (int64, bool)      { return 0, false }
func (alone) Reported(uint64) error      { return nil }
func (a alone) Open() (upload.Tree, func(), error) {
	root, err := fsmeta.OpenRoot(a.dir, fsmeta.NoXDev)
	if err != nil {
		return nil, nil, err
	}
	return upload.Dir{Root: root, Names: fsmeta.NewNames(10)}, func() { _ = root.Close() }, nil
}

// entryOf makes a file and the entry for it.
func entryOf(t *testing.T, in alone, name string, size int) index.Entry {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(in.dir, name), make([]byte, size), 0o600))
	tree, done, err := in.Open()
	require.NoError(t, err)
	defer done()
	stat, _, err := tree.Look(name)
	require.NoError(t, err)
	return index.Entry{Path: name, Kind: proto.KindFile, State: index.StatePending, Stat: stat}
}

// carrying is a worker whose one object, a large one, was begun by a holder that is lost.
func carrying(t *testing.T, relay Relay) *Worker {
	t.Helper()
	here := alone{dir: t.TempDir()}
	e := entryOf(t, here, "big", proto.MaxPayload+1)
	db, err := index.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	root, err := db.Root("media")
	require.NoError(t, err)
	require.NoError(t, root.Edit(func(tx *index.Tx) error { return tx.Put(e) }))
	ahead := func() time.Time { return time.Now().Add(time.Hour) } // what was written has been at rest
	w := New(Deps{
		Shared: Shared{Now: ahead, Window: upload.NewWindow(0), Large: semaphore.NewWeighted(1), Carried: semaphore.NewWeighted(1)},
		Log:    zerolog.Nop(), Relay: relay, Session: here, SessionID: 1, Dataset: proto.Dataset{Cluster: "c", Name: "media"}, Holder: 1,
		Index: root, Root: here, Heard: heard.New(10), Tell: func(proto.ProgressItem) {},
	})
	require.NoError(t, w.Ended(proto.LeaseEnded{Dataset: "media", Path: "big", Upload: 1, Size: e.Stat.Size, Acked: 1 << 20, Holder: 2}))
	return w
}

// A grant for the metadata alone, of what a third holder has completed meanwhile, is used, though every slot for a pack is taken.
func TestCarriedOnByAnotherMeanwhile(t *testing.T) {
	t.Parallel()
	relay := &granting{answer: proto.ClaimAnswer{Verdict: proto.VerdictSendMeta, Version: 7, Upload: 2, Epoch: proto.Epoch{Generation: 1, Counter: 2}}}
	w := carrying(t, relay)
	require.True(t, w.packs.TryAcquire(maxPacks))
	_, err := w.carryOn(t.Context()) // does not wait for a slot
	require.NoError(t, err)
	require.Equal(t, 1, relay.claims)
	require.Empty(t, relay.sent)
	w.packs.Release(maxPacks)
	w.jobs.Wait()
	require.Len(t, relay.sent, 1)
	require.Equal(t, segment.PieceMeta, relay.sent[0].Kind)
	require.True(t, w.busy.take("big"), "nobody has it in hand any more")
	require.Empty(t, w.carry)
	require.True(t, w.Large.TryAcquire(1) && w.Carried.TryAcquire(1), "its slot is free")
}

// What is not this holder's turn yet, or waits for a slot that is not free, is left where it is.
func TestCarriedOnInItsTurn(t *testing.T) {
	t.Parallel()
	relay := &granting{answer: proto.ClaimAnswer{Verdict: proto.VerdictLeased, RetryAfter: time.Second}}
	w := carrying(t, relay)
	_, err := w.carryOn(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, relay.claims)
	wait, err := w.carryOn(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, relay.claims, "another has it, for a second at least")
	require.Greater(t, wait, again)

	require.NoError(t, w.Ended(proto.LeaseEnded{Dataset: "media", Path: "big", Upload: 1, Size: proto.MaxPayload + 1, Acked: 1 << 20, Holder: 2}))
	require.True(t, w.Large.TryAcquire(1) && w.Carried.TryAcquire(1))
	for range 3 {
		_, err = w.carryOn(t.Context())
		require.NoError(t, err)
		require.Len(t, w.waiting, 1)
		require.Equal(t, 1, relay.claims)
	}
	w.Carried.Release(1)
	_, err = w.carryOn(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, relay.claims)
	require.Empty(t, w.waiting)
}

// A session that ends while what was proved waits to be reported gives back the slots of what it was about to claim: they are those of
// all sessions of the agent.
func TestSlotsOutliveTheSession(t *testing.T) {
	t.Parallel()
	w := carrying(t, &granting{})
	w.haves <- nil // the reporter has ended
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e, ok, err := w.Index.Get("big")
	require.NoError(t, err)
	require.True(t, ok && w.busy.take("big"))
	same := entryOf(t, w.Root.(alone), "same", 10)
	same.HasDigest, same.Heard, same.HeardKind, same.HeardSize = true, 7, proto.KindFile, 10
	_, err = w.work(ctx, []index.Entry{e, same}, w.Now())
	require.Error(t, err)
	require.True(t, w.Large.TryAcquire(1) && w.Carried.TryAcquire(1))
}
