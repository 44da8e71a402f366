// Package nearest guesses what a mistyped key or name was meant to be, for hints in errors: "unknown key adge, did you mean
// age?". It is a leaf and imports no other package of Forebay.
package nearest

import "strings"

// Name returns the one of names that s was most likely meant to be, "" when none is close. Case and the difference between
// '-' and '_' count for nothing. Of equally close ones it is the first.
func Name(s string, names []string) string {
	best, bestDistance := "", 1+max(1, len(s)/3)
	for _, name := range names {
		if d := distance(plain(s), plain(name)); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

func plain(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// distance is the number of letters to insert, delete, replace or swap with their neighbour to make b of a (optimal string
// alignment distance).
func distance(a, b string) int {
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
