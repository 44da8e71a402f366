package ledger

import "forebay/proto"

// LinkID numbers a link in the ledger; never reused.
type LinkID uint32

// Meta is the ledger's own row.
type Meta struct {
	Format      int             `cbor:"1,keyasint"`
	Relay       proto.RelayID   `cbor:"2,keyasint"`
	Name        string          `cbor:"3,keyasint"`
	Generation  uint32          `cbor:"4,keyasint"` // grows with each start, durable before the first grant
	LastDataset proto.DatasetID `cbor:"5,keyasint"`
	LastHolder  proto.HolderID  `cbor:"6,keyasint"`
	LastLink    LinkID          `cbor:"7,keyasint"`
	LastEvent   uint64          `cbor:"8,keyasint"`
	// Counters over the ledger's life.
	AckedBytes  int64 `cbor:"9,keyasint"`  // payload accepted
	WastedBytes int64 `cbor:"10,keyasint"` // payload that was stale, duplicate or abandoned
	// Now: over segments that are not freed.
	Segments    int64  `cbor:"11,keyasint"`
	StoredBytes int64  `cbor:"12,keyasint"` // raw bytes of their shards
	ScanToken   uint64 `cbor:"13,keyasint"`
	Stores      []byte `cbor:"14,keyasint,omitempty"` // identities of the stores, as their door encodes them
	// UpNs is the relay's running time: it begins at the clock's time when the ledger is new, and goes on only while a relay
	// runs, by the monotonic clock. No jump of a clock moves it. Written about once a minute, and with
	// everything that bears a stamp of it: no row has a later one.
	UpNs int64 `cbor:"15,keyasint,omitempty"`
	// Of a ledger that was rebuilt: the generation of the rebuild; the version above which datasets number theirs, higher than
	// any number of the ledger that was lost; and the segment number below which nothing in the stores counts as left over,
	// because not all of it could be read.
	Rebuilt uint32          `cbor:"16,keyasint,omitempty"`
	Floor   proto.VersionID `cbor:"17,keyasint,omitempty"`
	Kept    uint64          `cbor:"18,keyasint,omitempty"`
	// Outdated: the ledger was put back from an old copy or lost its end: the stores, or its own mark, have seen a later one. Until it
	// is rebuilt, no shard below Kept that it does not name counts as left over.
	Outdated bool `cbor:"19,keyasint,omitempty"`
	// Taken counts the segments that were ever taken in.
	Taken uint64 `cbor:"20,keyasint,omitempty"`
}

// DatasetRow is what is known of a dataset.
type DatasetRow struct {
	ID      proto.DatasetID `cbor:"1,keyasint"`
	Name    proto.Dataset   `cbor:"2,keyasint"`
	Head    proto.VersionID `cbor:"3,keyasint"` // last version sealed
	Objects int64           `cbor:"4,keyasint"` // live paths
	Bytes   int64           `cbor:"5,keyasint"` // their content
	Gone    int64           `cbor:"6,keyasint"` // paths gone from some holder
	Asked   int64           `cbor:"7,keyasint"` // versions to be asked for again
	// Dropped is the newest tombstone that was dropped: what was granted for an unknown path before it is stale.
	Dropped proto.VersionID `cbor:"8,keyasint,omitempty"`
}

// HolderRow is one root on one node.
type HolderRow struct {
	ID      proto.HolderID  `cbor:"1,keyasint"`
	Dataset proto.DatasetID `cbor:"2,keyasint"`
	Cluster string          `cbor:"3,keyasint"`
	Node    string          `cbor:"4,keyasint"`
	Root    string          `cbor:"5,keyasint"`
	// Index is the id of the agent's index, IndexGen counts how often it was made anew. Holdings of an older IndexGen are
	// hearsay: they hold a delete up until the fresh index has completed a scan, and are forgotten then.
	Index      string          `cbor:"6,keyasint"`
	IndexGen   uint32          `cbor:"7,keyasint"`
	ScannedGen uint32          `cbor:"8,keyasint"` // IndexGen of the last completed scan
	ScannedNs  int64           `cbor:"9,keyasint"` // a running time (Meta.UpNs) at or before its beginning
	Cursor     proto.VersionID `cbor:"10,keyasint"`
	// Told is the highest proto.Root.Told that was seen of Index: with less, it was put back to an older copy. That counts as one
	// more time that it was made anew (IndexGen).
	Told uint64 `cbor:"11,keyasint,omitempty"`
	// BareNs is since which running time its scans have found nothing at all, of an index that had told of nothing before; 0: they have
	// found something.
	BareNs int64 `cbor:"12,keyasint,omitempty"`
}

// NodeRow is what is known of a node.
type NodeRow struct {
	Cluster   string `cbor:"1,keyasint"`
	Node      string `cbor:"2,keyasint"`
	Instance  string `cbor:"3,keyasint"`
	SeenNs    int64  `cbor:"4,keyasint"` // relay's stamp, written about once a minute
	Cordoned  bool   `cbor:"5,keyasint"`
	Uploaded  int64  `cbor:"6,keyasint"` // payload bytes accepted from it
	Takeovers int64  `cbor:"7,keyasint"`
	Software  string `cbor:"8,keyasint"`
	SeenUp    int64  `cbor:"9,keyasint,omitempty"` // the running time (Meta.UpNs) when it was last there
}

// LinkRow is a link's durable state.
type LinkRow struct {
	ID        LinkID          `cbor:"1,keyasint"`
	Name      string          `cbor:"2,keyasint"`
	Dataset   proto.DatasetID `cbor:"3,keyasint"`
	From      proto.Dataset   `cbor:"4,keyasint"`
	Target    string          `cbor:"5,keyasint"` // identity of the target: type and place
	Prefix    string          `cbor:"6,keyasint"`
	Coalesce  bool            `cbor:"7,keyasint"`
	Orphaned  bool            `cbor:"8,keyasint"` // no longer in the configuration
	CreatedNs int64           `cbor:"9,keyasint"`
	// SeedCursor walks the versions that were there before the link; SeedHead is where it ends. Seeding until both meet and
	// nothing up to SeedHead is owed.
	SeedCursor proto.VersionID `cbor:"10,keyasint"`
	SeedHead   proto.VersionID `cbor:"11,keyasint"`

	OwedObjects      int64 `cbor:"12,keyasint"` // cached and released, not parked
	OwedBytes        int64 `cbor:"13,keyasint"`
	ReleasedObjects  int64 `cbor:"14,keyasint"` // of them: not cached
	ReleasedBytes    int64 `cbor:"15,keyasint"`
	ParkedObjects    int64 `cbor:"16,keyasint"`
	OwedDeletes      int64 `cbor:"17,keyasint"` // of OwedObjects
	ConfirmedObjects int64 `cbor:"18,keyasint"`
	ConfirmedBytes   int64 `cbor:"19,keyasint"`
	ConfirmedNs      int64 `cbor:"20,keyasint"` // when last
	ForcedBytes      int64 `cbor:"21,keyasint"`

	Paused      bool                `cbor:"23,keyasint"`
	PausedUntil int64               `cbor:"24,keyasint"` // 0: until resumed
	Overrides   map[string]Override `cbor:"25,keyasint,omitempty"`
	// Deletes of the last 24 h, by hour of the running time (Meta.UpNs), and when an operator last approved.
	Deletes    map[int64]int64 `cbor:"26,keyasint,omitempty"`
	ApprovedNs int64           `cbor:"27,keyasint"`
	ApprovedTo proto.VersionID `cbor:"28,keyasint"` // held deletes up to here are approved
	// CachedBytes are content bytes that this link needs from the cache.
	CachedBytes int64 `cbor:"29,keyasint"`
	// PausedUp is the running time at which a pause ends that PausedUntil, after a jump of the clock, does not end. 0: none.
	PausedUp int64 `cbor:"30,keyasint,omitempty"`
	// Batch is the highest number, in the journal on the target, of a batch that is confirmed. A journal that ends before it is an
	// older copy.
	Batch uint64 `cbor:"31,keyasint,omitempty"`
	// Speed is how fast the target took the last batch of some size, in bytes a second; of batches under a rate, the fastest.
	Speed int64 `cbor:"32,keyasint,omitempty"`
}

// Override is one policy value set by hand.
type Override struct {
	Value string `cbor:"1,keyasint"`
	SetNs int64  `cbor:"2,keyasint"`
}

// Known is a content that a path once had.
type Known struct {
	Version proto.VersionID `cbor:"1,keyasint"`
	Kind    proto.Kind      `cbor:"2,keyasint"`
	Size    int64           `cbor:"3,keyasint,omitempty"`
	Digest  proto.Digest    `cbor:"4,keyasint"`
	LinkTo  string          `cbor:"5,keyasint,omitempty"`
}

// Desc returns what Known keeps of a description: enough for Desc.SameContent.
func (k Known) Desc() proto.Desc {
	return proto.Desc{Kind: k.Kind, Size: k.Size, Digest: k.Digest, LinkTo: k.LinkTo}
}

// MaxRecent is how many older contents of a path are remembered: a holder that comes back with an older one yet is taken
// for a fork, which is listed and never deletes or overwrites by itself.
const MaxRecent = 16

// HoldingState says what a holder has of a path.
type HoldingState uint8

// The holding states.
const (
	HoldingHas       HoldingState = 1 // has Version; when a newer one is current it follows or lags
	HoldingGone      HoldingState = 2 // a completed scan no longer found it
	HoldingLags      HoldingState = 3 // has the content of an older Version
	HoldingDivergent HoldingState = 4 // has a content of its own: Digest, Size
)

// Holding is what one holder has of one path.
type Holding struct {
	Holder   proto.HolderID  `cbor:"1,keyasint"`
	State    HoldingState    `cbor:"2,keyasint"`
	Version  proto.VersionID `cbor:"3,keyasint,omitempty"`
	IndexGen uint32          `cbor:"4,keyasint"`
	Digest   proto.Digest    `cbor:"5,keyasint,omitempty"` // divergent only
	Size     int64           `cbor:"6,keyasint,omitempty"`
	MtimeNs  int64           `cbor:"7,keyasint,omitempty"` // divergent only
	// Odd is set when the holder has Version with other metadata than is published, see MetaWanted.
	Odd bool `cbor:"8,keyasint,omitempty"`
}

// ObjectRow is the state of a path: the current version in short, older contents, who has what.
type ObjectRow struct {
	Current Known          `cbor:"1,keyasint"`           // Version 0: nothing sealed yet
	MtimeNs int64          `cbor:"2,keyasint"`           // of the current version
	Recent  []Known        `cbor:"3,keyasint,omitempty"` // newest first
	Holders []Holding      `cbor:"4,keyasint,omitempty"`
	Upload  proto.UploadID `cbor:"5,keyasint,omitempty"` // the upload that is being received
	// Epoch is the highest under which anything of the path was accepted: what comes under a lower one is stale (I7).
	Epoch proto.Epoch `cbor:"6,keyasint"`
	// Since is set while the current version is as a rebuild of the ledger found it: the lowest number that it, or what
	// followed it unseen by the rebuild, can have had in the ledger that was lost. Holders still quote those numbers.
	Since proto.VersionID `cbor:"7,keyasint,omitempty"`
}

// Follows reports whether a holder that last agreed on parent knew the current version: by its number, or by one that it may
// have had before a rebuild of the ledger.
func (o *ObjectRow) Follows(parent proto.VersionID) bool {
	return parent == o.Current.Version || o.Since != 0 && o.Since <= parent && parent < o.Current.Version
}

// Holding returns what holder has, or nil.
func (o *ObjectRow) Holding(h proto.HolderID) *Holding {
	for i := range o.Holders {
		if o.Holders[i].Holder == h {
			return &o.Holders[i]
		}
	}
	return nil
}

// SetHolding records what a holder has.
func (o *ObjectRow) SetHolding(h Holding) {
	if old := o.Holding(h.Holder); old != nil {
		*old = h
		return
	}
	o.Holders = append(o.Holders, h)
}

// Older returns the older known content equal to d, or nil.
func (o *ObjectRow) Older(d proto.Desc) *Known {
	for i := range o.Recent {
		if o.Recent[i].Kind != proto.KindTombstone && o.Recent[i].Desc().SameContent(d) {
			return &o.Recent[i]
		}
	}
	return nil
}

// Content says where a version's bytes are: in one segment, in the ranges of an upload, or (zero) nowhere in the cache.
type Content struct {
	Segment uint64         `cbor:"1,keyasint,omitempty"`
	At      uint32         `cbor:"2,keyasint,omitempty"`
	Length  uint32         `cbor:"3,keyasint,omitempty"`
	Upload  proto.UploadID `cbor:"4,keyasint,omitempty"`
	// Stream is set when Upload was streamed. What is below From is not in the cache, but staged at the targets of the links
	// that owe the version as cached.
	Stream bool  `cbor:"5,keyasint,omitempty"`
	From   int64 `cbor:"6,keyasint,omitempty"`
	// Lacks are bytes of Upload's ranges that were not sent and are not in the cache: what the targets of the links that owe the
	// version as cached have of the path has them, at the same place.
	Lacks int64 `cbor:"7,keyasint,omitempty"`
}

// VersionRow is a sealed version.
type VersionRow struct {
	Path     string          `cbor:"1,keyasint"`
	Desc     proto.Desc      `cbor:"2,keyasint"`
	Parent   proto.VersionID `cbor:"3,keyasint"`
	SealedNs int64           `cbor:"4,keyasint"` // when it was acknowledged
	Epoch    proto.Epoch     `cbor:"5,keyasint"`
	Holder   proto.HolderID  `cbor:"6,keyasint"` // who completed it; 0 for tombstones
	// Home is the segment that describes it, Content where its bytes are. Each is set only while it is retained, that is
	// counted in SegmentRow.Refs or UploadRow.Users: Home while Need > 0, unless it was lost or let go for room (what it
	// says stands here too); Content while NeedBytes > 0.
	Home       uint64  `cbor:"7,keyasint,omitempty"`
	Content    Content `cbor:"8,keyasint"`
	Need       int     `cbor:"9,keyasint,omitempty"`  // links that owe it as OwedCached
	NeedBytes  int     `cbor:"13,keyasint,omitempty"` // of them: not MetaOnly
	Cached     bool    `cbor:"10,keyasint,omitempty"` // its bytes are in the cache; always true for what has none of its own
	Owed       int     `cbor:"11,keyasint,omitempty"` // links that have a row in Q for it, parked ones too
	Asking     int     `cbor:"14,keyasint,omitempty"` // of them: OwedReleased and not parked
	Asked      bool    `cbor:"15,keyasint,omitempty"` // has a row in A
	Superseded bool    `cbor:"12,keyasint,omitempty"`
	// Bases are contents any of which has what Content lacks, at the same place: links that can do with the rest have one of them at
	// their target.
	Bases []proto.Digest `cbor:"16,keyasint,omitempty"`
}

// UploadRow is an upload that is being received, or the ranges of a version received that way.
type UploadRow struct {
	Dataset proto.DatasetID `cbor:"1,keyasint"`
	Path    string          `cbor:"2,keyasint"`
	Parent  proto.VersionID `cbor:"3,keyasint"`
	Size    int64           `cbor:"4,keyasint"` // declared
	Epoch   proto.Epoch     `cbor:"5,keyasint"` // highest seen
	Holder  proto.HolderID  `cbor:"6,keyasint"` // who sent last
	Acked   int64           `cbor:"7,keyasint"` // bytes
	Users   int             `cbor:"8,keyasint"` // 1 while receiving; after the seal the versions that retain it, see the rows W
	Sealed  bool            `cbor:"9,keyasint"`
	BeganNs int64           `cbor:"10,keyasint"`
	// Of a stream, an upload that is larger than the room in the cache: the offset below which nothing of it is in the cache
	// any more, the acknowledged bytes that were let go so, and the offset below which what is not acknowledged is holes.
	Stream bool  `cbor:"11,keyasint,omitempty"`
	Freed  int64 `cbor:"12,keyasint,omitempty"`
	Gone   int64 `cbor:"13,keyasint,omitempty"`
	Solid  int64 `cbor:"14,keyasint,omitempty"`
	// Again is set where a stream brings the current content, for links that owe it and lack its bytes.
	Again bool `cbor:"15,keyasint,omitempty"`
	// Same are those of Acked that were not sent, because the version before has them. Bases are the contents that have those of them
	// that are not in the cache.
	Same  int64          `cbor:"16,keyasint,omitempty"`
	Bases []proto.Digest `cbor:"17,keyasint,omitempty"`
}

// RangeRow is an acknowledged run of an upload's bytes. Its offset is in the key.
type RangeRow struct {
	Segment uint64         `cbor:"1,keyasint"` // 0: let go, the stages of targets have it, or what they have of the path when Same
	At      uint32         `cbor:"2,keyasint"`
	Length  uint32         `cbor:"3,keyasint"`
	Blocks  []proto.Digest `cbor:"4,keyasint"`
	// Same is set where it was not sent, because the version before has the same there. Named is the segment that says so: without
	// it a rebuild could not tell what the upload has become.
	Same  bool   `cbor:"5,keyasint,omitempty"`
	Named uint64 `cbor:"6,keyasint,omitempty"`
}

// lacks returns how many bytes of the range only the objects at targets have.
func (r *RangeRow) lacks() int64 {
	if r.Same && r.Segment == 0 {
		return int64(r.Length)
	}
	return 0
}

// SegmentRow is a segment in the stores.
type SegmentRow struct {
	Dataset   proto.DatasetID `cbor:"1,keyasint"`
	Length    int64           `cbor:"2,keyasint"` // of the segment
	Stored    int64           `cbor:"3,keyasint"` // of all its shards
	Placement []byte          `cbor:"4,keyasint"` // which shard is where, as the stores' door encodes it
	AckedNs   int64           `cbor:"5,keyasint"`
	Refs      int64           `cbor:"6,keyasint"` // pieces that a link still needs
	Live      int64           `cbor:"7,keyasint"` // payload bytes of those pieces
	Degraded  bool            `cbor:"8,keyasint"` // fewer shards than its geometry
}

// OwedState says whether the cache has what a link owes.
type OwedState uint8

// The owed states.
const (
	OwedCached OwedState = 1
	// OwedReleased: still owed, but no longer kept in the cache for this link: asked for again when no other link keeps it
	// there. Only versions with bytes of their own are ever released.
	OwedReleased OwedState = 2
)

// OwedRow is a version that a link has still to confirm.
type OwedRow struct {
	State    OwedState  `cbor:"1,keyasint"`
	Bytes    int64      `cbor:"2,keyasint"` // of content of its own; 0 for hard links, and when MetaOnly
	AckedNs  int64      `cbor:"3,keyasint"`
	Kind     proto.Kind `cbor:"4,keyasint"`
	MetaOnly bool       `cbor:"5,keyasint,omitempty"` // the target has the content already
	// Parked is set when it failed for good: it waits for an operator's retry.
	Parked   bool   `cbor:"6,keyasint,omitempty"`
	Reason   string `cbor:"7,keyasint,omitempty"`
	ParkedNs int64  `cbor:"8,keyasint,omitempty"`
	// Staged are those of Bytes that the target has, in its stage or in the object before, and the cache has not: see Content.From
	// and Content.Lacks.
	Staged int64 `cbor:"9,keyasint,omitempty"`
}
