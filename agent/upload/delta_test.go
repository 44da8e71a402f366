package upload

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/proto"
	"forebay/proto/segment"
)

// keeper is a relay that has a version of one object, and puts together the next one.
type keeper struct {
	t     assert.TestingT
	base  []byte
	whole []proto.Range
	size  int64
	sums  func(q proto.SumsRequest) (proto.SumsReply, error) // nil: what base is
	deny  func(off int64) bool                               // of a run named as the same

	mu    sync.Mutex
	have  []byte // the new content, as far as it came
	done  []bool // its blocks
	sent  int64  // payload bytes
	named int64  // bytes not sent
	asked int
	seal  *proto.Desc
}

func newKeeper(t assert.TestingT, base []byte, size int64) *keeper {
	return &keeper{t: t, base: base, size: size, have: make([]byte, size), done: make([]bool, proto.Blocks(size))}
}

// Sums tells a few at a time.
func (k *keeper) Sums(_ context.Context, q proto.SumsRequest) (proto.SumsReply, error) {
	k.mu.Lock()
	k.asked++
	k.mu.Unlock()
	if k.sums != nil {
		return k.sums(q)
	}
	all := proto.BlockDigests(nil, k.base)
	rep := proto.SumsReply{Sums: all[min(q.From, int64(len(all))):]}
	if q.From == 0 {
		rep.Whole = k.whole
	}
	return rep, nil
}

func (k *keeper) Segment(_ context.Context, _ proto.SessionID, raw []byte) (rep proto.SegmentReply, err error) {
	s, err := segment.Decode(bytes.Clone(raw))
	if err != nil {
		return rep, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range s.Header.Pieces {
		rep.Pieces = append(rep.Pieces, proto.PieceResult{State: k.piece(&s.Header.Pieces[i], s.Bytes(i)), Version: 7})
	}
	return rep, nil
}

func (k *keeper) piece(p *segment.Piece, data []byte) proto.PieceState {
	switch p.Kind {
	case segment.PieceSeal:
		if slices.Contains(k.done, false) {
			return proto.PieceMissing
		}
		k.seal = p.Desc
		return proto.PieceAccepted
	case segment.PieceSame:
		for _, w := range k.whole { // all of it or nothing
			inside := p.Offset <= w.Offset && p.Offset+p.Span >= w.Offset+w.Length
			apart := p.Offset >= w.Offset+w.Length || p.Offset+p.Span <= w.Offset
			assert.True(k.t, inside || apart, "%d+%d cuts %+v", p.Offset, p.Span, w)
		}
		data = k.base[p.Offset : p.Offset+p.Span]
		assert.Equal(k.t, proto.BlockDigests(nil, data), p.Blocks)
		if k.deny != nil && k.deny(p.Offset) {
			return proto.PieceMissing
		}
		k.named += p.Span
	default:
		k.sent += int64(len(data))
	}
	for b := p.Offset / proto.BlockSize; b < proto.Blocks(p.Offset+int64(len(data))); b++ {
		assert.False(k.t, k.done[b], "block %d came twice", b)
		k.done[b] = true
	}
	copy(k.have[p.Offset:], data)
	return proto.PieceAccepted
}

// carry sends content over the keeper's base.
func carry(t *testing.T, k *keeper, content []byte, have []proto.Range) Result {
	t.Helper()
	b := newBench(t, accept)
	b.Relay = k
	file := filepath.Join(b.dir, "big")
	require.NoError(t, os.WriteFile(file, content, 0o600))
	defer func() { _ = os.Remove(file) }()
	j := b.job(t, "big")
	j.Have, j.Sums, j.Parent = have, true, 6
	for _, r := range have {
		copy(k.have[r.Offset:], content[r.Offset:r.Offset+r.Length])
		for i := r.Offset / proto.BlockSize; i < proto.Blocks(r.Offset+r.Length); i++ {
			k.done[i] = true
		}
	}
	b.Large(t.Context(), j)
	res := b.rec.results["big"]
	require.Equal(t, Sealed, res.Outcome, "%+v", res.Bad)
	require.True(t, bytes.Equal(content, k.have))
	require.Equal(t, proto.ContentDigest(content), k.seal.Digest)
	return res
}

const mib = proto.BlockSize

// noise is content of which no two blocks are equal.
func noise(n int64, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

// Of 24 MiB in which one block changed, one block travels.
func TestOnlyWhatChangedIsSent(t *testing.T) {
	t.Parallel()
	base := noise(24*mib+5, 1)
	content := bytes.Clone(base)
	content[20*mib+17]++
	k := newKeeper(t, base, int64(len(content)))
	carry(t, k, content, nil)
	require.EqualValues(t, mib, k.sent)
	require.EqualValues(t, int64(len(content))-mib, k.named)
}

// Blocks that changed here and there travel together.
func TestChangedBlocksTravelTogether(t *testing.T) {
	t.Parallel()
	base := noise(64*mib, 1)
	content := bytes.Clone(base)
	for i := 0; i < 64; i += 8 {
		content[i*mib]++
	}
	b := newBench(t, accept)
	k := newKeeper(t, base, int64(len(content)))
	segments := 0
	b.Relay = counting{k, &segments}
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "big"), content, 0o600))
	j := b.job(t, "big")
	j.Sums = true
	b.Large(t.Context(), j)
	require.Equal(t, Sealed, b.rec.results["big"].Outcome)
	require.Equal(t, 3, segments, "eight blocks, what is the same, the seal")
}

type counting struct {
	*keeper
	n *int
}

func (c counting) Segment(ctx context.Context, id proto.SessionID, raw []byte) (proto.SegmentReply, error) {
	c.mu.Lock()
	*c.n++
	c.mu.Unlock()
	return c.keeper.Segment(ctx, id, raw)
}

// What the relay cannot use is sent.
func TestWhatTheRelayCannotUseIsSent(t *testing.T) {
	t.Parallel()
	base := noise(24*mib, 1)
	k := newKeeper(t, base, int64(len(base)))
	k.deny = func(int64) bool { return true }
	carry(t, k, base, nil)
	require.EqualValues(t, len(base), k.sent)
}

// A relay that does not tell what it has gets everything.
func TestRelayThatKnowsNoBlocksGetsAll(t *testing.T) {
	t.Parallel()
	base := noise(24*mib, 1)
	for name, sums := range map[string]func(proto.SumsRequest) (proto.SumsReply, error){
		"an error": func(proto.SumsRequest) (proto.SumsReply, error) { return proto.SumsReply{}, errors.New("no") },
		"nothing":  func(proto.SumsRequest) (proto.SumsReply, error) { return proto.SumsReply{}, nil },
	} {
		k := newKeeper(t, base, int64(len(base)))
		k.sums = sums
		carry(t, k, base, nil)
		require.EqualValues(t, len(base), k.sent, name)
		require.Equal(t, 1, k.asked, name)
	}
}

// Whatever the version before was, whatever of it is in the cache and had come already: each block comes once, and the whole is the
// new content.
func TestDeltaIsTheContent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		blocks := rapid.Int64Range(9, 12).Draw(r, "blocks")
		tail := rapid.SampledFrom([]int64{0, 1, mib / 2}).Draw(r, "tail")
		base := noise(blocks*mib+tail, 1)
		content := bytes.Clone(base)
		switch size := rapid.Int64Range(9*mib, int64(len(base))+3*mib).Draw(r, "size"); {
		case rapid.Bool().Draw(r, "same size"):
		case size <= int64(len(base)):
			content = content[:size]
		default:
			content = append(content, noise(size-int64(len(base)), 9)...)
		}
		for _, i := range rapid.SliceOfN(rapid.IntRange(0, len(content)-1), 0, 6).Draw(r, "changed") {
			content[i]++
		}
		k := newKeeper(r, base, int64(len(content)))
		for at := int64(0); at < proto.Blocks(int64(len(base))); {
			n := rapid.Int64Range(2, 8).Draw(r, "run")
			if end := min((at+n)*mib, int64(len(base))); rapid.Bool().Draw(r, "cached") && end-at*mib > mib {
				k.whole = append(k.whole, proto.Range{Offset: at * mib, Length: end - at*mib})
			}
			at += n
		}
		var have []proto.Range
		if from := rapid.Int64Range(0, 8).Draw(r, "have from"); rapid.Bool().Draw(r, "have") {
			have = append(have, proto.Range{Offset: from * mib, Length: min(3*mib, int64(len(content))-from*mib)})
		}
		denied := rapid.Int64Range(0, 30).Draw(r, "denied")
		k.deny = func(off int64) bool { return off == denied*mib }
		carry(t, k, content, have)
		require.LessOrEqual(r, k.sent, int64(len(content)))
	})
}
