package settle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"forebay/agent/index"
	"forebay/proto"
)

var (
	now  = time.Unix(1_000_000, 0)
	susp = 3 * time.Second
	d1   = proto.Digest{1}
	d2   = proto.Digest{2}
)

// file is a settled-down file of 100 bytes that waits for its turn.
func file(with func(*index.Entry)) index.Entry {
	e := index.Entry{
		Path: "a", Kind: proto.KindFile, State: index.StatePending, FirstSeen: now.UnixNano(), Due: now.UnixNano(),
		Stat: index.Stat{Size: 100, MtimeNs: 5, CtimeNs: now.Add(-time.Minute).UnixNano(), Ino: 9, Mode: 0o100644},
	}
	if with != nil {
		with(&e)
	}
	return e
}

// at marks an entry as agreed on at a version with content d.
func at(v proto.VersionID, d proto.Digest) func(*index.Entry) {
	return func(e *index.Entry) { e.Version, e.HeardKind, e.HeardSize, e.HeardDigest = v, e.Kind, 100, d }
}

func heard(v proto.VersionID, d proto.Digest, size int64) func(*index.Entry) {
	return func(e *index.Entry) { e.Heard, e.HeardKind, e.HeardSize, e.HeardDigest = v, proto.KindFile, size, d }
}

func known(d proto.Digest) func(*index.Entry) {
	return func(e *index.Entry) { e.Digest, e.HasDigest = d, true }
}

func all(fns ...func(*index.Entry)) func(*index.Entry) {
	return func(e *index.Entry) {
		for _, fn := range fns {
			fn(e)
		}
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	young := func(e *index.Entry) { e.Stat.CtimeNs = now.Add(-time.Second).UnixNano() }
	for _, c := range []struct {
		name string
		e    index.Entry
		rank int
		busy bool
		step Step
		due  time.Duration // from now, for StepWait
	}{
		{"new, first in the pick", file(nil), 0, false, StepClaim, 0},
		{"new, third in the pick", file(nil), 2, false, StepWait, 2 * susp},
		{"has waited", file(func(e *index.Entry) { e.Waited = true }), 2, false, StepClaim, 0},
		{"heard of another's upload", file(nil), 0, true, StepWait, susp},
		{"changed a second ago", file(young), 0, false, StepWait, time.Second},
		{"changed in the far future", file(func(e *index.Entry) { e.Stat.CtimeNs = now.Add(time.Hour).UnixNano() }), 0, false, StepClaim, 0},
		{"heard with equal size: read it, whatever the turn", file(heard(7, d1, 100)), 2, true, StepHash, 0},
		{"heard with another size", file(heard(7, d1, 99)), 0, false, StepClaim, 0},
		{"touched: read before it is sent again", file(at(5, d1)), 2, false, StepHash, 0},
		{"read and equal", file(all(heard(7, d1, 100), known(d1))), 2, true, StepMatch, 0},
		{"read and different", file(all(heard(7, d1, 100), known(d2))), 0, false, StepClaim, 0},
		{"failed before: read before it is claimed", file(func(e *index.Entry) { e.Attempts = 1 }), 0, false, StepHash, 0},
		{"hard link", file(func(e *index.Entry) { e.Kind, e.LinkTo = proto.KindHardlink, "b" }), 0, false, StepHash, 0},
		{"gone", file(all(at(5, d1), func(e *index.Entry) { e.State = index.StateGone })), 2, false, StepGone, 0},
		{"gone, and nobody knew", file(func(e *index.Entry) { e.State = index.StateGone }), 2, false, StepDrop, 0},
	} {
		e, step := Next(c.e, View{Now: now, Suspicion: susp, Busy: c.busy, Turn: func() time.Duration { return time.Duration(c.rank) * susp }})
		assert.Equal(t, c.step, step, c.name)
		if step == StepWait {
			assert.Equal(t, now.Add(c.due).UnixNano(), e.Due, c.name)
		}
	}
	// The wait for one's rank happens once; what never holds still comes to be listed.
	e, _ := Next(file(nil), View{Now: now, Suspicion: susp, Turn: func() time.Duration { return susp }})
	_, step := Next(e, View{Now: now.Add(susp), Suspicion: susp, Turn: func() time.Duration { panic("asked again") }})
	assert.Equal(t, StepClaim, step)
	restless := file(func(e *index.Entry) { e.FirstSeen = now.Add(-time.Hour).UnixNano(); young(e) })
	for range unsettledAfter {
		restless, step = Next(restless, View{Now: now, Suspicion: susp, Turn: func() time.Duration { return 0 }})
		assert.Equal(t, StepWait, step)
	}
	assert.Equal(t, index.StateUnsettled, restless.State)
}

func TestLinksAndDirectoriesNeedNoReading(t *testing.T) {
	t.Parallel()
	link := file(func(e *index.Entry) { e.Kind, e.LinkTo = proto.KindSymlink, "to" })
	link.Heard, link.HeardKind, link.HeardDigest = 3, proto.KindSymlink, blake3.Sum256([]byte("to"))
	dir := file(func(e *index.Entry) { e.Kind = proto.KindDir })
	dir.Heard, dir.HeardKind = 3, proto.KindDir
	for _, e := range []index.Entry{link, dir} {
		_, step := Next(e, View{Now: now, Suspicion: susp, Busy: true})
		assert.Equal(t, StepMatch, step)
		c := Claim(e, [4]uint64{1, 2, 3, 4}, 0, proto.Meta{})
		assert.True(t, c.HasDigest)
		assert.Zero(t, c.Size)
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	was := proto.Meta{Mode: 0o644, UID: 1, MtimeNs: 5}
	agreed := all(at(5, d1), known(d1), func(e *index.Entry) { e.MetaSum = was.Sums() })
	chmod, touch := was, was
	chmod.Mode, touch.MtimeNs = 0o600, 6
	for _, c := range []struct {
		name    string
		e       index.Entry
		meta    proto.Meta
		outcome Outcome
		changed proto.MetaField
	}{
		{"nothing changed", file(agreed), was, OutcomeSettled, 0},
		{"chmod", file(agreed), chmod, OutcomeClaim, proto.FieldMode},
		{"touch", file(agreed), touch, OutcomeClaim, proto.FieldMtime},
		{"caught up with another's version", file(all(agreed, heard(7, d1, 100))), was, OutcomeHave, 0},
		{"caught up, with its own mtime", file(all(agreed, heard(7, d1, 100))), touch, OutcomeHave, 0},
		{"caught up, and chmod", file(all(agreed, heard(7, d1, 100))), chmod, OutcomeClaim, proto.FieldMode},
		{"never agreed: a replica that always differed", file(all(heard(7, d1, 100), known(d1))), chmod, OutcomeHave, 0},
	} {
		outcome, changed := Match(c.e, c.meta.Sums())
		assert.Equal(t, c.outcome, outcome, c.name)
		assert.Equal(t, c.changed, changed, c.name)
	}
}

func TestHear(t *testing.T) {
	t.Parallel()
	settledAt5 := all(at(5, d1), known(d1), func(e *index.Entry) { e.State, e.Due, e.FirstSeen = index.StateSettled, 0, 0 })
	item := func(v proto.VersionID, k proto.Kind, d proto.Digest) proto.FeedItem {
		return proto.FeedItem{Version: v, Path: "a", Kind: k, Size: 100, Digest: d}
	}
	_, changed, _ := Hear(file(settledAt5), item(5, proto.KindFile, d1), now)
	assert.False(t, changed, "its own version is no news")
	e, _, _ := Hear(file(settledAt5), item(7, proto.KindFile, d2), now)
	assert.Equal(t, index.StateLagging, e.State)
	back, _, _ := Hear(e, item(8, proto.KindFile, d1), now)
	assert.Equal(t, index.StatePending, back.State, "the old content is the newest version again: say so")
	e, _, _ = Hear(file(settledAt5), item(7, proto.KindFile, d1), now)
	assert.Equal(t, index.StatePending, e.State, "new metadata: settled only once the relay knows")
	e, _, _ = Hear(file(settledAt5), item(7, proto.KindTombstone, proto.Digest{}), now)
	assert.Equal(t, index.StateLagging, e.State, "a late replica does not resurrect")
	gone := file(all(settledAt5, func(e *index.Entry) { e.State = index.StateGone }))
	_, _, drop := Hear(gone, item(7, proto.KindTombstone, proto.Digest{}), now)
	assert.True(t, drop)
	_, changed, _ = Hear(back, item(6, proto.KindFile, d2), now)
	assert.False(t, changed, "never backwards")

	// Put off for the hasher, which passes over what cannot be the newest version: the queue has to look again.
	later := now.Add(10 * time.Minute).UnixNano()
	hashed := func(e *index.Entry) {
		e.State, e.Heard, e.HeardKind, e.HeardSize, e.Due = index.StatePending, 5, proto.KindFile, 100, later
	}
	other := item(7, proto.KindFile, d2)
	e, _, _ = Hear(file(hashed), other, now)
	assert.Equal(t, later, e.Due, "it may be this one")
	other.Size++
	e, _, _ = Hear(file(hashed), other, now)
	assert.Equal(t, now.UnixNano(), e.Due)
	e, _, _ = Hear(file(all(hashed, func(e *index.Entry) { e.Attempts = 1 })), other, now)
	assert.Equal(t, later, e.Due, "after a failure it waits")
	e, _, _ = Hear(file(all(hashed, func(e *index.Entry) { e.HeardSize = 1 })), other, now)
	assert.Equal(t, later, e.Due, "it waits for its turn")
}

func TestAnswered(t *testing.T) {
	t.Parallel()
	claimed := file(nil)
	sums := proto.Meta{Mode: 1}.Sums()
	answer := func(cur index.Entry, a proto.ClaimAnswer) (index.Entry, Do) {
		return Answered(cur, claimed, sums, a, now, susp)
	}

	_, do := answer(claimed, proto.ClaimAnswer{Verdict: proto.VerdictSend})
	assert.Equal(t, DoSend, do)
	changed := claimed
	changed.Stat.MtimeNs++
	_, do = answer(changed, proto.ClaimAnswer{Verdict: proto.VerdictSend})
	assert.Equal(t, DoReturn, do)
	_, do = answer(claimed, proto.ClaimAnswer{Verdict: proto.VerdictSendMeta})
	assert.Equal(t, DoSendMeta, do)

	e, _ := answer(claimed, proto.ClaimAnswer{Verdict: proto.VerdictHave, Version: 4})
	assert.Equal(t, index.StateSettled, e.State)
	assert.Equal(t, sums, e.MetaSum)
	e, _ = answer(changed, proto.ClaimAnswer{Verdict: proto.VerdictHave, Version: 4})
	assert.Equal(t, index.StatePending, e.State, "the change still has to be settled,")
	assert.Equal(t, proto.VersionID(4), e.Version, "with this parent")

	e, _ = answer(claimed, proto.ClaimAnswer{Verdict: proto.VerdictHash, Version: 4, Size: 100, Digest: d1})
	_, step := Next(e, View{Now: now, Suspicion: susp})
	assert.Equal(t, StepHash, step)
	e, _ = answer(claimed, proto.ClaimAnswer{Verdict: proto.VerdictHash, Version: 4, Size: 5})
	_, step = Next(e, View{Now: now, Suspicion: susp})
	assert.Equal(t, StepHash, step, "what the relay wants read is read")

	for v, want := range map[proto.Verdict]index.State{
		proto.VerdictLags: index.StateLagging, proto.VerdictDivergent: index.StateDivergent, proto.VerdictUnwanted: index.StateUnwanted,
		proto.VerdictInvalid: index.StateSkipped, proto.VerdictLeased: index.StatePending, proto.VerdictRefused: index.StatePending, 99: index.StatePending,
	} {
		e, do := answer(claimed, proto.ClaimAnswer{Verdict: v, RetryAfter: time.Second})
		assert.Equal(t, want, e.State, v)
		assert.Equal(t, DoNothing, do)
		if e.State == index.StatePending {
			assert.Equal(t, now.Add(time.Second).UnixNano(), e.Due, v)
		}
		e, _ = answer(changed, proto.ClaimAnswer{Verdict: v})
		assert.Equal(t, changed, e, "verdict %d is about what is no more", v)
	}
}

func TestAgreeMeetsNewerNews(t *testing.T) {
	t.Parallel()
	sent := file(known(d1))
	e := Agree(file(heard(9, d2, 100)), sent, 4, proto.Meta{}.Sums(), now)
	assert.Equal(t, index.StateLagging, e.State, "a newer version came in between")
	e = Agree(file(heard(4, d1, 100)), sent, 4, proto.Meta{}.Sums(), now)
	assert.Equal(t, index.StateSettled, e.State)
	assert.Zero(t, e.Heard)
	assert.Equal(t, d1, e.HeardDigest, "now describes Version")
	assert.Equal(t, e, Agree(e, sent, 3, proto.Meta{}.Sums(), now), "never backwards")
}

func TestFailed(t *testing.T) {
	t.Parallel()
	e := file(nil)
	var last int64
	for n := 1; n <= 12; n++ {
		e = Failed(e, e, FaultRead, "input/output error", nil, now)
		assert.Equal(t, index.StateUnreadable, e.State)
		wait := e.Due - now.UnixNano()
		assert.GreaterOrEqual(t, wait, max(last, int64(BackoffMin)))
		assert.LessOrEqual(t, wait, int64(BackoffMax))
		last = wait
	}
	assert.Equal(t, int64(BackoffMax), last)

	fresh := index.Stat{Size: 7, CtimeNs: 3}
	e = file(known(d1))
	e = Failed(e, e, FaultChanged, "changed", &fresh, now)
	assert.Equal(t, fresh, e.Stat)
	assert.False(t, e.HasDigest)
	assert.Equal(t, index.StatePending, e.State)
	settled := file(func(e *index.Entry) { e.State = index.StateLagging })
	assert.Equal(t, settled, Failed(settled, settled, FaultRead, "", nil, now), "settled some other way meanwhile")
}

// The relay wants the metadata of what it has the content of: it is claimed once more, as all changed, from the time that is given.
func TestAgreeBut(t *testing.T) {
	t.Parallel()
	sums := proto.Meta{Mode: 0o600}.Sums()
	e := file(all(heard(7, d1, 100), known(d1)))
	for name, next := range map[string]index.Entry{
		"reported": AgreeBut(e, e, 7, now, now.Add(susp)),
		"claimed":  first(Answered(e, e, sums, proto.ClaimAnswer{Verdict: proto.VerdictHave, Version: 7, WantMeta: true}, now, susp)),
	} {
		assert.Equal(t, index.StatePending, next.State, name)
		assert.Equal(t, now.Add(susp).UnixNano(), next.Due, name)
		_, step := Next(next, View{Now: now.Add(susp), Turn: func() time.Duration { return 0 }})
		assert.Equal(t, StepMatch, step, name)
		outcome, changed := Match(next, sums)
		assert.Equal(t, OutcomeClaim, outcome, name)
		assert.Equal(t, proto.FieldMode|proto.FieldOwner|proto.FieldMtime|proto.FieldXattrs, changed, name)
		assert.EqualValues(t, 7, Claim(next, sums, changed, proto.Meta{}).Parent, name)
	}
	touched := file(all(heard(7, d1, 100), known(d1), func(e *index.Entry) { e.Stat.CtimeNs++ }))
	assert.Equal(t, touched.Due, AgreeBut(touched, e, 7, now, now).Due, "it changed meanwhile, and is in the queue for that")
	link := e
	link.Kind = proto.KindHardlink
	assert.Zero(t, Have(link, sums).MetaSum, "the leader tells it")
	assert.NotZero(t, Have(e, sums).MetaSum)
	assert.False(t, Have(e, sums).Kept, "it had agreed on nothing yet")
	agreed := file(all(at(5, d1), heard(7, d1, 100), known(d1), func(e *index.Entry) { e.MetaSum = sums }))
	assert.True(t, Have(agreed, sums).Kept)
	assert.True(t, Have(agreed, proto.Meta{Mode: 0o600, MtimeNs: 9}.Sums()).Kept, "an mtime may be its own")
	assert.False(t, Have(agreed, proto.Meta{Mode: 0o640}.Sums()).Kept)
}

// Content that was sent to a relay that had it brings no metadata with it: what changed of that is claimed next.
func TestBrought(t *testing.T) {
	t.Parallel()
	was, is := proto.Meta{Mode: 0o644}.Sums(), proto.Meta{Mode: 0o600}.Sums()
	e := file(all(at(5, d1), func(e *index.Entry) { e.MetaSum = was }))
	sent := e
	sent.Digest, sent.HasDigest = d1, true
	outcome := func(e index.Entry, sums [4]uint64) Outcome {
		require.Equal(t, index.StatePending, e.State)
		_, step := Next(e, View{Now: now, Turn: func() time.Duration { return 0 }})
		require.Equal(t, StepMatch, step)
		o, _ := Match(e, sums)
		return o
	}
	again := Brought(e, sent, 5, now)
	require.Equal(t, OutcomeSettled, outcome(again, was), "asked for again, and untouched: no message")
	require.Equal(t, OutcomeClaim, outcome(again, is), "asked for again, and another mode")
	settled := e
	settled.State = index.StateSettled
	require.Equal(t, OutcomeClaim, outcome(Brought(settled, sent, 5, now), is))
	twice := Brought(file(all(known(d1))), sent, 7, now)
	require.Equal(t, OutcomeHave, outcome(twice, is), "two sent the same")
	require.EqualValues(t, 7, twice.Heard)

	touched := e
	touched.Stat.CtimeNs++
	next := Brought(touched, sent, 7, now)
	require.Equal(t, touched.Stat, next.Stat)
	require.EqualValues(t, 7, next.Version, "what it is by now follows what was sent")
	require.Equal(t, was, next.MetaSum)
	require.EqualValues(t, 9, Brought(file(all(at(9, d1))), sent, 5, now).Version, "never backwards")
}

func first[T, U any](v T, _ U) T { return v }

// What is settled when the index is put back is told as what it is, until it changes; twice is as good as once.
func TestPutBack(t *testing.T) {
	t.Parallel()
	e := file(all(at(50, d1), known(d1), func(e *index.Entry) { e.State = index.StateSettled }))
	next, changed := PutBack(e, now)
	assert.True(t, changed)
	assert.Equal(t, index.StatePending, next.State)
	assert.True(t, Claim(next, [4]uint64{}, 0, proto.Meta{}).Renewed)
	again, _ := PutBack(next, now)
	assert.True(t, again.Renewed)
	_, step := Next(next, View{Now: now, Turn: func() time.Duration { return 0 }})
	assert.Equal(t, StepClaim, step, "what the index knows of the relay's content proves nothing")
	fresh := index.Stat{Size: 7, CtimeNs: 3}
	assert.False(t, Failed(next, next, FaultChanged, "changed", &fresh, now).Renewed)
	assert.False(t, Agree(next, next, 51, [4]uint64{}, now).Renewed)

	open, _ := PutBack(file(at(50, d1)), now) // it changed, before the copy was made or after it was put back
	assert.False(t, open.Renewed)
	away, changed := PutBack(index.Entry{Path: "x", Kind: proto.KindFile, State: index.StateGone, Version: 3}, now)
	assert.False(t, changed)
	assert.Equal(t, index.StateGone, away.State)
}

func TestForgetAndEnded(t *testing.T) {
	t.Parallel()
	e := file(all(at(50, d1), known(d1), func(e *index.Entry) { e.State = index.StateSettled }))
	same, changed := Forget(e, 50, now)
	assert.False(t, changed)
	assert.Equal(t, e, same)
	e, changed = Forget(e, 49, now)
	assert.True(t, changed)
	assert.Equal(t, index.StatePending, e.State)
	assert.Zero(t, e.Version)
	assert.True(t, e.HasDigest, "what was read is still known")

	e, ok := Ended(file(nil), 100, 2*susp, now)
	assert.True(t, ok)
	assert.Equal(t, now.Add(2*susp).UnixNano(), e.Due)
	_, ok = Ended(file(nil), 101, 0, now)
	assert.False(t, ok, "another size is another content")
}

func TestVanished(t *testing.T) {
	t.Parallel()
	known := Vanished(file(func(e *index.Entry) { e.Version = 5 }), now)
	assert.Equal(t, index.StatePending, known.State, "a scan says whether it is gone")
	assert.Equal(t, now.Add(BackoffMin).UnixNano(), known.Due)
	unknown := Vanished(file(func(*index.Entry) {}), now)
	_, step := Next(unknown, View{Now: now})
	assert.Equal(t, StepDrop, step, "nobody needs to hear of what came and went")
	settled := file(func(e *index.Entry) { e.State = index.StateSettled })
	assert.Equal(t, settled, Vanished(settled, now))
}

// Work under way when a scan finds an object gone does not bring it back, whatever comes of the work.
func TestWhatIsGoneStaysGone(t *testing.T) {
	t.Parallel()
	sent := file(func(e *index.Entry) { e.Version = 5 })
	gone := sent
	gone.State = index.StateGone
	assert.False(t, SameObject(gone, sent))
	assert.Equal(t, index.StateGone, Agree(gone, sent, 6, [4]uint64{}, now).State)
	assert.EqualValues(t, 6, Agree(gone, sent, 6, [4]uint64{}, now).Version, "the relay is to hear that this version is gone")
	assert.Equal(t, index.StateGone, Lagged(gone, sent).State)
	assert.Equal(t, index.StateGone, Hashed(gone, sent, proto.Digest{1}, now).State)
	assert.Equal(t, index.StateGone, Failed(gone, sent, FaultChanged, "", nil, now).State)
	assert.Equal(t, index.StateGone, Vanished(gone, now).State)
	for _, v := range []proto.Verdict{proto.VerdictSend, proto.VerdictHave, proto.VerdictHash, proto.VerdictLeased, proto.VerdictLags, proto.VerdictDivergent} {
		cur, do := Answered(gone, sent, [4]uint64{}, proto.ClaimAnswer{Verdict: v, Version: 6}, now, time.Second)
		assert.Equal(t, index.StateGone, cur.State, v)
		assert.Contains(t, []Do{DoNothing, DoReturn}, do, v)
	}
}

// A holder whose disk failed and was well again carries on at once like any other; one that has not read its copy since does not.
func TestEndedAfterAReadError(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	e := index.Entry{Path: "x", Kind: proto.KindFile, State: index.StatePending, Stat: index.Stat{Size: 5}, HasDigest: true}
	bad := Failed(e, e, FaultRead, "input/output error", nil, now)
	assert.Equal(t, index.StateUnreadable, bad.State)
	assert.False(t, bad.HasDigest, "it is read before it is claimed again")
	_, ok := Ended(bad, 5, 0, now)
	assert.False(t, ok)
	well := Hashed(bad, bad, proto.Digest{1}, now)
	next, ok := Ended(later(well, now.Add(time.Minute)), 5, 0, now)
	assert.True(t, ok)
	assert.Equal(t, now.UnixNano(), next.Due)
}
