package work

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/proto"
)

// deaf is a relay that takes no reports until it hears.
type deaf struct {
	Relay
	hears bool
	gone  []proto.GoneEntry
	lost  func() // when it does not hear; nil: nothing
	asked func() // while a report is on its way; nil: nothing
}

func (d *deaf) Report(_ context.Context, r proto.Report) (proto.ReportReply, error) {
	if !d.hears {
		if d.lost != nil {
			d.lost()
		}
		return proto.ReportReply{}, proto.Errorf(proto.ClassTransient, "the relay is not there")
	}
	if d.asked != nil {
		d.asked()
	}
	d.gone = append(d.gone, r.Gone...)
	return proto.ReportReply{}, nil
}

// What is gone is forgotten once the relay knows it, not before: nobody else would tell it (I16).
func TestWhatIsGoneIsKeptUntilTheRelayKnows(t *testing.T) {
	t.Parallel()
	db, err := index.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	root, err := db.Root("media")
	require.NoError(t, err)
	require.NoError(t, root.Edit(func(tx *index.Tx) error {
		return tx.Put(index.Entry{Path: "x", Kind: proto.KindFile, State: index.StateGone, Version: 7})
	}))
	relay := &deaf{}
	w := New(Deps{Shared: Shared{Now: time.Now}, Log: zerolog.Nop(), Relay: relay, Index: root})
	var done bool
	session, end := context.WithCancel(t.Context())
	relay.lost = end // else it rests before the next try
	done, _, err = w.reportGone(session)
	require.NoError(t, err)
	require.False(t, done)
	require.EqualValues(t, 1, root.Counts().Gone, "it is to be reported still")

	relay.hears = true
	done, _, err = w.reportGone(t.Context())
	require.NoError(t, err)
	require.True(t, done)
	require.Equal(t, []proto.GoneEntry{{Path: "x", Version: 7}}, relay.gone)
	require.Zero(t, root.Counts().Gone)
}

// Between a report of what is gone and its answer nothing else is told of the path, even when it is back: the relay would take
// the older message for the newer one. What others tell of is not reported meanwhile.
func TestWhatIsGoneIsToldInTurn(t *testing.T) {
	t.Parallel()
	db, err := index.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	root, err := db.Root("media")
	require.NoError(t, err)
	put := func(path string, state index.State) {
		require.NoError(t, root.Edit(func(tx *index.Tx) error {
			return tx.Put(index.Entry{Path: path, Kind: proto.KindFile, State: state, Version: 7})
		}))
	}
	for _, path := range []string{"back", "sent", "waits"} {
		put(path, index.StateGone)
	}
	relay := &deaf{hears: true}
	w := New(Deps{Shared: Shared{Now: time.Now}, Log: zerolog.Nop(), Relay: relay, Index: root})
	require.True(t, w.busy.take("sent"))
	require.True(t, w.busy.take("waits"))
	w.waiting = []index.Entry{{Path: "waits"}}
	offered := 0
	relay.asked = func() {
		put("back", index.StatePending) // a scan found it
		due, err := root.Due(time.Now(), 10)
		require.NoError(t, err)
		require.Len(t, due, 3)
		offered++
		require.Empty(t, w.busy.free(due), "the queue may tell that it is back before the relay knows that it was gone")
	}
	done, left, err := w.reportGone(t.Context())
	require.NoError(t, err)
	require.True(t, done)
	require.True(t, left)
	require.Equal(t, 1, offered)
	require.Equal(t, []proto.GoneEntry{{Path: "back", Version: 7}, {Path: "waits", Version: 7}}, relay.gone)
	require.Empty(t, w.waiting, "nobody would free it")
	require.Equal(t, 1, w.busy.len(), "what is sent alone is busy still")
	e, ok, err := root.Get("back")
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, index.StatePending, e.State)

	w.busy.done("sent")
	relay.asked, relay.gone = nil, nil
	_, left, err = w.reportGone(t.Context())
	require.NoError(t, err)
	require.False(t, left)
	require.Equal(t, []proto.GoneEntry{{Path: "sent", Version: 7}}, relay.gone)
	require.Zero(t, root.Counts().Gone)
	require.Zero(t, w.busy.len())
}

// scanned is a root that completed a scan for the token 5.
type scanned struct {
	Root
	reported []uint64
}

func (*scanned) Problem() string            { return "" }
func (*scanned) Scans() (int, uint64, bool) { return 1, 5, false }
func (*scanned) ScanUp() (int64, bool)      { return 0, false }

func (s *scanned) Reported(token uint64) error {
	s.reported = append(s.reported, token)
	return nil
}

// Who asked for a scan is answered once all that it found gone is told, also what the queue was looking at just then: a wait
// would call deletes done that the relay has not heard of.
func TestAScanIsAnsweredOnceAllThatIsGoneIsTold(t *testing.T) {
	t.Parallel()
	db, err := index.Open(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	root, err := db.Root("media")
	require.NoError(t, err)
	require.NoError(t, root.Edit(func(tx *index.Tx) error {
		return tx.Put(index.Entry{Path: "x", Kind: proto.KindFile, State: index.StateGone, Version: 7})
	}))
	relay, there := &deaf{hears: true}, &scanned{}
	w := New(Deps{Log: zerolog.Nop(), Relay: relay, Index: root, Root: there, Shared: Shared{Now: time.Now}})
	var last reported
	require.True(t, w.busy.take("x"))
	for range 2 {
		require.NoError(t, w.report(t.Context(), &last))
		require.Empty(t, relay.gone)
		require.Empty(t, there.reported)
	}
	w.busy.done("x")
	for range 2 {
		require.NoError(t, w.report(t.Context(), &last))
		require.Equal(t, []proto.GoneEntry{{Path: "x", Version: 7}}, relay.gone)
		require.Equal(t, []uint64{5}, there.reported, "once")
	}
}
