package restore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"forebay/flush/target"
	"forebay/proto"
)

// largeContent is from how many bytes on a content that is not whole yet outlives its restore: the next one goes on with it.
const largeContent = 64 << 20

// largeStart begins the stage names of such contents; all others are of one restore alone.
const largeStart = "l-"

// stageOf names the stage of a content: a large one by what it is, so that another restore finds it again.
func (r *run) stageOf(path string, d proto.Desc, own target.StageID) target.StageID {
	if !r.large(d) {
		return own
	}
	sum := proto.BlockDigest(append([]byte(path+"\x00"), d.Digest[:]...))
	return target.StageID(largeStart + hex.EncodeToString(sum[:20]))
}

func (r *run) large(d proto.Desc) bool {
	return d.Kind.HasContent() && d.Size >= cmp.Or(r.o.large, largeContent)
}

// leftovers is what an earlier restore into the same place has of contents that it did not finish, by stage: whether it is wanted.
type leftovers map[target.StageID]bool

// findLeft lists what is left, and removes what no restore could go on with.
func (r *run) findLeft(ctx context.Context) error {
	left := leftovers{}
	err := r.local.Unstage(ctx, func(id target.StageID) bool {
		if !strings.HasPrefix(string(id), largeStart) {
			return false
		}
		left[id] = false
		return true
	})
	if err == nil {
		r.left = left
	}
	return err
}

// keptSuffix ends the name of a stage that is filled from what the target kept.
const keptSuffix = "k"

// want notes that what is left of a content is of use.
func (r *run) want(it item) {
	for _, d := range [...]proto.Desc{it.desc, it.also} {
		id := r.stageOf(it.path, d, "")
		for _, id := range [...]target.StageID{id, id + keptSuffix} {
			if _, ok := r.left[id]; ok {
				r.left[id] = true
			}
		}
	}
}

// dropLeft removes what is left of contents that are not restored any more. A restore of a part does not know that.
func (r *run) dropLeft(ctx context.Context) error {
	if len(r.left) == 0 || r.o.Path != "" {
		return nil
	}
	return here(r.local.Unstage(ctx, func(id target.StageID) bool { return r.left[id] }))
}

// leave says what stays of contents that are not whole: the large ones, when the restore did not come to its end, or was of a part.
func (r *run) leave(ctx context.Context) {
	if r.local == nil || r.o.DryRun {
		return
	}
	ctx, r.fresh = context.WithoutCancel(ctx), false
	err := r.local.Unstage(ctx, func(id target.StageID) bool { return strings.HasPrefix(string(id), largeStart) })
	if err != nil {
		return // the next restore removes it
	}
	if r.report.LeftBytes = workBytes(r.o.To); r.report.LeftBytes > 0 {
		r.report.Left = r.work
	}
}

// workBytes is what the large contents in the work folders of to take of the disk, in bytes.
func workBytes(to string) (bytes int64) {
	entries, _ := os.ReadDir(to) // a figure: what can be read counts
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), workStart) {
			continue
		}
		_ = filepath.WalkDir(filepath.Join(to, e.Name()), func(_ string, e fs.DirEntry, err error) error {
			if err != nil || !strings.HasPrefix(e.Name(), largeStart) || !e.Type().IsRegular() {
				return nil
			}
			if info, err := e.Info(); err == nil {
				bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
			}
			return nil
		})
	}
	return bytes
}

// errOtherThanLeft says that what is left of a content cannot be gone on with.
var errOtherThanLeft = proto.Errorf(proto.ClassCorrupt, "what an earlier restore left of it is something else")

// take goes on with what an earlier restore has left of a content. It is read, and counts in the digest like what comes from the target.
// The source is read on from the last whole block; bytes behind it that are there already are compared.
func (f *fetching) take(ctx context.Context) (err error) {
	if f.to, err = f.r.local.Stage(ctx, target.Content{ID: f.id, Size: f.w.desc.Size}); err != nil {
		return here(err)
	}
	in, err := f.r.local.Reread(ctx, f.id)
	if err != nil {
		return errOtherThanLeft
	}
	defer func() { _ = in.Close() }() // only read from
	had, block := f.to.Offset(), make([]byte, proto.BlockSize)
	for f.n < had {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := block[:min(proto.BlockSize, had-f.n)]
		if _, err := io.ReadFull(in, piece); err != nil {
			return errOtherThanLeft
		}
		if n := int64(len(piece)); n < proto.BlockSize && f.n+n < f.w.desc.Size {
			f.tail = bytes.Clone(piece)
			break
		}
		f.sum.Add(proto.BlockDigest(piece))
		f.n += int64(len(piece))
		f.r.arrived(f.w, f.n)
	}
	f.from = f.n
	return nil
}

// rest returns what of a block is to be written, and where it lies: what is there already is compared.
func (f *fetching) rest(data []byte) (rest []byte, off int64, err error) {
	n := min(len(f.tail), len(data))
	if !bytes.Equal(f.tail[:n], data[:n]) || n < len(f.tail) {
		return nil, 0, errOtherThanLeft
	}
	f.tail = nil
	return data[n:], f.n + int64(n), nil
}

// afresh reports whether a content that was gone on with is to be fetched from its beginning: its digest, or what was left of it, is
// not right, which the target need not be to blame for.
func afresh(ctx context.Context, w *work, d proto.Digest, err error) bool {
	if err == nil {
		return !w.is(d)
	}
	return !fatal(ctx, err) && (errors.Is(err, errOtherThanLeft) || proto.ClassOf(err) == proto.ClassCorrupt)
}

// removeWork removes the folder in which contents were made whole, unless some of them are left to go on with, or may be.
func (r *run) removeWork() {
	if r.work != "" && (r.fresh || r.left != nil && r.report.Left == "") {
		_ = os.RemoveAll(r.work) // the next restore removes what stays
	}
}
