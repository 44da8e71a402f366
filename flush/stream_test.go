package flush_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/ledger/ledgertest"
	"forebay/proto"
	"forebay/proto/segment"
)

// pump is a holder and a relay that stream one object: within an allowance of the cache, in ranges of one block.
type pump struct {
	w         *world
	h         ledger.HolderRow
	path      string
	content   []byte
	up        proto.UploadID
	allowance int64
	peak      int64    // of the bytes that the stores held
	without   []string // links that are not waited for
	again     int      // uploads that were lost
	ver       proto.VersionID
}

func (w *world) pump(path string, blocks int) *pump {
	p := &pump{w: w, h: w.dataset("media"), path: path, content: make([]byte, blocks*proto.BlockSize-100), allowance: 4 * proto.BlockSize}
	for i := range p.content {
		p.content[i] = byte(i>>12) + byte(i)
	}
	w.stream = true
	w.upload++
	p.up = w.upload
	return p
}

// free does what the relay does: it lets go of what targets have, and of segments that nothing needs.
func (p *pump) free() {
	w := p.w
	w.t.Helper()
	m, err := ledger.ReadMeta(w.led)
	require.NoError(w.t, err)
	p.peak = max(p.peak, m.StoredBytes)
	e := &ledger.FreeStaged{Upload: p.up}
	for _, n := range p.without {
		e.Without = append(e.Without, w.row(n).ID)
	}
	w.apply(e)
	if e.Lost {
		p.again++
		w.apply(&ledger.AbandonUpload{Upload: p.up})
		w.upload++
		p.up = w.upload
	}
	seqs, err := ledger.FreeList(w.led, 1000)
	require.NoError(w.t, err)
	w.apply(&ledger.FreeSegments{Seqs: seqs})
	w.mu.Lock()
	for _, s := range seqs {
		delete(w.segments, s)
	}
	w.mu.Unlock()
}

// step sends the next range when there is room for it, or seals; it returns true when it has sealed.
func (p *pump) step() bool {
	w := p.w
	w.t.Helper()
	p.free()
	u, _, err := ledger.Upload(w.led, p.up)
	require.NoError(w.t, err)
	piece := segment.Piece{Path: p.path, Upload: p.up, Epoch: proto.Epoch{Generation: 1, Counter: uint64(p.up)}, Parent: w.current(p.h.Dataset, p.path)}
	if u.Acked == int64(len(p.content)) {
		piece.Kind, piece.Desc = segment.PieceSeal, obj{path: p.path, kind: proto.KindFile, content: p.content}.desc()
		w.store(p.h, p.h.ID, []segment.Piece{piece}, nil)
		p.ver = w.current(p.h.Dataset, p.path)
		require.NoError(w.t, w.led.View(ledgertest.Check))
		return true
	}
	run := p.content[u.Acked:min(u.Acked+proto.BlockSize, int64(len(p.content)))]
	if u.Acked-u.Gone+int64(len(run)) > p.allowance {
		w.clock.advance(10 * time.Millisecond)
		return false
	}
	piece.Kind, piece.Offset, piece.Length, piece.ObjectSize, piece.Blocks = segment.PieceRange, u.Acked, uint32(len(run)), int64(len(p.content)), proto.BlockDigests(nil, run)
	w.store(p.h, p.h.ID, []segment.Piece{piece}, run)
	return false
}

// run streams the whole object.
func (p *pump) run() {
	p.w.t.Helper()
	p.w.eventually(p.step, "%q streams", p.path)
}

// upTo streams until so many bytes were let go.
func (p *pump) upTo(gone int64) {
	p.w.t.Helper()
	p.w.eventually(func() bool {
		require.False(p.w.t, p.step())
		u, _, err := ledger.Upload(p.w.led, p.up)
		require.NoError(p.w.t, err)
		return u.Gone >= gone
	}, "%q streams up to %d", p.path, gone)
}

func (p *pump) arrived(root string, n int) {
	p.w.t.Helper()
	got := tree(p.w.t, root)
	require.Len(p.w.t, got, n)
	require.True(p.w.t, got[p.path] == string(p.content), "the content of %q", p.path)
	p.w.eventually(func() bool { return len(stagedFiles(p.w.t, root)) == 0 }, "%v stays staged", stagedFiles(p.w.t, root))
}

func TestObjectLargerThanTheCacheFlowsThrough(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.link("a", "media", "size=1GiB", "age=1h", "confirm=reread")
	w.start()
	p := w.pump("big", 5*4)
	p.upTo(2 * proto.BlockSize)
	assert.Contains(t, w.state("a").Reason, `streaming "big" through the cache`, "conditions are not waited for")
	assert.True(t, w.engine.CanStage("a"))
	p.run()
	w.passing(10*time.Minute, func() bool { return w.owed("a") == 0 }, "its version is completed under the link's conditions")
	p.arrived(root, 1)
	assert.LessOrEqual(t, p.peak, p.allowance+64<<10, "bytes in the cache, with headers")
	assert.Equal(t, int64(len(p.content)), w.written("a"), "each byte is written once")
	w.verified("a")
	p.free()
	m, err := ledger.ReadMeta(w.led)
	require.NoError(t, err)
	assert.Zero(t, m.Segments)
}

// deaf is a target that is not there as long as it is off.
type deaf struct {
	target.Target
	off *atomic.Bool
}

func (d deaf) Probe(ctx context.Context) (target.Info, error) {
	if d.off.Load() {
		return target.Info{}, proto.Errorf(proto.ClassTransient, "not there")
	}
	return d.Target.Probe(ctx)
}

func TestStreamGoesOnWhileALinkIsStalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var off atomic.Bool
	off.Store(true)
	w.wrap = func(l flush.LinkConfig, t target.Target) target.Target {
		if l.Name == "b" {
			return deaf{t, &off}
		}
		return t
	}
	a, b := w.link("a", "media"), w.link("b", "media")
	w.start()
	w.eventually(func() bool { return w.state("b").State == flush.StateStalled }, "b is stalled")
	assert.False(t, w.engine.CanStage("b"))
	p := w.pump("big", 12)
	p.without = []string{"b"}
	p.run()
	w.drained("a")
	p.arrived(a, 1)
	require.EqualValues(t, 1, w.row("b").ReleasedObjects, "owed, and asked for again")

	off.Store(false)
	w.passing(time.Second, func() bool { return w.state("b").State != flush.StateStalled }, "b is back")
	w.asked = true
	again := w.pump("big", 12)
	again.run()
	w.drained("b")
	again.arrived(b, 1)
	assert.Equal(t, int64(len(p.content)), w.written("a"), "what comes again is for b alone")
}

func TestTargetLosesWhatWasStreamed(t *testing.T) {
	t.Parallel()
	lose := func(root string) {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, proto.ReservedName), func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.Contains(d.Name(), "-u") {
				err = os.Remove(path)
			}
			return err
		}))
	}
	t.Run("while it streams", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		root := w.link("a", "media")
		w.start()
		p := w.pump("big", 12)
		p.upTo(3 * proto.BlockSize)
		w.kill()
		lose(root)
		w.start()
		p.run()
		require.Positive(t, p.again, "it was sent anew")
		w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "drained")
		p.arrived(root, 1)
	})
	t.Run("after the seal", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t)
		root := w.link("a", "media", "size=1GiB", "age=1h")
		w.start()
		p := w.pump("big", 12)
		p.run()
		w.kill()
		lose(root)
		w.clock.advance(2 * time.Hour)
		w.start()
		w.passing(time.Second, func() bool { return w.row("a").ReleasedObjects == 1 }, "it is asked for again")
		p = w.pump("big", 12)
		p.run()
		w.passing(10*time.Minute, func() bool { return w.owed("a") == 0 }, "drained")
		p.arrived(root, 1)
	})
}

func TestStreamThatIsGivenUpLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.link("a", "media")
	w.start()
	p := w.pump("big", 12)
	p.upTo(3 * proto.BlockSize)
	w.stream = false
	w.put("media", file("big", "small now"))
	w.drained("a")
	p.w.eventually(func() bool { return len(stagedFiles(t, root)) == 0 }, "what was staged is removed")
	require.Equal(t, map[string]string{"big": "small now"}, tree(t, root))
}

func TestStreamKeepsToTheWindow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media", "window=22:00-23:00", "timezone=UTC")
	w.start()
	p := w.pump("big", 12)
	for range 20 {
		require.False(t, p.step())
	}
	w.eventually(func() bool { return strings.Contains(w.state("a").Reason, "waiting:") }, "it says what it waits for")
	require.Zero(t, w.written("a"), "I14")
	w.clock.advance(10*time.Hour + time.Minute)
	p.run()
	w.drained("a")
}

func TestStreamGoesOnAfterACrashAtEveryStep(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		t.Run(fmt.Sprintf("after=%v", after), func(t *testing.T) {
			t.Parallel()
			n := 1
			for streamCrashAt(t, n, after) {
				n += 3
			}
			assert.Greater(t, n, 20, "steps were met")
		})
	}
}

// streamCrashAt kills the engine at step n of a stream and starts another; it returns false when there were fewer steps.
func streamCrashAt(t *testing.T, n int, after bool) bool {
	t.Helper()
	w := newWorld(t)
	root := w.link("a", "media")
	b := &bomb{left: n, after: after, blown: make(chan struct{})}
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return fused{t, b} }
	w.door = func(l flush.Ledger) flush.Ledger { return fusedLedger{l, b} }
	w.start()
	p := w.pump("big", 10)
	blown, sealed := false, false
	step := func() bool {
		select {
		case <-b.blown:
			return true
		default:
		}
		sealed = sealed || p.step()
		return sealed && w.owed("a") == 0
	}
	w.eventually(step, "step %d is reached, or there is none", n)
	select {
	case <-b.blown:
		blown = true
	default:
	}
	if blown {
		w.kill()
		w.wrap, w.door = nil, nil
		w.start()
	}
	w.eventually(func() bool {
		sealed = sealed || p.step()
		return sealed
	}, "step %d after %v: it streams on", n, after)
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "drained")
	p.arrived(root, 1)
	require.Zero(t, p.again, "nothing has to be sent anew")
	require.LessOrEqual(t, p.peak, p.allowance+64<<10)
	w.kill()
	return blown
}

// What is streamed through a small cache may itself be small, smaller than what is worth going on with after a restart: what is
// staged of it is all there is, for the cache has let go of it.
func TestObjectThatStreamsMayBeSmall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.link("a", "media", "size=1GiB", "age=1h")
	w.start()
	p := w.pump("small", 4)
	p.allowance = 2 * proto.BlockSize
	p.run()
	w.passing(10*time.Minute, func() bool { return w.owed("a") == 0 }, "its version is completed")
	p.arrived(root, 1)
	assert.Zero(t, p.again, "nothing of it was lost")
	assert.Zero(t, w.row("a").ReleasedObjects)
	assert.Equal(t, int64(len(p.content)), w.written("a"), "each byte is written once")
}

// behind is a target that has made less durable than it was given, as its Sync says.
type behind struct {
	target.Target
	by     int64
	staged atomic.Int32
}

func (b *behind) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	b.staged.Add(1)
	s, err := b.Target.Stage(ctx, c)
	return behindStage{s, b.by}, err
}

type behindStage struct {
	target.Stage
	by int64
}

func (s behindStage) Sync() (int64, error) {
	n, err := s.Stage.Sync()
	return max(n-s.by, 0), err
}

// The cache lets go of what the target says is durable, however often it is asked, and of no more (I1, I2).
func TestStreamIsLetGoAsFarAsTheTargetHasIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b := &behind{by: 3*proto.BlockSize - 1}
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target {
		b.Target = t
		return b
	}
	w.link("a", "media")
	p := w.pump("big", 12)
	for range 4 {
		require.False(t, p.step())
	}
	w.start()
	w.eventually(func() bool {
		w.wake()
		d, err := ledger.Staged(w.led, p.up, w.row("a").ID)
		return err == nil && d > proto.BlockSize+1 || b.staged.Load() >= 4
	}, "it tries again and again, or believes that it has more")
	require.EqualValues(t, 4*proto.BlockSize, w.written("a"))
	w.kill() // else it goes on with what the next step brings
	require.False(t, p.step())
	u, _, err := ledger.Upload(w.led, p.up)
	require.NoError(t, err)
	require.EqualValues(t, proto.BlockSize, u.Gone, "of four blocks, one and a byte are durable")
}
