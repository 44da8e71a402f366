//go:build !race

package e2e

// withRace says that the tests run with the race detector, and so does the program.
const withRace = false
