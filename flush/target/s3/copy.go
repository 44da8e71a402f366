package s3

import (
	"context"
	"encoding/hex"
	"strings"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"forebay/flush/target"
	"forebay/proto"
)

// copyPart is how much a server copies in one request: one that says nothing for long is given up.
const copyPart = 512 << 20

// copy copies an object on the server, onto itself too, and gives it other metadata.
func (d *S3) copy(ctx context.Context, from, to string, meta map[string]string) error {
	o, err := d.core.StatObject(ctx, d.cfg.Bucket, from, minio.StatObjectOptions{})
	if err != nil {
		return d.failed(err, "look for %s", from)
	}
	return d.copyOf(ctx, o, to, meta)
}

// copyOf is copy of an object as it was looked at: ClassConflict when it is another by now.
//
// The SDK's own way (ComposeObject) makes a multipart upload of each copy, and whoever is killed in the middle leaves that behind, paid for
// and known to nobody. One request does for most; a larger copy has a record as uploads have.
func (d *S3) copyOf(ctx context.Context, o minio.ObjectInfo, to string, meta map[string]string) error {
	if err := checkKey(to); err != nil {
		return err
	}
	if uint64(o.Size) > d.copyPart {
		return d.copyLarge(ctx, o, to, meta)
	}
	_, err := d.core.Client.CopyObject(ctx, minio.CopyDestOptions{Bucket: d.cfg.Bucket, Object: to, UserMetadata: meta, ReplaceMetadata: true},
		minio.CopySrcOptions{Bucket: d.cfg.Bucket, Object: o.Key, MatchETag: o.ETag})
	return d.failed(err, "copy %s to %s on the server", o.Key, to)
}

// copyLarge copies an object in parts.
func (d *S3) copyLarge(ctx context.Context, o minio.ObjectInfo, to string, meta map[string]string) error {
	sum := proto.BlockDigest([]byte(to))
	id := target.StageID("copy-" + hex.EncodeToString(sum[:16]))
	if err := d.loadUploads(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	left := d.uploads[id]
	d.mu.Unlock()
	if left != nil {
		if err := d.abort(ctx, left); err != nil {
			return err
		}
	}
	up, err := d.begin(ctx, id, &uploadRecord{Format: uploadFormat, Part: int64(d.copyPart), Size: o.Size, Key: to, Meta: meta, Unsummed: true})
	if err != nil {
		return err
	}
	if err = d.copyParts(ctx, o, up); err == nil {
		err = d.complete(ctx, up)
	}
	if err != nil {
		_ = d.abort(context.WithoutCancel(ctx), up) // what stays is taken by the next Unstage
		return err
	}
	d.forgetSoon(ctx, up)
	return nil
}

func (d *S3) copyParts(ctx context.Context, o minio.ObjectInfo, up *upload) error {
	all, ctx := errgroup.WithContext(ctx)
	all.SetLimit(maxCopies)
	n := 0
	for off := int64(0); off < o.Size; off += up.rec.Part {
		n++
		part, size := n, min(up.rec.Part, o.Size-off)
		all.Go(func() error {
			if err := d.copies.Acquire(ctx, 1); err != nil {
				return err
			}
			defer d.copies.Release(1)
			p, err := d.core.CopyObjectPart(ctx, d.cfg.Bucket, o.Key, d.cfg.Bucket, up.rec.Key, up.rec.UploadID, part, off, size,
				map[string]string{"X-Amz-Copy-Source-If-Match": o.ETag})
			if err == nil && p.ETag == "" { // a server may find out that it cannot after it has answered 200
				err = proto.Errorf(proto.ClassTransient, "the server copied nothing")
			}
			if err != nil {
				return d.failed(err, "copy part %d of %s to %s on the server", part, o.Key, up.rec.Key)
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			up.parts[part] = minio.ObjectPart{PartNumber: part, ETag: strings.Trim(p.ETag, `"`), Size: size}
			return nil
		})
	}
	return all.Wait()
}
