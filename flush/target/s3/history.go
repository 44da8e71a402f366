package s3

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target"
	"forebay/proto"
)

// History returns the place for what is replaced and deleted.
func (d *S3) History() target.History { return history{d} }

type history struct{ d *S3 }

func (h history) folder() string {
	return h.d.record(target.HistoryDir+"/"+h.d.key) + "/"
}

func (h history) key(name target.KeptName) (string, error) {
	if err := target.CheckKept(name); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return h.folder() + string(name), nil
}

// Keep copies contents of the mirror on the server, several at a time.
func (h history) Keep(ctx context.Context, keeps []target.Keep) []error {
	h.d.commits.Lock()
	defer h.d.commits.Unlock()
	return h.each(ctx, len(keeps), func(i int) error { return h.d.failed(h.keep(ctx, keeps[i]), "keep %q", keeps[i].Path) })
}

// each calls do for 0 to n-1, several at a time.
func (h history) each(ctx context.Context, n int, do func(int) error) []error {
	errs := make([]error, n)
	places := make(chan struct{}, h.d.cfg.Requests)
	var wg sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		wg.Add(1)
		go func() { // ends with its requests
			defer wg.Done()
			defer func() { <-places }()
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = do(i)
			}
		}()
	}
	wg.Wait()
	return errs
}

// keep copies one content, of the object that was looked at and no other: metadata tell whether it is the one to be kept.
func (h history) keep(ctx context.Context, k target.Keep) error {
	if err := proto.CheckPath(k.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	to, err := h.key(k.Name)
	if err != nil {
		return err
	}
	if _, _, err := h.d.stat(ctx, to); err == nil || !gone(err) {
		return err
	}
	from := h.d.object(k.Path)
	o, err := h.d.core.StatObject(ctx, h.d.cfg.Bucket, from, minio.StatObjectOptions{})
	if err = h.d.failed(err, "look for %s", from); gone(err) {
		return proto.Errorf(proto.ClassTransient, "%w: there is nothing", target.ErrNotThere)
	}
	if err != nil {
		return err
	}
	m := headers(o.Metadata)
	if kind, _ := describe(m, false); kind != proto.KindFile || o.Size != k.Size {
		return proto.Errorf(proto.ClassTransient, "%w: there is a %s of %d bytes instead of a file of %d", target.ErrNotThere, kind, o.Size, k.Size)
	}
	if sum, ok := m[metaDigest]; ok && sum != hex.EncodeToString(k.Digest[:]) {
		return proto.Errorf(proto.ClassTransient, "%w: its digest is another", target.ErrNotThere)
	}
	err = h.d.copyOf(ctx, o, to, ours(m))
	if proto.ClassOf(err) == proto.ClassConflict {
		return proto.Errorf(proto.ClassTransient, "it was changed meanwhile: %s", err)
	}
	return err
}

// Open opens a kept content.
func (h history) Open(ctx context.Context, name target.KeptName) (io.ReadCloser, error) {
	key, err := h.key(name)
	if err != nil {
		return nil, err
	}
	body, _, _, err := h.d.core.GetObject(ctx, h.d.cfg.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, h.d.failed(err, "open kept content %s", name)
	}
	return body, nil
}

// List lists what is kept.
func (h history) List(ctx context.Context, fn func(target.Kept) error) error {
	for o := range h.d.core.ListObjectsIter(ctx, h.d.cfg.Bucket, minio.ListObjectsOptions{Prefix: h.folder(), Recursive: true}) {
		if o.Err != nil {
			return h.d.failed(o.Err, "list what is kept")
		}
		name := target.KeptName(strings.TrimPrefix(o.Key, h.folder()))
		if target.CheckKept(name) != nil {
			continue
		}
		if err := fn(target.Kept{Name: name, Size: o.Size}); err != nil {
			return err
		}
	}
	return ctx.Err() // the list may have ended with it
}

// Remove removes kept contents, several at a time.
func (h history) Remove(ctx context.Context, names []target.KeptName) []error {
	return h.each(ctx, len(names), func(i int) error { return h.remove(ctx, names[i]) })
}

// remove removes a kept content. Where the bucket has versions, all of them: else it would hide the content and free nothing. One that
// is locked stays as it is.
func (h history) remove(ctx context.Context, name target.KeptName) error {
	key, err := h.key(name)
	if err != nil {
		return err
	}
	versions, err := h.d.hasVersions(ctx)
	if err != nil {
		return err
	}
	if !versions {
		return h.d.remove(ctx, key)
	}
	var found []minio.ObjectInfo
	for o := range h.d.core.ListObjectsIter(ctx, h.d.cfg.Bucket, minio.ListObjectsOptions{Prefix: key, Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			return h.d.failed(o.Err, "list the versions of %s", key)
		}
		if o.Key == key {
			found = append(found, o)
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the list may have ended with it
	}
	for _, o := range found {
		err := h.d.core.RemoveObject(ctx, h.d.cfg.Bucket, key, minio.RemoveObjectOptions{VersionID: o.VersionID})
		if err == nil {
			continue
		}
		if locked := h.d.lockOf(ctx, o); locked != nil {
			return proto.Errorf(proto.ClassTransient, "remove kept content %s: %w", name, locked)
		}
		return h.d.failed(err, "remove kept content %s", name)
	}
	return nil
}

// hasVersions reports whether the bucket keeps versions of its objects, now or before. It is asked once.
func (d *S3) hasVersions(ctx context.Context) (bool, error) {
	d.mu.Lock()
	known := d.versions
	d.mu.Unlock()
	if known == nil {
		v, err := d.core.GetBucketVersioning(ctx, d.cfg.Bucket)
		var answer minio.ErrorResponse
		if errors.As(err, &answer) && (answer.Code == "NotImplemented" || answer.Code == "VersioningNotConfigured") {
			err = nil // the server has none
		}
		if err != nil {
			return false, d.failed(err, "ask whether bucket %s has versions", d.cfg.Bucket)
		}
		has := v.Enabled() || v.Suspended()
		known = &has
		d.mu.Lock()
		d.versions = known
		d.mu.Unlock()
	}
	return *known, nil
}

// lockOf is what keeps a version of an object from being removed, nil when that is no lock.
func (d *S3) lockOf(ctx context.Context, o minio.ObjectInfo) *target.LockedError {
	_, until, err := d.core.GetObjectRetention(ctx, d.cfg.Bucket, o.Key, o.VersionID)
	if err == nil && until != nil && until.After(d.now()) {
		return &target.LockedError{Until: *until}
	}
	hold, err := d.core.GetObjectLegalHold(ctx, d.cfg.Bucket, o.Key, minio.GetObjectLegalHoldOptions{VersionID: o.VersionID})
	if err == nil && hold != nil && *hold == minio.LegalHoldEnabled {
		return &target.LockedError{}
	}
	return nil
}

// now is the server's clock as far as it is known: locks go by that.
func (d *S3) now() time.Time { return d.wire.now().Add(d.wire.skew()) }
