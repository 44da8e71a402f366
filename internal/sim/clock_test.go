package sim

import (
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// clock is the clock of one process's machine: a wall clock that is off, drifts and jumps, and a monotonic one that only
// drifts.
type clock struct {
	w     *world
	off   int64 // of the wall clock, in ns
	drift int64 // of both, in ns per second
}

// epochNs is the wall time at which every simulation begins: a Monday in May 2027, at noon.
const epochNs = int64(1_810_555_200) * int64(time.Second)

func (c *clock) mono() int64 { return c.w.now + c.w.now/int64(time.Second)*c.drift }

// now is the time as the process sees it, with a monotonic reading.
func (c *clock) now() time.Time { return stampAt(epochNs+c.mono()+c.off, c.mono()+int64(time.Hour)) }

// systemTime is the memory of a time.Time; TestStamp proves that it is.
type systemTime struct {
	wall uint64
	ext  int64
	loc  *time.Location
}

// stampAt makes a time in UTC whose wall clock and monotonic clock say what they are told to. Package time makes such times
// from the machine's clocks alone, and a simulated clock whose wall part jumps needs both.
func stampAt(wallNs, monoNs int64) time.Time {
	const since1885 = 2_682_288_000 // seconds from 1885, where times with a monotonic reading begin, to 1970
	sec := uint64(wallNs/int64(time.Second) + since1885)
	s := systemTime{wall: 1<<63 | sec<<30 | uint64(wallNs%int64(time.Second)), ext: monoNs}
	return *(*time.Time)(unsafe.Pointer(&s))
}

func TestStamp(t *testing.T) {
	t.Parallel()
	require.Equal(t, unsafe.Sizeof(time.Time{}), unsafe.Sizeof(systemTime{}))
	wall := time.Date(2031, 2, 3, 4, 5, 6, 789, time.UTC)
	a, b := stampAt(wall.UnixNano(), 5_000_000_000), stampAt(wall.UnixNano()-int64(400*24*time.Hour), 7_500_000_001)
	require.Equal(t, wall.UnixNano(), a.UnixNano())
	require.Equal(t, wall, a.Round(0))
	require.Equal(t, 2500*time.Millisecond+1, b.Sub(a), "the monotonic readings count")
	require.True(t, b.After(a))
	require.Equal(t, -400*24*time.Hour, b.Round(0).Sub(a.Round(0)), "the wall clock jumped back")
	require.Equal(t, wall.Add(time.Hour).UnixNano(), a.Add(time.Hour).UnixNano())
}
