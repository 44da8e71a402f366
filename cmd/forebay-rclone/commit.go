package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/rclone/rclone/fs"

	"forebay/flush/target"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// Commit carries out changes, several at a time where their order does not matter. One commit runs at a time.
func (r *remote) Commit(ctx context.Context, changes []target.Change) []error {
	r.commits.Lock()
	defer r.commits.Unlock()
	if err := r.stillThere(ctx); err != nil {
		return target.FillErrors(make([]error, len(changes)), err)
	}
	return waves.Commit(ctx, changes, requests, r.apply)
}

func (r *remote) apply(ctx context.Context, ch target.Change) error {
	if err := proto.CheckPath(ch.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "commit: %w", err)
	}
	what, err := r.change(ctx, ch)
	if r.tooLong(ctx, err, r.place(ch.Path)) {
		if ch.Op == target.OpDelete || ch.Op == target.OpSymlink {
			return nil // it never came there, nor did anything else of that name
		}
		// Not with the path, of which there would be more than of the reason; nor is it for the relay that something is absent.
		return proto.Errorf(proto.ClassPermanent, "%s: the remote cannot hold it: its path has %d bytes there, and it or a name in it is too long: "+
			"give it a shorter one at the source (%s)", what, len(r.place(ch.Path)), err.Error())
	}
	return r.failed(err, "%s %q", what, ch.Path)
}

// change makes a change, and says what it does.
func (r *remote) change(ctx context.Context, ch target.Change) (what string, err error) {
	switch ch.Op {
	case target.OpPut:
		return "put", r.putFile(ctx, ch)
	case target.OpMkdir:
		return "make directory", r.mkdir(ctx, ch)
	case target.OpSymlink: // in the journal only: what had its name must not stay
		return "make way for the symlink", r.makeWay(ctx, ch.Path, true)
	case target.OpLink:
		return "link", r.link(ctx, ch)
	case target.OpMeta:
		return "set metadata of", r.setMeta(ctx, ch)
	case target.OpDelete:
		return "delete", r.delete(ctx, ch.Path)
	}
	return "commit", proto.Errorf(proto.ClassPermanent, "unknown operation %d", ch.Op)
}

// putFile makes a staged content the object of a path.
func (r *remote) putFile(ctx context.Context, ch target.Change) error {
	if err := target.CheckStageID(ch.Stage); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if r.held.Writing(ch.Stage) {
		return proto.Errorf(proto.ClassTransient, "staged content %s is being written", ch.Stage)
	}
	data, small := r.held.Data(ch.Stage)
	size := int64(len(data))
	var o fs.Object
	if !small {
		var err error
		o, err = r.f.NewObject(ctx, r.staged(ch.Stage))
		if absent(err) {
			return r.already(ctx, ch)
		}
		if err != nil {
			return err
		}
		size = o.Size()
	}
	if size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "staged content %s has %d bytes, the object has %d: stage it again", ch.Stage, size, ch.Desc.Size)
	}
	if err := r.makeWay(ctx, ch.Path, false); err != nil {
		return err
	}
	name := r.place(ch.Path)
	if small {
		if err := r.whole(ctx, name, bytes.NewReader(data), size, mtime(ch.Desc)); err != nil {
			return err
		}
		r.held.Drop(ch.Stage)
		return nil
	}
	if err := r.setTime(ctx, o, ch.Desc); err != nil {
		return err
	}
	if err := r.moveTo(ctx, o, name, mtime(ch.Desc)); err != nil {
		return err
	}
	r.forget(ch.Stage)
	return nil
}

// already reports whether a put whose stage is gone was carried out before. An older version may have the same size: where the remote
// has no times the content is read.
func (r *remote) already(ctx context.Context, ch target.Change) error {
	o, err := r.object(ctx, ch.Path)
	if err != nil && !absent(err) && !errors.Is(err, fs.ErrorIsDir) {
		return err
	}
	if err == nil && o.Size() == ch.Desc.Size {
		same, err := r.isOf(ctx, o, ch.Desc)
		if same || err != nil {
			return err
		}
	}
	return proto.Errorf(proto.ClassTransient, "staged content %s is not there, and the object is not at its path either: stage it again", ch.Stage)
}

// isOf reports whether an object of the right size has a description's content.
func (r *remote) isOf(ctx context.Context, o fs.Object, d proto.Desc) (bool, error) {
	if r.times() && o.ModTime(ctx).Truncate(r.f.Precision()).Equal(mtime(d).Truncate(r.f.Precision())) {
		return true, nil
	}
	in, err := openObject(ctx, o)
	if err != nil {
		return false, err
	}
	defer func() { _ = in.Close() }() // only read from
	sum, _, err := proto.ReadDigest(ctx, in)
	return err == nil && sum == d.Digest, err
}

var errNoDir = errors.New("a parent is no directory")

// parents sees that nothing above a path is a file.
func (r *remote) parents(ctx context.Context, p string) error {
	for _, a := range above(p) {
		if r.dirs.Has(a) {
			continue
		}
		_, err := r.f.NewObject(ctx, r.place(a))
		switch {
		case err == nil:
			return proto.Errorf(proto.ClassTransient, "%w: %q", errNoDir, a)
		case absent(err) && !r.can.BucketBased:
			return nil // nothing is below it either
		case !absent(err) && !errors.Is(err, fs.ErrorIsDir):
			return err
		}
		r.dirs.Add(a)
	}
	return nil
}

// makeWay sees that a path can become a file: an empty directory goes, and with it what has the name already, if files are to. It looks
// even where the flush knows of no directory: servers that move over one take all that is in it away.
func (r *remote) makeWay(ctx context.Context, p string, files bool) error {
	if err := r.parents(ctx, p); err != nil {
		return err
	}
	r.dirs.Drop(p)
	o, err := r.f.NewObject(ctx, r.place(p))
	switch {
	case err == nil && files:
		return o.Remove(ctx)
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrorIsDir) || absent(err) && r.can.BucketBased:
		return r.removeDir(ctx, p)
	case absent(err):
		return nil
	}
	return err
}

// removeDir removes an empty directory; one that is gone is no error.
func (r *remote) removeDir(ctx context.Context, p string) error {
	entries, err := r.f.List(ctx, r.place(p))
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return proto.Errorf(proto.ClassTransient, "directory %q is not empty", p)
	}
	if err := r.f.Rmdir(ctx, r.place(p)); err != nil && !absent(err) {
		return err
	}
	return nil
}

func (r *remote) mkdir(ctx context.Context, ch target.Change) error {
	if err := r.parents(ctx, ch.Path); err != nil {
		return err
	}
	if !r.dirs.Has(ch.Path) {
		o, err := r.f.NewObject(ctx, r.place(ch.Path))
		if err == nil {
			err = o.Remove(ctx)
		}
		if err != nil && !absent(err) && !errors.Is(err, fs.ErrorIsDir) {
			return err
		}
	}
	if r.can.CanHaveEmptyDirectories {
		for _, p := range append(above(ch.Path), ch.Path) {
			if err := r.f.Mkdir(ctx, r.place(p)); err != nil {
				return err
			}
		}
	}
	r.dirs.Add(ch.Path)
	return nil
}

// above are the directories above a path, the mirror's own first.
func above(p string) (out []string) {
	for i := range len(p) {
		if p[i] == '/' {
			out = append(out, p[:i])
		}
	}
	return out
}

// link copies the file that a hard link shares.
func (r *remote) link(ctx context.Context, ch target.Change) error {
	to := ch.Desc.LinkTo
	if err := proto.CheckPath(to); err != nil || to == ch.Path {
		return proto.Errorf(proto.ClassPermanent, "it cannot share %q", to)
	}
	o, err := r.object(ctx, to)
	if err != nil {
		return fmt.Errorf("to %q: %w", to, err)
	}
	if o.Size() != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "%q has %d bytes, not %d", to, o.Size(), ch.Desc.Size)
	}
	if err := r.makeWay(ctx, ch.Path, false); err != nil {
		return err
	}
	name := r.place(ch.Path)
	if r.can.Move == nil {
		return r.copyTo(ctx, o, name, mtime(ch.Desc))
	}
	tmp := r.temp()
	if err := r.copyTo(ctx, o, tmp, mtime(ch.Desc)); err != nil {
		return err
	}
	made, err := r.f.NewObject(ctx, tmp)
	if err != nil {
		return err
	}
	return r.moveTo(ctx, made, name, mtime(ch.Desc))
}

// setMeta sees that the object is there. Only a file's time is kept.
func (r *remote) setMeta(ctx context.Context, ch target.Change) error {
	if ch.Desc.Kind == proto.KindSymlink {
		return nil
	}
	e, err := r.Stat(ctx, ch.Path)
	if err != nil {
		return err
	}
	same := e.Desc.Kind == ch.Desc.Kind || e.Desc.Kind.HasContent() && ch.Desc.Kind.HasContent()
	if !same || ch.Desc.Kind.HasContent() && e.Desc.Size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "there is a %s of %d bytes: put it again", e.Desc.Kind, e.Desc.Size)
	}
	if !ch.Desc.Kind.HasContent() {
		return nil
	}
	o, err := r.object(ctx, ch.Path)
	if err != nil {
		return err
	}
	return r.setTime(ctx, o, ch.Desc)
}

// delete removes what is at a path. Below a file there is nothing.
func (r *remote) delete(ctx context.Context, p string) error {
	if err := r.parents(ctx, p); errors.Is(err, errNoDir) {
		return nil
	} else if err != nil {
		return err
	}
	r.dirs.Drop(p)
	o, err := r.f.NewObject(ctx, r.place(p))
	if err == nil {
		if err = o.Remove(ctx); absent(err) {
			err = nil
		}
		return err
	}
	if !absent(err) && !errors.Is(err, fs.ErrorIsDir) {
		return err
	}
	return r.removeDir(ctx, p)
}
