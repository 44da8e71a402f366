package waves

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/flush/target"
	"forebay/proto"
)

func TestNext(t *testing.T) {
	t.Parallel()
	put := func(p string) target.Change { return target.Change{Op: target.OpPut, Path: p} }
	link := func(p, to string) target.Change {
		return target.Change{Op: target.OpLink, Path: p, Desc: proto.Desc{LinkTo: to}}
	}
	for _, c := range []struct {
		changes []target.Change
		n       int
	}{
		{nil, 0},
		{[]target.Change{put("a"), put("b"), put("a-b")}, 3},
		{[]target.Change{put("a"), put("a")}, 1},
		{[]target.Change{put("d"), put("d/f")}, 1},
		{[]target.Change{put("d/f"), put("e"), put("d")}, 2},
		{[]target.Change{put("d/e/f"), put("d/e/g"), put("d/h")}, 3},
		{[]target.Change{put("d/e/f"), put("d")}, 1},
		{[]target.Change{put("a"), link("l", "a")}, 1},
		{[]target.Change{link("l", "a"), put("a")}, 1},
		{[]target.Change{link("l", "d/a"), put("d")}, 1},
	} {
		require.Equal(t, c.n, Next(c.changes), "%+v", c.changes)
	}
}

// Whatever the changes, what depends on an earlier one comes after it, and each is carried out once.
func TestOrderIsKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "a/b", "a/b/c", "a/d", "b", "b/c", "a-b"}), 0, 30).Draw(t, "paths")
		changes := make([]target.Change, len(names))
		for i, p := range names {
			changes[i] = target.Change{Op: target.OpPut, Path: p, Stage: target.StageID(rune('A' + i))}
		}
		at := map[target.StageID]int{}
		for i, ch := range changes {
			at[ch.Stage] = i
		}
		var mu sync.Mutex
		done, running := map[int]bool{}, 0
		bad := errors.New("bad")
		errs := Commit(context.Background(), changes, 3, func(_ context.Context, ch target.Change) error {
			mu.Lock()
			i := at[ch.Stage]
			running++
			if running > 3 || done[i] {
				t.Errorf("%d at a time, or %d twice", running, i)
			}
			for j := range i {
				if related(names[j], names[i]) && !done[j] {
					t.Errorf("%d %q before %d %q", i, names[i], j, names[j])
				}
			}
			mu.Unlock()
			mu.Lock()
			defer mu.Unlock()
			running--
			done[i] = true
			if i%3 == 0 {
				return bad
			}
			return nil
		})
		require.Len(t, done, len(changes))
		for i, err := range errs {
			require.Equal(t, i%3 == 0, err != nil)
		}
	})
}

func related(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

func TestNothingAfterTheEnd(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(context.Background())
	errs := Commit(ctx, []target.Change{{Path: "a"}, {Path: "a"}, {Path: "b"}}, 1, func(context.Context, target.Change) error {
		stop()
		return nil
	})
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], context.Canceled)
	require.ErrorIs(t, errs[2], context.Canceled)
}
