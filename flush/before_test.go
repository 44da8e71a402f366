package flush_test

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// change stores the next version of a large object: blocks that are equal are named.
func (w *world) change(dataset, path string, old, next []byte) {
	w.t.Helper()
	h := w.dataset(dataset)
	w.upload++
	base := segment.Piece{Path: path, Upload: w.upload, Epoch: proto.Epoch{Generation: 1, Counter: uint64(w.upload)}, Parent: w.current(h.Dataset, path), ObjectSize: int64(len(next))}
	var pieces []segment.Piece
	var payload []byte
	for off := 0; off < len(next); off += proto.BlockSize {
		end := min(off+proto.BlockSize, len(next))
		p := base
		p.Kind, p.Offset, p.At = segment.PieceRange, int64(off), uint32(len(payload))
		p.Blocks = proto.BlockDigests(nil, next[off:end])
		if end == min(off+proto.BlockSize, len(old)) && bytes.Equal(old[off:end], next[off:end]) {
			p.Kind, p.Span = segment.PieceSame, int64(end-off)
		} else {
			p.Length = uint32(end - off)
			payload = append(payload, next[off:end]...)
		}
		pieces = append(pieces, p)
	}
	seal := base
	seal.Kind, seal.At, seal.ObjectSize = segment.PieceSeal, uint32(len(payload)), 0
	seal.Desc = (&obj{path: path, kind: proto.KindFile, content: next}).desc()
	w.store(h, h.ID, append(pieces, seal), payload)
}

// forget lets go of the segments that nothing needs.
func (w *world) forget() {
	w.t.Helper()
	seqs, err := ledger.FreeList(w.led, 1000)
	require.NoError(w.t, err)
	w.apply(&ledger.FreeSegments{Seqs: seqs})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range seqs {
		delete(w.segments, s)
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(p) // never fails
	return p
}

// bare has the engine use a driver as it is, without what counts or fails around it.
func bare(_ flush.LinkConfig, t target.Target) target.Target { return t.(counting).Target }

// ways are those in which unchanged blocks get into a new content.
var ways = map[string]func(flush.LinkConfig, target.Target) target.Target{"by the driver": bare, "through the relay": nil}

// built has an object at its target and nothing of it in the cache.
func built(t *testing.T, wrap func(flush.LinkConfig, target.Target) target.Target) (w *world, at string, old, next []byte) {
	t.Helper()
	w = newWorld(t)
	w.wrap = wrap
	at = filepath.Join(w.link("nas", "media"), "image")
	old = noise(9*proto.BlockSize + 7)
	next = bytes.Clone(old)
	next[4*proto.BlockSize+100]++
	w.large("media", "image", old, 2*proto.BlockSize)
	w.start()
	w.drained("nas")
	w.forget()
	require.Empty(t, w.segments)
	return w, at, old, next
}

// What did not change is taken from what the target has, by the driver or through the relay, again and again.
func TestChangeIsBuiltOnWhatTheTargetHas(t *testing.T) {
	t.Parallel()
	for name, wrap := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, at, old, next := built(t, wrap)
			w.change("media", "image", old, next)
			w.drained("nas")
			got, err := os.ReadFile(at)
			require.NoError(t, err)
			require.True(t, bytes.Equal(next, got))
			// Grown, shrunk, and with two changes of which the first was never flushed.
			longer := append(bytes.Clone(next), noise(2*proto.BlockSize)...)
			w.set("nas", "flush.age=1h")
			w.change("media", "image", next, longer)
			short := bytes.Clone(longer[:6*proto.BlockSize+1])
			short[0]++
			w.change("media", "image", longer, short)
			w.set("nas", "flush.age=none")
			w.wake()
			w.drained("nas")
			got, err = os.ReadFile(at)
			require.NoError(t, err)
			require.True(t, bytes.Equal(short, got))
			require.Zero(t, w.happened(flush.ContentAsked))
			w.forget()
			require.Empty(t, w.segments)
		})
	}
}

// An object that is not what was flushed is not built upon: the whole is asked for, and what is asked for replaces it.
func TestObjectThatWasReplacedBehindOurBack(t *testing.T) {
	t.Parallel()
	for name, wrap := range ways {
		for what, spoil := range map[string]func(at string) error{
			"another byte": func(at string) error {
				f, err := os.OpenFile(at, os.O_WRONLY, 0)
				if err == nil {
					_, err = f.WriteAt([]byte("!"), 7*proto.BlockSize)
				}
				return err
			},
			"cut short": func(at string) error { return os.Truncate(at, 8*proto.BlockSize) },
			"gone":      os.Remove,
			"a directory": func(at string) error {
				if err := os.Remove(at); err != nil {
					return err
				}
				return os.Mkdir(at, 0o755)
			},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				t.Parallel()
				w, at, old, next := built(t, wrap)
				require.NoError(t, spoil(at))
				w.change("media", "image", old, next)
				w.eventually(func() bool { return w.row("nas").ReleasedObjects == 1 }, "the whole is not asked for")
				w.eventually(func() bool { return w.happened(flush.ContentAsked) == 1 }, "it is not told")
				rep, err := ledger.Asked(w.led, w.dataset("media").Dataset, 0, 10)
				require.NoError(t, err)
				require.Len(t, rep.Items, 1)
				w.large("media", "image", next, 2*proto.BlockSize)
				w.passing(time.Second, func() bool { return w.owed("nas") == 0 }, "it is not flushed")
				got, err := os.ReadFile(at)
				require.NoError(t, err)
				require.True(t, bytes.Equal(next, got))
			})
		}
	}
}

// A condition and the time to go count what is to be sent: not what the target uses again by itself.
func TestWhatTheTargetUsesAgainIsNotToBeSent(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		wrap  func(flush.LinkConfig, target.Target) target.Target
		waits string
	}{
		"it uses it again": {bare, "1.00MiB of 4MiB"},
		"it cannot":        {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, _, old, next := built(t, c.wrap)
			w.set("nas", "flush.size=4MiB", "flush.age=1h")
			w.change("media", "image", old, next)
			if c.waits == "" {
				w.drained("nas")
				return
			}
			w.eventually(func() bool { return strings.Contains(w.state("nas").Reason, c.waits) }, "waits for more")
			require.EqualValues(t, 1, w.owed("nas"))
			s := w.state("nas")
			require.Positive(t, s.RateBytesPerSecond)
			require.InDelta(t, proto.BlockSize/s.RateBytesPerSecond, s.ETA.Seconds(), 0.001)
			w.put("media", file("more", strings.Repeat("x", 3*proto.BlockSize)))
			w.drained("nas")
			require.EqualValues(t, 4*proto.BlockSize, w.charged("nas")-int64(len(old)), "what was sent of both")
		})
	}
}
