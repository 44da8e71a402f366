// Package target is the contract between the flush and a backup destination. It is made so that a directory, an S3 bucket,
// an SFTP server, another cluster's agents and a driver process can all keep it truthfully. Drivers are its sub-packages;
// each passes the conformance suite in target/conformance. It imports proto only.
//
// The way of a batch:
//
//	Stage, Write, Close     for each content, under .forebay/stage, invisible to readers of the mirror
//	Barrier                 the staged bytes are durable (first barrier)
//	Keep                    with a history: what is about to be replaced or deleted is kept beside the mirror, durably
//	Commit                  they appear under their names, whole, in order; then directories are durable (second barrier)
//
// Everything may be repeated: after a crash, a lost connection or an unknown outcome, the flush does the same again and the
// result is the same.
package target

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"forebay/proto"
)

// ConfirmClass says what a target's "confirmed" means, weakest first.
type ConfirmClass string

// The confirm classes.
const (
	ConfirmAck    ConfirmClass = "ack"    // the server acknowledged it and the checksum matches
	ConfirmSync   ConfirmClass = "sync"   // fsynced, directories too
	ConfirmReread ConfirmClass = "reread" // sync, then read back past the cache and compared
)

// Rank orders the classes; an unknown one ranks 0.
func (c ConfirmClass) Rank() int {
	switch c {
	case ConfirmAck:
		return 1
	case ConfirmSync:
		return 2
	case ConfirmReread:
		return 3
	}
	return 0
}

// Info is what Probe found.
type Info struct {
	Driver  string       `json:"driver"`
	Where   string       `json:"where"`   // for people: a path or URL
	Confirm ConfirmClass `json:"confirm"` // the strongest class the target can honestly reach
	// Carries tells which metadata the mirror itself holds. What it cannot hold is in the journal only.
	Carries Carries `json:"carries"`
	// FreeBytes is -1 when the target cannot tell.
	FreeBytes int64 `json:"free_bytes"`
	// MaxName is the longest name of one path component in bytes, 0 when there is no limit or it is not known. What has a longer one is
	// parked without the target being asked.
	MaxName int `json:"max_name"`
	// CaseFolds is set where names that differ in case only are the same.
	CaseFolds bool `json:"case_folds"`
	// Move is set where a staged object can be moved on the server; Atomic where a put appears whole. One must be.
	Move   bool `json:"move"`
	Atomic bool `json:"atomic"`
	// Holds is how many bytes of staged contents the target keeps in the relay's memory until they are committed, 0 when it keeps
	// none: a batch with more than that costs it more.
	Holds int64 `json:"holds,omitempty"`
	// HoldsUpTo is the size in bytes up to which a content counts for Holds; larger ones are elsewhere. 0: all count.
	HoldsUpTo int64 `json:"holds_up_to,omitempty"`
	// Keeps is set where the target can keep what is replaced and deleted, see History.
	Keeps bool `json:"keeps"`
	// Reuses is set where stages of large contents are Reusers: what did not change of an object neither comes nor goes.
	Reuses bool `json:"reuses,omitempty"`
	// Clock is the target's clock when it has one, else zero.
	Clock time.Time `json:"clock"`
	// Notes are things an operator should know, such as "no right to chown: owners are kept under .forebay/ only".
	Notes []string `json:"notes,omitempty"`
}

// Held returns how many bytes of a content of size bytes count for Holds.
func (i Info) Held(size int64) int64 {
	if i.Holds == 0 || i.HoldsUpTo > 0 && size > i.HoldsUpTo {
		return 0
	}
	return size
}

// Holdable reports whether no name in a path is longer than the target's names can be.
func (i Info) Holdable(path string) bool {
	if i.MaxName == 0 || len(path) <= i.MaxName {
		return true
	}
	for name := range strings.SplitSeq(path, "/") {
		if len(name) > i.MaxName {
			return false
		}
	}
	return true
}

// Carries is a set of what a mirror can hold.
type Carries struct {
	Mode, Owner, Mtime, Xattrs, Symlinks, Hardlinks, Sparse, EmptyDirs, RawNames bool
	// Shut is set where objects may have modes that keep their owner from reading them. Else they have Legible modes.
	Shut bool
	// Coarse is set where times are kept to two seconds only.
	Coarse bool
}

// Legible returns the mode that an object has where the user who writes the mirror has no other right to read it than as its
// owner: verify and restore must be able to.
func Legible(kind proto.Kind, mode uint32) uint32 {
	switch {
	case kind == proto.KindDir:
		return mode | 0o500
	case kind.HasContent():
		return mode | 0o400
	}
	return mode
}

// StageID names a staged content: unique per version and link, chosen by the flush, safe as a file name (letters, digits,
// '-'), at most 64 bytes.
type StageID string

// Content is what is known of a content when it is staged.
type Content struct {
	ID   StageID
	Size int64 // bytes
	// Path is where it is to be committed and Desc what the object is to be, as far as that is known: a target that cannot move
	// uploads it in its place, still unseen. A Path of "" and a Desc of the zero kind are no error, nor is it one to commit to
	// another place or with other metadata: it only costs more.
	Path string
	Desc proto.Desc
	// Reuses is set where bytes of the object at Path are going to be used again, see Reuser: they may be none, or without it some, but
	// then it may cost more.
	Reuses bool
}

// Target is one backup destination below one prefix. All methods may be called concurrently except where said; all paths
// are checked with proto.CheckPath before anything is touched, and nothing outside the target's root or prefix is ever
// written or followed, whatever links lie there (I12). Errors carry a proto class: transient (try again), permanent (park
// this object), corrupt, conflict (the target belongs to somebody else), overload (full, or asked to slow down).
type Target interface {
	Writer
	Reader
	// Probe looks whether the target is there and what it can do. It is cheap enough to be called every few seconds while a
	// link is stalled. A target that is not there (unmounted, unreachable) is an error; nothing is created by Probe.
	Probe(ctx context.Context) (Info, error)
	// Records returns the place for the journal and other records of Forebay itself, outside the mirror.
	Records() Records
	// History returns the place for what is replaced and deleted, nil where the target cannot keep it (Info.Keeps).
	History() History
	// Close gives up connections. Staged contents stay.
	Close() error
}

// Writer is the half of a target that a flush uses.
type Writer interface {
	// Stage opens a staged content for writing, a new one or one left by an earlier run: Offset says how many bytes of it are
	// kept. One writer at a time for an id.
	Stage(ctx context.Context, c Content) (Stage, error)
	// Barrier returns when all bytes of the given staged contents, closed before, are as durable as the confirm class says; of
	// class ack, a target may leave that to Commit. After an error nothing is known of any of them: unstage and write them again.
	Barrier(ctx context.Context, ids []StageID) error
	// Reread opens a staged content for reading, past the cache where the target has one. A target that cannot read what is
	// not committed answers ClassPermanent; it is not of class reread, and its stages are Proved.
	Reread(ctx context.Context, id StageID) (io.ReadCloser, error)
	// Commit carries out changes in order and returns when those that succeeded are durable under their names. The i-th
	// error is the i-th change's; a failed change does not stop the later ones. A reader of the mirror sees the old object
	// or the new one, never a part (I10). Committing a change again whose stage is gone because it was committed before
	// succeeds when the path has the described size and kind.
	Commit(ctx context.Context, changes []Change) []error
	// Unstage removes every staged content that keep does not want.
	Unstage(ctx context.Context, keep func(StageID) bool) error
}

// Stage is an open staged content. Not for concurrent use.
type Stage interface {
	// Write appends. The driver does not keep p.
	io.Writer
	// Hole appends n zero bytes, without writing them where the target can be sparse.
	Hole(n int64) error
	// Offset is how many bytes the content has: where to go on.
	Offset() int64
	// Proved reports whether the bytes up to Offset, when it was opened, are known to be those that were written, by checksums
	// that the target verified. Else they are to be read back before they are relied on.
	Proved() bool
	// Unit is in which steps of bytes Sync makes the content durable before it is whole: 1 where any byte can be the last.
	Unit() int64
	// Sync makes everything written durable and returns the durable offset: the flush may release the cache up to there.
	Sync() (int64, error)
	// Close ends the writing and keeps the content. It does not make it durable.
	Close() error
}

// Reuser is a Stage that can take bytes of the object that is at Content.Path, without their passing through the relay.
type Reuser interface {
	// Reuse appends the next n bytes, at most a block, as that object has them at the same place; sum is the digest of the block that they
	// end. A target that reads them cheaply proves them by it; one that does not holds that object to be of one of the contents was.
	// What is not there, or is something else, is an error for which errors.Is(err, ErrNotReusable).
	Reuse(ctx context.Context, n int64, sum proto.Digest, was []proto.Digest) error
}

// ErrNotReusable says that the object at a path is not what it was taken for.
var ErrNotReusable = errors.New("the target does not have the content that this one builds on")

// Op is what a change does.
type Op uint8

// The operations.
const (
	OpPut     Op = 1 // the staged content Stage becomes the file Path with Desc.Meta
	OpMkdir   Op = 2 // Path is a directory with Desc.Meta
	OpSymlink Op = 3 // Path is a symlink to Desc.LinkTo (text, never followed)
	OpLink    Op = 4 // Path is a hard link to the file Desc.LinkTo; a target without hard links copies
	OpMeta    Op = 5 // Path keeps its content and gets Desc.Meta
	OpDelete  Op = 6 // Path is gone; one that is gone already is no error. A directory must be empty (else transient)
)

// Change is one step of a commit. Parents of Path that are missing are made. A change replaces whatever has the name; an
// empty directory too, a directory that is not empty is ClassTransient ("not empty"): its entries are to be deleted first.
// Changing what is in a directory leaves that directory's own mtime as it was.
type Change struct {
	Op    Op
	Path  string
	Stage StageID
	Desc  proto.Desc
	// NoDir says that the flush knows of no directory at Path: a target for which it is dear to look need not.
	NoDir bool
}

// Entry is what a mirror has at a path. Meta holds what the target carries.
type Entry struct {
	Path string
	Desc proto.Desc // Digest is zero: a listing does not read
	// Brief is set in a listing of a target that would have to ask for each object's metadata: only the size is known of it, and
	// whether it is a directory; Stat tells the rest.
	Brief bool
	// Unlisted is why a listing has nothing of what is in this directory, "" when it has it.
	Unlisted string
}

// Reader is the half of a target that verify and restore use.
type Reader interface {
	// Open opens the file at path. Not there: an error for which errors.Is(err, fs.ErrNotExist).
	Open(ctx context.Context, path string) (io.ReadCloser, error)
	// Stat describes what is at path, without following links. Not there: fs.ErrNotExist.
	Stat(ctx context.Context, path string) (Entry, error)
	// List calls fn for everything in the mirror at or below the path prefix ("" = all), in the byte order of the paths (so
	// a directory comes before what is in it, and a reader can merge it with the journal); .forebay is not part of it. What
	// is no file, directory or symlink has KindNone. It stops with fn's error.
	List(ctx context.Context, prefix string, fn func(Entry) error) error
}

// Records keeps small files under .forebay/, which all prefixes of a target share. Names pass CheckRecord.
type Records interface {
	// Put writes a record whole: after a crash it is there entirely or not at all, and durable when Put returns.
	Put(ctx context.Context, name string, data []byte) error
	// Open reads a record. Not there: fs.ErrNotExist.
	Open(ctx context.Context, name string) (io.ReadCloser, error)
	// List returns the names of the records in dir, sorted; a missing dir is empty.
	List(ctx context.Context, dir string) ([]string, error)
	// Remove removes a record; one that is gone already is no error.
	Remove(ctx context.Context, name string) error
}

// Creator is Records of a target that can make a record only where there is none, as one step: of two who do it at once, one has it.
type Creator interface {
	// Create is Put of a record that is not there. One that is stays: an error for which errors.Is(err, fs.ErrExist). A place that turns
	// out to be unable to is an error for which errors.Is(err, errors.ErrUnsupported).
	Create(ctx context.Context, name string, data []byte) error
}

// Create creates a record by Creator, if the target has it.
func Create(ctx context.Context, rec Records, name string, data []byte) error {
	if c, ok := rec.(Creator); ok {
		return c.Create(ctx, name, data)
	}
	return errors.ErrUnsupported
}

// WipedHint is what an operator can do about a target that has lost its owner mark, behind a semicolon or a question.
const WipedHint = "if that was on purpose, forebay verify LINK --repair --wiped fills it again"

// FillErrors sets each error of a batch's changes that is nil, and returns them.
func FillErrors(errs []error, err error) []error {
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}
