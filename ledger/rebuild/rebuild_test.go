package rebuild_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/rebuild"
	"forebay/proto"
	"forebay/proto/segment"
)

// Each test here is what a seed of the ledger's TestModelRebuild once found.

const block = proto.BlockSize

func ep(n uint32) proto.Epoch { return proto.Epoch{Generation: 1, Counter: uint64(n)} }

func desc(content string, mode uint32) *proto.Desc {
	return &proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest([]byte(content)), Meta: proto.Meta{Mode: mode}}
}

func object(parent proto.VersionID, n uint32, content string, mode uint32) *segment.Piece {
	return &segment.Piece{Kind: segment.PieceObject, Path: "x", Parent: parent, Epoch: ep(n), Length: uint32(len(content)), Desc: desc(content, mode)}
}

func meta(parent proto.VersionID, n uint32, content string, mode uint32) *segment.Piece {
	return &segment.Piece{Kind: segment.PieceMeta, Path: "x", Parent: parent, Epoch: ep(n), Desc: desc(content, mode)}
}

func remove(parent proto.VersionID) *segment.Piece {
	return &segment.Piece{Kind: segment.PieceDelete, Path: "x", Parent: parent, Epoch: ep(0), Desc: &proto.Desc{Kind: proto.KindTombstone}}
}

// told are pieces, each in a segment of its own, of which the memo says that they were not refused.
func told(pieces ...*segment.Piece) (out []ledger.Evidence) {
	for i, p := range pieces {
		out = append(out, ledger.Evidence{Path: "x", N: uint64(i), Segment: uint64(10 + i), Piece: p, Told: true})
	}
	return out
}

func untold(all []ledger.Evidence) []ledger.Evidence {
	for i := range all {
		all[i].Told = false
	}
	return all
}

func onTarget(v proto.VersionID, d *proto.Desc) ledger.Evidence {
	return ledger.Evidence{Path: "x", N: 1000, Target: &ledger.OnTarget{Link: 1, Version: v, Holds: v, Desc: *d}}
}

// conclude gives evidence in several orders: what comes of it must be the same.
func conclude(t *testing.T, all []ledger.Evidence) ledger.Recovered {
	t.Helper()
	first := rebuild.Conclude("x", all, []rebuild.Link{{ID: 1}})
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		require.Equal(t, first, rebuild.Conclude("x", all, []rebuild.Link{{ID: 1}}), "seed %d", seed)
	}
	return first
}

func current(t *testing.T, all []ledger.Evidence) string {
	t.Helper()
	r := conclude(t, all)
	for _, c := range []string{"one", "two", "three"} {
		if r.Desc.SameContent(*desc(c, 0)) {
			return fmt.Sprint(c, " ", r.Desc.Meta.Mode)
		}
	}
	return r.Desc.Kind.String()
}

func TestContentThatCameBack(t *testing.T) {
	t.Parallel()
	all := told(object(0, 1, "one", 1), object(5, 2, "two", 2), object(7, 3, "one", 3))
	require.Equal(t, "one 3", current(t, all), "it is known that it was not refused")
	require.Equal(t, "two 2", current(t, untold(all)), "it may have been that of a holder that lags")
	all = append(told(object(5, 2, "two", 2), object(7, 3, "one", 3)), onTarget(4, desc("one", 1)))
	require.Equal(t, "one 3", current(t, all))
}

func TestRefusedPiecesMakeNoVersion(t *testing.T) {
	t.Parallel()
	for _, why := range []proto.PieceState{proto.PieceLags, proto.PieceStale, proto.PieceEqual, proto.PieceMismatch, proto.PieceMissing} {
		all := told(object(0, 1, "one", 1), object(5, 2, "two", 2))
		all[1].Refused = why
		require.Equal(t, "one 1", current(t, all), "%d", why)
	}
}

// The segment with the content is freed once the path is deleted and no link needs it: a copy that comes back is known all the
// same for what was deleted.
func TestDeletesTellWhatTheyDeleted(t *testing.T) {
	t.Parallel()
	gone := remove(5)
	gone.Deleted = desc("one", 0)
	r := conclude(t, told(gone))
	require.Equal(t, proto.KindTombstone, r.Desc.Kind)
	require.Len(t, r.Recent, 1)
	require.True(t, r.Recent[0].Desc().SameContent(*desc("one", 0)))
	require.EqualValues(t, 5, r.Recent[0].Version)
	r = conclude(t, told(gone, object(6, 2, "one", 1)))
	require.True(t, r.Desc.SameContent(*desc("one", 0)), "it may come back on purpose")
	for _, k := range r.Recent {
		require.False(t, k.Desc().SameContent(r.Desc), "%+v", k)
	}
}

// A seal whose content is one hole is proved by no ranges at all: only the note says that what was received was another.
func TestHoleThatIsNotWhatWasReceived(t *testing.T) {
	t.Parallel()
	d := &proto.Desc{Kind: proto.KindFile, Size: block, Extents: []proto.Extent{{Kind: proto.ExtentHole, Length: block}}}
	d.Digest, _ = ledger.RecoveredDigest(nil, d)
	all := told(object(0, 1, "one", 1), &segment.Piece{Kind: segment.PieceSeal, Path: "x", Upload: 3, Parent: 5, Epoch: ep(2), Desc: d},
		&segment.Piece{Kind: segment.PieceRange, Path: "x", Upload: 3, Parent: 5, Epoch: ep(2), Length: block, ObjectSize: 2 * block, Blocks: []proto.Digest{{1}}})
	all[1].Refused = proto.PieceMismatch
	require.Equal(t, "one 1", current(t, all))
	require.Empty(t, conclude(t, all).Uploads, "it ended")
}

func TestNewMetadataTellTheContentThatTheyFollow(t *testing.T) {
	t.Parallel()
	all := append(told(meta(8, 2, "two", 2), object(8, 3, "one", 3)), onTarget(6, desc("one", 1)))
	require.Equal(t, "one 3", current(t, all), "it was two before: the bytes were not sent again, but came back")
	require.Equal(t, "two 2", current(t, untold(all)), "or are those of a holder that lags")
}

func TestWhatSeemsToBeSentAgain(t *testing.T) {
	t.Parallel()
	require.Equal(t, "one 1", current(t, told(object(0, 1, "one", 1), object(5, 2, "one", 3))), "equal content makes no version")
	require.Equal(t, "one 3", current(t, append(told(object(8, 2, "one", 3)), onTarget(6, desc("one", 1)))), "something was in between")
	require.Equal(t, "one 1", current(t, append(told(object(6, 2, "one", 3)), onTarget(6, desc("one", 1)))))
	bare := func(parent proto.VersionID, n uint32, mode uint32) *segment.Piece {
		d := &proto.Desc{Kind: proto.KindSymlink, LinkTo: "one", Meta: proto.Meta{Mode: mode}}
		return &segment.Piece{Kind: segment.PieceObject, Path: "x", Parent: parent, Epoch: ep(n), Desc: d}
	}
	require.EqualValues(t, 3, conclude(t, told(bare(0, 1, 1), bare(5, 2, 3))).Desc.Meta.Mode, "what has no bytes is never sent again")
	// The delete and what was sent again both follow 5, and the newest follows one of them.
	require.Equal(t, "one 3", current(t, append(told(object(5, 1, "one", 1), remove(5), object(7, 2, "one", 3)), onTarget(5, desc("one", 1)))))
	// What followed 5 under a lower epoch came too late.
	require.Equal(t, "one 2", current(t, told(object(0, 1, "one", 1), object(5, 2, "two", 1), meta(5, 3, "one", 2), object(7, 4, "one", 3))))
	// Two was sent again and then replaced: that one had been there before does not make it the older one.
	require.Equal(t, "one 3", current(t, told(object(0, 1, "one", 1), object(7, 2, "two", 2), object(7, 3, "one", 3))))
}

func ranged(off, n int64, at uint32, fill byte) *segment.Piece {
	p := &segment.Piece{Kind: segment.PieceRange, Path: "x", Upload: 3, Parent: 5, Epoch: ep(2), Offset: off * block, Length: uint32(n * block), At: at, ObjectSize: 4 * block}
	for i := range n {
		p.Blocks = append(p.Blocks, proto.Digest{fill, byte(off + i)})
	}
	return p
}

func sum(ranges ...*segment.Piece) proto.Digest {
	var rs []ledger.RecoveredRange
	for _, p := range ranges {
		rs = append(rs, ledger.RecoveredRange{Offset: p.Offset, Row: ledger.RangeRow{Length: p.Length, Blocks: p.Blocks}})
	}
	d, _ := ledger.RecoveredDigest(rs, &proto.Desc{Size: 4 * block})
	return d
}

// Of ranges of one segment that overlap, the first in its payload was taken.
func TestRangesThatOverlap(t *testing.T) {
	t.Parallel()
	last, second, rest := ranged(2, 2, 0, 1), ranged(1, 1, 2*block, 1), ranged(0, 2, 3*block, 2)
	first := ranged(0, 1, 5*block, 1)
	d := &proto.Desc{Kind: proto.KindFile, Size: 4 * block, Digest: sum(first, second, last)}
	seal := &segment.Piece{Kind: segment.PieceSeal, Path: "x", Upload: 3, Parent: 5, Epoch: ep(2), Desc: d}
	all := told(last, second, rest, first, seal)
	for i := range all {
		all[i].Segment = 10
	}
	r := conclude(t, all)
	require.Equal(t, ledger.Content{Upload: 3}, r.At)
	require.Len(t, r.Uploads[0].Ranges, 3)
}

// Of ranges that overlap the longest was taken, and lost with its segment: the others still make the whole.
func TestRangesOfWhichOneWasLost(t *testing.T) {
	t.Parallel()
	parts := []*segment.Piece{ranged(1, 2, 0, 1), ranged(3, 1, 0, 1), ranged(0, 2, 0, 1), ranged(2, 2, 0, 1), ranged(1, 1, 0, 1)}
	d := &proto.Desc{Kind: proto.KindFile, Size: 4 * block, Digest: sum(parts[2], parts[3])}
	r := conclude(t, told(append(parts, &segment.Piece{Kind: segment.PieceSeal, Path: "x", Upload: 3, Parent: 5, Epoch: ep(2), Desc: d})...))
	require.Equal(t, ledger.Content{Upload: 3}, r.At)
}

// A copy of the first version lies in a later segment than its delete.
func TestDeleteOfWhatWasRepacked(t *testing.T) {
	t.Parallel()
	require.Equal(t, "tombstone", current(t, told(remove(3), object(0, 1, "one", 1))))
}

// A delete that was not refused is newer than all else that follows the same version.
func TestDeleteAndWhatFollowsTheSame(t *testing.T) {
	t.Parallel()
	all := told(object(0, 1, "one", 1), object(5, 2, "two", 2), remove(5))
	require.Equal(t, "tombstone", current(t, all))
	require.Equal(t, "two 2", current(t, untold(all)), "better found gone once more than deleted")
}

// The seal that says where the holes are went with the version that it made.
func TestHolesOfContentWithNewMetadata(t *testing.T) {
	t.Parallel()
	g := ranged(1, 2, 0, 1)
	d := &proto.Desc{Kind: proto.KindFile, Size: 4 * block, Digest: sum(g), Meta: proto.Meta{Mode: 7}}
	r := conclude(t, told(g, &segment.Piece{Kind: segment.PieceMeta, Path: "x", Parent: 6, Epoch: ep(3), Desc: d}))
	require.Equal(t, ledger.Content{Upload: 3}, r.At)
	require.Equal(t, []proto.Extent{{Kind: proto.ExtentHole, Length: block}, {Kind: proto.ExtentData, Offset: block, Length: 2 * block},
		{Kind: proto.ExtentHole, Offset: 3 * block, Length: block}}, r.Desc.Extents)
}
