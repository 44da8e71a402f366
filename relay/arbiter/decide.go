// Package arbiter decides who may upload what. Decide is the whole of the arbitration of versions as a pure function of what
// the ledger and the lease table say; Table keeps the leases. Nothing here reads a clock, a disk or a network. It stands
// between the agents' claims and the ingest, and imports ledger and proto only.
package arbiter

import (
	"slices"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// View is what Decide looks at for one claim.
type View struct {
	Object ledger.ObjectRow  // zero when the path is unknown
	Head   proto.VersionID   // the dataset's: what is sent of an unknown path follows it
	Upload *ledger.UploadRow // of Object.Upload, nil when there is none
	Meta   proto.Meta        // of the current version, where the claim tells of the holder's own
	Author proto.HolderID    // who sent the current version, or its metadata last
	Asked  bool              // the current version is owed and not cached: its bytes are wanted again
	// Loose is set when the current version is a hard link whose leader's content is another by now: the path must come as
	// a file, for nobody else brings its bytes.
	Loose bool
	Lease *Lease           // of another holder on the path, nil when there is none
	Alive []proto.HolderID // holders of the dataset that take part
	// Known are all holders of the dataset that are not forgotten, there or not.
	Known []proto.HolderID
}

// Action is what follows from a claim.
type Action struct {
	Answer proto.ClaimAnswer // complete but for Epoch, and Upload when Grant
	// Grant: a lease is to be made for what Upload says (0: a new upload).
	Grant  bool
	Upload proto.UploadID
	// Again: what is granted brings the current content again, which is asked for.
	Again bool
	// Holding is to be recorded for the claiming holder.
	Holding *ledger.Holding
}

// Decide answers a claim of a holder. The rules, in order:
//
//  1. Somebody else has the lease: wait, unless the claim only says that it has the current content, and nobody needs its bytes.
//  2. An unknown path is uploaded by who comes first, but not from a copy that was agreed on before: it was deleted since.
//  3. With a digest: equal to the current content, the holder has it (and sends it again when it is asked for, or its metadata
//     when it saw that change, or when no live holder has what is published of it); equal to an older content, it lags, unless
//     no live holder has the current version any more; unknown content whose parent is current is the next version; else it is
//     a fork, and what most live holders have stays.
//  4. Without a digest: a claim whose parent is current may send; any other must read its copy first.
func Decide(v View, holder proto.HolderID, c proto.Claim) Action {
	cur := v.Object.Current
	mine := proto.Desc{Kind: c.Kind, Size: c.Size, Digest: c.Digest, LinkTo: c.LinkTo}
	same := c.HasDigest && cur.Version != 0 && cur.Desc().SameContent(mine)
	if v.Lease != nil && (!same || v.Asked || v.alone(c)) {
		return Action{Answer: proto.ClaimAnswer{Verdict: proto.VerdictLeased, Upload: v.Lease.Upload, Version: cur.Version}}
	}
	switch {
	case cur.Version == 0 && c.Renewed:
		return Action{Answer: proto.ClaimAnswer{Verdict: proto.VerdictLags, Reason: "deleted since, and its tombstone forgotten; change the object to keep it"}}
	case cur.Version == 0:
		return grant(v, c)
	case same:
		return equal(v, holder, c)
	case c.HasDigest:
		return differs(v, holder, c, mine)
	case v.Object.Follows(c.Parent) && !v.Asked:
		return grant(v, c)
	}
	return Action{Answer: proto.ClaimAnswer{Verdict: proto.VerdictHash, Version: cur.Version, Size: cur.Size, Digest: cur.Digest}}
}

// grant lets the holder send, carrying on an upload of the same size that lost its sender.
func grant(v View, c proto.Claim) Action {
	a := Action{Grant: true, Answer: proto.ClaimAnswer{Verdict: proto.VerdictSend, Version: v.Object.Current.Version}}
	if v.Object.Current.Version == 0 { // after all that the path had, should it have been known once
		a.Answer.Version = v.Head
	}
	if v.Upload != nil && c.Kind == proto.KindFile && v.Upload.Size == c.Size && !v.Upload.Sealed {
		a.Upload = v.Object.Upload
	}
	return a
}

// alone reports whether a file that equals the current version must come with its bytes: that version is a hard link, and this holder saw it
// become a file of its own, or its leader moved on.
func (v View) alone(c proto.Claim) bool {
	return c.Kind == proto.KindFile && v.Object.Current.Kind == proto.KindHardlink && (v.Loose || v.Object.Follows(c.Parent))
}

func equal(v View, holder proto.HolderID, c proto.Claim) Action {
	cur := v.Object.Current
	if v.alone(c) || v.Asked && c.Kind == proto.KindFile {
		a := grant(v, c)
		if a.Again = v.Asked; a.Again && v.Upload != nil && v.Upload.Same > 0 {
			a.Upload = 0 // what it lacks is what is asked for
		}
		return a
	}
	a := Action{
		Answer:  proto.ClaimAnswer{Verdict: proto.VerdictHave, Version: cur.Version, Size: cur.Size, Digest: cur.Digest},
		Holding: &ledger.Holding{Holder: holder, State: ledger.HoldingHas, Version: cur.Version},
	}
	if v.Object.Follows(c.Parent) && c.Meta != nil && v.Lease == nil && metaChanges(v, holder, *c.Meta, c.Changed) {
		a.Grant = true
		a.Answer.Verdict = proto.VerdictSendMeta
		return a
	}
	mine := proto.HaveEntry{Version: cur.Version, MtimeNs: c.MtimeNs, MetaSum: c.MetaSum, Kept: c.Parent != 0 && c.Changed&^proto.FieldMtime == 0}
	a.Holding.Odd, a.Answer.WantMeta = ledger.MetaWanted(&v.Object, holder, v.Author, v.Meta, mine, v.Alive)
	return a
}

// metaChanges reports whether what the holder saw change leads to other metadata than what is published. Of mtimes, only a
// newer one counts, for replicas that are touched one after the other make one version, not one each; an older one counts
// from the holder whose metadata is published (its object's time was set back, as copying tools do with what they have
// written), or from any once that holder is away.
func metaChanges(v View, holder proto.HolderID, mine proto.Meta, changed proto.MetaField) bool {
	diff := v.Meta.Diff(mine) & changed
	if diff == proto.FieldMtime && mine.MtimeNs <= v.Meta.MtimeNs {
		return v.Author == holder || v.Author != 0 && !slices.Contains(v.Alive, v.Author)
	}
	return diff != 0
}

func differs(v View, holder proto.HolderID, c proto.Claim, mine proto.Desc) Action {
	cur := v.Object.Current
	if older := v.Object.Older(mine); older != nil && lags(v, holder, c) {
		return Action{
			Answer:  proto.ClaimAnswer{Verdict: proto.VerdictLags, Version: cur.Version, Size: cur.Size, Digest: cur.Digest},
			Holding: &ledger.Holding{Holder: holder, State: ledger.HoldingLags, Version: older.Version},
		}
	}
	if v.Object.Follows(c.Parent) || cur.Kind == proto.KindTombstone || forkWins(v, holder, c, mine) {
		return grant(v, c)
	}
	return Action{
		Answer:  proto.ClaimAnswer{Verdict: proto.VerdictDivergent, Version: cur.Version, Size: cur.Size, Digest: cur.Digest},
		Holding: &ledger.Holding{Holder: holder, State: ledger.HoldingDivergent, Version: c.Parent, Digest: c.Digest, Size: c.Size, MtimeNs: c.MtimeNs},
	}
}

// lags decides of a holder with an older content. One that had agreed with the current version put the older content back on
// purpose once no live holder has the current one. One that never had the current version cannot know better than those who
// do, and they need not be there this minute: only when the last of them is forgotten does its content count (I18).
//
// After a rebuild of the ledger nobody has said yet who has what: whoever did not know the current version lags.
func lags(v View, holder proto.HolderID, c proto.Claim) bool {
	if v.Object.Since != 0 && !v.Object.Follows(c.Parent) {
		return true
	}
	if !v.Object.Follows(c.Parent) && v.Object.Current.Kind != proto.KindTombstone {
		return ledger.CurrentAlive(&v.Object, holder, v.Known)
	}
	return ledger.CurrentAlive(&v.Object, holder, v.Alive)
}

// forkWins compares two contents neither of which follows the other: what most live holders have stays, ties go to the
// newest mtime.
func forkWins(v View, holder proto.HolderID, c proto.Claim, mine proto.Desc) bool {
	stay, fork := 0, 1
	for _, h := range v.Object.Holders {
		if h.Holder == holder || !slices.Contains(v.Alive, h.Holder) {
			continue
		}
		switch {
		case h.State == ledger.HoldingHas && h.Version == v.Object.Current.Version:
			stay++
		case h.State == ledger.HoldingDivergent && h.Digest == mine.Digest && h.Size == mine.Size:
			fork++
		}
	}
	if v.Object.Since != 0 { // a rebuilt version was some holder's, which need not have said so yet
		stay = max(stay, 1)
	}
	return fork > stay || fork == stay && c.MtimeNs > v.Object.MtimeNs
}

// RetryLeased is after how long a holder asks again for what another one is uploading: gossip tells it sooner.
func RetryLeased(suspicion time.Duration) time.Duration { return suspicion }
