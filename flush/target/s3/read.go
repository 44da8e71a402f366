package s3

import (
	"context"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target"
	"forebay/flush/target/text"
	"forebay/flush/target/tree"
	"forebay/proto"
)

// maxLink is the longest text of a symbolic link that is read.
const maxLink = 64 << 10

// stat returns the user metadata and size of an object. Not there: fs.ErrNotExist.
func (d *S3) stat(ctx context.Context, key string) (map[string]string, int64, error) {
	o, err := d.core.StatObject(ctx, d.cfg.Bucket, key, minio.StatObjectOptions{})
	if minio.ToErrorResponse(err).StatusCode == http.StatusBadRequest {
		// The answer to a HEAD has no text that says what is wrong with it, such as a name that the server cannot have.
		if body, _, _, gerr := d.core.GetObject(ctx, d.cfg.Bucket, key, minio.GetObjectOptions{}); gerr == nil {
			_ = body.Close() // of no use
		} else {
			err = gerr
		}
	}
	if err != nil {
		return nil, 0, d.failed(err, "look for %s", key)
	}
	return headers(o.Metadata), o.Size, nil
}

// Open opens a file of the mirror.
func (d *S3) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := proto.CheckPath(name); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "open: %w", err)
	}
	body, o, _, err := d.core.GetObject(ctx, d.cfg.Bucket, d.object(name), minio.GetObjectOptions{})
	if err != nil {
		return nil, d.failed(err, "open %q", name)
	}
	if kind, _ := describe(headers(o.Metadata), false); kind != proto.KindFile {
		_ = body.Close() // only opened to look
		return nil, proto.Errorf(proto.ClassPermanent, "open %q: %w", name, errNoFile)
	}
	return body, nil
}

// Stat describes what is at a path.
func (d *S3) Stat(ctx context.Context, name string) (target.Entry, error) {
	if err := proto.CheckPath(name); err != nil {
		return target.Entry{}, proto.Errorf(proto.ClassPermanent, "stat: %w", err)
	}
	e := target.Entry{Path: name}
	m, size, err := d.stat(ctx, d.object(name))
	if err == nil {
		e.Desc.Kind, e.Desc.Meta = describe(m, false)
		e.Desc.Size = size
		if e.Desc.Kind == proto.KindSymlink {
			to, err := d.get(ctx, d.object(name), maxLink)
			e.Desc.LinkTo, e.Desc.Size = string(to), 0
			return e, err
		}
		return e, nil
	}
	if !gone(err) {
		return e, err
	}
	if m, _, err = d.stat(ctx, d.object(name)+"/"); err == nil {
		e.Desc.Kind, e.Desc.Meta = describe(m, true)
		return e, nil
	}
	if !gone(err) {
		return e, err
	}
	for o := range d.core.ListObjectsIter(ctx, d.cfg.Bucket, minio.ListObjectsOptions{Prefix: d.object(name) + "/", Recursive: true, MaxKeys: 1}) {
		if o.Err != nil {
			return e, d.failed(o.Err, "look into %q", name)
		}
		e.Desc.Kind = proto.KindDir // there is something in it
		return e, nil
	}
	if err := ctx.Err(); err != nil {
		return e, err // the list may have ended with it
	}
	return e, proto.Errorf(proto.ClassTransient, "%q: %w", name, fs.ErrNotExist)
}

// List walks the mirror.
func (d *S3) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return tree.List(ctx, prefix, d.Stat, func(dir string) ([]target.Entry, error) { return d.entries(ctx, dir) }, fn)
}

// entries lists one directory.
func (d *S3) entries(ctx context.Context, name string) (entries []target.Entry, err error) {
	folder := d.object(name)
	if folder != "" {
		folder += "/"
	}
	for o := range d.core.ListObjectsIter(ctx, d.cfg.Bucket, minio.ListObjectsOptions{Prefix: folder}) {
		if o.Err != nil {
			return nil, d.failed(o.Err, "list %q", name)
		}
		base, isDir := strings.CutSuffix(strings.TrimPrefix(o.Key, folder), "/")
		if base == "" || base == proto.ReservedName {
			continue
		}
		if clean, ok := text.Unescape(base); ok {
			base = clean
		}
		e := target.Entry{Path: tree.Join(name, base), Brief: true}
		e.Desc.Kind, e.Desc.Size = proto.KindFile, o.Size
		if isDir {
			e.Desc.Kind, e.Desc.Size = proto.KindDir, 0
		}
		entries = append(entries, e)
	}
	return entries, ctx.Err() // the list may have ended with it
}
