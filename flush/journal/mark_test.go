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

// turns has several who use the same records take turns as a seed says, an operation each. Some fail before they are carried out, or after.
type turns struct {
	*memRecords
	ask  chan struct{}
	done chan string // how it goes
}

var errCut = proto.Errorf(proto.ClassTransient, "the connection was cut")

func (r turns) turn(do func() error) error {
	r.ask <- struct{}{}
	switch <-r.done {
	case "not sent":
		return errCut
	case "not answered":
		_ = do()
		return errCut
	}
	return do()
}

func (r turns) Put(ctx context.Context, name string, data []byte) error {
	return r.turn(func() error { return r.memRecords.Put(ctx, name, data) })
}

func (r turns) Create(ctx context.Context, name string, data []byte) error {
	return r.turn(func() error {
		if _, err := r.memRecords.Open(ctx, name); err == nil {
			return proto.Errorf(proto.ClassConflict, "%w", fs.ErrExist)
		}
		return r.memRecords.Put(ctx, name, data)
	})
}

func (r turns) Open(ctx context.Context, name string) (in io.ReadCloser, err error) {
	err = r.turn(func() (err error) { in, err = r.memRecords.Open(ctx, name); return err })
	return in, err
}

func (r turns) List(ctx context.Context, dir string) (names []string, err error) {
	err = r.turn(func() (err error) { names, err = r.memRecords.List(ctx, dir); return err })
	return names, err
}

func (r turns) Remove(ctx context.Context, name string) error {
	return r.turn(func() error { return r.memRecords.Remove(ctx, name) })
}

// race has relays mark prefixes of a target at once, and returns who got theirs.
func race(t *testing.T, rng *rand.Rand, rec *memRecords, faults int, prefixes ...string) (got []int) {
	t.Helper()
	var all []turns
	results := make([]chan error, len(prefixes))
	for i, prefix := range prefixes {
		r := turns{rec, make(chan struct{}), make(chan string)}
		all, results[i] = append(all, r), make(chan error, 1)
		o := Owner{Relay: proto.RelayID(i + 1).String(), Dataset: proto.Dataset{Cluster: "c", Name: "d"}, Prefix: []byte(prefix),
			MadeAt: time.Unix(1700000000+rng.Int64N(3), 0).UTC()}
		go func() {
			err := error(errCut)
			for n := 0; n < 20 && proto.ClassOf(err) == proto.ClassTransient; n++ { // as a link tries again, in a new session
				_, err = Mark(t.Context(), r, o)
			}
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
		how := ""
		if faults > 0 && rng.IntN(8) == 0 {
			how, faults = []string{"not sent", "not answered"}[rng.IntN(2)], faults-1
		}
		all[i].done <- how
		if _, more := <-all[i].ask; more {
			continue
		}
		waiting = append(waiting[:n], waiting[n+1:]...)
		switch err := <-results[i]; {
		case err == nil:
			got = append(got, i)
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
	for n := range 1000 {
		prefixes := places[rng.IntN(len(places))]
		rec := newMemRecords()
		got := race(t, rng, rec, n%2*4, prefixes...)
		require.LessOrEqual(t, len(got), 1, "%q: %v", prefixes, got)
		marks, err := Marks(t.Context(), rec)
		require.NoError(t, err)
		won[len(got)]++
		if n%2 == 0 {
			require.Len(t, marks, len(got), "%q", prefixes)
		} // else one may not have been withdrawn
		again := race(t, rng, rec, 0, prefixes...)
		if len(got) == 1 {
			require.Equal(t, got, again, "whoever has it keeps it")
		}
		require.LessOrEqual(t, len(again), 1)
	}
	require.Positive(t, won[0], "none of them, who try again later")
	require.Positive(t, won[1])
}

var _ target.Creator = turns{}
