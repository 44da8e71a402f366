package s3

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target"
	"forebay/proto"
)

// A part of which nothing changed is copied on the server from the object that is in its place. Of one that changed in part, what did
// not is fetched: all parts but the last have 5 MiB at least.
//
// Such an upload is begun without a checksum algorithm, and no part of it has one: the payloads are signed as always, and so proved when
// they arrive. MinIO refuses to copy into an upload with checksums, and versitygw 1.8.0 gives a copied part that of the whole source.

// before is the object that is in the place of the new one.
type before struct {
	key, etag string
	size      int64
}

// Reuse appends what the object has that is at the path. The server is not made to read it to us: the object is taken for what it is by
// its metadata, and held to be that one until the upload is complete.
func (m *multi) Reuse(ctx context.Context, n int64, sum proto.Digest, was []proto.Digest) error {
	if err := m.failure(); err != nil {
		return err
	}
	if m.off+n > m.up.rec.Size {
		return proto.Errorf(proto.ClassPermanent, "stage %s: %d bytes are more than it was announced with (%d)", m.up.id, m.off+n, m.up.rec.Size)
	}
	if err := m.findBefore(ctx, was); err != nil {
		return err
	}
	if m.off+n > m.before.size {
		return fmt.Errorf("%w: it has %d bytes", target.ErrNotReusable, m.before.size)
	}
	if m.buf == nil && !m.up.rec.Unsummed { // the parts of this upload come with their checksums
		if err := m.newPart(); err != nil {
			return err
		}
	}
	if m.buf != nil {
		at := len(m.buf)
		m.buf = m.buf[:at+int(n)]
		if err := m.read(ctx, m.off, m.buf[at:], []proto.Digest{sum}); err != nil {
			m.buf = m.buf[:at]
			return err
		}
		m.off += n
		if len(m.buf) == cap(m.buf) {
			m.send()
		}
		return nil
	}
	m.kept, m.keeps, m.off = append(m.kept, sum), m.keeps+n, m.off+n
	if m.keeps == m.partLen() {
		if err := m.d.copies.Acquire(ctx, 1); err != nil {
			return err
		}
		m.copyPart()
	}
	return nil
}

// findBefore looks, once, at what is in the place of the new object.
func (m *multi) findBefore(ctx context.Context, was []proto.Digest) error {
	if m.before != nil {
		return nil
	}
	if m.path == "" {
		return fmt.Errorf("%w: its place is not known", target.ErrNotReusable)
	}
	key := m.d.object(m.path)
	o, err := m.d.core.StatObject(ctx, m.d.cfg.Bucket, key, minio.StatObjectOptions{})
	if err != nil {
		if err = m.d.failed(err, "look for %s", key); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", target.ErrNotReusable, err)
		}
		return err
	}
	digest := headers(o.Metadata)[metaDigest]
	if !slices.ContainsFunc(was, func(d proto.Digest) bool { return hex.EncodeToString(d[:]) == digest }) {
		return fmt.Errorf("%w: %s is of another content", target.ErrNotReusable, key)
	}
	m.before = &before{key, strings.Trim(o.ETag, `"`), o.Size}
	return nil
}

// fetch begins the part that was to be copied with its bytes, since others are to follow.
func (m *multi) fetch() error {
	if m.keeps == 0 {
		return nil
	}
	m.buf = m.buf[:m.keeps]
	err := m.read(m.ctx, m.off-m.keeps, m.buf, m.kept)
	m.kept, m.keeps = nil, 0
	return err
}

// read fetches a run of whole blocks and proves it.
func (m *multi) read(ctx context.Context, off int64, p []byte, sums []proto.Digest) error {
	opts := minio.GetObjectOptions{}
	if err := errors.Join(opts.SetRange(off, off+int64(len(p))-1), opts.SetMatchETag(m.before.etag)); err != nil {
		return fmt.Errorf("read %s: %w", m.before.key, err)
	}
	body, _, _, err := m.d.core.GetObject(ctx, m.d.cfg.Bucket, m.before.key, opts)
	if err != nil {
		return m.replaced(err)
	}
	_, err = io.ReadFull(body, p)
	_ = body.Close() // only read from
	if err != nil {
		return m.d.failed(err, "read %s", m.before.key)
	}
	if !slices.Equal(proto.BlockDigests(nil, p), sums) {
		return fmt.Errorf("%w: %s has other bytes at %d", target.ErrNotReusable, m.before.key, off)
	}
	return nil
}

// replaced is what a refusal means where the object was to be the one that was seen.
func (m *multi) replaced(err error) error {
	if minio.ToErrorResponse(err).Code == minio.PreconditionFailed {
		return fmt.Errorf("%w: %s was replaced", target.ErrNotReusable, m.before.key)
	}
	return m.d.failed(err, "read %s", m.before.key)
}

// maxCopies is how many parts a server is asked to copy at a time.
const maxCopies = 8

// copyPart has the server copy a whole part. d.copies was acquired.
func (m *multi) copyPart() {
	n, length := int((m.off-1)/m.up.rec.Part)+1, m.keeps
	start := m.off - length
	m.kept, m.keeps = nil, 0
	m.flying.Add(1)
	go func() { // ends with the request, which ends with ctx
		defer m.flying.Done()
		defer m.d.copies.Release(1)
		p, err := m.d.core.CopyObjectPart(m.ctx, m.d.cfg.Bucket, m.before.key, m.d.cfg.Bucket, m.up.rec.Key, m.up.rec.UploadID, n, start, length,
			map[string]string{"X-Amz-Copy-Source-If-Match": m.before.etag})
		if err != nil {
			m.fail(m.replaced(err))
			return
		}
		m.d.mu.Lock()
		defer m.d.mu.Unlock()
		m.up.parts[n] = minio.ObjectPart{PartNumber: n, ETag: strings.Trim(p.ETag, `"`), Size: length}
	}()
}
