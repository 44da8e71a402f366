package ingest

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
	"forebay/shard/store"
)

// steps are stores, ledger and guard that note in which order they are asked, and fail as they are told.
type steps struct {
	log             []string
	put, rows, sync error
}

func (s *steps) Put(_ context.Context, group []store.Item) ([]store.Placement, error) {
	s.log = append(s.log, "shards")
	places := make([]store.Placement, len(group))
	for i := range places {
		places[i] = store.Placement{Geometry: shard.Geometry{Data: 1}, Length: int64(len(group[i].Raw)), Stores: make([]store.StoreID, 1)}
	}
	return places, s.put
}

func (s *steps) Apply(entries ...ledger.Entry) error {
	s.log = append(s.log, "rows")
	for _, e := range entries {
		stored := e.(*ledger.StoreSegment)
		for range stored.Pieces {
			stored.Results = append(stored.Results, ledger.Result{PieceResult: proto.PieceResult{State: proto.PieceAccepted, Version: 7}})
		}
	}
	return s.rows
}

func (s *steps) Update(...ledger.Entry) error {
	s.log = append(s.log, "sync")
	return s.sync
}

func (s *steps) Enter() { s.log = append(s.log, "enter") }
func (s *steps) Leave() { s.log = append(s.log, "leave") }

func (s *steps) Admit(j *Job) (pieces []segment.Piece, indexes []int, alive []proto.HolderID) {
	s.log = append(s.log, "admit")
	return j.Segment.Header.Pieces, []int{0}, nil
}

func (s *steps) Applied(*Job, *ledger.StoreSegment) { s.log = append(s.log, "applied") }
func (s *steps) Durable(*Job, *ledger.StoreSegment) { s.log = append(s.log, "durable") }

// job is one small object on its way in.
func job(t *testing.T) *Job {
	t.Helper()
	content := []byte("content")
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "c", Name: "d"}, Pieces: []segment.Piece{{
		Kind: segment.PieceObject, Path: "x", Upload: 1, Epoch: proto.Epoch{Generation: 1, Counter: 1}, Length: uint32(len(content)),
		Blocks: proto.BlockDigests(nil, content),
		Desc:   &proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content)},
	}}}, content)
	require.NoError(t, err)
	seg, err := segment.Decode(raw)
	require.NoError(t, err)
	return &Job{Segment: seg, Session: 1, Holder: 1, Dataset: 1}
}

// submit sends one small object through an ingest over s.
func submit(t *testing.T, s *steps) (proto.SegmentReply, error) {
	t.Helper()
	in := New(1, 1, s, s, s, func() int64 { return 1 }, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx) }() // ends with ctx
	rep, err := in.Submit(t.Context(), job(t))
	cancel()
	require.NoError(t, <-done)
	return rep, err
}

func TestAnAnswerComesAfterShardsAndRow(t *testing.T) {
	t.Parallel()
	s := &steps{}
	rep, err := submit(t, s)
	require.NoError(t, err)
	require.Equal(t, []proto.PieceResult{{State: proto.PieceAccepted, Version: 7}}, rep.Pieces)
	require.Equal(t, []string{"shards", "enter", "admit", "rows", "applied", "leave", "sync", "durable"}, s.log, "the fence is open while the disk is waited for")
}

func TestNothingIsAcknowledgedBeforeItsRow(t *testing.T) {
	t.Parallel()
	failed := errors.New("the disk is gone")
	for name, c := range map[string]struct {
		fails steps
		log   []string
	}{
		"shards":       {steps{put: failed}, []string{"shards"}},
		"rows":         {steps{rows: failed}, []string{"shards", "enter", "admit", "rows", "leave"}}, // nothing is told of rows that are not there
		"durable rows": {steps{sync: failed}, []string{"shards", "enter", "admit", "rows", "applied", "leave", "sync"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &c.fails
			rep, err := submit(t, s)
			require.ErrorIs(t, err, failed)
			require.Empty(t, rep.Pieces)
			require.Equal(t, c.log, s.log)
		})
	}
}

// What was given out up to a sequence, with it, is settled when all of it is done (I3: a drained store is closed then).
func TestSettledToTheLastOne(t *testing.T) {
	t.Parallel()
	in := New(1, 1, nil, nil, nil, nil, nil)
	first, last := in.NextID(), in.NextID()
	require.Equal(t, last.Seq, in.Last())
	require.False(t, in.SettledTo(last.Seq))
	in.Done(first)
	require.True(t, in.SettledTo(first.Seq))
	require.False(t, in.SettledTo(last.Seq), "the last one is on its way")
	later := in.NextID()
	in.Done(last)
	require.True(t, in.SettledTo(last.Seq), "what came later is not waited for")
	in.Done(later)
}

// What could not be stored or recorded is settled like everything else that was answered: drains, the sweep and the memo would wait for it
// for ever (I16).
func TestWhatFailedIsSettled(t *testing.T) {
	t.Parallel()
	failed := errors.New("the disk is gone")
	for name, s := range map[string]*steps{"shards": {put: failed}, "rows": {rows: failed}, "durable rows": {sync: failed}, "nothing": {}} {
		in := New(1, 1, s, s, s, func() int64 { return 1 }, nil)
		j := job(t)
		_, err := in.Once(j)
		require.Equal(t, name != "nothing", err != nil, name)
		require.True(t, in.Settled(j.Segment.ID.Seq), name)
		require.True(t, in.SettledTo(in.Last()), name)
		require.Equal(t, in.Last(), in.SettledSince(), name)
	}
}
