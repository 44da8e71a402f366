package flush

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/proto"
)

type stillClock struct{ now time.Time }

func (c *stillClock) Now() time.Time                               { return c.now }
func (*stillClock) Timer(time.Duration) (<-chan time.Time, func()) { return nil, func() {} }

func TestTurnsGoByPriorityAndEndWithTheirContext(t *testing.T) {
	t.Parallel()
	clock := &stillClock{now: time.Unix(1_700_000_000, 0)}
	places := newTurns(1, clock)
	require.NoError(t, places.take(t.Context(), policy.LinkView{Link: "first"}))
	got := make(chan string)
	ask := func(ctx context.Context, link string, priority, queue int) {
		go func() { // ends when it has its turn
			if places.take(ctx, policy.LinkView{Link: link, Priority: priority}) == nil {
				got <- link
				places.done()
			} else {
				got <- link + " gave up"
			}
		}()
		require.Eventually(t, func() bool {
			places.mu.Lock()
			defer places.mu.Unlock()
			return len(places.waiting) == queue
		}, 10*time.Second, time.Millisecond)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ask(t.Context(), "low", -5, 1)
	ask(ctx, "impatient", 9, 2)
	ask(t.Context(), "high", 5, 3)
	cancel()
	assert.Equal(t, "impatient gave up", <-got)
	places.done()
	assert.Equal(t, "high", <-got)
	assert.Equal(t, "low", <-got)
	require.Eventually(t, func() bool { places.mu.Lock(); defer places.mu.Unlock(); return places.free == 1 }, 10*time.Second, time.Millisecond)
}

func TestOrder(t *testing.T) {
	t.Parallel()
	mk := func(op target.Op, path string) *item {
		it := &item{op: op, state: itemPicked}
		it.row.Path = path
		if op == target.OpPut {
			it.state = itemStaged
		}
		return it
	}
	b := &batch{items: []*item{
		mk(target.OpDelete, "d"), mk(target.OpDelete, "d/x"), mk(target.OpPut, "a/b/c"), mk(target.OpMkdir, "a/b"), mk(target.OpLink, "l"),
		mk(target.OpMkdir, "a"), mk(target.OpPut, "k"), mk(target.OpDelete, "k/in"), mk(target.OpDelete, "k/in/deep"), mk(0, "kept"),
	}}
	paths := func(items []*item) (out []string) {
		for _, it := range items {
			out = append(out, it.row.Path)
		}
		return out
	}
	o := order(b, false)
	assert.Equal(t, []string{"k/in/deep", "k/in", "a", "a/b", "a/b/c", "k", "d/x", "d"}, paths(o.first))
	assert.Equal(t, []string{"l"}, paths(o.links))
	assert.Equal(t, []string{"kept"}, paths(o.kept))
	assert.Equal(t, []string{"k/in/deep", "k/in", "d/x", "d", "a", "a/b", "a/b/c", "k"}, paths(order(b, true).first), "names that fold case: deletes first")
}

func TestStageNames(t *testing.T) {
	t.Parallel()
	id := stageName(3, 77, proto.BlockDigest([]byte("x")))
	require.NoError(t, target.CheckStageID(id))
	link, ver, digest, ok := parseStage(id)
	assert.True(t, ok)
	assert.EqualValues(t, 3, link)
	assert.EqualValues(t, 77, ver)
	assert.Equal(t, proto.BlockDigest([]byte("x")).Short(), digest)
	for _, bad := range []target.StageID{"", "x", "l1-v2", "l1-v2-", "v1-l2-aa", "l1-v2-a-b"} {
		_, _, _, ok := parseStage(bad)
		assert.False(t, ok, string(bad))
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	t.Parallel()
	e := &Engine{cfg: Config{}.withDefaults(), deps: Deps{Clock: &stillClock{now: time.Unix(1, 0)}}}
	l := newLink(e, LinkConfig{ID: 1})
	for tries := 1; tries < 100; tries++ {
		full := e.cfg.BackoffMax
		if tries < 9 {
			full = e.cfg.BackoffMin << (tries - 1)
		}
		d := l.backoff(tries, nil)
		assert.GreaterOrEqual(t, d, full/2)
		assert.LessOrEqual(t, d, full)
	}
	full := proto.Errorf(proto.ClassOverload, "full")
	full.RetryAfter = 30 * time.Second
	assert.Equal(t, 30*time.Second, l.backoff(1, full))
}

// Versions are looked through once each, the last stretch first, and a gap as a rebuild leaves it costs no more than a few looks.
func TestBackwards(t *testing.T) {
	t.Parallel()
	const above = 1 << 51
	has := func(v proto.VersionID) bool { return v <= 30_000 || v > above }
	next, looks := proto.VersionID(above+15_001), 0
	require.NoError(t, backwards(7, next, func(start, end proto.VersionID) (n int, more bool, err error) {
		require.Equal(t, next, end)
		require.Less(t, start, end)
		next, looks = start, looks+1
		if has(end-1) || has(start) {
			n = 1
		}
		return n, true, nil
	}))
	require.EqualValues(t, 7, next)
	require.Less(t, looks, 60)
	looks = 0
	require.NoError(t, backwards(1, 1_000_000, func(_, _ proto.VersionID) (int, bool, error) {
		looks++
		return 1, looks < 3, nil
	}))
	require.Equal(t, 3, looks)
}
