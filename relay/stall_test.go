package relay

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// hanging is a disk whose syncs in the ledger's directory do not come back until it is released.
type hanging struct{ on chan chan struct{} }

func newHanging() *hanging {
	h := &hanging{on: make(chan chan struct{}, 1)}
	h.on <- nil
	return h
}

// hang begins it; what it returns ends it.
func (h *hanging) hang() (release func()) {
	<-h.on
	until := make(chan struct{})
	h.on <- until
	return func() {
		<-h.on
		h.on <- nil
		close(until)
	}
}

func (h *hanging) MaybeError(op errorfs.Op) error {
	if strings.Contains(op.Path, "/ledger/") && (syncs(op) || writes(op)) {
		until := <-h.on
		h.on <- until
		if until != nil {
			<-until
		}
	}
	return nil
}

func (*hanging) String() string { return "hanging" }

// A ledger whose disk hangs is red and told for as long as it does, status answers meanwhile, the relay is not ready, and all goes on by
// itself once the disk answers: what was sent is acknowledged (I16, I17).
func TestLedgersDiskThatHangsIsShown(t *testing.T) {
	t.Parallel()
	h := newHanging()
	g := &clockRig{rig: &rig{t: t, cfg: testConfig(t, 3)}, c: newTwoClocks()}
	g.clock = &clock{}
	r, err := Open(g.cfg, Deps{Log: zerolog.Nop(), Now: g.c.now, Mono: g.c.monotonic, FS: errorfs.Wrap(vfs.Default, h), Driven: true})
	require.NoError(t, err)
	g.relay = r
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	a := g.join("a")
	ans := a.claim(proto.Claim{Path: "x", Kind: proto.KindFile, Size: 5})
	look := func(d time.Duration) {
		for range d / time.Second {
			g.c.pass(time.Second)
			r.ledgerRound()
		}
	}
	look(10 * time.Second)
	require.NoError(t, r.Ready(t.Context(), 0))
	release := sync.OnceFunc(h.hang())
	t.Cleanup(release) // before the relay is closed
	done := make(chan proto.SegmentReply, 1)
	go func() { // ends with the release
		rep, err := a.send([]byte("hello"), object("x", "hello", ans))
		if err == nil {
			done <- rep
		}
		close(done)
	}()
	require.Eventually(t, func() bool { return r.ledger.Oldest() != 0 }, 10*time.Second, time.Millisecond)
	look(9 * time.Second)
	require.Empty(t, g.problems("ledger-stalled"), "a busy disk takes seconds")
	look(6*time.Minute + time.Second) // the wait began a little later than the last look
	found := g.problems("ledger-stalled")
	require.Len(t, found, 1)
	require.Equal(t, proto.Red, found[0].Health)
	require.Contains(t, found[0].What, "6m")
	require.Contains(t, found[0].What, r.ledgerDir())
	s, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, proto.Red, s.Health)
	require.Equal(t, "stalled", s.Ledger.State)
	require.ErrorContains(t, r.Ready(t.Context(), 0), "has not answered")
	require.Empty(t, done)
	release()
	require.Equal(t, proto.PieceAccepted, (<-done).Pieces[0].State)
	look(6 * time.Second)
	require.Empty(t, g.problems("ledger-stalled"))
	require.NoError(t, r.Ready(t.Context(), 0))
	g.round()
	require.Len(t, g.events("ledger-stalled"), 1)
	require.Len(t, g.events("ledger-answers"), 1)
}

// Looks at the oldest call: what is slow all the time is one stall, and a relay that was stopped itself has seen none.
func TestStallIsOfTheDisk(t *testing.T) {
	t.Parallel()
	var s stall
	up, told := int64(time.Hour), 0
	look := func(call uint64, d time.Duration) {
		for end := up + int64(d); up < end; up += int64(ledgerLook) {
			begins, ends := s.look(call, up)
			if begins > 0 {
				require.GreaterOrEqual(t, begins, ledgerStalls)
				told++
			}
			if ends > 0 {
				told += 100
			}
		}
	}
	look(0, time.Minute)
	for call := range uint64(100) {
		look(call+1, 9*time.Second)
	}
	require.Zero(t, told, "each comes back")
	up += int64(time.Hour)
	look(100, ledgerLook)
	require.Zero(t, told, "the relay stood still")
	for call := range uint64(10) {
		look(call+200, 20*time.Second)
	}
	require.Equal(t, 1, told)
	require.InDelta(t, 200, s.waiting(up).Seconds(), 2)
	look(0, 4*time.Second)
	require.Equal(t, 1, told)
	look(0, 2*time.Second)
	require.Equal(t, 101, told)
	require.Zero(t, s.waiting(up))
}

// deaf is a flush that does not say how its links are, as the ledger's reads do not come back either.
type deaf struct {
	pretender
	until chan struct{}
}

func (d *deaf) Status(string, *proto.LinkStatus) { <-d.until }

// Where even reading the ledger hangs, status is what it was, with the cause.
func TestStatusAnswersWhileItCannotBeGathered(t *testing.T) {
	t.Parallel()
	g := start(t, testConfig(t, 1))
	g.join("a").put("x", "hello", 0)
	before, err := g.relay.Status(t.Context())
	require.NoError(t, err)
	f := &deaf{until: make(chan struct{})}
	g.relay.flush = f
	id, ok := g.relay.stall.glances(g.relay.up(), statusPatience)
	require.True(t, ok)
	for range 30 { // looks of a minute, which the watch of a running relay takes its time for
		g.relay.stall.look(0, g.relay.up())
		g.clock.advance(time.Second)
	}
	for range 2 { // the second does not wait for another that is in vain
		s, err := g.relay.Status(context.Background())
		require.NoError(t, err)
		require.Equal(t, before.Now, s.Ledger.AsOf)
		require.Equal(t, proto.Red, s.Health)
		require.Equal(t, "ledger-stalled", s.Problems[0].Code)
		require.Equal(t, before.Links, s.Links)
	}
	close(f.until)
	g.relay.stall.gathered(id, proto.Status{}, context.Canceled)
	g.eventually("it is well again", func() bool {
		g.clock.advance(time.Second)
		s, err := g.relay.Status(context.Background())
		return err == nil && s.Ledger.State == "ok" && s.Ledger.AsOf == "" && s.Health != proto.Red
	})
}
