package proto

import "time"

// The agent API. Every call is POST to the relay's one HTTP port with a CBOR body of the request type and a CBOR answer of
// the reply type; an error is an Error in CBOR under Class.HTTPStatus. PathSegment is a PUT whose body is a segment (package
// segment), sent with Expect: 100-continue so that a relay that is full refuses it before the bytes travel.
const (
	PathHello   = "/v1/agent/hello"   // Hello -> HelloReply
	PathPoll    = "/v1/agent/poll"    // Poll -> PollReply
	PathClaim   = "/v1/agent/claim"   // ClaimBatch -> ClaimReply
	PathSegment = "/v1/agent/segment" // segment -> SegmentReply; header HeaderSession
	PathReport  = "/v1/agent/report"  // Report -> ReportReply
	PathFeed    = "/v1/agent/feed"    // FeedRequest -> FeedReply
	PathAsked   = "/v1/agent/asked"   // FeedRequest -> FeedReply: owed versions that the cache no longer has
	PathAbandon = "/v1/agent/abandon" // Abandon -> ReportReply
	PathSlow    = "/v1/agent/slow"    // Slow -> SlowReply
	PathSums    = "/v1/agent/sums"    // SumsRequest -> SumsReply: what the blocks of a current version are
	PathProbe   = "/v1/agent/probe"   // PUT of up to MaxProbe bytes that mean nothing -> ProbeReply

	HeaderSession = "Forebay-Session"
	ContentType   = "application/cbor"
)

// SessionID names one run of one agent at the relay. It ends when its poll connection is lost, when it has been silent for
// the suspicion time, when the agent says hello again, or when the relay restarts; with it end all its leases.
type SessionID uint64

// Hello announces an agent. The relay refuses a node name that another live agent (other Instance) has: ClassConflict.
type Hello struct {
	Version  int    `cbor:"1,keyasint"`
	Software string `cbor:"2,keyasint"`
	Cluster  string `cbor:"3,keyasint"`
	Node     string `cbor:"4,keyasint"`
	Instance string `cbor:"5,keyasint"` // random, kept in the agent's data directory
	Boot     string `cbor:"6,keyasint"` // random, new with each start of the agent
	Roots    []Root `cbor:"7,keyasint"`
	ClockNs  int64  `cbor:"8,keyasint"` // the agent's wall clock
	// Coding is the highest coding of messages that the agent reads on the bus; see CodingZstd.
	Coding int `cbor:"9,keyasint,omitempty"`
}

// Root is one root of one dataset on the agent's node.
type Root struct {
	Dataset string `cbor:"1,keyasint"`
	Path    string `cbor:"2,keyasint"`
	// Index is the id of the agent's index of this root, new when the index was made anew. Holdings recorded under an
	// older index are not proof that this root has, or had, anything.
	Index string `cbor:"3,keyasint"`
	// Told counts, durably in the index, when this root was about to tell the relay of what it has or lacks. Less than the relay
	// has seen of the same index: the index was put back to an older copy. 0: it has told of nothing.
	Told uint64 `cbor:"4,keyasint,omitempty"`
}

// HelloReply opens a session. Holders has one entry for each of Hello.Roots, in the same order.
type HelloReply struct {
	Version    int           `cbor:"1,keyasint"`
	Session    SessionID     `cbor:"2,keyasint"`
	Relay      RelayID       `cbor:"3,keyasint"`
	RelayName  string        `cbor:"4,keyasint"`
	Generation uint32        `cbor:"5,keyasint"`
	Suspicion  time.Duration `cbor:"6,keyasint"`
	Holders    []HolderID    `cbor:"7,keyasint"`
	BusURLs    []string      `cbor:"8,keyasint"` // where the bus is
	BusToken   string        `cbor:"9,keyasint,omitempty"`
	NowNs      int64         `cbor:"10,keyasint"` // the relay's wall clock
	// Rebuilt tells ledgers of the relay apart: 0, or the generation in which the ledger was rebuilt last. With another one
	// than before, everything is settled with the relay again, under the version numbers that the index has.
	Rebuilt uint32 `cbor:"11,keyasint,omitempty"`
	// PutBack has, for each of Holders, what Root.Told is to go on above when Hello's is less than the relay has seen of the index, or
	// the index is another than the relay knows and not fresh; else 0. None when all are. Such an index counts as a fresh one: all of
	// it is settled again before anything else is said of the root.
	PutBack []uint64 `cbor:"12,keyasint,omitempty"`
	// Coding is the highest coding that the relay reads in requests. Its answers are packed for who accepts that (Accept-Encoding).
	Coding int `cbor:"13,keyasint,omitempty"`
}

// Poll is an agent's sign of life over HTTP, the relay's word to it when the bus is silent, and the agent's status report.
// Agents send one every third of the suspicion time over a connection of its own: its end is the end of the session.
type Poll struct {
	Session  SessionID    `cbor:"1,keyasint"`
	ClockNs  int64        `cbor:"2,keyasint"`
	Members  uint64       `cbor:"3,keyasint"` // PollReply.MembersSeq last seen
	Roots    []RootStatus `cbor:"4,keyasint"`
	Stopping bool         `cbor:"5,keyasint,omitempty"` // a clean stop: end my leases now
	Notice   string       `cbor:"6,keyasint,omitempty"` // what is wrong beside the roots: a configuration that was not taken
}

// RootStatus is what an agent says of one root.
type RootStatus struct {
	Holder        HolderID  `cbor:"1,keyasint"`
	Cursor        VersionID `cbor:"2,keyasint"` // feed followed up to here
	Watch         string    `cbor:"3,keyasint"` // fanotify, inotify, scan
	LastScanNs    int64     `cbor:"4,keyasint"` // end of the last completed scan, 0 = none
	ScanToken     uint64    `cbor:"5,keyasint"` // highest DatasetStatus.ScanToken that a completed scan answered
	Scanning      bool      `cbor:"6,keyasint"`
	UnsentCount   int64     `cbor:"7,keyasint"` // objects that differ from what the relay has and are still to be settled
	UnsentBytes   int64     `cbor:"8,keyasint"`
	OldestUnsent  int64     `cbor:"9,keyasint"`  // first seen, nanoseconds since 1970, 0 = none
	Objects       int64     `cbor:"10,keyasint"` // objects in the index
	Bytes         int64     `cbor:"11,keyasint"`
	Skipped       int64     `cbor:"12,keyasint"` // sockets, devices, pipes
	Unreadable    int64     `cbor:"13,keyasint"`
	Unsettled     int64     `cbor:"14,keyasint"` // changing faster than they can be read
	Lagging       int64     `cbor:"15,keyasint"`
	Divergent     int64     `cbor:"16,keyasint"`
	Problem       string    `cbor:"17,keyasint,omitempty"` // why this root is not scanned, "" when it is
	UploadedBytes int64     `cbor:"18,keyasint"`           // payload bytes acknowledged to this root since the agent's index began
	Scans         uint64    `cbor:"19,keyasint,omitempty"` // scans completed since the agent started: what they found is in the counts
	// ReadBytes are the bytes of contents that were read since the agent started, and SlowFor is for how long a read has not come back
	// that should have long ago, 0 when there is none.
	ReadBytes int64         `cbor:"20,keyasint,omitempty"`
	SlowFor   time.Duration `cbor:"21,keyasint,omitempty"`
}

// PollReply answers a Poll.
type PollReply struct {
	NowNs      int64           `cbor:"1,keyasint"`
	MembersSeq uint64          `cbor:"2,keyasint"`
	Members    []Member        `cbor:"3,keyasint,omitempty"` // all holders of the agent's datasets; only when MembersSeq changed
	Datasets   []DatasetStatus `cbor:"4,keyasint"`
	Ended      []LeaseEnded    `cbor:"5,keyasint,omitempty"` // leases ended since the last poll, newest kept when there are too many
	Suspicion  time.Duration   `cbor:"6,keyasint"`
	UpNs       int64           `cbor:"7,keyasint,omitempty"` // the relay's running time at this answer, for Report.ScanUp
	Look       []Look          `cbor:"8,keyasint,omitempty"` // what the agent's roots are asked to look for
}

// Look asks a holder whether it has a path: a delete waits for its word. It answers with Report.Lack when it surely has not; what it has
// it tells as always. An empty path asks for a scan, soon, if there was none yet that could prove an absence.
type Look struct {
	Holder  HolderID  `cbor:"1,keyasint"`
	Path    string    `cbor:"2,keyasint,omitempty"`
	Version VersionID `cbor:"3,keyasint,omitempty"`
}

// Member is a holder as the relay's numbered member list shows it.
type Member struct {
	Holder  HolderID `cbor:"1,keyasint"`
	Dataset string   `cbor:"2,keyasint"`
	Node    string   `cbor:"3,keyasint"`
	Root    string   `cbor:"4,keyasint"`
	Alive   bool     `cbor:"5,keyasint"`           // has a session and is not cordoned: takes part in the pick
	Coding  int      `cbor:"6,keyasint,omitempty"` // of a live one: Hello.Coding of its agent
}

// DatasetStatus is what the relay tells an agent of a dataset.
type DatasetStatus struct {
	Dataset   string    `cbor:"1,keyasint"`
	Head      VersionID `cbor:"2,keyasint"` // highest version sealed
	Wanted    bool      `cbor:"3,keyasint"` // some link names it; else nothing is uploaded
	ScanToken uint64    `cbor:"4,keyasint"` // grows when an operator waits for a fresh scan
	Asked     int64     `cbor:"5,keyasint"` // versions to be asked for again: see PathAsked
}

// LeaseEnded tells the other holders that an upload may be taken over.
type LeaseEnded struct {
	Dataset string   `cbor:"1,keyasint"`
	Path    string   `cbor:"2,keyasint"`
	Upload  UploadID `cbor:"3,keyasint"`
	Size    int64    `cbor:"4,keyasint"`
	Acked   int64    `cbor:"5,keyasint"`
	Holder  HolderID `cbor:"6,keyasint"` // who had it
	Cause   string   `cbor:"7,keyasint"`
	// Epoch of the lease, so that late words of its sender are known as such; zero from a relay that does not tell it.
	Epoch Epoch `cbor:"8,keyasint,omitempty"`
	// Unable are the holders that gave the object back and have not asked for it again since: nobody needs to wait for their turn.
	Unable []HolderID `cbor:"9,keyasint,omitempty"`
}

// Claim asks for the right to upload a version, or says that this holder has one.
type Claim struct {
	Path    string    `cbor:"1,keyasint"`
	Kind    Kind      `cbor:"2,keyasint"`
	Size    int64     `cbor:"3,keyasint,omitempty"`
	MtimeNs int64     `cbor:"4,keyasint,omitempty"`
	Parent  VersionID `cbor:"5,keyasint,omitempty"` // the version this holder's index last knew for the path
	Digest  Digest    `cbor:"6,keyasint"`           // content digest when HasDigest
	// HasDigest says that the holder has read its copy. Links and directories always have a digest.
	HasDigest bool   `cbor:"7,keyasint,omitempty"`
	LinkTo    string `cbor:"8,keyasint,omitempty"`
	// Changed names the metadata fields that this holder saw change since it last agreed with Parent. Replicas that always
	// differed in owner or mtime therefore make no version of it.
	Changed MetaField `cbor:"9,keyasint,omitempty"`
	Meta    *Meta     `cbor:"10,keyasint,omitempty"` // set when Changed is
	// Renewed says that the copy is untouched since the holder agreed on Parent, and claimed only because its index was put back to an
	// older copy: if the relay does not know the path any more, it was deleted since.
	Renewed bool `cbor:"11,keyasint,omitempty"`
	// MetaSum is, with HasDigest, HaveEntry.MetaSum.
	MetaSum uint64 `cbor:"12,keyasint,omitempty"`
}

// ClaimBatch carries up to MaxClaims claims and about MaxClaimBytes.
type ClaimBatch struct {
	Session SessionID `cbor:"1,keyasint"`
	Holder  HolderID  `cbor:"2,keyasint"`
	Claims  []Claim   `cbor:"3,keyasint"`
	// GivenUp is Report.GivenUp.
	GivenUp uint64 `cbor:"4,keyasint,omitempty"`
	Told    uint64 `cbor:"5,keyasint,omitempty"` // Root.Told by now
	HaveSeq uint64 `cbor:"6,keyasint,omitempty"` // see Report.HaveSeq
}

// Verdict is the relay's answer to a claim.
type Verdict uint8

// The verdicts.
const (
	VerdictSend      Verdict = 1  // upload what Have does not list, under Upload and Epoch
	VerdictHave      Verdict = 2  // your content is Version: recorded as yours
	VerdictHash      Verdict = 3  // Version has Size and Digest: read your copy and claim again with its digest
	VerdictLeased    Verdict = 4  // Node is uploading it: ask again after RetryAfter
	VerdictLags      Verdict = 5  // your content is an older version: neither upload nor delete, wait for your replica to catch up
	VerdictDivergent Verdict = 6  // your content is a fork that lost: kept on your node, listed
	VerdictUnwanted  Verdict = 7  // no link names the dataset
	VerdictRefused   Verdict = 8  // not now (cache full, no stores): Reason; ask again after RetryAfter
	VerdictInvalid   Verdict = 9  // never: Reason
	VerdictSendMeta  Verdict = 10 // send a Meta piece for Version under Upload and Epoch
)

// Range is a run of an object's bytes.
type Range struct {
	Offset int64 `cbor:"1,keyasint"`
	Length int64 `cbor:"2,keyasint"`
}

// ClaimAnswer answers one claim.
type ClaimAnswer struct {
	Verdict Verdict  `cbor:"1,keyasint"`
	Upload  UploadID `cbor:"2,keyasint,omitempty"`
	Epoch   Epoch    `cbor:"3,keyasint,omitempty"`
	Have    []Range  `cbor:"4,keyasint,omitempty"` // acknowledged already, sorted, merged
	// Version is the path's current version. What is sent under a grant names it as its parent. Of a path that the relay does
	// not know it is 0, in a grant the dataset's newest version: that orders what is sent after all that the path ever had.
	Version    VersionID     `cbor:"5,keyasint,omitempty"`
	Size       int64         `cbor:"6,keyasint,omitempty"`
	Digest     Digest        `cbor:"7,keyasint,omitempty"`
	Node       string        `cbor:"8,keyasint,omitempty"`
	RetryAfter time.Duration `cbor:"9,keyasint,omitempty"`
	Reason     string        `cbor:"10,keyasint,omitempty"`
	// Alone is set when a refusal is about this object alone: the claims of others need not wait.
	Alone bool `cbor:"11,keyasint,omitempty"`
	// Sums is set with VerdictSend where PathSums tells what the blocks of Version are: those that are the same need not be sent.
	Sums bool `cbor:"12,keyasint,omitempty"`
	// WantMeta is set with VerdictHave when the holder is to claim once more, with its metadata as all changed: see ReportReply.
	WantMeta bool `cbor:"13,keyasint,omitempty"`
}

// ClaimReply answers a ClaimBatch, one answer a claim in the same order.
type ClaimReply struct {
	Answers []ClaimAnswer `cbor:"1,keyasint"`
}

// SumsRequest asks for the digests of the blocks of a path's current version, from the block From on.
type SumsRequest struct {
	Session SessionID `cbor:"1,keyasint"`
	Dataset string    `cbor:"2,keyasint"`
	Path    string    `cbor:"3,keyasint"`
	Version VersionID `cbor:"4,keyasint"`
	From    int64     `cbor:"5,keyasint"`
}

// MaxSums is how many digests a SumsReply has at most.
const MaxSums = 16384

// SumsReply has up to MaxSums of them: fewer at the object's end, none where they are not known (any more).
type SumsReply struct {
	Sums []Digest `cbor:"1,keyasint"`
	// Whole are runs of bytes, sorted, of which a piece Same names all or nothing; of what is in none of them, it may name any block.
	// All of the object's come with the answer to From 0.
	Whole []Range `cbor:"2,keyasint,omitempty"`
}

// MaxProbe is how many bytes a probe has at most.
const MaxProbe = 64 << 20

// ProbeReply says that a probe has arrived: who sends some learns what the way to the relay carries. Nothing of it is kept.
type ProbeReply struct {
	Bytes int64 `cbor:"1,keyasint"`
}

// PieceState is what became of one piece of a segment.
type PieceState uint8

// The piece states.
const (
	PieceAccepted  PieceState = 1 // durable; Version is set when it sealed one
	PieceStale     PieceState = 2 // the epoch is no longer in force: forget the upload and claim again
	PieceDuplicate PieceState = 3 // these bytes were acknowledged before
	PieceMismatch  PieceState = 4 // seal: the acknowledged bytes are not your content; the upload is abandoned, claim anew
	PieceEqual     PieceState = 5 // seal: the content is Version already; you are recorded as its holder
	PieceLags      PieceState = 6 // seal: the content is an older version
	PieceMissing   PieceState = 7 // seal: ranges are missing, claim again to learn which; same: the relay has not what is named, send it
)

// SegmentReply acknowledges a segment: everything accepted is durable. One entry a piece.
type SegmentReply struct {
	ID     SegmentID     `cbor:"1,keyasint"`
	Pieces []PieceResult `cbor:"2,keyasint"`
}

// PieceResult is the outcome of one piece.
type PieceResult struct {
	State   PieceState `cbor:"1,keyasint"`
	Version VersionID  `cbor:"2,keyasint,omitempty"`
}

// Abandon gives leases back: the holder cannot read the object (Error set), it changed while it was read, or it is gone.
type Abandon struct {
	Session SessionID  `cbor:"1,keyasint"`
	Holder  HolderID   `cbor:"2,keyasint"`
	Uploads []UploadID `cbor:"3,keyasint"`
	// ReadError is set when the holder's disk failed; the relay then offers the upload to the others at once.
	ReadError string `cbor:"4,keyasint,omitempty"`
	// Changed is set when the content changed: what was acknowledged belongs to no version of this holder.
	Changed bool `cbor:"5,keyasint,omitempty"`
}

// Slow tells that a holder's disk gives nothing of an object that it is uploading, and asks whether another holder goes on.
type Slow struct {
	Session SessionID     `cbor:"1,keyasint"`
	Holder  HolderID      `cbor:"2,keyasint"`
	Upload  UploadID      `cbor:"3,keyasint"`
	Epoch   Epoch         `cbor:"4,keyasint"` // of the grant under which it is sent
	Waited  time.Duration `cbor:"5,keyasint"` // for how long it has given nothing
}

// SlowReply answers Slow.
type SlowReply struct {
	Ended bool `cbor:"1,keyasint,omitempty"` // the lease is over: another holder goes on. Else nobody can, and the holder goes on waiting
}

// Report tells the relay what a holder has and has no more.
type Report struct {
	Session SessionID   `cbor:"1,keyasint"`
	Holder  HolderID    `cbor:"2,keyasint"`
	Have    []HaveEntry `cbor:"3,keyasint,omitempty"`
	Gone    []GoneEntry `cbor:"4,keyasint,omitempty"`
	Failed  []Failure   `cbor:"5,keyasint,omitempty"` // unreadable, skipped or unsettled objects; the newest list of a scan replaces the one before when ScanDone
	// ScanDone ends a completed scan: every Gone of it has been reported.
	ScanDone bool `cbor:"6,keyasint,omitempty"`
	// First is set with the first part of a list of failures.
	First bool `cbor:"7,keyasint,omitempty"`
	// Listed ends a list of failures that no scan has just completed.
	Listed bool `cbor:"8,keyasint,omitempty"`
	// ScanNs is, with ScanDone, the RootStatus.LastScanNs of the scan: a status that was written before it says nothing of what
	// it found. 0 from agents that do not tell.
	ScanNs int64 `cbor:"9,keyasint,omitempty"`
	// ScanUp is, with ScanDone, the newest PollReply.UpNs of this relay that the agent had when the scan began: what was not there
	// then may be there now, and no clock but the relay's tells. 0: none was known, and the scan proves no absence.
	ScanUp int64 `cbor:"10,keyasint,omitempty"`
	// Seq numbers the holder's reports of gone paths in the session, from 1. 0 from agents that do not number them.
	Seq uint64 `cbor:"11,keyasint,omitempty"`
	// GivenUp is the highest Seq of a report that the holder waits for no more, be it answered or not: it and those before it may be on
	// their way still, some for the second time, and must not count after this message, which may tell of the same paths that they are back.
	GivenUp uint64 `cbor:"12,keyasint,omitempty"`
	// Told is Root.Told by now.
	Told uint64 `cbor:"13,keyasint,omitempty"`
	// Scans is, with ScanDone, RootStatus.Scans after the scan: a status with as many or more tells of what it found. 0 from agents
	// that do not count, whose status must be of exactly this scan (ScanNs).
	Scans uint64 `cbor:"14,keyasint,omitempty"`
	// Lack answers PollReply.Look: what was asked for, in that version, and is neither there nor in the index.
	Lack []GoneEntry `cbor:"15,keyasint,omitempty"`
	// LackUp is PollReply.UpNs of the answer that asked for Lack: what was looked for before it was asked for again says nothing of since.
	LackUp int64 `cbor:"16,keyasint,omitempty"`
	// HaveSeq numbers the holder's claims and reports of what it has in the session, together, from 1. 0 from agents that do not.
	HaveSeq uint64 `cbor:"17,keyasint,omitempty"`
	// HavePast is, with Gone, the highest HaveSeq up to which the holder waits for none any more, be they answered or not: what arrives of
	// them after this must not count, for it may tell that what is gone is there.
	HavePast uint64 `cbor:"18,keyasint,omitempty"`
	// Bare is set with ScanDone when the scan found nothing at all.
	Bare bool `cbor:"19,keyasint,omitempty"`
}

// HaveEntry says that the holder has proved its copy equal to a version.
type HaveEntry struct {
	Version VersionID `cbor:"1,keyasint"`
	MtimeNs int64     `cbor:"2,keyasint"`
	// MetaSum is that of the holder's copy, see proto.MetaSum; 0 where it does not tell.
	MetaSum uint64 `cbor:"3,keyasint,omitempty"`
	// Kept says that the holder had agreed with an earlier version of the path, and that its metadata but for the mtime is as it was
	// then: where it differs from what is published, others have changed that.
	Kept bool `cbor:"4,keyasint,omitempty"`
}

// GoneEntry says that a completed scan no longer found a path that the holder's index had at Version.
type GoneEntry struct {
	Path    string    `cbor:"1,keyasint"`
	Version VersionID `cbor:"2,keyasint"`
}

// FailureKind says why an object is not backed up from this holder.
type FailureKind string

// The failure kinds.
const (
	FailUnreadable FailureKind = "unreadable"
	FailSkipped    FailureKind = "skipped" // socket, device, pipe
	FailUnsettled  FailureKind = "unsettled"
	FailDivergent  FailureKind = "divergent"
	FailLagging    FailureKind = "lagging"
)

// SkippedOwn begins the reason of a directory that is skipped because it is Forebay's own: a store, a relay's data directory,
// or the dataset's own backup.
const SkippedOwn = "Forebay's own: "

// Failure is one such object.
type Failure struct {
	Path    string      `cbor:"1,keyasint" json:"path"`
	Kind    FailureKind `cbor:"2,keyasint" json:"kind"`
	Reason  string      `cbor:"3,keyasint" json:"reason"`
	SinceNs int64       `cbor:"4,keyasint" json:"since_ns"`
}

// MaxFailures is how many failures of one root are reported by name; the counts in RootStatus are exact.
const MaxFailures = 1000

// ReportReply answers Report and Abandon.
type ReportReply struct {
	// WantMeta are the indexes in Report.Have of what the holder is to claim with its metadata as all changed: no holder that is there
	// has the metadata that is published any more.
	WantMeta []int `cbor:"1,keyasint,omitempty"`
}

// FeedRequest asks for what was sealed in a dataset after a version.
type FeedRequest struct {
	Session SessionID `cbor:"1,keyasint"`
	Dataset string    `cbor:"2,keyasint"`
	After   VersionID `cbor:"3,keyasint"`
	Limit   int       `cbor:"4,keyasint"`
}

// FeedReply lists the current versions with ids above After in ascending order. Next is the After of the next call; the
// feed is followed to its end when Next equals Head. A fresh index starts at 0 and learns every live path once.
type FeedReply struct {
	Items []FeedItem `cbor:"1,keyasint"`
	Next  VersionID  `cbor:"2,keyasint"`
	Head  VersionID  `cbor:"3,keyasint"`
}

// FeedItem is one version as the followers learn it.
type FeedItem struct {
	Version VersionID `cbor:"1,keyasint"`
	Path    string    `cbor:"2,keyasint"`
	Kind    Kind      `cbor:"3,keyasint"`
	Size    int64     `cbor:"4,keyasint,omitempty"`
	Digest  Digest    `cbor:"5,keyasint"`
	LinkTo  string    `cbor:"6,keyasint,omitempty"`
	Parent  VersionID `cbor:"7,keyasint,omitempty"`
}

// Messages on the bus: hints only (I4). Each is CBOR under a subject of package bus.

// Beat is an agent's sign of life on the bus.
type Beat struct {
	Session SessionID `cbor:"1,keyasint"`
	ClockNs int64     `cbor:"2,keyasint"`
}

// Progress is what an uploader tells the other holders, at most once every GossipInterval.
type Progress struct {
	Dataset string         `cbor:"1,keyasint"`
	Holder  HolderID       `cbor:"2,keyasint"`
	Items   []ProgressItem `cbor:"3,keyasint"`
}

// ProgressItem is the progress of one object.
type ProgressItem struct {
	Path   string   `cbor:"1,keyasint"`
	Upload UploadID `cbor:"2,keyasint"`
	Epoch  Epoch    `cbor:"3,keyasint"`
	Acked  int64    `cbor:"4,keyasint"`
	Size   int64    `cbor:"5,keyasint"`
	Sealed bool     `cbor:"6,keyasint"`
}

// Nudge is the relay's word to the agents of a dataset that something changed: ask now instead of at the next poll.
type Nudge struct {
	Head      VersionID    `cbor:"1,keyasint,omitempty"`
	ScanToken uint64       `cbor:"2,keyasint,omitempty"`
	Ended     []LeaseEnded `cbor:"3,keyasint,omitempty"`
	Members   uint64       `cbor:"4,keyasint,omitempty"`
}
