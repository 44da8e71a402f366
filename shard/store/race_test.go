//go:build race

package store_test

// underRace says that pebble checks its invariants: it then gives up on tables whose keys are not those that MANIFEST says, so
// that exchanged and stale tables are tried without the race detector only.
const underRace = true
