package s3

import (
	"context"
	"io"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target"
	"forebay/proto"
)

// Records returns the records of the target, which all its prefixes share.
func (d *S3) Records() target.Records { return records{d} }

type records struct{ d *S3 }

func (r records) key(name string) (string, error) {
	if err := target.CheckRecord(name); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return r.d.record(name), nil
}

// Put writes a record.
func (r records) Put(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, data, r.d.put)
}

// Create implements target.Creator. A server that does not know the condition writes all the same; package trial finds that out.
func (r records) Create(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, data, r.d.putNew)
}

func (r records) write(ctx context.Context, name string, data []byte, put func(ctx context.Context, key string, data []byte, meta map[string]string) error) error {
	key, err := r.key(name)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.d.failed(put(ctx, key, data, nil), "write record %s", name); err != nil {
		return err
	}
	r.noteMark(name, true)
	return nil
}

// noteMark notes that the owner mark was written, or withdrawn: then it is not missed.
func (r records) noteMark(name string, there bool) {
	if name == target.MarkDir+"/"+r.d.key {
		r.d.mu.Lock()
		defer r.d.mu.Unlock()
		r.d.marked = there
	}
}

// Open opens a record.
func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	key, err := r.key(name)
	if err != nil {
		return nil, err
	}
	body, _, _, err := r.d.core.GetObject(ctx, r.d.cfg.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, r.d.failed(err, "open record %s", name)
	}
	return body, nil
}

// List lists the records in a folder.
func (r records) List(ctx context.Context, dir string) (names []string, err error) {
	key, err := r.key(dir)
	if err != nil {
		return nil, err
	}
	for o := range r.d.core.ListObjectsIter(ctx, r.d.cfg.Bucket, minio.ListObjectsOptions{Prefix: key + "/"}) {
		if o.Err != nil {
			return nil, r.d.failed(o.Err, "list records in %s", dir)
		}
		if name := strings.TrimPrefix(o.Key, key+"/"); name != "" && !strings.HasSuffix(name, "/") {
			names = append(names, name)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err // the list may have ended with it
	}
	slices.Sort(names)
	return names, nil
}

// Remove removes a record.
func (r records) Remove(ctx context.Context, name string) error {
	key, err := r.key(name)
	if err != nil {
		return err
	}
	if err := r.d.failed(r.d.remove(ctx, key), "remove record %s", name); err != nil {
		return err
	}
	r.noteMark(name, false)
	return nil
}
