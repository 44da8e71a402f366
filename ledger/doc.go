// Package ledger is the relay's record of versions, uploads, segments and what each link has done with them, as a pure state
// machine over key-value rows. Every change is an entry given to Apply, which reads and writes rows through a Tx and has no
// clock, no I/O of its own and no goroutine: what it needs to know of time and of who is alive stands in the entry. Entries
// are per segment or per batch, never per object, so that a replicated log can carry them one day.
//
// It stands between the relay, which fills it (arbitrate, ingest), and the flush, which empties it; the two meet here and
// nowhere else. It imports proto only; ledger/disk is its door to pebble.
//
// The life of a version: receiving (an Upload row, known by its upload id) -> sealed (a Version row, known by its place in
// the dataset's sequence) -> superseded (a newer version of the path is sealed) -> gone from the ledger once no link owes it.
// An upload that never completes is abandoned. The life of a version on a link: an Owed row in state cached, released
// (owed, but the cache no longer has its bytes) or parked (failed for good until an operator retries); no row: confirmed.
package ledger

// Format is the version of the rows. A ledger of a newer format is refused.
const Format = 1

// Rows is the read side of the ledger's storage: keys in byte order.
type Rows interface {
	// Get returns the value at key, nil when there is none. The value is the caller's.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for the rows with lo <= key < hi in order until fn returns false or an error. Key and value are valid
	// during the call only.
	Scan(lo, hi []byte, fn func(key, value []byte) (bool, error)) error
}

// Tx is a set of changes that becomes visible and durable as one. Reads see the changes made so far.
type Tx interface {
	Rows
	Set(key, value []byte) error
	Delete(key []byte) error
}
