package pick

import (
	"fmt"
	"slices"
	"testing"

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

// However many gave an object back, one of the others goes at once, and those that gave it back come after all of them.
func TestNextWaitsForNobodyWhoGaveItBack(t *testing.T) {
	t.Parallel()
	members := []proto.HolderID{3, 7, 8, 21}
	for i := range 200 {
		e := proto.LeaseEnded{Path: fmt.Sprint("file-", i), Holder: members[i%4], Unable: []proto.HolderID{members[(i+1)%4], members[i%4]}}
		left := []proto.HolderID{members[(i+2)%4], members[(i+3)%4]}
		require.ElementsMatch(t, []int{0, 1}, []int{Next(left[0], members, e), Next(left[1], members, e)})
		require.Equal(t, 2, Next(e.Holder, members, e))
		require.Equal(t, 2, Next(e.Unable[0], members, e))
		e.Unable = nil
		require.Equal(t, Rank(e.Path, left[0], slices.DeleteFunc(slices.Clone(members), func(m proto.HolderID) bool { return m == e.Holder })), Next(left[0], members, e))
	}
}
