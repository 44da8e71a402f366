package journal

import (
	"context"
	"io"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// turns has several who use the same records take turns as a seed says, an operation each.
type turns struct {
	*memRecords
	ask, done chan struct{}
}

func (r turns) turn() {
	r.ask <- struct{}{}
	<-r.done
}

func (r turns) Put(ctx context.Context, name string, data []byte) error {
	r.turn()
	return r.memRecords.Put(ctx, name, data)
}

func (r turns) Create(ctx context.Context, name string, data []byte) error {
	r.turn()
	if _, err := r.memRecords.Open(ctx, name); err == nil {
		return proto.Errorf(proto.ClassConflict, "%w", fs.ErrExist)
	}
	return r.memRecords.Put(ctx, name, data)
}

func (r turns) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	r.turn()
	return r.memRecords.Open(ctx, name)
}

func (r turns) List(ctx context.Context, dir string) ([]string, error) {
	r.turn()
	return r.memRecords.List(ctx, dir)
}

func (r turns) Remove(ctx context.Context, name string) error {
	r.turn()
	return r.memRecords.Remove(ctx, name)
}

// race has relays mark prefixes of a target at once, and returns who got theirs.
func race(t *testing.T, rng *rand.Rand, rec *memRecords, prefixes ...string) (got []int) {
	t.Helper()
	var all []turns
	results := make([]chan error, len(prefixes))
	for i, prefix := range prefixes {
		r := turns{rec, make(chan struct{}), make(chan struct{})}
		all, results[i] = append(all, r), make(chan error, 1)
		o := Owner{Relay: proto.RelayID(i + 1).String(), Dataset: proto.Dataset{Cluster: "c", Name: "d"}, Prefix: []byte(prefix),
			MadeAt: time.Unix(1700000000+rng.Int64N(3), 0).UTC()}
		go func() {
			_, err := Mark(t.Context(), r, o)
			results[i] <- err
			close(r.ask)
		}()
	}
	var waiting []int
	for i := range all {
		waiting = append(waiting, i)
		<-all[i].ask // each does something
	}
	for len(waiting) > 0 {
		n := rng.IntN(len(waiting))
		i := waiting[n]
		all[i].done <- struct{}{}
		if _, more := <-all[i].ask; more {
			continue
		}
		waiting = append(waiting[:n], waiting[n+1:]...)
		switch err := <-results[i]; {
		case err == nil:
			got = append(got, i)
		case proto.ClassOf(err) == proto.ClassTransient:
			require.ErrorContains(t, err, "is gone again") // whoever was faster has withdrawn
		default:
			require.Equal(t, proto.ClassConflict, proto.ClassOf(err), "%v", err)
		}
	}
	return got
}

// Of relays that begin on the same place in the same moment, or on one inside of another's, at most one may, and only its mark stays.
func TestMarksMadeAtOnce(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	places := [][]string{{"a", "a"}, {"a", "a/in"}, {"", "a", "a"}, {"a/x", "a", "a/x"}}
	won := make([]int, 2)
	for range 500 {
		prefixes := places[rng.IntN(len(places))]
		rec := newMemRecords()
		got := race(t, rng, rec, prefixes...)
		require.LessOrEqual(t, len(got), 1, "%q: %v", prefixes, got)
		marks, err := Marks(t.Context(), rec)
		require.NoError(t, err)
		require.Len(t, marks, len(got), "%q", prefixes)
		won[len(got)]++
		if len(got) == 1 {
			require.Equal(t, prefixes[got[0]], string(marks[0].Prefix))
			require.Equal(t, proto.RelayID(got[0]+1).String(), marks[0].Relay)
			require.Equal(t, got, race(t, rng, rec, prefixes...), "whoever has it keeps it")
		}
	}
	require.Positive(t, won[0], "none of them, who try again later")
	require.Positive(t, won[1])
}

var _ target.Creator = turns{}
