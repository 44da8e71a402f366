package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"sync"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target/held"
	"forebay/proto"
)

// multi writes the parts of an upload, several at a time.
type multi struct {
	d      *S3
	ctx    context.Context // of Stage, whose content it is
	up     *upload
	off    int64          // written so far, those in buf too
	buf    []byte         // of the part that is being filled; nil when none is
	took   int64          // of S3.room for buf
	kept   []proto.Digest // blocks of the part that is being filled that are to be copied, while it has no others; then buf is nil
	keeps  int64          // their bytes
	before *before        // what is at the path; nil until something of it is used again
	path   string
	flying sync.WaitGroup

	mu  sync.Mutex
	err error // the first part that failed
}

func (d *S3) newMulti(ctx context.Context, up *upload, path string) *multi {
	return &multi{d: d, ctx: ctx, up: up, off: d.whole(up), path: path}
}

func (m *multi) Offset() int64 { return m.off }
func (m *multi) Proved() bool  { return true }
func (m *multi) Unit() int64   { return m.up.rec.Part }

func (m *multi) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *multi) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = err
	}
}

func (m *multi) Write(p []byte) (n int, err error) {
	return m.fill(int64(len(p)), func(dst []byte) {
		copy(dst, p[n:])
		n += len(dst)
	}, &n)
}

// Hole appends zeros: S3 has no holes.
func (m *multi) Hole(size int64) error {
	n := 0
	_, err := m.fill(size, func(dst []byte) {
		clear(dst)
		n += len(dst)
	}, &n)
	return err
}

// fill appends size bytes that next writes into the parts.
func (m *multi) fill(size int64, next func(dst []byte), n *int) (int, error) {
	if m.off+size > m.up.rec.Size {
		return 0, proto.Errorf(proto.ClassPermanent, "stage %s: %w (%d)", m.up.id, held.ErrTooMuch, m.up.rec.Size)
	}
	for size > 0 {
		if err := m.failure(); err != nil {
			return *n, err
		}
		if m.buf == nil {
			if err := m.newPart(); err != nil {
				return *n, err
			}
			if err := m.fetch(); err != nil {
				return *n, err
			}
		}
		have := len(m.buf)
		k := int(min(size, int64(cap(m.buf)-have)))
		m.buf = m.buf[:have+k]
		next(m.buf[have:])
		m.off, size = m.off+int64(k), size-int64(k)
		if len(m.buf) == cap(m.buf) {
			m.send()
		}
	}
	return *n, nil
}

// partLen is the length of the part that is being filled.
func (m *multi) partLen() int64 {
	start := m.off - m.keeps - int64(len(m.buf))
	return min(m.up.rec.Part, m.up.rec.Size-start)
}

// newPart waits for memory for the next part.
func (m *multi) newPart() error {
	size := m.partLen()
	took := min(size, m.d.cfg.Buffers)
	if err := m.d.room.Acquire(m.ctx, took); err != nil {
		return err
	}
	m.buf, m.took = make([]byte, 0, size), took
	return nil
}

// send uploads the part that is full.
func (m *multi) send() {
	data, took := m.buf, m.took
	n := int((m.off-1)/m.up.rec.Part) + 1
	m.buf, m.took = nil, 0
	m.flying.Add(1)
	go func() { // ends with the request, which ends with ctx
		defer m.flying.Done()
		defer m.d.room.Release(took)
		if err := m.d.sendPart(m.ctx, m.up, n, data); err != nil {
			m.fail(err)
		}
	}()
}

// sendPart uploads one part, unless the server has just that.
func (d *S3) sendPart(ctx context.Context, up *upload, n int, data []byte) error {
	sum := sumOf(data)
	d.mu.Lock()
	have, ok := up.parts[n]
	d.mu.Unlock()
	if ok && have.Size == int64(len(data)) && have.ChecksumSHA256 == sum.base64() {
		return nil
	}
	opts := minio.PutObjectPartOptions{Sha256Hex: sum.hex(), DisableContentSha256: true}
	if !up.rec.Unsummed {
		opts.CustomHeader = http.Header{"X-Amz-Checksum-Sha256": {sum.base64()}}
	}
	p, err := d.core.PutObjectPart(ctx, d.cfg.Bucket, up.rec.Key, up.rec.UploadID, n, bytes.NewReader(data), int64(len(data)), opts)
	if err != nil {
		return d.failed(err, "upload part %d of %s", n, up.rec.Key)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	up.parts[n] = p
	return nil
}

// Sync waits for the parts under way. The server keeps what it has acknowledged.
func (m *multi) Sync() (int64, error) {
	m.flying.Wait()
	return m.d.whole(m.up), m.failure()
}

// Close waits for the parts under way. A part that is not full is given up: it will be written again.
func (m *multi) Close() error {
	if m.buf != nil {
		m.d.room.Release(m.took)
		m.buf, m.took = nil, 0
	}
	m.flying.Wait()
	m.d.held.End(m.up.id)
	return m.failure()
}

// sum is the SHA-256 of a payload: it signs the request, and the server keeps it with what it stores.
type sum [sha256.Size]byte

func sumOf(p []byte) sum     { return sha256.Sum256(p) }
func (s sum) hex() string    { return hex.EncodeToString(s[:]) }
func (s sum) base64() string { return base64.StdEncoding.EncodeToString(s[:]) }
