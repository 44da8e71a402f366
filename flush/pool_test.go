package flush

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/policy"
	"forebay/ledger"
	"forebay/units"
)

// sharing is links that send what a pool lets through, in the time of a synctest bubble.
type sharing struct {
	t     *testing.T
	pool  *pool
	mu    sync.Mutex
	sent  map[ledger.LinkID]int64
	total []sample // every grant
}

func share(t *testing.T, table string) *sharing {
	t.Helper()
	s := &sharing{t: t, pool: newPool(SystemClock(time.Now)), sent: map[ledger.LinkID]int64{}}
	s.limit(table)
	return s
}

func (s *sharing) limit(table string) {
	s.t.Helper()
	b, err := policy.ParseTimetable(table)
	require.NoError(s.t, err)
	s.pool.configure(Bandwidth{Table: b})
}

// send has workers of a link send as much as they can, resting after each piece, until stop.
func (s *sharing) send(id ledger.LinkID, weight, workers int, rest time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var own sync.WaitGroup
	for range workers {
		own.Add(1)
		go func() { // ends with stop
			defer own.Done()
			for {
				n := s.pool.chunk()
				if s.pool.take(ctx, id, weight, n) != nil {
					return
				}
				s.mu.Lock()
				s.sent[id] += int64(n)
				s.total = append(s.total, sample{time.Now(), int64(n)})
				s.mu.Unlock()
				if sleep(ctx, s.pool.clock, rest) != nil {
					return
				}
			}
		}()
	}
	return func() { cancel(); own.Wait() }
}

// during lets time pass and returns what each link sent in it.
func (s *sharing) during(d time.Duration) map[ledger.LinkID]float64 {
	s.mu.Lock()
	clear(s.sent)
	s.mu.Unlock()
	<-time.After(d)
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[ledger.LinkID]float64{}
	for id, n := range s.sent {
		out[id] = float64(n) / float64(units.MiB) / d.Seconds()
	}
	return out
}

// within checks that no second had more than a rate, and the pieces at its ends.
func (s *sharing) within(most units.Rate) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	piece := int64(0)
	for _, x := range s.total {
		piece = max(piece, x.bytes)
	}
	for i, first := range s.total {
		sum := int64(0)
		for _, x := range s.total[i:] {
			if x.at.Sub(first.at) > time.Second {
				break
			}
			sum += x.bytes
		}
		require.LessOrEqual(s.t, sum, int64(most)+2*piece, "in the second from %s", first.at)
	}
	s.total = nil
}

func TestBandwidthIsSharedByWeights(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := share(t, "10MiB/s")
		shares := func(got map[ledger.LinkID]float64, want map[ledger.LinkID]float64) {
			t.Helper()
			for id, w := range want {
				assert.InEpsilon(t, w, got[id], 0.03, "link %d: %v MiB/s", id, got)
			}
		}
		// Weights alone count, not how many workers a link has.
		stop1, stop2, stop3 := s.send(1, 1, 4, 0), s.send(2, 3, 1, 0), s.send(3, 6, 2, 0)
		shares(s.during(time.Minute), map[ledger.LinkID]float64{1: 1, 2: 3, 3: 6})
		// A link that stopped costs nobody anything.
		stop3()
		shares(s.during(time.Minute), map[ledger.LinkID]float64{1: 2.5, 2: 7.5})
		stop2()
		shares(s.during(time.Minute), map[ledger.LinkID]float64{1: 10})
		// One that comes back has its part, and no credit for the time that it was away.
		stop2 = s.send(2, 1, 4, 0)
		shares(s.during(10*time.Second), map[ledger.LinkID]float64{1: 5, 2: 5})
		// One that wants less than its part leaves the rest to the others, however heavy it is.
		slow := s.send(4, 1000, 1, time.Second)
		got := s.during(time.Minute)
		assert.Less(t, got[4], 0.7)
		assert.InEpsilon(t, 10, got[1]+got[2]+got[4], 0.03)
		slow()
		s.within(10 * units.Rate(units.MiB))
		// The rate changes while all wait.
		s.limit("2MiB/s")
		shares(s.during(time.Minute), map[ledger.LinkID]float64{1: 1, 2: 1})
		s.within(2 * units.Rate(units.MiB))
		s.limit("16MiB/s")
		shares(s.during(time.Minute), map[ledger.LinkID]float64{1: 8, 2: 8})
		s.within(16 * units.Rate(units.MiB))
		stop1()
		stop2()
	})
}

// A timetable's next entry is in force on time for those that wait, and for nobody else.
func TestSharedBandwidthFollowsItsTimetable(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // it is midnight, 2000-01-01 UTC
		s := share(t, "00:00,1M 00:05,4M")
		stop := s.send(1, 1, 2, 0)
		assert.InEpsilon(t, 1, s.during(5 * time.Minute)[1], 0.03)
		assert.InEpsilon(t, 4, s.during(time.Minute)[1], 0.03)
		s.within(4 * units.Rate(units.MiB))
		b, limit := s.pool.inForce()
		assert.Equal(t, 4*units.Rate(units.MiB), limit)
		assert.Equal(t, "00:00,1MiB/s 00:05,4MiB/s", b.Table.String())
		stop()
		// Unlimited lets those that wait go at once.
		s.limit("1KiB/s")
		done := make(chan error, 3)
		for range 3 {
			go func() { done <- s.pool.take(t.Context(), 1, 1, 1<<20) }() // ends when it is let through
		}
		synctest.Wait()
		require.Empty(t, done)
		s.limit("off")
		for range 3 {
			require.NoError(t, <-done)
		}
	})
}

// Who gives up is not waited for, and leaves no debt.
func TestGivingUpAShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := share(t, "64KiB/s")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.pool.take(ctx, 1, 1, 1<<20) }() // ends with ctx
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		require.Empty(t, s.pool.waiting)
		require.Empty(t, s.pool.ends)
		begun := time.Now()
		require.NoError(t, s.pool.take(t.Context(), 1, 1, 4<<10))
		assert.LessOrEqual(t, time.Since(begun), 100*time.Millisecond)
	})
}

// Where the first in the queue gives up, who is next goes on.
func TestGivingUpWakesWhoIsNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := share(t, "64KiB/s")
		ctx, cancel := context.WithCancel(t.Context())
		other, stop := context.WithCancel(t.Context())
		defer stop()
		first, next := make(chan error, 1), make(chan error, 1)
		go func() { first <- s.pool.take(ctx, 1, 1, 1<<20) }() // ends with ctx
		synctest.Wait()
		go func() { next <- s.pool.take(other, 2, 1, 4<<10) }() // ends when it is let through
		synctest.Wait()
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		select {
		case err := <-next:
			require.NoError(t, err)
		case <-time.After(time.Minute):
			require.Fail(t, "nobody is before it, and it waits")
		}
	})
}
