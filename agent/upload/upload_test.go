package upload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/fsmeta"
	"forebay/proto"
	"forebay/proto/segment"
)

// relay answers segments by a function and remembers them.
type relay struct {
	mu     sync.Mutex
	seen   []*segment.Segment
	answer func(s *segment.Segment) (proto.SegmentReply, error)
}

func (r *relay) Segment(_ context.Context, _ proto.SessionID, raw []byte) (proto.SegmentReply, error) {
	s, err := segment.Decode(append([]byte(nil), raw...))
	if err != nil {
		return proto.SegmentReply{}, err
	}
	r.mu.Lock()
	r.seen = append(r.seen, s)
	r.mu.Unlock()
	return r.answer(s)
}

func (*relay) Sums(context.Context, proto.SumsRequest) (proto.SumsReply, error) {
	return proto.SumsReply{}, errors.New("this relay keeps no digests")
}

// accept answers that everything is new; what completes a version gets number 7.
func accept(s *segment.Segment) (reply proto.SegmentReply, err error) {
	for _, p := range s.Header.Pieces {
		res := proto.PieceResult{State: proto.PieceAccepted}
		if p.Kind != segment.PieceRange {
			res.Version = 7
		}
		reply.Pieces = append(reply.Pieces, res)
	}
	return reply, nil
}

func always(state proto.PieceState, v proto.VersionID) func(*segment.Segment) (proto.SegmentReply, error) {
	return func(s *segment.Segment) (reply proto.SegmentReply, err error) {
		for range s.Header.Pieces {
			reply.Pieces = append(reply.Pieces, proto.PieceResult{State: state, Version: v})
		}
		return reply, nil
	}
}

// record is an Events that keeps everything.
type record struct {
	mu      sync.Mutex
	results map[string]Result
	acked   int64
	offsets []int64
	paused  []time.Duration
	broken  []error
}

func (r *record) Done(list []Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, res := range list {
		if _, twice := r.results[res.Job.Entry.Path]; twice {
			panic("a job ended twice")
		}
		r.results[res.Job.Entry.Path] = res
	}
}

func (r *record) Acked(n int64) { r.mu.Lock(); defer r.mu.Unlock(); r.acked += n }
func (r *record) Progress(p proto.ProgressItem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offsets = append(r.offsets, p.Acked)
}
func (r *record) Paused(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paused = append(r.paused, d)
}
func (r *record) Broken(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = append(r.broken, err)
}

// bench is an uploader over a directory.
type bench struct {
	*Uploader
	dir   string
	relay *relay
	rec   *record
}

func newBench(t *testing.T, answer func(*segment.Segment) (proto.SegmentReply, error)) *bench {
	t.Helper()
	dir := t.TempDir()
	root, err := fsmeta.OpenRoot(dir, fsmeta.NoXDev)
	require.NoError(t, err)
	t.Cleanup(func() { _ = root.Close() })
	b := &bench{dir: dir, relay: &relay{answer: answer}, rec: &record{results: map[string]Result{}}}
	b.Uploader = New(Deps{
		Relay: b.relay, Session: 1, Dataset: proto.Dataset{Cluster: "c", Name: "d"}, Tree: Dir{Root: root, Names: fsmeta.NewNames(10)},
		Window: NewWindow(0), Read: rate.NewLimiter(rate.Inf, proto.BlockSize), Events: b.rec,
	})
	return b
}

// put writes a file and returns the job to send it.
func (b *bench) put(t *testing.T, name string, size int64) Job {
	t.Helper()
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i>>20) + byte(i) + 1
	}
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, name), content, 0o644))
	return b.job(t, name)
}

func (b *bench) job(t *testing.T, name string) Job {
	t.Helper()
	st, _, err := b.Tree.Look(name)
	require.NoError(t, err)
	e := index.Entry{Path: name, Kind: proto.KindFile, State: index.StatePending, Stat: st}
	return Job{Entry: e, Upload: 3, Epoch: proto.Epoch{Generation: 1, Counter: 2}, Parent: 5}
}

func TestLargeSendsWhatIsMissingAndProvesTheRest(t *testing.T) {
	t.Parallel()
	b := newBench(t, accept)
	const size = 20<<20 + 77
	j := b.put(t, "big", size)
	j.Have = []proto.Range{{Offset: 0, Length: 9 << 20}, {Offset: 11 << 20, Length: 3<<20 + 5}, {Offset: 20 << 20, Length: 77}}
	b.Large(context.Background(), j)
	res := b.rec.results["big"]
	assert.Equal(t, Sealed, res.Outcome)
	assert.Equal(t, proto.VersionID(7), res.Version)
	content, err := os.ReadFile(filepath.Join(b.dir, "big"))
	require.NoError(t, err)
	assert.Equal(t, proto.ContentDigest(content), res.Sent.Digest)
	sent := map[int64]int64{}
	for _, s := range b.relay.seen {
		p := s.Header.Pieces[0]
		assert.Equal(t, j.Epoch, p.Epoch)
		if p.Kind == segment.PieceRange {
			sent[p.Offset>>20] = int64(p.Length) >> 20
		} else {
			assert.Equal(t, res.Sent.Digest, p.Desc.Digest)
		}
	}
	assert.Equal(t, map[int64]int64{9: 1, 10: 1, 14: 6}, sent, "a block that the relay has in part goes whole")
	assert.Equal(t, int64(8<<20), b.rec.acked)
	assert.Equal(t, int64(size), b.rec.offsets[len(b.rec.offsets)-1])
	assert.Zero(t, b.Window.Under())
}

// looked is a Tree that counts how often an open file's state was asked for, which is done at each reading to be sent.
type looked struct {
	Tree
	n atomic.Int64
}

func (l *looked) Stat(f *os.File) (index.Stat, error) { l.n.Add(1); return l.Tree.Stat(f) }

// What is carried on begins with one block, and until that is acknowledged nothing else is sent or read: on a slow path whole
// segments side by side would take seconds, in which nobody would know whether the upload goes on.
func TestCarriedOnBeginsSmall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		look := &looked{Tree: b.Tree}
		b.Tree = look
		b.relay.answer = func(s *segment.Segment) (proto.SegmentReply, error) {
			if p := s.Header.Pieces[0]; p.Offset == 16<<20 {
				synctest.Wait() // all others have done what they can
				assert.EqualValues(t, proto.BlockSize, p.Length)
				assert.EqualValues(t, proto.BlockSize, b.Window.Under())
				assert.Len(t, b.relay.seen, 1)
				assert.EqualValues(t, 2, look.n.Load(), "at the opening, and for this block")
			}
			return accept(s)
		}
		j := b.put(t, "big", 60<<20)
		j.Have = []proto.Range{{Offset: 0, Length: 16 << 20}}
		b.Large(t.Context(), j)
		assert.Equal(t, Sealed, b.rec.results["big"].Outcome)
		assert.EqualValues(t, 16<<20, b.relay.seen[0].Header.Pieces[0].Offset)
	})
}

func TestLargeEnds(t *testing.T) {
	t.Parallel()
	onSeal := func(state proto.PieceState, v proto.VersionID) func(*segment.Segment) (proto.SegmentReply, error) {
		return func(s *segment.Segment) (proto.SegmentReply, error) {
			if s.Header.Pieces[0].Kind == segment.PieceSeal {
				return always(state, v)(s)
			}
			return accept(s)
		}
	}
	for _, c := range []struct {
		name    string
		answer  func(*segment.Segment) (proto.SegmentReply, error)
		outcome Outcome
		fault   settle.Fault
	}{
		{"sent before", onSeal(proto.PieceEqual, 3), Sealed, 0},
		{"asked for again", onSeal(proto.PieceAccepted, 2), Sealed, 0},
		{"older version", onSeal(proto.PieceLags, 3), Lags, 0},
		{"prefix is of other content", onSeal(proto.PieceMismatch, 0), Again, 0},
		{"ranges are missing", onSeal(proto.PieceMissing, 0), Again, 0},
		{"stale epoch at once", always(proto.PieceStale, 0), Again, 0},
		{"duplicates all the way", func(s *segment.Segment) (proto.SegmentReply, error) {
			if s.Header.Pieces[0].Kind == segment.PieceSeal {
				return accept(s)
			}
			return always(proto.PieceDuplicate, 0)(s)
		}, Sealed, 0},
		{"refused for good", func(*segment.Segment) (proto.SegmentReply, error) {
			return proto.SegmentReply{}, proto.Errorf(proto.ClassPermanent, "no")
		}, Failed, settle.FaultRefused},
		{"corrupt, again and again", func(*segment.Segment) (proto.SegmentReply, error) {
			return proto.SegmentReply{}, proto.Errorf(proto.ClassCorrupt, "bits")
		}, Failed, settle.FaultRefused},
		{"session over", func(*segment.Segment) (proto.SegmentReply, error) {
			return proto.SegmentReply{}, proto.Errorf(proto.ClassConflict, "unknown session")
		}, Lost, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, c.answer)
			j := b.put(t, "big", 9<<20)
			j.Parent = 2
			b.Large(context.Background(), j)
			res := b.rec.results["big"]
			assert.Equal(t, c.outcome, res.Outcome)
			if res.Outcome == Sealed {
				assert.Equal(t, c.name != "duplicates all the way", res.Known, "whether its metadata came with it")
			}
			if c.fault != 0 {
				assert.Equal(t, c.fault, res.Bad.Fault)
			}
			assert.Equal(t, c.name == "session over", len(b.rec.broken) > 0)
			if c.name == "duplicates all the way" {
				assert.Zero(t, b.rec.acked, "what was acknowledged before is not counted again")
			}
			assert.Zero(t, b.Window.Under())
		})
	}
}

// The file changes while its first segments are answered, or only once all of them have been read.
func TestChangeWhileReadingIsFailedNotMixed(t *testing.T) {
	t.Parallel()
	for _, from := range []int{1, 3} {
		t.Run(fmt.Sprintf("from segment %d", from), func(t *testing.T) {
			t.Parallel()
			var b *bench
			var n atomic.Int64
			b = newBench(t, func(s *segment.Segment) (proto.SegmentReply, error) {
				if n.Add(1) < int64(from) {
					return accept(s)
				}
				f, err := os.OpenFile(filepath.Join(b.dir, "big"), os.O_APPEND|os.O_WRONLY, 0)
				if err == nil {
					_, err = f.Write([]byte("x"))
					_ = f.Close()
				}
				if err != nil {
					return proto.SegmentReply{}, proto.Errorf(proto.ClassPermanent, "%w", err)
				}
				return accept(s)
			})
			b.Large(context.Background(), b.put(t, "big", 17<<20))
			res := b.rec.results["big"]
			require.Equal(t, Failed, res.Outcome)
			assert.Equal(t, settle.FaultChanged, res.Bad.Fault)
			require.NotNil(t, res.Bad.Fresh)
			assert.Greater(t, res.Bad.Fresh.Size, int64(17<<20))
			for _, s := range b.relay.seen {
				assert.NotEqual(t, segment.PieceSeal, s.Header.Pieces[0].Kind)
			}
		})
	}
}

func TestPackSendsNeighboursTogetherAndSparesThemABadOne(t *testing.T) {
	t.Parallel()
	b := newBench(t, accept)
	jobs := []Job{b.put(t, "a", 10), b.put(t, "b", 3<<20), b.put(t, "c", 0), b.put(t, "d", 6<<20), b.put(t, "e", 20), b.put(t, "gone", 20), b.put(t, "was", 20), b.put(t, "z", proto.MaxPayload)}
	require.NoError(t, os.Remove(filepath.Join(b.dir, "gone")))
	require.NoError(t, os.Remove(filepath.Join(b.dir, "was")))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(b.dir, "was")))
	jobs[4].Entry.Attempts = 1
	b.Pack(context.Background(), jobs)
	assert.Len(t, b.rec.results, len(jobs))
	for _, j := range jobs {
		res := b.rec.results[j.Entry.Path]
		if j.Entry.Path == "gone" || j.Entry.Path == "was" {
			assert.Equal(t, Failed, res.Outcome)
			assert.True(t, res.Bad.Gone)
			continue
		}
		assert.Equal(t, Sealed, res.Outcome, j.Entry.Path)
		assert.NotZero(t, res.Sums)
	}
	var together [][]string
	for _, s := range b.relay.seen {
		var names []string
		for _, p := range s.Header.Pieces {
			names = append(names, p.Path)
		}
		together = append(together, names)
	}
	assert.ElementsMatch(t, [][]string{{"a", "b", "c"}, {"d"}, {"e"}, {"z"}}, together)
	assert.Equal(t, int64(10+(3<<20)+(6<<20)+20+proto.MaxPayload), b.rec.acked)
}

func TestOverloadAndLostAnswersAreSentAgainWithTheSameBytes(t *testing.T) {
	t.Parallel()
	n := 0
	b := newBench(t, nil)
	b.relay.answer = func(s *segment.Segment) (proto.SegmentReply, error) {
		n++
		switch n {
		case 1:
			e := proto.Errorf(proto.ClassOverload, "full")
			e.RetryAfter = 20 * time.Millisecond
			return proto.SegmentReply{}, e
		case 2:
			return proto.SegmentReply{}, errors.New("connection reset")
		}
		return always(proto.PieceDuplicate, 7)(s)
	}
	b.Pack(context.Background(), []Job{b.put(t, "a", 1000)})
	assert.Equal(t, Sealed, b.rec.results["a"].Outcome)
	assert.Equal(t, []time.Duration{20 * time.Millisecond}, b.rec.paused)
	require.Len(t, b.relay.seen, 3)
	assert.Equal(t, b.relay.seen[0].Raw, b.relay.seen[2].Raw)
}

func TestStoppingEndsEveryJobOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	b := newBench(t, func(*segment.Segment) (proto.SegmentReply, error) {
		cancel()
		return proto.SegmentReply{}, errors.New("cut off")
	})
	jobs := []Job{b.put(t, "a", 5<<20), b.put(t, "b", 5<<20), b.put(t, "c", 5<<20)}
	b.Pack(ctx, jobs)
	b.Large(ctx, b.put(t, "big", 9<<20))
	assert.Len(t, b.rec.results, 4)
	for p, res := range b.rec.results {
		assert.Equal(t, Lost, res.Outcome, p)
	}
}

func TestHashEqualsContentDigestAlsoOfHoles(t *testing.T) {
	t.Parallel()
	b := newBench(t, accept)
	for _, size := range []int64{0, 1, proto.BlockSize, 3<<20 + 1} {
		j := b.put(t, "f", size)
		content, err := os.ReadFile(filepath.Join(b.dir, "f"))
		require.NoError(t, err)
		d, err := Hasher{Tree: b.Tree}.Hash(context.Background(), j.Entry, func(context.Context) error { return nil })
		require.NoError(t, err)
		assert.Equal(t, proto.ContentDigest(content), d)
	}
	require.NoError(t, os.Truncate(filepath.Join(b.dir, "f"), 9<<20+3))
	content, err := os.ReadFile(filepath.Join(b.dir, "f"))
	require.NoError(t, err)
	d, err := Hasher{Tree: b.Tree}.Hash(context.Background(), b.job(t, "f").Entry, func(context.Context) error { return nil })
	require.NoError(t, err)
	assert.Equal(t, proto.ContentDigest(content), d)
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	const size = 5<<20 + 9 // six blocks, the last short
	b := newBlocks(size)
	b.setWithin(1, 3<<20, size) // blocks 1 and 2 lie wholly within
	assert.Equal(t, []bool{false, true, true, false, false, false}, []bool{b.has(0), b.has(1), b.has(2), b.has(3), b.has(4), b.has(5)})
	b.setWithin(5<<20, 100, size)
	assert.True(t, b.has(5))
	from, to, ok := b.next(1, 8)
	assert.Equal(t, []any{int64(3), int64(5), true}, []any{from, to, ok})
	_, _, ok = b.next(5, 8)
	assert.False(t, ok)
}

// reading is a Tree that tells when the content of a file has been read and nothing after it.
type reading struct {
	Tree
	read func()
}

func (r reading) Meta(f *os.File) (proto.Meta, error) { r.read(); return r.Tree.Meta(f) }

// A small file that changes while it is read is not sent as what it was when the reading began (I8).
func TestChangeWhileASmallFileIsReadIsFailedNotMixed(t *testing.T) {
	t.Parallel()
	b := newBench(t, accept)
	b.Tree = reading{b.Tree, func() {
		f, err := os.OpenFile(filepath.Join(b.dir, "a"), os.O_APPEND|os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.Write([]byte("x"))
		require.NoError(t, errors.Join(err, f.Close()))
	}}
	b.Pack(context.Background(), []Job{b.put(t, "a", 10)})
	res := b.rec.results["a"]
	require.Equal(t, Failed, res.Outcome)
	assert.Equal(t, settle.FaultChanged, res.Bad.Fault)
	assert.Empty(t, b.relay.seen)
}

// The window outlives sessions: who gives up waiting for it, in either queue, takes nothing of it along (I16).
func TestWindowLosesNothingToThoseWhoGiveUp(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int64{"segments": 1, "bytes": 100} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := NewWindow(100)
				var leave []func()
				for range maxPuts {
					l, err := w.enter(t.Context(), 1)
					require.NoError(t, err)
					leave = append(leave, l)
				}
				for range 100 { // sessions
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					_, err := w.enter(ctx, n)
					require.ErrorIs(t, err, context.DeadlineExceeded)
					cancel()
				}
				for _, l := range leave {
					l()
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				l, err := w.enter(ctx, 100)
				require.NoError(t, err, "nobody is under way, and there is no room")
				l()
				require.Zero(t, w.Under())
			})
		})
	}
}
