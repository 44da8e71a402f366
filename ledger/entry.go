package ledger

import (
	"forebay/proto"
	"forebay/proto/segment"
)

// Entry is a change of the ledger. The set is closed: the types of this file. Entries hold everything Apply needs besides
// the rows, times included, so that applying the same entries in the same order gives the same rows anywhere.
type Entry interface{ apply(tx *txn) error }

// Apply carries out an entry. An error means that storage failed or an invariant is broken: the transaction must be dropped.
// What an entry refuses (a stale epoch, a duplicate) is not an error; it stands in the entry's result fields.
func Apply(tx Tx, e Entry) error {
	t := begin(tx)
	if err := e.apply(t); err != nil {
		return err
	}
	return t.flush()
}

// Start opens a new generation: the fence against everything that was granted before.
type Start struct {
	Relay proto.RelayID // used when the ledger is new
	Name  string
	// AtLeast is the highest generation found in the stores: after a rebuild the ledger's own may be lower.
	AtLeast uint32
	// Outdated: the stores, or the mark beside the ledger, know of later states of it. An AtLeast above the ledger's generation says so too.
	Outdated bool

	Meta Meta // result
}

// RegisterHolder makes a root known, or notes that its index was made anew.
type RegisterHolder struct {
	Dataset  proto.Dataset
	Node     string
	Root     string
	Index    string
	Instance string
	Software string
	NowNs    int64
	UpNs     int64  // the running time
	Told     uint64 // proto.Root.Told

	Holder  HolderRow // result
	PutBack bool      // result: the index is older than what was seen of it, or not the one that was seen last and not fresh
}

// ForgetNode removes a node and its holders: they hold up no delete and no tombstone any more.
type ForgetNode struct{ Cluster, Node string }

// Tick notes the relay's running time. It never goes back.
type Tick struct{ UpNs int64 }

// UpdateNode notes signs of life and an operator's cordon.
type UpdateNode struct {
	Cluster, Node string
	SeenNs        int64
	SeenUp        int64
	Cordoned      *bool
	Takeovers     int64 // added
	Cursors       map[proto.HolderID]Followed
}

// Followed is how far into its dataset's feed a holder has followed, with the index of which generation: a newer one has followed nothing yet.
type Followed struct {
	IndexGen uint32
	Cursor   proto.VersionID
}

// StoreSegment records a segment whose shards are durable, with everything its pieces bring about. The epoch of each piece
// is compared with the rows here, in the step that writes them (I7).
type StoreSegment struct {
	Seq       uint64
	Dataset   proto.DatasetID
	Length    int64
	Stored    int64
	Placement []byte
	Degraded  bool
	NowNs     int64
	Holder    proto.HolderID // who sent it; 0 for segments the relay wrote
	// Alive are the holders that are connected; for deletes, those that hold a delete up when they have the path.
	Alive  []proto.HolderID
	Pieces []segment.Piece
	// Stream is set when the uploads of the segment's ranges are larger than the room in the cache.
	Stream bool
	// Again is set when those that become streams with it bring a content that is asked for again.
	Again bool
	// Late are the segment's other pieces: they came when their lease was no longer in force, and do not count.
	Late []segment.Piece

	Results []Result // one a piece
	Noted   bool     // result: a rebuild would have to be told of pieces, see RefusedRow
}

// Result is what became of a piece.
type Result struct {
	proto.PieceResult
	// Bytes is what the piece added to the cache for some link or upload; the rest of its length is waste.
	Bytes int64
	// Same is what the piece added to an upload without bytes of its own.
	Same int64
	// Abandoned is set when the piece ended the upload (mismatch).
	Abandoned bool
	// Older is set with a stale piece whose content is an older one of its path.
	Older bool
}

// AbandonUpload drops an upload that will not be completed: its ranges belong to no version.
type AbandonUpload struct{ Upload proto.UploadID }

// ReportHoldings records what a holder proved to have, lacks, or has differently.
type ReportHoldings struct {
	Holder proto.HolderID
	// IndexGen is HolderRow.IndexGen of who speaks, 0 for whichever it is. The word of an index that was made anew since counts for
	// nothing.
	IndexGen uint32
	UpNs     int64 // the running time
	Have     []proto.HaveEntry
	Gone     []proto.GoneEntry
	Claims   []HoldingByPath
	ScanDone bool
	Bare     bool             // with ScanDone: it found nothing at all
	ScanUp   int64            // with ScanDone: a running time at or before the scan's beginning, 0 when none is known
	Told     uint64           // proto.Root.Told by now
	Alive    []proto.HolderID // holders of the dataset that take part

	// WantMeta are the indexes in Have for which MetaWanted says so.
	WantMeta []int
	// Stale: the index was made anew since, nothing was recorded.
	Stale bool
}

// HoldingByPath is a holding learnt from a claim.
type HoldingByPath struct {
	Path    string
	Holding Holding
}

// UnmarkGone takes paths off the list of paths gone from some holder: they are back everywhere, or a tombstone is made.
type UnmarkGone struct {
	Dataset proto.DatasetID
	Paths   []string
}

// Confirm records that a link's target has versions as durably as the link's confirm class says.
type Confirm struct {
	Link     LinkID
	Versions []proto.VersionID
	NowNs    int64
	Forced   int64  // bytes sent outside the window
	Deletes  int64  // deletes carried out, for the guard
	Batch    uint64 // see LinkRow
	Speed    int64  // see LinkRow; 0: nothing new is known
	Paced    bool   // it was held to a rate

	Objects, Bytes int64 // result: newly confirmed
}

// Park sets versions aside on a link, with the reason, until Retry.
type Park struct {
	Link     LinkID
	Versions []proto.VersionID
	Reasons  []string // one a version
	NowNs    int64
}

// Retry brings parked versions of a link back: those of Paths, or all.
type Retry struct {
	Link  LinkID
	Paths []string

	Count int64 // result
}

// Release lets go what the cache holds for a link: still owed, not cached, to be asked for again. Of versions without bytes
// of their own only the description in the stores is let go: they stay ready to be flushed. Superseded versions are kept: no
// holder could be asked for them.
type Release struct {
	Link     LinkID
	Versions []proto.VersionID

	Bytes int64 // result: content bytes that the link no longer needs from the cache
}

// SetLink creates a link or updates its settings. A new link owes what is sealed from now on; Seed entries add what was there
// before. Anew has a link begin anew that is the same: its target has nothing of it any more. What was set by hand stays.
type SetLink struct {
	Name     string
	From     proto.Dataset
	Target   string
	Prefix   string
	Coalesce bool
	Anew     bool
	NowNs    int64

	Link LinkRow // result
}

// Seed makes a new link owe the next Limit versions of those that were there before it.
type Seed struct {
	Link  LinkID
	Limit int

	Done bool // result
}

// OrphanLink notes that a link is no longer in the configuration.
type OrphanLink struct{ Link LinkID }

// DropLink gives up what a link owes, a recorded decision of an operator, and removes the link. It works in steps of Limit
// versions; repeat until Done, which a link that is gone is. From the first step on the name is free, and the link owes nothing new.
type DropLink struct {
	Link  LinkID
	Limit int

	Objects int64 // result: owed versions given up by this step
	Done    bool
}

// TuneLink changes a link's pause, overrides or delete approval.
type TuneLink struct {
	Link        LinkID
	Paused      *bool
	PausedUntil int64
	PausedUp    int64
	Set         map[string]Override
	Reset       []string // "*": all
	ApproveTo   proto.VersionID
	ApproveNs   int64
}

// LoseSegment records that a segment can no longer be read: what it held is asked for again from holders. A superseded
// version, which no holder could be asked for, is given up; the newer one takes its place. The segment is then on the free
// list.
type LoseSegment struct {
	Seq uint64

	Lost []string // result: the paths whose bytes were lost, at most a thousand
}

// MoveSegment records a new placement, after healing.
type MoveSegment struct {
	Seq       uint64
	Placement []byte
	Stored    int64
	Degraded  bool
}

// FreeSegments removes segments that were on the free list and whose space the stores have given back. It fails when one of
// them is needed.
type FreeSegments struct{ Seqs []uint64 }

// Waste counts payload bytes that came for nothing.
type Waste struct{ Bytes int64 }

// BumpScan asks all agents of the relay for a fresh scan.
type BumpScan struct{ Token uint64 } // result

// SetStores records the identities of the stores.
type SetStores struct{ Stores []byte }

// SetNote keeps a small value of the relay's own under a name: how far a long work is. An empty value removes it.
type SetNote struct {
	Name  string
	Value []byte
}

// AddEvent appends to the event log and drops what is older than Keep entries.
type AddEvent struct {
	Event proto.Event
	Keep  uint64

	Seq uint64 // result
}

// DropTombstones removes tombstones that every known holder of the dataset has seen and no link owes.
type DropTombstones struct {
	Dataset proto.DatasetID
	Paths   []string
}
