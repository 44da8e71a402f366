// Package index is the agent's record of what each root holds, what the relay has of it, and what is still to be done. It
// lives on disk, in pebble, so that an agent's memory does not grow with the number of objects; it can be lost and made
// anew from a scan and the relay's feed. It is one of the three doors to pebble. It imports proto only.
package index

import "forebay/proto"

// Stat is the fingerprint of an object in the file system, as lstat gave it at the last scan.
type Stat struct {
	Size    int64  `cbor:"1,keyasint,omitempty"`
	MtimeNs int64  `cbor:"2,keyasint"`
	CtimeNs int64  `cbor:"3,keyasint"`
	Ino     uint64 `cbor:"4,keyasint"`
	Dev     uint64 `cbor:"5,keyasint"`
	Mode    uint32 `cbor:"6,keyasint"` // st_mode, type bits included
	UID     uint32 `cbor:"7,keyasint,omitempty"`
	GID     uint32 `cbor:"8,keyasint,omitempty"`
	Nlink   uint32 `cbor:"9,keyasint,omitempty"`
}

// State says how far an object is settled with the relay.
type State uint8

// The states of an entry.
const (
	StatePending    State = 1 // differs, as far as known, from what the relay has of this holder: in the queue
	StateSettled    State = 2 // this holder has Version, proved
	StateLagging    State = 3 // content is an older version; waits for the replica to catch up
	StateDivergent  State = 4 // content is a fork that lost
	StateUnreadable State = 5 // cannot be read; tried again with back-off (in the queue)
	StateUnsettled  State = 6 // changed each time it was read; tried again (in the queue)
	StateSkipped    State = 7 // socket, device or pipe: listed, never sent
	StateUnwanted   State = 8 // no link names the dataset
	StateGone       State = 9 // a completed scan did not find it; its Gone report is in the queue
)

// Queued reports whether entries of this state stand in the queue.
func (s State) Queued() bool {
	return s == StatePending || s == StateUnreadable || s == StateUnsettled || s == StateGone
}

// Entry is what the index knows of one path in one root.
type Entry struct {
	Path   string     `cbor:"-"` // the key
	Kind   proto.Kind `cbor:"1,keyasint"`
	State  State      `cbor:"2,keyasint"`
	Stat   Stat       `cbor:"3,keyasint"`
	LinkTo string     `cbor:"4,keyasint,omitempty"` // symlink text; path of a hard link's leader

	// Digest is the content digest of this holder's copy as it was at Stat, when HasDigest.
	Digest    proto.Digest `cbor:"5,keyasint,omitzero"`
	HasDigest bool         `cbor:"6,keyasint,omitempty"`

	// Version is the version this holder last agreed on with the relay: the parent of its next claim. MetaSum holds a sum
	// of each metadata field as it was then (order: mode, owner, mtime, xattrs), to tell which of them changed since.
	Version proto.VersionID `cbor:"7,keyasint,omitempty"`
	MetaSum [4]uint64       `cbor:"8,keyasint,omitzero"`

	// Heard is the newest version of the path that the feed told of; 0 when none or when it is Version.
	Heard       proto.VersionID `cbor:"9,keyasint,omitempty"`
	HeardKind   proto.Kind      `cbor:"10,keyasint,omitempty"`
	HeardSize   int64           `cbor:"11,keyasint,omitempty"`
	HeardDigest proto.Digest    `cbor:"12,keyasint,omitzero"`

	// Due is when the queue offers the entry (nanoseconds since 1970); FirstSeen when it was first found to differ.
	Due       int64 `cbor:"13,keyasint,omitempty"`
	FirstSeen int64 `cbor:"14,keyasint,omitempty"`
	// Waited is set once the entry has been put back for its rank in the pick.
	Waited bool `cbor:"15,keyasint,omitempty"`
	// Attempts counts failed readings in a row, for back-off; Reason is the last failure.
	Attempts int    `cbor:"16,keyasint,omitempty"`
	Reason   string `cbor:"17,keyasint,omitempty"`

	// Unlisted says why what is in this directory could not be seen, or not all of it, at the last look; "" when it could.
	// The directory itself is settled as any other. It counts as Unreadable, and InState lists it among them, with
	// Unlisted as its Reason.
	Unlisted string `cbor:"18,keyasint,omitempty"`
	// Claimed is set, durably, before the relay is first told of the object: from then on it may know this holder as one, even if
	// its answer never came and Version and Heard are 0.
	Claimed bool `cbor:"19,keyasint,omitempty"`
	// Renewed is set while the entry is queued only because this index was put back to an older copy: its content is that of Version.
	Renewed bool `cbor:"20,keyasint,omitempty"`
}

// Identity is how a root is recognised: an unmounted or exchanged one differs in it. It is remembered at the first scan. Where
// FSID is nothing but the number of the device, as on XFS, it may change when the machine starts, and another file system may
// get it: there UUID and BornNs tell. The first releases did not remember these.
type Identity struct {
	FSType uint64 `cbor:"1,keyasint"` // statfs f_type
	FSID   uint64 `cbor:"2,keyasint"` // statfs f_fsid
	Ino    uint64 `cbor:"3,keyasint"` // of the root directory

	UUID   [16]byte `cbor:"4,keyasint,omitzero"`  // of the file system; zero: not known, or FSID lasts
	BornNs int64    `cbor:"5,keyasint,omitempty"` // when the root directory was made, nanoseconds since 1970; 0: as UUID
}

// Like reports whether two roots agree in what is known of both, their numbers of devices apart where these are all that FSID is.
func (i Identity) Like(o Identity) bool {
	return i.FSType == o.FSType && i.Ino == o.Ino &&
		(i.UUID == o.UUID || i.UUID == [16]byte{} || o.UUID == [16]byte{}) && (i.BornNs == o.BornNs || i.BornNs == 0 || o.BornNs == 0)
}

// Same reports whether a root that was found is the one that is remembered, in its place.
func (i Identity) Same(found Identity) bool { return i.FSID == found.FSID && i.Like(found) }

// Present reports whether the entry stands for something that the last look at the root found there. An entry of KindNone
// that is not StateSkipped only keeps what the feed told of a path that this root does not have (Heard).
func (e Entry) Present() bool {
	return e.State != StateGone && (e.Kind != proto.KindNone || e.State == StateSkipped)
}

// Unknown reports whether the relay surely knows nothing of this holder's having the path.
func (e Entry) Unknown() bool { return e.Version == 0 && e.Heard == 0 && !e.Claimed }

// Counts are kept exactly, in the same write as the entries they count. Objects and all states but Gone and Skipped count
// present entries only. Bytes are those of files: a hard link adds none, its leader has them.
type Counts struct {
	Objects, Bytes           int64 // all but Gone and Skipped
	UnsentCount, UnsentBytes int64 // Pending, Unreadable, Unsettled
	Lagging, Divergent       int64
	Unreadable, Unsettled    int64 // Unreadable includes directories that could not be listed
	Skipped, Gone, Unwanted  int64
	UploadedBytes            int64 // payload bytes acknowledged, added by AddUploaded
	LastScanNs               int64
	ScanToken                uint64
	Cursor                   proto.VersionID
	Told                     uint64 // proto.Root.Told
}

// The doors:
//
//	Open(dir) (*DB, error)                         one database for all roots of an agent; ErrInUse, ErrNewer, ErrCorrupt
//	DB.Root(name string) (*Root, error)            opened, or made with a new random ID; the same *Root for the same name
//	DB.Roots() ([]string, error)                   names of the roots it knows
//	DB.Drop(name string) error                     forgets a root; its *Root must no longer be used
//	DB.Failed() <-chan struct{}; DB.Err() error    closed once the disk under it failed: end the process, restart
//	DB.Close() error
//
// Root is the index of one root. Reading may go on beside writing; Edit is exclusive per root.
//
//	ID() string                                    random, made with the index: proto.Root.Index
//	Get(path string) (Entry, bool, error)
//	Edit(fn func(tx *Tx) error) error              read-modify-write; all of it is written, or nothing when fn fails
//	Children(dir string, after string, limit int) ([]Entry, error)   direct children sorted by name ("" = the root);
//	                                               after is a name
//	Below(dir string, after string, limit int) ([]Entry, error)      everything below dir, by (directory, name); after is
//	                                               the last path that the call before gave
//	Due(now time.Time, limit int) ([]Entry, error) queued entries with Due <= now, by (Due, Path)
//	NextDue() (time.Time, bool, error)
//	OldestUnsent() (time.Time, bool, error)        the smallest FirstSeen of Pending, Unreadable and Unsettled
//	InState(s State, after string, limit int) ([]Entry, error)       by (directory, name); after is a path. For
//	                                               StateSettled, which has no range of its own, it reads everything
//	Leader(dev, ino uint64) (path string, ok bool, err error)   the path that stands for a hard-linked inode
//	Counts() Counts
//	Identity() (Identity, bool); SetIdentity(Identity) error
//	SetCursor(proto.VersionID) error; AddUploaded(n int64) error; SetScanned(at time.Time) error;
//	SetAnswered(token uint64) error
//	Suspects(after string, limit int) ([]string, error)   paths that the running scan missed, judged at its end; scan only
//	Sync() error                                   what was written survives a power cut
//
// A Tx has Get, Leader, Put(Entry), Delete(path), SetLeader(dev, ino, path), DeleteLeader(dev, ino), Suspect(path),
// Acquit(path), SetCursor(VersionID), AddUploaded(n), Tell(above). It sees its own changes. A Put that changes nothing writes nothing.
//
// Limit <= 0 means no limit: only for ranges known to be small.
