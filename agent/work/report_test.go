package work

import (
	"context"
	"testing"
	"testing/synctest"

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
}

func (d *deaf) Report(_ context.Context, r proto.Report) error {
	if !d.hears {
		return proto.Errorf(proto.ClassTransient, "the relay is not there")
	}
	d.gone = append(d.gone, r.Gone...)
	return nil
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
	w := New(Deps{Log: zerolog.Nop(), Relay: relay, Index: root})
	done := true
	synctest.Test(t, func(t *testing.T) { done, err = w.reportGone(t.Context()) }) // it rests before the next try
	require.NoError(t, err)
	require.False(t, done)
	require.EqualValues(t, 1, root.Counts().Gone, "it is to be reported still")

	relay.hears = true
	done, err = w.reportGone(t.Context())
	require.NoError(t, err)
	require.True(t, done)
	require.Equal(t, []proto.GoneEntry{{Path: "x", Version: 7}}, relay.gone)
	require.Zero(t, root.Counts().Gone)
}
