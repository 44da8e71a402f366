package proto

import "time"

// StatusSchema is the version of Status and of every other JSON answer to operators. Fields are added, never changed.
const StatusSchema = 1

// Health is a colour: green, yellow (degraded: nothing is lost, somebody should look), red (work waits and nothing moves, or
// something is at risk).
type Health string

// The health values.
const (
	Green  Health = "green"
	Yellow Health = "yellow"
	Red    Health = "red"
)

// Status is what GET /v1/status answers. Times are RFC 3339 UTC, empty when unknown; counters survive restarts.
type Status struct {
	Schema   int           `json:"schema"`
	Relay    string        `json:"relay"`
	Version  string        `json:"version"`
	Now      string        `json:"now"`
	Health   Health        `json:"health"`
	Problems []Problem     `json:"problems"`
	Cache    CacheStatus   `json:"cache"`
	Nodes    []NodeStatus  `json:"nodes"`
	Links    []LinkStatus  `json:"links"`
	Datasets []DatasetInfo `json:"datasets"`
	// Bandwidth is what all links together may send.
	Bandwidth BandwidthStatus `json:"bandwidth"`
	Ledger    LedgerStatus    `json:"ledger"`
}

// LedgerStatus says whether the disk of the relay's ledger answers.
type LedgerStatus struct {
	Path           string  `json:"path"`
	State          string  `json:"state"`           // ok, stalled
	WaitingSeconds float64 `json:"waiting_seconds"` // for how long the disk has answered nothing, while something waits for it; 0: it answers
	// AsOf is when all else was read from the ledger, where it cannot be read now; empty: just now.
	AsOf string `json:"as_of,omitempty"`
}

// BandwidthStatus is the relay's bandwidth, which its links share.
type BandwidthStatus struct {
	Setting             string `json:"setting"` // the timetable, or off
	Timezone            string `json:"timezone"`
	LimitBytesPerSecond int64  `json:"limit_bytes_per_second"` // now; 0 = unlimited
}

// Problem is one thing that needs somebody.
type Problem struct {
	Code   string `json:"code"`
	Health Health `json:"health"`
	Since  string `json:"since"`
	What   string `json:"what"`
	Do     string `json:"do"`
}

// CacheStatus describes the relay's cache.
type CacheStatus struct {
	State                string        `json:"state"`      // accepting, degraded, full, refusing
	Coding               string        `json:"coding"`     // as configured
	CodingNow            string        `json:"coding_now"` // of new segments
	UsedBytes            int64         `json:"used_bytes"` // raw, over all stores
	CapacityBytes        int64         `json:"capacity_bytes"`
	InflowBytesPerSecond float64       `json:"inflow_bytes_per_second"`
	OutageSeconds        float64       `json:"outage_seconds"`
	HighWaterBytes       int64         `json:"high_water_bytes"` // raw, like CapacityBytes
	LowWaterBytes        int64         `json:"low_water_bytes"`
	OnlyCopyBytes        int64         `json:"only_copy_bytes"` // owed and held by no live holder
	DegradedSegments     int64         `json:"degraded_segments"`
	WastedBytes          int64         `json:"wasted_bytes"`  // received twice or for nothing
	AckedBytes           int64         `json:"acked_bytes"`   // payload acknowledged, ever
	WrittenBytes         int64         `json:"written_bytes"` // written to the stores since the relay's start
	Segments             int64         `json:"segments"`
	OldestSeconds        float64       `json:"oldest_seconds"`
	Stores               []StoreStatus `json:"stores"`
	Rebuild              RebuildStatus `json:"rebuild"`
	Scrub                ScrubStatus   `json:"scrub"`
}

// RebuildStatus says how far the cache is with coding segments anew: those that lack shards, lie in a store that is being
// drained, or are narrower than configured.
type RebuildStatus struct {
	WaitingSegments    int64   `json:"waiting_segments"`
	WaitingBytes       int64   `json:"waiting_bytes"`
	DoneSegments       int64   `json:"done_segments"` // since there was last nothing to do
	DoneBytes          int64   `json:"done_bytes"`
	StuckSegments      int64   `json:"stuck_segments"`      // too few stores take data for them
	UnreadableSegments int64   `json:"unreadable_segments"` // too few shards are within reach now
	RateBytesPerSecond float64 `json:"rate_bytes_per_second"`
	ETASeconds         float64 `json:"eta_seconds"`
	LastError          string  `json:"last_error,omitempty"`
}

// ScrubStatus is what GET /v1/scrub answers: how far the reading of all shards is.
type ScrubStatus struct {
	State              string      `json:"state"` // idle, asked, running, off (no schedule)
	Now                *ScrubRound `json:"now,omitempty"`
	Last               *ScrubRound `json:"last,omitempty"`
	NextAt             string      `json:"next_at"`
	RateBytesPerSecond float64     `json:"rate_bytes_per_second"`
	ETASeconds         float64     `json:"eta_seconds"`
	FoundTotal         int64       `json:"found_total"` // bad shards, ever
	HealedTotal        int64       `json:"healed_total"`
}

// ScrubRound is one reading of all shards.
type ScrubRound struct {
	StartedAt     string `json:"started_at"`
	EndedAt       string `json:"ended_at,omitempty"`
	TotalSegments int64  `json:"total_segments"` // at the start
	TotalBytes    int64  `json:"total_bytes"`
	Segments      int64  `json:"segments"` // read
	Bytes         int64  `json:"bytes"`
	Found         int64  `json:"found"`  // shards damaged or absent
	Healed        int64  `json:"healed"` // of them: written anew
	Stale         int64  `json:"stale"`  // shards that nothing names, freed
	Lost          int64  `json:"lost"`   // segments that could not be read, asked for again
	Away          int64  `json:"away"`   // segments with shards out of reach
}

// StoreChange is what the calls that add, drain and replace stores answer.
type StoreChange struct {
	Store     StoreStatus `json:"store"`
	Segments  int64       `json:"segments"`            // with a shard in it
	Lost      int64       `json:"lost"`                // of them: cannot be read without it, for good; asked for again from holders
	Configure string      `json:"configure,omitempty"` // what the configuration should say now
}

// StoreStatus describes one store.
type StoreStatus struct {
	Path      string `json:"path"`
	ID        string `json:"id"`
	State     string `json:"state"` // ok, degraded, failed, missing, drained
	UsedBytes int64  `json:"used_bytes"`
	FreeBytes int64  `json:"free_bytes"`
	LastError string `json:"last_error,omitempty"`
	// Role is what an operator decided: draining, drained, given-up.
	Role         string `json:"role,omitempty"`
	Segments     int64  `json:"segments"`               // with a shard in it, as of the last look at all
	Unconfigured bool   `json:"unconfigured,omitempty"` // the configuration does not name it
}

// NodeStatus describes a node as the relay sees it.
type NodeStatus struct {
	Node             string     `json:"node"`
	Cluster          string     `json:"cluster"`
	State            string     `json:"state"` // alive, suspect, away, cordoned
	Version          string     `json:"version"`
	Address          string     `json:"address"`
	LastSeenSeconds  float64    `json:"last_seen_seconds"`
	ClockSkewSeconds float64    `json:"clock_skew_seconds"`
	Watch            string     `json:"watch"`
	LastScan         string     `json:"last_scan"`
	UploadedBytes    int64      `json:"uploaded_bytes"`
	UnsentBytes      int64      `json:"unsent_bytes"`
	UnsentObjects    int64      `json:"unsent_objects"`
	Takeovers        int64      `json:"takeovers"` // uploads this node took over
	Skipped          int64      `json:"skipped"`
	Unreadable       int64      `json:"unreadable"`
	Divergent        int64      `json:"divergent"`
	Lagging          int64      `json:"lagging"`
	Unsettled        int64      `json:"unsettled"`
	Notice           string     `json:"notice,omitempty"` // what its agent says is wrong beside its roots
	Roots            []RootInfo `json:"roots"`
}

// RootInfo describes one root on a node.
type RootInfo struct {
	Holder   HolderID  `json:"holder"`
	Dataset  string    `json:"dataset"`
	Path     string    `json:"path"`
	Objects  int64     `json:"objects"`
	Bytes    int64     `json:"bytes"`
	Watch    string    `json:"watch"`
	LastScan string    `json:"last_scan"`
	Problem  string    `json:"problem,omitempty"`
	Failures []Failure `json:"failures,omitempty"` // a few of them; all in GET /v1/failures
}

// LinkStatus describes a link.
type LinkStatus struct {
	Name                 string   `json:"name"`
	From                 string   `json:"from"`
	To                   string   `json:"to"`
	State                string   `json:"state"` // idle, seeding, flushing, waiting, paused, stalled, held, orphaned
	Reason               string   `json:"reason"`
	BacklogObjects       int64    `json:"backlog_objects"`
	BacklogBytes         int64    `json:"backlog_bytes"`
	OldestSeconds        float64  `json:"oldest_seconds"`
	LagSeconds           float64  `json:"lag_seconds"`
	ConfirmedObjects     int64    `json:"confirmed_objects"`
	ConfirmedBytes       int64    `json:"confirmed_bytes"`
	LastConfirmedAt      string   `json:"last_confirmed_at"`
	ParkedObjects        int64    `json:"parked_objects"`
	OwedNotCachedObjects int64    `json:"owed_not_cached_objects"`
	HeldDeletes          int64    `json:"held_deletes"`
	NextTry              string   `json:"next_try"`
	LastError            string   `json:"last_error"`
	LastErrorAt          string   `json:"last_error_at"`
	StagedBytes          int64    `json:"staged_bytes"` // of the batch under way: content that the target has, not yet in its place
	RateBytesPerSecond   float64  `json:"rate_bytes_per_second"`
	ETASeconds           float64  `json:"eta_seconds"`
	LastBytesPerSecond   int64    `json:"last_bytes_per_second"` // of the last batch of some size; 0 when there was none
	WindowOpensAt        string   `json:"window_opens_at"`
	WindowClosesAt       string   `json:"window_closes_at"`
	BudgetLeftBytes      int64    `json:"budget_left_bytes"`
	Forced               bool     `json:"forced"`
	Confirm              string   `json:"confirm"`
	Overrides            int      `json:"overrides"`
	Notes                []string `json:"notes,omitempty"`
	ForcedBytes          int64    `json:"forced_bytes"`
	// What the target keeps of the past (history.keep); absent where that is not known, or nothing.
	KeptVersions     int64  `json:"kept_versions,omitempty"`
	KeptBytes        int64  `json:"kept_bytes,omitempty"`
	HistoryReaches   string `json:"history_reaches,omitempty"` // from when on the tree can be had as it was at any moment
	HistoryHeld      string `json:"history_held,omitempty"`    // why kept versions wait for an operator before they go
	BudgetBytes      int64  `json:"budget_bytes"`              // of a window; 0 = none
	BudgetSpentBytes int64  `json:"budget_spent_bytes"`
	BudgetRenewsAt   string `json:"budget_renews_at"`
}

// DatasetInfo describes a dataset.
type DatasetInfo struct {
	Name      string    `json:"name"`
	Head      VersionID `json:"head"`
	Objects   int64     `json:"objects"` // live paths
	Bytes     int64     `json:"bytes"`
	Receiving int64     `json:"receiving"`  // uploads not yet sealed
	UnderHeld int64     `json:"under_held"` // gone from some live holders
	Linked    bool      `json:"linked"`
}

// Event is one entry of the event log.
type Event struct {
	Seq    uint64            `json:"seq" cbor:"1,keyasint"`
	At     time.Time         `json:"at" cbor:"2,keyasint"`
	Kind   string            `json:"kind" cbor:"3,keyasint"` // such as takeover, store-failed, link-stalled
	What   string            `json:"what" cbor:"4,keyasint"` // for people
	Fields map[string]string `json:"fields,omitempty" cbor:"5,keyasint,omitempty"`
}

// The operators' API. All answers are JSON; errors are Error with Class.HTTPStatus, an unknown name is 404.
//
//	GET  /v1/status                             Status
//	GET  /v1/version                            VersionInfo
//	GET  /v1/events?after=SEQ&limit=N[&wait=1]  []Event; wait=1 holds the call until there is one, 30 s at most
//	GET  /v1/backlog?link=L&limit=N             []BacklogItem, oldest first
//	GET  /v1/failures?link=L                    []FailureInfo: parked, unreadable, skipped, unsettled, divergent, lagging, under-held
//	GET  /v1/where?object=CLUSTER/DATASET/PATH  Where
//	POST /v1/links/L/scan                       ScanRequest: asks the agents of the link's dataset for a fresh scan
//	GET  /v1/links/L/wait?token=T&for=ack|confirm   WaitState
//	GET  /v1/links/L/plan                       PlanReport
//	POST /v1/links/L/flush?ignore_window=1      FlushReply
//	POST /v1/links/L/pause?for=DURATION, resume, retry (body: ["path",…] or empty), drop, anew
//	GET  /v1/links/L/policy                     []PolicyValue
//	GET  /v1/links/L/inflow                     Inflow of the link's dataset, of the last 35 days
//	POST /v1/links/L/policy                     body {"set":["KEY=VALUE"],"reset":["KEY"]} ("*" = all); []PolicyValue
//	GET  /v1/links/L/deletes                    HeldDeletes
//	POST /v1/links/L/deletes/approve            HeldDeletes as they were approved
//	GET  /v1/links/L/versions?path=P            PathVersions
//	GET  /v1/links/L/history                    HistoryReport
//	POST /v1/links/L/history/prune              HistoryReport, of what was approved to go
//	POST /v1/links/L/verify?deep=1&repair=1     stream of VerifyLine, one JSON object a line, the last with Done
//	POST /v1/nodes/N/cordon, uncordon, forget   {}
//	GET  /v1/targets                            []TargetInfo
//	POST /v1/targets/T/check                    TargetInfo

// VersionInfo answers /v1/version.
type VersionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	API     int    `json:"api"`
}

// BacklogItem is one owed version.
type BacklogItem struct {
	Link    string    `json:"link"`
	Path    string    `json:"path"`
	Version VersionID `json:"version"`
	Kind    string    `json:"kind"`
	Bytes   int64     `json:"bytes"`
	AckedAt string    `json:"acked_at"`
	State   string    `json:"state"` // cached, staged, released, parked, held
	Reason  string    `json:"reason,omitempty"`
}

// FailureInfo is one object that is not, or not wholly, backed up.
type FailureInfo struct {
	Node    string      `json:"node,omitempty"`
	Root    string      `json:"root,omitempty"`
	Dataset string      `json:"dataset"`
	Link    string      `json:"link,omitempty"`
	Path    string      `json:"path"`
	Kind    FailureKind `json:"kind"`
	Reason  string      `json:"reason"`
	Since   string      `json:"since"`
}

// More failure kinds, of the relay's side.
const (
	FailParked    FailureKind = "parked"
	FailUnderHeld FailureKind = "under-held"
	FailHeld      FailureKind = "held"
)

// Where answers where one object is.
type Where struct {
	Object    string        `json:"object"`
	Current   *WhereVersion `json:"current"`
	Uploading *WhereUpload  `json:"uploading"`
	Holders   []WhereHolder `json:"holders"`
	Links     []WhereLink   `json:"links"`
}

// WhereVersion describes the current version.
type WhereVersion struct {
	Version VersionID `json:"version"`
	Kind    string    `json:"kind"`
	Size    int64     `json:"size"`
	Digest  string    `json:"digest"`
	Mtime   string    `json:"mtime"`
	AckedAt string    `json:"acked_at"`
	Cached  bool      `json:"cached"`
}

// WhereUpload describes an upload in progress.
type WhereUpload struct {
	Upload UploadID `json:"upload"`
	Node   string   `json:"node"` // "" while nobody has the lease
	Root   string   `json:"root"`
	Epoch  string   `json:"epoch"`
	Acked  int64    `json:"acked_bytes"`
	Size   int64    `json:"size"`
	Why    string   `json:"why,omitempty"` // nobody has the lease
	// Streaming is set for an object that is larger than the cache; Released is how much of Acked only the targets have.
	Streaming bool  `json:"streaming,omitempty"`
	Released  int64 `json:"released_bytes,omitempty"`
}

// WhereHolder describes what one holder has of the object.
type WhereHolder struct {
	Node    string    `json:"node"`
	Root    string    `json:"root"`
	State   string    `json:"state"` // has, gone, lags, divergent
	Version VersionID `json:"version"`
	Alive   bool      `json:"alive"`
}

// WhereLink describes what one link has done with the object.
type WhereLink struct {
	Link    string    `json:"link"`
	State   string    `json:"state"`   // owed, staged, confirmed, released, parked, held, kept
	Version VersionID `json:"version"` // confirmed last
	Why     string    `json:"why"`
	NextTry string    `json:"next_try"`
}

// ScanRequest answers a request for a fresh scan.
type ScanRequest struct {
	Token uint64 `json:"token"`
}

// WaitState says how far a wait is.
type WaitState struct {
	Done               bool     `json:"done"`
	Partial            bool     `json:"partial"` // only parked, skipped, unreadable or held objects remain
	WaitingFor         []string `json:"waiting_for"`
	Objects            int64    `json:"objects"` // still to come
	Bytes              int64    `json:"bytes"`
	Failures           int64    `json:"failures"`
	RateBytesPerSecond float64  `json:"rate_bytes_per_second"`
}

// PlanReport is a dry run of the next flush.
type PlanReport struct {
	Link      string        `json:"link"`
	Action    string        `json:"action"` // flush, wait
	Reason    string        `json:"reason"`
	Forced    bool          `json:"forced"`
	NextLook  string        `json:"next_look"`
	Objects   int64         `json:"objects"`
	Bytes     int64         `json:"bytes"`
	Deletes   int64         `json:"deletes"`
	Held      int64         `json:"held_deletes"`
	Conflicts int64         `json:"conflicts"`
	First     []BacklogItem `json:"first"`
}

// FlushReply answers a flush by hand.
type FlushReply struct {
	Objects int64     `json:"objects"` // owed when it began
	Bytes   int64     `json:"bytes"`
	Until   VersionID `json:"until"` // it is done when nothing up to this version is owed, but for parked and held ones
}

// PolicyValue is one effective value and where it comes from.
type PolicyValue struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // default, file, set
	SetAt  string `json:"set_at,omitempty"`
}

// PolicyChange is the body of a change.
type PolicyChange struct {
	Set   []string `json:"set"`
	Reset []string `json:"reset"`
}

// InflowSchema is the version of Inflow.
const InflowSchema = 1

// Inflow is what was acknowledged of a dataset over time, in slots of StepSeconds; those without any are left out.
type Inflow struct {
	Schema      int          `json:"schema"`
	Dataset     string       `json:"dataset"`
	StepSeconds int64        `json:"step_seconds"`
	Slots       []InflowSlot `json:"slots"` // in the order of time
}

// InflowSlot is one of them.
type InflowSlot struct {
	At      string `json:"at"` // its beginning
	Bytes   int64  `json:"bytes"`
	Objects int64  `json:"objects"`
}

// HeldDeletes lists deletes that the guard holds.
type HeldDeletes struct {
	Link   string   `json:"link"`
	Held   int64    `json:"held"`
	Reason string   `json:"reason"`
	Paths  []string `json:"paths"` // the first thousand
}

// PathVersions are all versions that a link's target has of one path.
type PathVersions struct {
	Path     string        `json:"path"`
	Raw      []byte        `json:"raw_path,omitempty"` // base64, where path is no UTF-8
	Versions []KeptVersion `json:"versions"`           // the one that is there now first, then the newest first
}

// KeptVersion is one of them. Times are RFC 3339.
type KeptVersion struct {
	Version VersionID `json:"version"`
	State   string    `json:"state"` // present, kept, parked: as in the mirror now; past; lost: the target did not have it any more when it was to be kept
	Kind    string    `json:"kind"`
	Size    int64     `json:"size"`
	Digest  string    `json:"digest,omitempty"`
	LinkTo  string    `json:"link_to,omitempty"`
	Mode    string    `json:"mode"`
	Mtime   string    `json:"mtime"`
	AckedAt string    `json:"acked_at,omitempty"` // absent: before the target kept versions
	EndedAt string    `json:"ended_at,omitempty"` // when what came after it was acknowledged
	EndedBy VersionID `json:"ended_by,omitempty"`
	// KeptUntil is when it is given up at the earliest, if the relay runs on: what counts is its running time.
	KeptUntil string `json:"kept_until,omitempty"`
}

// MaxDuePaths bounds the paths that a HistoryReport names.
const MaxDuePaths = 1000

// HistoryReport says what a link's target keeps of the past.
type HistoryReport struct {
	Link       string `json:"link"`
	On         bool   `json:"on"`          // batches keep what they replace and delete
	Keep       string `json:"keep"`        // how long an ended version is kept
	PolicyKeep string `json:"policy_keep"` // what history.keep asks for
	Reaches    string `json:"reaches,omitempty"`
	Versions   int64  `json:"versions"`
	Bytes      int64  `json:"bytes"` // about: a content that several versions of a path share is counted once
	Held       string `json:"held,omitempty"`
	// Of Versions: those that go, or went, when the policy's keep is approved.
	DueVersions int64    `json:"due_versions"`
	DueBytes    int64    `json:"due_bytes"`
	DuePaths    []string `json:"due_paths"` // the first MaxDuePaths
	Locked      int64    `json:"locked"`    // contents that are past their time, and locked by the target
	LockedUntil string   `json:"locked_until,omitempty"`
}

// VerifyLine is one line of a verify.
type VerifyLine struct {
	Path        string `json:"path,omitempty"`
	Problem     string `json:"problem,omitempty"` // missing, size, kind, metadata, content, extra, unreadable, kept-missing, kept-size, kept-content, stray
	Detail      string `json:"detail,omitempty"`
	Repair      string `json:"repair,omitempty"` // what was done about it
	Done        bool   `json:"done,omitempty"`
	Objects     int64  `json:"objects,omitempty"` // looked at so far
	Total       int64  `json:"total,omitempty"`
	Bytes       int64  `json:"bytes,omitempty"`
	Differences int64  `json:"differences,omitempty"`
	Error       string `json:"error,omitempty"`
}

// TargetInfo describes a target.
type TargetInfo struct {
	Name    string   `json:"name"`
	Type    string   `json:"type"`
	Where   string   `json:"where"`
	OK      bool     `json:"ok"`
	Error   string   `json:"error,omitempty"`
	Confirm string   `json:"confirm,omitempty"`
	Free    int64    `json:"free_bytes"`
	Notes   []string `json:"notes,omitempty"`
	Links   []string `json:"links"`
	// Trial is set when the target was tried.
	Trial *TargetTrial `json:"trial,omitempty"`
}

// TargetTrial is what came of trying a target.
type TargetTrial struct {
	Confirm string       `json:"confirm"` // what "confirmed" can honestly mean there; "" when no link can use it
	Steps   []TargetStep `json:"steps"`   // in order; what others need and failed ends them
	// Of one large content, and of a batch of small ones; 0 when not measured.
	WriteBytesPerSecond   float64 `json:"write_bytes_per_second"`
	ReadBytesPerSecond    float64 `json:"read_bytes_per_second"`
	SmallObjectsPerSecond float64 `json:"small_objects_per_second"`
}

// TargetStep is one thing that was tried.
type TargetStep struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	What    string  `json:"what,omitempty"` // the error, or more
	Seconds float64 `json:"seconds"`
}
