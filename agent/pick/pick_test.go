package pick

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/proto"
)

func TestWeightIsFixedForAllReleases(t *testing.T) {
	t.Parallel()
	// Golden values: a change here makes holders of different releases upload the same objects twice.
	assert.Equal(t, uint64(0xb08e5d0b3a8a1fa0), Weight("a/b.txt", 1))
	assert.Equal(t, uint64(0x457036e71bef632a), Weight("a/b.txt", 2))
	assert.NotEqual(t, Weight("a", 1), Weight("b", 1))
}

func TestRanksOfAllMembersAreAPermutation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		members := rapid.SliceOfNDistinct(rapid.Uint32Range(1, 1000), 1, 12, rapid.ID).Draw(t, "members")
		ids := make([]proto.HolderID, len(members))
		for i, m := range members {
			ids[i] = proto.HolderID(m)
		}
		path := rapid.String().Draw(t, "path")
		seen := map[int]bool{}
		for _, m := range ids {
			seen[Rank(path, m, ids)] = true
		}
		for r := range ids {
			if !seen[r] {
				t.Fatalf("no member has rank %d", r)
			}
		}
	})
}

func TestLosingAMemberMovesOnlyItsPaths(t *testing.T) {
	t.Parallel()
	members := []proto.HolderID{3, 7, 8, 21}
	for i := range 2000 {
		path := fmt.Sprintf("dir-%d/file-%d", i%17, i)
		for _, gone := range members {
			rest := slices.DeleteFunc(slices.Clone(members), func(m proto.HolderID) bool { return m == gone })
			require.Len(t, rest, 3)
			for _, m := range rest {
				before, after := Rank(path, m, members), Rank(path, m, rest)
				if Rank(path, gone, members) < before {
					require.Equal(t, before-1, after)
				} else {
					require.Equal(t, before, after)
				}
			}
		}
	}
}

func TestWorkIsSpreadEvenly(t *testing.T) {
	t.Parallel()
	members := []proto.HolderID{1, 2, 3}
	first := map[proto.HolderID]int{}
	for i := range 9000 {
		for _, m := range members {
			if Rank(fmt.Sprintf("src/pkg%d/f%d.go", i%100, i), m, members) == 0 {
				first[m]++
			}
		}
	}
	for _, m := range members {
		assert.InDelta(t, 3000, first[m], 250)
	}
}

func TestStrangerComesLast(t *testing.T) {
	t.Parallel()
	assert.Equal(t, 2, Rank("x", 9, []proto.HolderID{1, 2}))
	assert.Equal(t, 0, Rank("x", 9, nil))
}

// However many members there are, the first goes at once, the second after the suspicion time, the last after three of them at most, and none
// before one that it comes after.
func TestTurnsAreBounded(t *testing.T) {
	t.Parallel()
	var ids []proto.HolderID
	for n := 1; n <= 300; n++ {
		ids = append(ids, proto.HolderID(7*n))
		path := fmt.Sprint("object ", n)
		waits := make([]time.Duration, n)
		for _, id := range ids {
			waits[Rank(path, id, ids)] = Turn(path, id, ids, 3*time.Second)
		}
		require.Zero(t, waits[0])
		require.True(t, slices.IsSorted(waits), waits)
		require.LessOrEqual(t, waits[n-1], 9*time.Second)
		require.LessOrEqual(t, Turn(path, 1, ids, 3*time.Second), 9*time.Second, "one that is no member")
		if n >= 2 {
			require.Equal(t, 3*time.Second, waits[1])
		}
		if n == 3 {
			require.Equal(t, 6*time.Second, waits[2])
		}
	}
	require.Zero(t, Turn("x", 9, nil, time.Second))
}

// However many gave an object back, one of the others goes at once, the rest within a quarter of the suspicion time, and those that gave it
// back come after all of them.
func TestNextWaitsForNobodyWhoGaveItBack(t *testing.T) {
	t.Parallel()
	const susp = 3 * time.Second
	next := func(h proto.HolderID, members []proto.HolderID, e proto.LeaseEnded) time.Duration {
		return Next(h, members, e, susp)
	}
	members := []proto.HolderID{3, 7, 8, 21}
	for i := range 200 {
		e := proto.LeaseEnded{Path: fmt.Sprint("file-", i), Holder: members[i%4], Unable: []proto.HolderID{members[(i+1)%4], members[i%4]}}
		left := []proto.HolderID{members[(i+2)%4], members[(i+3)%4]}
		require.ElementsMatch(t, []time.Duration{0, susp / 8}, []time.Duration{next(left[0], members, e), next(left[1], members, e)})
		require.GreaterOrEqual(t, next(e.Holder, members, e), susp)
		require.Equal(t, next(e.Holder, members, e), next(e.Unable[0], members, e))
		e.Unable = nil
		rank := Rank(e.Path, left[0], slices.DeleteFunc(slices.Clone(members), func(m proto.HolderID) bool { return m == e.Holder }))
		require.Equal(t, time.Duration(rank)*susp/12, next(left[0], members, e))
		e.Unable = members
		require.GreaterOrEqual(t, next(left[0], members, e), susp, "all have given it back")
	}
}
