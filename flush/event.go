package flush

import (
	"time"

	"forebay/proto"
)

// EventKind says what happened.
type EventKind string

// The kinds of events. One adapter of the relay turns them into logs, metrics and the event log.
const (
	LinkStalled   EventKind = "link-stalled"    // Err says why, Until when it is tried again
	LinkRecovered EventKind = "link-recovered"  // the target took something again
	LinkForced    EventKind = "link-forced"     // a batch goes only because the policy forces it; Reason says why
	BatchDone     EventKind = "batch-done"      // Objects, Bytes, Deletes, Forced, Took
	DeletesHeld   EventKind = "deletes-held"    // Objects deletes wait for approval; Reason
	ObjectParked  EventKind = "object-parked"   // Path, Version, Err
	ObjectFailed  EventKind = "object-failed"   // Path, Version, Err; tried again at Until
	SegmentLost   EventKind = "segment-lost"    // Segment, Err
	ContentAsked  EventKind = "content-asked"   // Objects that the cache cannot give are asked for from holders; Reason
	PolicyProblem EventKind = "policy-problem"  // Err: a value set by hand that does not go with the file
	LedgerFailed  EventKind = "ledger-failed"   // Err
	HistoryHeld   EventKind = "history-held"    // Reason: kept versions wait for approval of a shorter history.keep
	HistoryPruned EventKind = "history-pruned"  // Objects versions are given up, which were past history.keep
	TargetPutBack EventKind = "target-put-back" // Objects that the ledger knows to be there, and an older copy of the target lacks, are owed again; Reason
	JournalMended EventKind = "journal-mended"  // what could be read of a damaged journal was written anew; Objects that it did not name any more are owed again; Reason
	VersionLost   EventKind = "version-lost"    // Path, Version: it was to be kept, and the target did not have it any more
)

// Event is one thing that happened to a link. Fields that its kind does not name are zero.
type Event struct {
	Kind    EventKind
	Link    string
	At      time.Time
	Reason  string
	Err     error
	Until   time.Time
	Path    string
	Version proto.VersionID
	Segment uint64
	Objects int64
	Bytes   int64 // content put on the target
	Deletes int64
	Forced  int64 // of Bytes: outside the window
	Took    time.Duration
}
