package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/hash"

	"forebay/flush/target"
	"forebay/flush/target/held"
	"forebay/flush/target/process/serve"
	"forebay/flush/target/text"
	"forebay/flush/target/tree"
	"forebay/flush/target/waves"
	"forebay/proto"
)

const (
	smallMax = 4 << 20  // bytes up to which a content is kept in memory until it is committed
	hold     = 64 << 20 // bytes of such contents in all
	requests = 8        // changes of a commit under way at once
)

// remote is a directory of a remote of rclone as a target:
//
//	<root>/<prefix>/...                             the mirror
//	<root>/.forebay/stage/<prefix key>/<stage id>   a content over 4 MiB
//	<root>/.forebay/stage/<prefix key>/.t-<id>      a small one on its way to its place
//	<root>/.forebay/<record>                        records
//
// Where the remote can move, an object is put into the stage, compared, and moved to its name. A bucket is put to at once: an object
// appears there when it is whole. What can do neither is written in its place, which the relay asks the operator about.
type remote struct {
	f       fs.Fs
	backend string // rclone's name of it
	text    string // the connection string
	o       serve.Opening
	can     *fs.Features
	key     string // target.PrefixKey of the prefix

	held *held.Contents
	dirs *waves.Paths // of the mirror: known to be no files but, if anything, directories

	commits sync.Mutex // held by Commit

	mu     sync.Mutex
	marked bool                     // the owner mark was seen
	temps  uint64                   // begins anywhere: what a server still does for a session before must not meet a name of this one
	sizes  map[target.StageID]int64 // announced, of contents in the stage
}

func newRemote(f fs.Fs, backend, text string, o serve.Opening) *remote {
	return &remote{f: f, backend: backend, text: text, o: o, can: f.Features(), key: target.PrefixKey(o.Prefix), temps: rand.Uint64(), held: held.New(smallMax, hold), dirs: waves.NewPaths(), sizes: map[target.StageID]int64{}}
}

// place is the name of a path of the mirror; "" is the mirror itself.
func (r *remote) place(p string) string { return text.Escape(tree.Join(r.o.Prefix, p)) }

func (r *remote) stageDir() string { return r.record(target.StageDir + "/" + r.key) }

func (r *remote) staged(id target.StageID) string { return r.stageDir() + "/" + string(id) }

func (r *remote) record(name string) string { return proto.ReservedName + "/" + name }

// temp is a new name in the stage.
func (r *remote) temp() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.temps++
	return r.stageDir() + "/.t-" + strconv.FormatUint(r.temps, 10)
}

// times reports whether the remote keeps times of files.
func (r *remote) times() bool { return r.f.Precision() != fs.ModTimeNotSupported }

// base is the last part of an object's name.
func base(o fs.DirEntry) string { return o.Remote()[strings.LastIndexByte(o.Remote(), '/')+1:] }

// Probe asks for the owner mark, and where it is not there for the root.
func (r *remote) Probe(ctx context.Context) (target.Info, error) {
	if err := ctx.Err(); err != nil {
		return target.Info{}, err
	}
	if err := r.lookForMark(ctx); err != nil {
		return target.Info{}, err
	}
	info := target.Info{
		Where: r.text, Confirm: target.ConfirmAck, FreeBytes: -1, Holds: hold, HoldsUpTo: smallMax, CaseFolds: r.can.CaseInsensitive,
		Move: r.can.Move != nil, Atomic: r.can.BucketBased, // an object appears there when it is whole
		Carries: target.Carries{EmptyDirs: r.can.CanHaveEmptyDirectories, RawNames: true},
		Notes:   []string{"metadata and symbolic links are kept under .forebay/ only, hard links become copies, and holes zeros"},
	}
	if r.backend == "webdav" || r.backend == "smb" {
		info.Notes = append(info.Notes, "an object that is replaced may be away for a moment: servers of this kind take it away before they move another into its place")
	}
	if r.times() {
		info.Notes = append(info.Notes, "files get their times, to "+r.f.Precision().String())
	}
	if r.f.Hashes().Count() == 0 {
		info.Notes = append(info.Notes, "the remote has no checksums: of what was sent the size is compared")
	} else {
		info.Notes = append(info.Notes, "what was sent is compared with the remote's "+r.f.Hashes().String())
	}
	if r.can.About != nil {
		if u, err := r.can.About(ctx); err == nil && u.Free != nil {
			info.FreeBytes = *u.Free
		}
	}
	return info, nil
}

func (r *remote) lookForMark(ctx context.Context) error {
	mark := r.record(target.MarkDir + "/" + r.key)
	_, err := r.f.NewObject(ctx, mark)
	r.mu.Lock()
	r.marked = r.marked || err == nil
	expected := r.marked || r.o.Expect
	r.mu.Unlock()
	switch {
	case err == nil:
		return nil
	case !absent(err):
		return r.failed(err, "look for the owner mark %s", mark)
	case expected:
		return proto.Errorf(proto.ClassTransient, "%s is not the target it was: its owner mark %s is gone: was it emptied or exchanged? %s", r.text, mark, target.WipedHint)
	}
	if _, err := r.f.List(ctx, ""); errors.Is(err, fs.ErrorDirNotFound) {
		return proto.Errorf(proto.ClassTransient, "%s is not there: make it, or correct the remote", r.text)
	} else if err != nil {
		return r.failed(err, "look into %s", r.text)
	}
	return nil
}

// stillThere looks for the owner mark of a remote that was marked: what is behind it may have been unmounted since it was probed.
func (r *remote) stillThere(ctx context.Context) error {
	r.mu.Lock()
	expected := r.marked || r.o.Expect
	r.mu.Unlock()
	if !expected {
		return nil
	}
	return r.lookForMark(ctx)
}

// Close gives up connections.
func (r *remote) Close() error {
	if r.can.Shutdown == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Second)
	defer stop()
	return r.can.Shutdown(ctx)
}

// Records returns the records, which all prefixes of the target share.
func (r *remote) Records() target.Records { return records{r} }

// History returns nil: the protocol has no place for it.
func (r *remote) History() target.History { return nil }

// hashes are those that the remote knows of its objects without reading them.
func (r *remote) hashes() hash.Set {
	if r.can.SlowHash {
		return hash.NewHashSet()
	}
	return r.f.Hashes()
}
