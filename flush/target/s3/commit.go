package s3

import (
	"context"
	"errors"
	"maps"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// Commit carries out changes, several at a time where their order does not matter. One commit runs at a time.
func (d *S3) Commit(ctx context.Context, changes []target.Change) []error {
	d.commits.Lock()
	defer d.commits.Unlock()
	return waves.Commit(ctx, changes, d.cfg.Requests, d.apply)
}

func (d *S3) apply(ctx context.Context, ch target.Change) error {
	if err := proto.CheckPath(ch.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "commit: %w", err)
	}
	if ch.Op != target.OpDelete {
		if err := checkKey(d.object(ch.Path)); err != nil {
			return d.failed(err, "commit %q", ch.Path)
		}
	}
	switch ch.Op {
	case target.OpPut:
		return d.failed(d.putFile(ctx, ch), "put %q", ch.Path)
	case target.OpMkdir:
		return d.failed(d.mkdir(ctx, ch), "make directory %q", ch.Path)
	case target.OpSymlink:
		return d.failed(d.symlink(ctx, ch), "make symlink %q", ch.Path)
	case target.OpLink:
		return d.failed(d.link(ctx, ch), "link %q to %q", ch.Path, ch.Desc.LinkTo)
	case target.OpMeta:
		return d.failed(d.setMeta(ctx, ch), "set metadata of %q", ch.Path)
	case target.OpDelete:
		return d.failed(d.delete(ctx, ch), "delete %q", ch.Path)
	}
	return proto.Errorf(proto.ClassPermanent, "commit %q: unknown operation %d", ch.Path, ch.Op)
}

// putFile makes a staged content the object of a path.
func (d *S3) putFile(ctx context.Context, ch target.Change) error {
	if err := target.CheckStageID(ch.Stage); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	data, held := d.held.Data(ch.Stage)
	d.mu.Lock()
	up := d.uploads[ch.Stage]
	d.mu.Unlock()
	switch {
	case d.held.Writing(ch.Stage):
		return proto.Errorf(proto.ClassTransient, "staged content %s is being written", ch.Stage)
	case !held && up == nil:
		return d.already(ctx, ch)
	}
	if err := d.makeWay(ctx, ch); err != nil {
		return err
	}
	if held {
		if int64(len(data)) != ch.Desc.Size {
			return proto.Errorf(proto.ClassTransient, "staged content %s has %d bytes, the object has %d: stage it again", ch.Stage, len(data), ch.Desc.Size)
		}
		if err := d.putObject(ctx, ch, data); err != nil {
			return err
		}
		d.held.Drop(ch.Stage)
		return nil
	}
	return d.putUpload(ctx, ch, up)
}

// already reports whether the path has what a change was to bring whose stage is gone: the change was carried out before.
func (d *S3) already(ctx context.Context, ch target.Change) error {
	m, size, err := d.stat(ctx, d.object(ch.Path))
	if err != nil && !gone(err) {
		return err
	}
	if err == nil && isOf(m, size, ch.Desc) {
		return nil
	}
	return proto.Errorf(proto.ClassTransient, "staged content %s is not there, and the object is not at its path either: stage it again", ch.Stage)
}

// putObject puts a whole object in one request. One that was not answered is looked for before it is sent again.
func (d *S3) putObject(ctx context.Context, ch target.Change, data []byte) error {
	key, doubt := d.object(ch.Path), false
	d.mu.Lock()
	doubt = d.doubted[key]
	d.mu.Unlock()
	if doubt {
		if m, size, err := d.stat(ctx, key); err == nil && isOf(m, size, ch.Desc) {
			d.settle(key, false)
			return nil
		}
	}
	err := d.put(ctx, key, data, userMeta(ch.Desc))
	if err == nil || !silent(err) {
		d.settle(key, false)
		return err
	}
	d.settle(key, true)
	if m, size, serr := d.stat(ctx, key); serr == nil && isOf(m, size, ch.Desc) {
		d.settle(key, false)
		return nil
	}
	return err
}

// maxDoubts bounds what is remembered of requests without an answer. What is not is sent again, which does no harm.
const maxDoubts = 100_000

func (d *S3) settle(key string, doubt bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !doubt {
		delete(d.doubted, key)
	} else if len(d.doubted) < maxDoubts {
		d.doubted[key] = true
	}
}

// putUpload completes an upload in its place, or copies it there on the server where place or metadata were not known before.
func (d *S3) putUpload(ctx context.Context, ch target.Change, up *upload) error {
	if up.rec == nil || up.rec.UploadID == "" || up.rec.Size != ch.Desc.Size || d.whole(up) != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "staged content %s: %w: stage it again", ch.Stage, errShort)
	}
	if err := d.complete(ctx, up); err != nil {
		return err
	}
	key, meta := d.object(ch.Path), userMeta(ch.Desc)
	if up.rec.Key != key || !maps.Equal(up.rec.Meta, meta) {
		if err := d.copy(ctx, up.rec.Key, key, meta); err != nil {
			return err
		}
	}
	d.forgetSoon(ctx, up)
	return nil
}

// makeWay sees that a path can become an object that is no directory.
func (d *S3) makeWay(ctx context.Context, ch target.Change) error {
	if err := d.parents(ctx, ch.Path); err != nil {
		return err
	}
	d.clear.Drop(ch.Path)
	if ch.NoDir {
		return nil
	}
	return d.removeDir(ctx, ch.Path)
}

// removeDir removes what makes a path an empty directory. One that is not empty is ClassTransient.
func (d *S3) removeDir(ctx context.Context, p string) error {
	marker := d.object(p) + "/"
	if checkKey(marker) != nil {
		return nil // no directory can be there
	}
	there := false
	for o := range d.core.ListObjectsIter(ctx, d.cfg.Bucket, minio.ListObjectsOptions{Prefix: marker, Recursive: true, MaxKeys: 2}) {
		if o.Err != nil {
			return d.failed(o.Err, "look into %q", p)
		}
		if o.Key != marker {
			return proto.Errorf(proto.ClassTransient, "directory %q is not empty", p)
		}
		there = true
	}
	if err := ctx.Err(); err != nil {
		return err // the list may have ended with it
	}
	if !there {
		return nil
	}
	return d.remove(ctx, marker)
}

// parents sees that nothing above a path is an object that is no directory: on S3 both could be there.
func (d *S3) parents(ctx context.Context, p string) error {
	for a := waves.Parent(p); a != "" && !d.clear.Has(a); a = waves.Parent(a) {
		_, _, err := d.stat(ctx, d.object(a))
		if err == nil {
			return proto.Errorf(proto.ClassTransient, "a parent is no directory: %q", a)
		}
		if !gone(err) {
			return err
		}
		d.clear.Add(a)
	}
	return nil
}

func (d *S3) mkdir(ctx context.Context, ch target.Change) error {
	if err := d.parents(ctx, ch.Path); err != nil {
		return err
	}
	if !d.clear.Has(ch.Path) { // a file or link has its place
		if _, _, err := d.stat(ctx, d.object(ch.Path)); err == nil {
			err = d.remove(ctx, d.object(ch.Path))
			if err != nil {
				return err
			}
		} else if !gone(err) {
			return err
		}
		d.clear.Add(ch.Path)
	}
	return d.put(ctx, d.object(ch.Path)+"/", nil, userMeta(ch.Desc))
}

func (d *S3) symlink(ctx context.Context, ch target.Change) error {
	if err := d.makeWay(ctx, ch); err != nil {
		return err
	}
	return d.put(ctx, d.object(ch.Path), []byte(ch.Desc.LinkTo), userMeta(ch.Desc))
}

// link copies the file that a hard link shares.
func (d *S3) link(ctx context.Context, ch target.Change) error {
	if err := proto.CheckPath(ch.Desc.LinkTo); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if ch.Desc.LinkTo == ch.Path {
		return proto.Errorf(proto.ClassPermanent, "it is the path itself")
	}
	e, err := d.Stat(ctx, ch.Desc.LinkTo)
	if err != nil {
		return err
	}
	if e.Desc.Kind != proto.KindFile || e.Desc.Size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "it is a %s of %d bytes, not a file of %d", e.Desc.Kind, e.Desc.Size, ch.Desc.Size)
	}
	if err := d.makeWay(ctx, ch); err != nil {
		return err
	}
	return d.copy(ctx, d.object(ch.Desc.LinkTo), d.object(ch.Path), userMeta(ch.Desc))
}

// setMeta gives an object other metadata: S3 does that by a copy onto itself, on the server.
func (d *S3) setMeta(ctx context.Context, ch target.Change) error {
	e, err := d.Stat(ctx, ch.Path)
	if err != nil {
		return err
	}
	same := e.Desc.Kind == ch.Desc.Kind || e.Desc.Kind.HasContent() && ch.Desc.Kind.HasContent()
	if !same || ch.Desc.Kind.HasContent() && e.Desc.Size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "there is a %s of %d bytes: put it again", e.Desc.Kind, e.Desc.Size)
	}
	switch ch.Desc.Kind {
	case proto.KindDir:
		return d.put(ctx, d.object(ch.Path)+"/", nil, userMeta(ch.Desc))
	case proto.KindSymlink:
		return d.put(ctx, d.object(ch.Path), []byte(ch.Desc.LinkTo), userMeta(ch.Desc))
	}
	return d.copy(ctx, d.object(ch.Path), d.object(ch.Path), userMeta(ch.Desc))
}

// delete removes what is at a path. It looks first, for on a bucket with versions even a delete of nothing leaves something.
func (d *S3) delete(ctx context.Context, ch target.Change) error {
	if checkKey(d.object(ch.Path)) != nil {
		return nil // it never came there
	}
	if !d.clear.Has(ch.Path) {
		_, _, err := d.stat(ctx, d.object(ch.Path))
		if err == nil {
			err = d.remove(ctx, d.object(ch.Path))
		}
		if unholdable(err) {
			return nil // nor did this
		}
		if err != nil && !gone(err) {
			return err
		}
	}
	return d.removeDir(ctx, ch.Path)
}

var errNoFile = errors.New("it is no file")
