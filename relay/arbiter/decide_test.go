package arbiter

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
)

func digest(s string) proto.Digest { return proto.ContentDigest([]byte(s)) }

func known(v proto.VersionID, s string) ledger.Known {
	return ledger.Known{Version: v, Kind: proto.KindFile, Size: int64(len(s)), Digest: digest(s)}
}

func fileClaim(s string, parent proto.VersionID) proto.Claim {
	return proto.Claim{Path: "x", Kind: proto.KindFile, Size: int64(len(s)), Digest: digest(s), HasDigest: true, Parent: parent}
}

func unread(c proto.Claim) proto.Claim {
	c.HasDigest, c.Digest = false, proto.Digest{}
	return c
}

func renewed(c proto.Claim) proto.Claim {
	c.Renewed = true
	return c
}

func has(h proto.HolderID, v proto.VersionID) ledger.Holding {
	return ledger.Holding{Holder: h, State: ledger.HoldingHas, Version: v}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	current := ledger.ObjectRow{Current: known(7, "new"), MtimeNs: 100, Recent: []ledger.Known{known(3, "old")}, Holders: []ledger.Holding{has(1, 7), has(2, 7), has(3, 3)}}
	tomb := ledger.ObjectRow{Current: ledger.Known{Version: 8, Kind: proto.KindTombstone}, Recent: []ledger.Known{known(7, "new")},
		Holders: []ledger.Holding{{Holder: 1, State: ledger.HoldingGone}, {Holder: 2, State: ledger.HoldingGone}}}
	alive := []proto.HolderID{1, 2, 3}
	lease := &Lease{Upload: 9, Holder: 1}
	later := fileClaim("fork", 3)
	later.MtimeNs = 200
	touched := fileClaim("new", 7)
	touched.Changed, touched.Meta = proto.FieldMtime, &proto.Meta{MtimeNs: 500, UID: 9}
	olderTouch := fileClaim("new", 7)
	olderTouch.Changed, olderTouch.Meta = proto.FieldMtime, &proto.Meta{MtimeNs: 5}
	catchingUp := touched
	catchingUp.Parent = 3
	published := proto.Meta{MtimeNs: 100}
	link := current
	link.Current.Kind, link.Current.LinkTo = proto.KindHardlink, "leader"

	for name, c := range map[string]struct {
		view    View
		holder  proto.HolderID
		claim   proto.Claim
		verdict proto.Verdict
		holding ledger.HoldingState
	}{
		"unknown path":                                {View{Alive: alive}, 1, unread(fileClaim("a", 0)), proto.VerdictSend, 0},
		"unknown path, agreed on before":              {View{Alive: alive}, 1, renewed(fileClaim("a", 3)), proto.VerdictLags, 0},
		"somebody has the lease":                      {View{Lease: lease, Alive: alive}, 2, unread(fileClaim("a", 0)), proto.VerdictLeased, 0},
		"has it while another uploads the next":       {View{Object: current, Lease: lease, Alive: alive}, 2, fileClaim("new", 3), proto.VerdictHave, ledger.HoldingHas},
		"the next version, unread":                    {View{Object: current, Alive: alive}, 1, unread(fileClaim("next", 7)), proto.VerdictSend, 0},
		"an old parent must be read":                  {View{Object: current, Alive: alive}, 3, unread(fileClaim("next", 3)), proto.VerdictHash, 0},
		"no parent must be read":                      {View{Object: current, Alive: alive}, 3, unread(fileClaim("next", 0)), proto.VerdictHash, 0},
		"equal, whatever the parent":                  {View{Object: current, Alive: alive}, 3, fileClaim("new", 0), proto.VerdictHave, ledger.HoldingHas},
		"older content lags":                          {View{Object: current, Alive: alive, Known: alive}, 3, fileClaim("old", 3), proto.VerdictLags, ledger.HoldingLags},
		"older content lags with the current parent":  {View{Object: current, Alive: alive}, 1, fileClaim("old", 7), proto.VerdictLags, ledger.HoldingLags},
		"older content once nobody live has current":  {View{Object: current, Alive: []proto.HolderID{1}}, 1, fileClaim("old", 7), proto.VerdictSend, 0},
		"older content while who has current is away": {View{Object: current, Alive: []proto.HolderID{3}, Known: alive}, 3, fileClaim("old", 0), proto.VerdictLags, ledger.HoldingLags},
		"older content once those are forgotten":      {View{Object: current, Alive: []proto.HolderID{3}, Known: []proto.HolderID{3}}, 3, fileClaim("old", 3), proto.VerdictSend, 0},
		"a fork loses against two":                    {View{Object: current, Alive: alive}, 3, later, proto.VerdictDivergent, ledger.HoldingDivergent},
		"a fork ties and is newer":                    {View{Object: current, Alive: []proto.HolderID{1, 3}}, 3, later, proto.VerdictSend, 0},
		"a fork ties and is older":                    {View{Object: current, Alive: []proto.HolderID{1, 3}}, 3, fileClaim("fork", 3), proto.VerdictDivergent, ledger.HoldingDivergent},
		"asked for again":                             {View{Object: current, Asked: true, Alive: alive}, 2, fileClaim("new", 7), proto.VerdictSend, 0},
		"asked for again needs proof":                 {View{Object: current, Asked: true, Alive: alive}, 2, unread(fileClaim("new", 7)), proto.VerdictHash, 0},
		"new metadata":                                {View{Object: current, Meta: published, Alive: alive}, 1, touched, proto.VerdictSendMeta, ledger.HoldingHas},
		"metadata seen while catching up":             {View{Object: current, Meta: published, Alive: alive}, 3, catchingUp, proto.VerdictHave, ledger.HoldingHas},
		"an older mtime is no news":                   {View{Object: current, Meta: published, Author: 2, Alive: alive}, 1, olderTouch, proto.VerdictHave, ledger.HoldingHas},
		"its author sets the mtime back":              {View{Object: current, Meta: published, Author: 1, Alive: alive}, 1, olderTouch, proto.VerdictSendMeta, ledger.HoldingHas},
		"set back while its author is away":           {View{Object: current, Meta: published, Author: 4, Alive: alive}, 1, olderTouch, proto.VerdictSendMeta, ledger.HoldingHas},
		"new metadata while another sends":            {View{Object: current, Meta: published, Lease: lease, Alive: alive}, 2, touched, proto.VerdictHave, ledger.HoldingHas},
		"a file where another has a hard link":        {View{Object: link, Alive: alive}, 3, fileClaim("new", 0), proto.VerdictHave, ledger.HoldingHas},
		"a hard link that became a file":              {View{Object: link, Alive: alive}, 1, fileClaim("new", 7), proto.VerdictSend, 0},
		"a hard link whose leader moved on":           {View{Object: link, Loose: true, Alive: alive}, 3, fileClaim("new", 0), proto.VerdictSend, 0},
		"the same, and another one sends it":          {View{Object: link, Loose: true, Lease: lease, Alive: alive}, 3, fileClaim("new", 0), proto.VerdictLeased, 0},
		"back from before the delete":                 {View{Object: tomb, Alive: alive}, 3, fileClaim("new", 7), proto.VerdictLags, ledger.HoldingLags},
		"changed since the delete":                    {View{Object: tomb, Alive: alive}, 3, fileClaim("other", 7), proto.VerdictSend, 0},
		"an unread path that was deleted":             {View{Object: tomb, Alive: alive}, 3, unread(fileClaim("new", 0)), proto.VerdictHash, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := Decide(c.view, c.holder, c.claim)
			require.Equal(t, c.verdict, a.Answer.Verdict)
			if c.holding == 0 {
				require.Nil(t, a.Holding)
			} else {
				require.Equal(t, c.holding, a.Holding.State)
			}
			require.Equal(t, c.verdict == proto.VerdictSend || c.verdict == proto.VerdictSendMeta, a.Grant)
		})
	}
}

func TestGrantCarriesOnOnlyTheSameSize(t *testing.T) {
	t.Parallel()
	v := View{Object: ledger.ObjectRow{Upload: 5}, Upload: &ledger.UploadRow{Size: 10}}
	require.EqualValues(t, 5, Decide(v, 1, proto.Claim{Path: "x", Kind: proto.KindFile, Size: 10}).Upload)
	require.EqualValues(t, 0, Decide(v, 1, proto.Claim{Path: "x", Kind: proto.KindFile, Size: 11}).Upload)
}

func TestJudgeGone(t *testing.T) {
	t.Parallel()
	o := func(hs ...ledger.Holding) ledger.ObjectRow {
		return ledger.ObjectRow{Current: known(7, "x"), Holders: hs}
	}
	gone := func(h proto.HolderID) ledger.Holding {
		return ledger.Holding{Holder: h, State: ledger.HoldingGone, Version: 7}
	}
	settled := func(id proto.HolderID) Member {
		return Member{Row: ledger.HolderRow{ID: id, ScannedNs: 100}, Node: "n", Alive: true, SettledNs: 100}
	}
	away := func(id proto.HolderID, d time.Duration) Member {
		return Member{Row: ledger.HolderRow{ID: id}, Node: "n", Away: d}
	}
	fresh := settled(2)
	fresh.Row.IndexGen = 1
	rescanned := fresh
	rescanned.Row.ScannedGen = 1
	empty := rescanned
	empty.Empty = true
	never := settled(2)
	never.Never, never.Bare = true, 23*time.Hour
	bare := never
	bare.Bare = 24 * time.Hour
	behind := settled(3)
	behind.SettledNs = 10
	unscanned := settled(3)
	unscanned.Row.ScannedNs = 10
	finding := settled(3)
	finding.SettledNs = 60 // what its scan from 100 found is not settled yet; that from 60 began late enough
	older := gone(2)
	older.Version = 5
	unscanned2 := settled(2)
	unscanned2.Row.ScannedNs = 10
	const since, grace = 50, 24 * time.Hour
	for name, c := range map[string]struct {
		object  ledger.ObjectRow
		members []Member
		want    GoneVerdict
	}{
		"a new index and nothing at all":   {o(gone(1), has(2, 7)), []Member{settled(1), empty}, GoneVerdict{Why: "node n had it, and has found nothing at all since its index was made anew: is its root mounted?"}},
		"nothing at all, and never had it": {o(gone(1)), []Member{settled(1), empty}, GoneVerdict{Delete: true}},
		"nothing at all, ever":             {o(gone(1)), []Member{settled(1), never}, GoneVerdict{Why: "node n has never found anything: is its root mounted? It is waited for until that has been so for 24h0m0s"}},
		"nothing at all, ever, for long":   {o(gone(1)), []Member{settled(1), bare}, GoneVerdict{Delete: true}},
		"everybody says so":                {o(gone(1), gone(2)), []Member{settled(1), settled(2)}, GoneVerdict{Delete: true}},
		"one still has it":                 {o(gone(1), has(2, 7)), []Member{settled(1), settled(2)}, GoneVerdict{Why: "node n still has it"}},
		"it is back":                       {o(has(1, 7), has(2, 7)), []Member{settled(1), settled(2)}, GoneVerdict{Back: true}},
		"one is away":                      {o(gone(1), has(2, 7)), []Member{settled(1), away(2, time.Hour)}, GoneVerdict{Why: "node n is away and may have it"}},
		"one is away for long":             {o(gone(1), has(2, 7)), []Member{settled(1), away(2, 25*time.Hour)}, GoneVerdict{Delete: true}},
		"a stranger is away":               {o(gone(1)), []Member{settled(1), away(2, time.Hour)}, GoneVerdict{Why: "node n is away and may have it"}},
		"away after it said gone":          {o(gone(1), gone(2)), []Member{settled(1), away(2, time.Hour)}, GoneVerdict{Delete: true}},
		"a partial holder never had it":    {o(gone(1)), []Member{settled(1), settled(3)}, GoneVerdict{Delete: true}},
		"one has not told all it has":      {o(gone(1)), []Member{settled(1), behind}, GoneVerdict{Why: "node n has not finished a scan since", Look: []proto.HolderID{3}}},
		"one has not scanned since":        {o(gone(1)), []Member{settled(1), unscanned}, GoneVerdict{Why: "node n has not finished a scan since", Look: []proto.HolderID{3}}},
		"one has settled the scan before":  {o(gone(1)), []Member{settled(1), finding}, GoneVerdict{Delete: true}},
		"one lost an older version":        {o(gone(1), older), []Member{settled(1), unscanned2}, GoneVerdict{Why: "node n has not finished a scan since", Look: []proto.HolderID{2}}},
		"and has looked since":             {o(gone(1), older), []Member{settled(1), settled(2)}, GoneVerdict{Delete: true}},
		"and is away":                      {o(gone(1), older), []Member{settled(1), away(2, time.Hour)}, GoneVerdict{Why: "node n is away and may have it"}},
		"a wiped index is no witness":      {o(gone(1), gone(2)), []Member{settled(1), fresh}, GoneVerdict{Why: "node n has not finished a scan since", Scan: []proto.HolderID{2}}},
		"a wiped index after its own scan": {o(gone(1), has(2, 7)), []Member{settled(1), rescanned}, GoneVerdict{Delete: true}},
		"wiped since it said so":           {o(gone(2)), []Member{rescanned}, GoneVerdict{Delete: true}},
		"wiped, and it never said so":      {o(has(2, 7)), []Member{rescanned}, GoneVerdict{Why: "no live holder has reported it gone"}},
		"wiped since, and nothing at all":  {o(gone(2)), []Member{empty}, GoneVerdict{Why: "no live holder has reported it gone"}},
		"a tombstone already":              {ledger.ObjectRow{Current: ledger.Known{Version: 8, Kind: proto.KindTombstone}}, nil, GoneVerdict{Back: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, JudgeGone(ledger.GonePath{SinceNs: since, LastNs: since, Object: c.object}, c.members, grace, nil))
		})
	}

	asked := []proto.HolderID{2, 3}
	judge := func(o ledger.ObjectRow, members ...Member) GoneVerdict {
		return JudgeGone(ledger.GonePath{SinceNs: since, LastNs: since, Object: o}, members, grace, asked)
	}
	require.Equal(t, GoneVerdict{Delete: true}, judge(o(gone(1)), settled(1), unscanned), "it looked, and lacks it")
	require.Equal(t, GoneVerdict{Delete: true}, judge(o(older), unscanned2), "an older version was gone from it")
	require.Equal(t, GoneVerdict{Why: "no live holder has reported it gone"}, judge(o(), unscanned), "to lack it is not to have lost it")
	require.Equal(t, GoneVerdict{Why: "node n still has it"}, judge(o(gone(1), has(3, 7)), settled(1), unscanned), "it came since")
	require.Equal(t, GoneVerdict{Why: "node n has not finished a scan since", Scan: asked[:1]}, judge(o(gone(1)), settled(1), fresh), "a fresh index")
	require.Equal(t, GoneVerdict{Why: "node n is away and may have it"}, judge(o(gone(1)), settled(1), unscanned, away(4, 0)), "nothing to ask while one is away")
	require.Equal(t, GoneVerdict{Why: "node n has not finished a scan since"}, judge(o(gone(1), has(2, 7)), settled(1), settled(2), Member{Row: ledger.HolderRow{ID: 5}, Node: "n", Alive: true}), "nor while one has it")

	const long = since + int64(goneTogether)
	later := func(last int64, lacks []proto.HolderID, members ...Member) GoneVerdict {
		return JudgeGone(ledger.GonePath{SinceNs: since, LastNs: last, Object: o(gone(1), gone(2))}, members, grace, lacks)
	}
	look := func(hs ...proto.HolderID) GoneVerdict {
		return GoneVerdict{Why: "node n has not finished a scan since", Look: hs}
	}
	require.Equal(t, look(3), later(101, nil, settled(1), settled(2), settled(3)), "it may have moved there since")
	require.Equal(t, GoneVerdict{Delete: true}, later(long, []proto.HolderID{3}, settled(1), settled(2), settled(3)), "deleted on both")
	require.Equal(t, look(1, 2, 3), later(long+1, nil, settled(1), settled(2), settled(3)), "lost by one of them long before")
	require.Equal(t, GoneVerdict{Delete: true}, later(long+1, []proto.HolderID{1, 2, 3}, settled(1), settled(2), settled(3)))
	require.Equal(t, GoneVerdict{Why: "node n is away and may have it"}, later(long+1, []proto.HolderID{2}, away(1, time.Hour), settled(2)))
}

func TestTableFencesAndCounts(t *testing.T) {
	t.Parallel()
	tb := NewTable(3)
	a := tb.Grant(Lease{Session: 1, Holder: 1, Dataset: 1, Path: "x", Size: 100})
	require.NotNil(t, tb.Check(1, a.Upload, a.Epoch, "x"))
	tb.Ack(a, 40, time.Time{})
	require.EqualValues(t, 60, tb.Reserved())
	b := tb.Grant(Lease{Upload: a.Upload, Session: 2, Holder: 2, Dataset: 1, Path: "x", Size: 100, Acked: 40})
	require.True(t, a.Epoch.Less(b.Epoch))
	require.Nil(t, tb.Check(1, a.Upload, a.Epoch, "x"), "the epoch before is fenced")
	require.Nil(t, tb.Check(1, b.Upload, b.Epoch, "x"), "another session's lease")
	require.EqualValues(t, 60, tb.Reserved())
	c := tb.Grant(Lease{Upload: a.Upload, Session: 2, Holder: 2, Dataset: 1, Path: "x", Size: 100, Acked: 40})
	require.Nil(t, tb.Check(2, b.Upload, b.Epoch, "x"), "also of the same session")
	require.NotNil(t, tb.Check(2, c.Upload, c.Epoch, "x"))
	require.Nil(t, tb.Check(2, c.Upload, c.Epoch, "y"), "another path")
	require.EqualValues(t, 60, tb.Reserved())
	require.Len(t, tb.EndSession(2), 1)
	require.EqualValues(t, 0, tb.Reserved())
	require.Nil(t, tb.At(1, "x"))
	require.Empty(t, tb.EndSession(1))
	require.True(t, b.Epoch.Less(NewTable(4).Grant(Lease{Path: "x"}).Epoch), "the next generation is above all of this")
}

// Content that is asked for again counts as coming for as long as there is a lease that brings it, however that ends: what stayed would be
// taken for ever from what may come (I16).
func TestWhatComesAgainIsCountedWhileItsLeaseLasts(t *testing.T) {
	t.Parallel()
	tb := NewTable(1)
	grant := func(path string, again bool) *Lease {
		return tb.Grant(Lease{Session: 1, Holder: 1, Dataset: 7, Path: path, Size: 100, Again: again})
	}
	a := grant("a", true)
	grant("b", false)
	grant("c", true)
	require.EqualValues(t, 200, tb.Again(7))
	require.Zero(t, tb.Again(8))
	tb.Ack(a, 100, time.Time{})
	require.EqualValues(t, 200, tb.Again(7), "what was brought and is not sealed counts")
	grant("c", true)
	require.EqualValues(t, 200, tb.Again(7), "in place of the one before")
	tb.End(a.Upload)
	require.EqualValues(t, 100, tb.Again(7))
	tb.EndSession(1)
	require.Zero(t, tb.Again(7))
}

// What is sent of an unknown path follows the dataset's head: there may have been a tombstone of it that all have seen and nobody
// keeps. What is sent of a known one follows its current version.
func TestWhatAGrantFollows(t *testing.T) {
	t.Parallel()
	c := proto.Claim{Path: "x", Kind: proto.KindFile, Size: 1}
	require.EqualValues(t, 12, Decide(View{Head: 12}, 1, c).Answer.Version)
	c.Parent = 7
	require.EqualValues(t, 7, Decide(View{Head: 12, Object: ledger.ObjectRow{Current: known(7, "x")}}, 1, c).Answer.Version)
}
