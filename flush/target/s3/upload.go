package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/minio-go/v7"

	"forebay/flush/target"
	"forebay/proto"
)

// A large content is a multipart upload of the object that it is to become. The server keeps the parts it has acknowledged over any
// restart of ours, but tells nobody whose they are: that is in a record, written before the first part.
//
//	<path>/.forebay/stage/<prefix key>/<stage id>       {"format":1,"key":…,"upload_id":…,"part":…,"size":…,"meta":{…}}
//	<path>/.forebay/stage/<prefix key>/<stage id>.data  the object, where its place was not known yet

// uploadRecord is the record of an upload.
type uploadRecord struct {
	Format   int               `json:"format"`
	Key      string            `json:"key"`
	UploadID string            `json:"upload_id,omitempty"` // "" when it was about to be begun
	Part     int64             `json:"part"`                // bytes of each part but the last
	Size     int64             `json:"size"`
	Meta     map[string]string `json:"meta"`               // the object's user metadata
	Unsummed bool              `json:"unsummed,omitempty"` // its parts have no checksums, so that some can be copied
}

const (
	uploadFormat = 1
	maxParts     = 9000 // of the 10,000 that S3 allows
	maxRecord    = 64 << 10
	dataSuffix   = ".data"
)

// upload is a multipart upload on its way.
type upload struct {
	id   target.StageID
	rec  *uploadRecord // nil until it is read
	done bool          // it was completed, the object is there

	parts map[int]minio.ObjectPart // those that the server acknowledged; guarded by S3.mu
}

// partSize is how an object of size bytes is cut.
func (d *S3) partSize(size int64) int64 {
	n := max(d.cfg.Part, (size+maxParts-1)/maxParts)
	return (n + proto.BlockSize - 1) / proto.BlockSize * proto.BlockSize
}

// loadUploads finds the uploads that earlier runs left, once.
func (d *S3) loadUploads(ctx context.Context) error {
	d.mu.Lock()
	known := d.loaded
	d.mu.Unlock()
	if known {
		return nil
	}
	found := map[target.StageID]*upload{}
	folder := d.stageFolder()
	for o := range d.core.ListObjectsIter(ctx, d.cfg.Bucket, minio.ListObjectsOptions{Prefix: folder, Recursive: true}) {
		if o.Err != nil {
			return d.failed(o.Err, "list staged contents")
		}
		id := target.StageID(strings.TrimSuffix(strings.TrimPrefix(o.Key, folder), dataSuffix))
		if target.CheckStageID(id) == nil {
			found[id] = &upload{id: id, parts: map[int]minio.ObjectPart{}}
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the list may have ended with it
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.loaded {
		d.loaded = true
		maps.Copy(found, d.uploads)
		d.uploads = found
	}
	return nil
}

// openUpload goes on with an upload, or begins one.
func (d *S3) openUpload(ctx context.Context, c target.Content) (*multi, error) {
	if err := d.loadUploads(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	up := d.uploads[c.ID]
	d.mu.Unlock()
	if up != nil {
		usable, err := d.recall(ctx, up, c)
		if err != nil {
			return nil, err
		}
		if !usable {
			if err := d.abort(ctx, up); err != nil {
				return nil, err
			}
			up = nil
		}
	}
	if up == nil {
		var err error
		if up, err = d.create(ctx, c); err != nil {
			return nil, err
		}
	}
	return d.newMulti(ctx, up, c.Path), nil
}

// recall finds out what the server has of an upload. usable is false when it is no beginning of c.
func (d *S3) recall(ctx context.Context, up *upload, c target.Content) (usable bool, err error) {
	if up.rec == nil {
		if err := d.readUpload(ctx, up); err != nil {
			return false, err
		}
	}
	rec := up.rec
	if c.Reuses != rec.Unsummed || rec.UploadID == "" || rec.Size != c.Size || rec.Part%proto.BlockSize != 0 || rec.Part <= 0 {
		return false, nil
	}
	if up.done {
		return true, nil
	}
	parts := map[int]minio.ObjectPart{}
	for marker := 0; ; {
		list, err := d.core.ListObjectParts(ctx, d.cfg.Bucket, rec.Key, rec.UploadID, marker, 1000)
		if err != nil {
			if err = d.failed(err, "list the parts of %s", rec.Key); gone(err) {
				done, err := d.completed(ctx, up)
				d.mu.Lock()
				defer d.mu.Unlock()
				up.done = done
				return done, err
			}
			return false, err
		}
		for _, p := range list.ObjectParts {
			p.ETag = strings.Trim(p.ETag, `"`)
			parts[p.PartNumber] = p
		}
		if marker = list.NextPartNumberMarker; !list.IsTruncated {
			break
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	up.parts = parts
	return true, nil
}

// completed reports whether the object that an upload was to become is there.
func (d *S3) completed(ctx context.Context, up *upload) (bool, error) {
	m, size, err := d.stat(ctx, up.rec.Key)
	if gone(err) {
		return false, nil
	}
	if err != nil || size != up.rec.Size {
		return false, err
	}
	if up.rec.Key == d.stageFolder()+string(up.id)+dataSuffix {
		return true, nil // nothing else is ever there; of a stream, it is all that there is
	}
	if up.rec.Meta[metaDigest] == "" {
		return false, nil // without a digest it may be an older object of that size
	}
	return maps.Equal(up.rec.Meta, ours(m)), nil
}

func (d *S3) readUpload(ctx context.Context, up *upload) error {
	b, err := d.get(ctx, d.stageFolder()+string(up.id), maxRecord)
	if gone(err) { // only its data is left
		d.setRecord(up, &uploadRecord{Format: uploadFormat})
		return nil
	}
	if err != nil {
		return err
	}
	var rec uploadRecord
	if err := json.Unmarshal(b, &rec); err != nil || rec.Format < 1 {
		rec = uploadRecord{Format: uploadFormat} // torn it cannot be: somebody else's
	}
	if rec.Format > uploadFormat {
		return proto.Errorf(proto.ClassPermanent, "the record of staged content %s has format %d, this program knows %d: use a newer release", up.id, rec.Format, uploadFormat)
	}
	d.setRecord(up, &rec)
	return nil
}

func (d *S3) setRecord(up *upload, rec *uploadRecord) {
	d.mu.Lock()
	defer d.mu.Unlock()
	up.rec = rec
}

// create begins an upload. The record comes first, without the upload's id: an upload that nobody knows of would be there, and paid
// for, for ever.
func (d *S3) create(ctx context.Context, c target.Content) (*upload, error) {
	rec := &uploadRecord{Format: uploadFormat, Part: d.partSize(c.Size), Size: c.Size, Key: d.stageFolder() + string(c.ID) + dataSuffix, Meta: map[string]string{}, Unsummed: c.Reuses}
	if c.Path != "" && c.Desc.Kind == proto.KindFile {
		rec.Key, rec.Meta = d.object(c.Path), userMeta(c.Desc)
	}
	if err := checkKey(rec.Key); err != nil {
		return nil, err
	}
	return d.begin(ctx, c.ID, rec)
}

// begin begins an upload as a record has it.
func (d *S3) begin(ctx context.Context, id target.StageID, rec *uploadRecord) (*upload, error) {
	up := &upload{id: id, rec: rec, parts: map[int]minio.ObjectPart{}}
	if err := d.writeUpload(ctx, up); err != nil {
		return nil, err
	}
	meta := maps.Clone(rec.Meta)
	if !rec.Unsummed {
		meta["X-Amz-Checksum-Algorithm"] = "SHA256"
	}
	number, err := d.core.NewMultipartUpload(ctx, d.cfg.Bucket, rec.Key, minio.PutObjectOptions{UserMetadata: meta})
	if err != nil {
		return nil, d.failed(err, "begin the upload of %s", rec.Key)
	}
	d.mu.Lock()
	rec.UploadID = number
	d.mu.Unlock()
	if err := d.writeUpload(ctx, up); err != nil {
		return nil, err
	}
	return up, nil
}

func (d *S3) writeUpload(ctx context.Context, up *upload) error {
	b, err := json.Marshal(up.rec)
	if err != nil {
		return fmt.Errorf("record of staged content %s: %w", up.id, err)
	}
	d.mu.Lock()
	d.uploads[up.id] = up
	d.mu.Unlock()
	return d.failed(d.put(ctx, d.stageFolder()+string(up.id), b, nil), "record staged content %s", up.id)
}

// abort ends an upload and removes its record.
func (d *S3) abort(ctx context.Context, up *upload) error {
	if up.rec == nil {
		if err := d.readUpload(ctx, up); err != nil {
			return err
		}
	}
	ids := []string{up.rec.UploadID}
	if up.rec.UploadID == "" && up.rec.Key != "" { // it may have been begun all the same
		list, err := d.core.ListMultipartUploads(ctx, d.cfg.Bucket, up.rec.Key, "", "", "", 1000)
		if err != nil {
			return d.failed(err, "list uploads of %s", up.rec.Key)
		}
		ids = nil
		for _, u := range list.Uploads {
			if u.Key == up.rec.Key && !d.someoneElses(up, u.UploadID) {
				ids = append(ids, u.UploadID)
			}
		}
	}
	for _, id := range ids {
		if id == "" || up.done {
			continue
		}
		err := d.failed(d.core.AbortMultipartUpload(ctx, d.cfg.Bucket, up.rec.Key, id), "abort the upload of %s", up.rec.Key)
		if err != nil && !gone(err) {
			return err
		}
	}
	return d.forget(ctx, up)
}

// someoneElses reports whether an upload is that of another staged content.
func (d *S3) someoneElses(up *upload, id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, other := range d.uploads {
		if other != up && other.rec != nil && other.rec.UploadID == id {
			return true
		}
	}
	return false
}

// forget removes the record of an upload, and what was not put in its place.
func (d *S3) forget(ctx context.Context, up *upload) error {
	name := d.stageFolder() + string(up.id)
	for _, key := range []string{name + dataSuffix, name} {
		if key != name && up.rec.Key != key && up.rec.Key != "" { // "": its record is gone, and nobody knows what it was
			continue
		}
		if err := d.remove(ctx, key); err != nil {
			return d.failed(err, "remove the record of staged content %s", up.id)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.uploads, up.id)
	return nil
}

// forgetSoon is forget where the object is there: what is left of the stage is harmless, and taken by the next Unstage.
func (d *S3) forgetSoon(ctx context.Context, up *upload) {
	if err := d.forget(ctx, up); err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.uploads, up.id)
		d.loaded = false
	}
}

// whole returns how many bytes from the beginning the server has without a gap.
func (d *S3) whole(up *upload) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if up.done {
		return up.rec.Size
	}
	off := int64(0)
	for n := 1; off < up.rec.Size; n++ {
		want := min(up.rec.Part, up.rec.Size-off)
		if p, ok := up.parts[n]; !ok || p.Size != want {
			break
		}
		off += want
	}
	return off
}

// complete makes the object out of its parts.
func (d *S3) complete(ctx context.Context, up *upload) error {
	if up.done {
		return nil
	}
	d.mu.Lock()
	parts := make([]minio.CompletePart, 0, len(up.parts))
	for _, n := range slices.Sorted(maps.Keys(up.parts)) {
		p := minio.CompletePart{PartNumber: n, ETag: up.parts[n].ETag}
		if !up.rec.Unsummed {
			p.ChecksumSHA256 = up.parts[n].ChecksumSHA256
		}
		parts = append(parts, p)
	}
	d.mu.Unlock()
	_, err := d.core.CompleteMultipartUpload(ctx, d.cfg.Bucket, up.rec.Key, up.rec.UploadID, parts, minio.PutObjectOptions{})
	done := func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		up.done = true
		return nil
	}
	if err == nil {
		return done()
	}
	ferr := d.failed(err, "complete the upload of %s", up.rec.Key)
	if !silent(err) && !gone(ferr) {
		return ferr
	}
	// It may be there all the same: look, before anybody sends it again.
	o, serr := d.core.StatObject(ctx, d.cfg.Bucket, up.rec.Key, minio.StatObjectOptions{})
	if serr != nil {
		return ferr
	}
	if o.Size == up.rec.Size && strings.Trim(o.ETag, `"`) == etagOf(parts) {
		return done()
	}
	return ferr
}

// etagOf is the ETag of an object made of parts: the MD5 of the parts' MD5s and their number. "-" where ETags are no MD5s.
func etagOf(parts []minio.CompletePart) string {
	h := md5.New()
	for _, p := range parts {
		b, err := hex.DecodeString(p.ETag)
		if err != nil || len(b) != md5.Size {
			return "-"
		}
		_, _ = h.Write(b) // never fails
	}
	return hex.EncodeToString(h.Sum(nil)) + "-" + strconv.Itoa(len(parts))
}

// get reads a small object.
func (d *S3) get(ctx context.Context, key string, limit int64) ([]byte, error) {
	body, _, _, err := d.core.GetObject(ctx, d.cfg.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, d.failed(err, "read %s", key)
	}
	defer func() { _ = body.Close() }() // only read from
	b, err := io.ReadAll(io.LimitReader(body, limit))
	return b, d.failed(err, "read %s", key)
}

// put puts a small object whole; meta is its user metadata.
func (d *S3) put(ctx context.Context, key string, data []byte, meta map[string]string) error {
	return d.putIf(ctx, key, data, minio.PutObjectOptions{UserMetadata: meta})
}

// putNew is put where nothing has the key (fs.ErrExist).
func (d *S3) putNew(ctx context.Context, key string, data []byte, meta map[string]string) error {
	opts := minio.PutObjectOptions{UserMetadata: meta}
	opts.SetMatchETagExcept("*")
	err := d.putIf(ctx, key, data, opts)
	switch a := minio.ToErrorResponse(err); {
	case err == nil:
		return nil
	case a.StatusCode == http.StatusPreconditionFailed, a.Code == "ConditionalRequestConflict":
		return proto.Errorf(proto.ClassConflict, "%w", fs.ErrExist)
	case a.StatusCode == http.StatusNotImplemented, a.StatusCode == http.StatusMethodNotAllowed, a.Code == "NotImplemented", a.Code == "InvalidArgument", a.Code == "InvalidRequest":
		return proto.Errorf(proto.ClassPermanent, "%w", errors.ErrUnsupported)
	}
	return err
}

func (d *S3) putIf(ctx context.Context, key string, data []byte, opts minio.PutObjectOptions) error {
	if err := checkKey(key); err != nil {
		return err
	}
	sum := sumOf(data)
	m := maps.Clone(opts.UserMetadata)
	if m == nil {
		m = map[string]string{}
	}
	m["X-Amz-Checksum-Sha256"] = sum.base64()
	opts.UserMetadata, opts.DisableContentSha256 = m, true
	_, err := d.core.PutObject(ctx, d.cfg.Bucket, key, bytes.NewReader(data), int64(len(data)), "", sum.hex(), opts)
	return err
}

// remove removes an object; one that is gone is no error.
func (d *S3) remove(ctx context.Context, key string) error {
	err := d.failed(d.core.RemoveObject(ctx, d.cfg.Bucket, key, minio.RemoveObjectOptions{}), "remove %s", key)
	if gone(err) {
		return nil
	}
	return err
}

var errShort = errors.New("not all of it was staged")
