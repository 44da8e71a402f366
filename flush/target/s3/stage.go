package s3

import (
	"context"
	"io"

	"forebay/flush/target"
	"forebay/proto"
)

// Stage opens a content for writing: in memory when it is small and there is room for it, else as a multipart upload.
func (d *S3) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.held.Begin(c); err != nil {
		return nil, err
	}
	d.mu.Lock()
	begun := d.uploads[c.ID] != nil
	d.mu.Unlock()
	if !begun {
		if s := d.held.Stage(c); s != nil {
			return s, nil
		}
	}
	s, err := d.openUpload(ctx, c)
	if err != nil {
		d.held.End(c.ID)
		return nil, d.failed(err, "stage %s", c.ID)
	}
	return s, nil
}

// Barrier sees that the contents are there. They become durable when they are committed.
func (d *S3) Barrier(ctx context.Context, ids []target.StageID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		if err := target.CheckStageID(id); err != nil {
			return proto.Errorf(proto.ClassPermanent, "barrier: %w", err)
		}
		_, there := d.held.Data(id)
		d.mu.Lock()
		there = there || d.uploads[id] != nil
		d.mu.Unlock()
		if !there {
			return proto.Errorf(proto.ClassTransient, "barrier: staged content %s is not there: stage it again", id)
		}
	}
	return nil
}

// Reread reads what is in memory. The parts of an upload cannot be read before it is completed.
func (d *S3) Reread(_ context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "reread: %w", err)
	}
	if r := d.held.Reread(id); r != nil {
		return r, nil
	}
	return nil, proto.Errorf(proto.ClassPermanent, "reread %s: S3 does not give back what is not committed", id)
}

// Unstage forgets contents, and aborts the uploads of those that are on the server.
func (d *S3) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := d.loadUploads(ctx); err != nil {
		return err
	}
	d.held.DropUnless(keep)
	var drop []*upload
	d.mu.Lock()
	for id, up := range d.uploads {
		if !d.held.Writing(id) && !keep(id) {
			drop = append(drop, up)
		}
	}
	d.mu.Unlock()
	for _, up := range drop {
		if err := d.abort(ctx, up); err != nil {
			return err
		}
	}
	return nil
}
