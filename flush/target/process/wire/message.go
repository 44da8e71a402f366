package wire

import (
	"time"

	"forebay/flush/target"
	"forebay/proto"
)

// Version is the newest version of the protocol that this program speaks, Oldest the oldest.
const (
	Version = 1
	Oldest  = 1
)

// Limits of a session. Both sides hold to them.
const (
	MaxRequests = 64        // requests under way at a time
	MaxHandles  = 1024      // handles open at a time
	MaxIDs      = 500       // staged contents named in one message
	MaxChanges  = 500       // changes of one commit
	MaxText     = 1 << 10   // bytes of an error's text
	MaxChunk    = 256 << 10 // bytes of content in one message
	MinChunk    = 512
)

// Hello is the relay's first message. What is set of it tells the driver where to go; a driver opens its target anew for each.
type Hello struct {
	Oldest   int               `cbor:"1,keyasint"` // versions that the relay speaks, from
	Newest   int               `cbor:"2,keyasint"` // to
	Relay    string            `cbor:"3,keyasint"` // software version, for logs
	Chunk    int               `cbor:"4,keyasint"` // the most bytes of content that a message may carry
	Settings map[string]string `cbor:"5,keyasint"` // of the target, secrets among them
	Prefix   string            `cbor:"6,keyasint"` // folder below the target's root that the mirror lies in, "" for the root
	Expect   bool              `cbor:"7,keyasint"` // the target was marked before: without its owner mark it is not there
	Writes   bool              `cbor:"8,keyasint"` // it is opened by who writes the mirror and has to read it again
	Partial  bool              `cbor:"9,keyasint"` // the operator allows objects that a reader can see in part
}

// Welcome is the driver's answer to it.
type Welcome struct {
	Version int    `cbor:"1,keyasint"` // the one that is spoken from now on, 0 with a Fault
	Driver  string `cbor:"2,keyasint"` // its name
	About   string `cbor:"3,keyasint"` // its software version, for logs
	Chunk   int    `cbor:"4,keyasint"` // the smaller of both sides'
	Fault   *Fault `cbor:"5,keyasint,omitempty"`
}

// Op is what a call asks for.
type Op uint8

// The calls: what of Call they use, and what of Result answers. Unless said otherwise they mean what the method of the same name in
// package target does.
const (
	OpProbe        Op = 1  // -> Info
	OpStage        Op = 2  // ID, Size, Path, Desc -> Handle, Offset, Proved, Unit
	OpWrite        Op = 3  // Handle, Data -> Offset; of a stage or a record
	OpHole         Op = 4  // Handle, Size -> Offset; of a stage
	OpSync         Op = 5  // Handle -> Offset: what is durable; of a stage
	OpClose        Op = 6  // Handle; of any kind
	OpBarrier      Op = 7  // IDs
	OpReread       Op = 8  // ID -> Handle
	OpChange       Op = 9  // Handle (0: a new commit), Changes -> Handle: they are noted, in order
	OpCommit       Op = 10 // Handle -> Failed; carries out what was noted and ends the handle
	OpStaged       Op = 11 // -> Handle: Next gives the IDs of all staged contents
	OpUnstage      Op = 12 // IDs: those are removed
	OpOpen         Op = 13 // Path -> Handle
	OpRead         Op = 14 // Handle, Size -> Data of at most Size bytes, Last at the end; of what was opened
	OpStat         Op = 15 // Path -> Entries, one
	OpList         Op = 16 // Path -> Handle: Next gives Entries
	OpNext         Op = 17 // Handle -> Entries, Names or IDs, Last at the end; of a listing
	OpPutRecord    Op = 18 // Path -> Handle: written to, then kept
	OpKeepRecord   Op = 19 // Handle: the record is there whole, and durable; ends the handle
	OpOpenRecord   Op = 20 // Path -> Handle
	OpListRecords  Op = 21 // Path -> Handle: Next gives Names
	OpRemoveRecord Op = 22 // Path
)

// Call is a request.
type Call struct {
	Op      Op               `cbor:"1,keyasint"`
	Handle  uint32           `cbor:"2,keyasint,omitempty"`
	ID      target.StageID   `cbor:"3,keyasint,omitempty"`
	IDs     []target.StageID `cbor:"4,keyasint,omitempty"`
	Path    string           `cbor:"5,keyasint,omitempty"` // of an object or a record; bytes, which need not be UTF-8
	Size    int64            `cbor:"6,keyasint,omitempty"`
	Desc    *proto.Desc      `cbor:"7,keyasint,omitempty"` // without extents: holes are told as such
	Data    []byte           `cbor:"8,keyasint,omitempty"`
	Changes []Change         `cbor:"9,keyasint,omitempty"`
}

// Result is the answer to a request.
type Result struct {
	Fault   *Fault           `cbor:"1,keyasint,omitempty"` // why it failed
	Handle  uint32           `cbor:"2,keyasint,omitempty"`
	Offset  int64            `cbor:"3,keyasint,omitempty"`
	Unit    int64            `cbor:"4,keyasint,omitempty"`
	Proved  bool             `cbor:"5,keyasint,omitempty"`
	Data    []byte           `cbor:"6,keyasint,omitempty"`
	Last    bool             `cbor:"7,keyasint,omitempty"`
	Entries []Entry          `cbor:"8,keyasint,omitempty"`
	Names   []string         `cbor:"9,keyasint,omitempty"`
	IDs     []target.StageID `cbor:"10,keyasint,omitempty"`
	Failed  []Failure        `cbor:"11,keyasint,omitempty"`
	Info    *Info            `cbor:"12,keyasint,omitempty"`
}

// Fault is an error.
type Fault struct {
	Class      proto.Class   `cbor:"1,keyasint"`
	Text       string        `cbor:"2,keyasint"`
	RetryAfter time.Duration `cbor:"3,keyasint,omitempty"` // ns
	Absent     bool          `cbor:"4,keyasint,omitempty"` // what was asked for is not there
}

// Failure is a change that failed.
type Failure struct {
	Index int   `cbor:"1,keyasint"` // in its commit
	Fault Fault `cbor:"2,keyasint"`
}

// Change is a target.Change.
type Change struct {
	Op    target.Op      `cbor:"1,keyasint"`
	Path  string         `cbor:"2,keyasint"`
	Stage target.StageID `cbor:"3,keyasint,omitempty"`
	Desc  proto.Desc     `cbor:"4,keyasint"` // without extents
	NoDir bool           `cbor:"5,keyasint,omitempty"`
}

// Entry is a target.Entry.
type Entry struct {
	Path     string     `cbor:"1,keyasint"`
	Desc     proto.Desc `cbor:"2,keyasint"`
	Brief    bool       `cbor:"3,keyasint,omitempty"`
	Unlisted string     `cbor:"4,keyasint,omitempty"`
}

// Info is a target.Info.
type Info struct {
	Where     string              `cbor:"1,keyasint"`
	Confirm   target.ConfirmClass `cbor:"2,keyasint"`
	Carries   Carries             `cbor:"3,keyasint"`
	FreeBytes int64               `cbor:"4,keyasint"` // -1 when unknown
	MaxName   int                 `cbor:"5,keyasint,omitempty"`
	CaseFolds bool                `cbor:"6,keyasint,omitempty"`
	Move      bool                `cbor:"7,keyasint,omitempty"`
	Atomic    bool                `cbor:"8,keyasint,omitempty"`
	Holds     int64               `cbor:"9,keyasint,omitempty"`
	ClockNs   int64               `cbor:"10,keyasint,omitempty"` // ns since 1970, 0 for none
	Notes     []string            `cbor:"11,keyasint,omitempty"`
	// HoldsUpTo is the size up to which a content counts for Holds; 0: all do.
	HoldsUpTo int64 `cbor:"12,keyasint,omitempty"`
}

// Carries is a target.Carries.
type Carries struct {
	Mode      bool `cbor:"1,keyasint,omitempty"`
	Owner     bool `cbor:"2,keyasint,omitempty"`
	Mtime     bool `cbor:"3,keyasint,omitempty"`
	Xattrs    bool `cbor:"4,keyasint,omitempty"`
	Symlinks  bool `cbor:"5,keyasint,omitempty"`
	Hardlinks bool `cbor:"6,keyasint,omitempty"`
	Sparse    bool `cbor:"7,keyasint,omitempty"`
	EmptyDirs bool `cbor:"8,keyasint,omitempty"`
	RawNames  bool `cbor:"9,keyasint,omitempty"`
	Shut      bool `cbor:"10,keyasint,omitempty"`
	Coarse    bool `cbor:"11,keyasint,omitempty"`
}
