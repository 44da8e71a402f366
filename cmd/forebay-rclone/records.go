package main

import (
	"bytes"
	"context"
	"io"
	"slices"
	"time"

	"github.com/rclone/rclone/fs"

	"forebay/flush/target"
	"forebay/proto"
)

// records are small files under .forebay/.
type records struct{ r *remote }

func (c records) name(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := target.CheckRecord(name); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return c.r.record(name), nil
}

// Put writes a record whole.
func (c records) Put(ctx context.Context, name string, data []byte) error {
	at, err := c.name(ctx, name)
	if err != nil {
		return err
	}
	return c.r.failed(c.r.whole(ctx, at, bytes.NewReader(data), int64(len(data)), time.Unix(0, 0)), "write record %s", name)
}

// Open opens a record.
func (c records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	at, err := c.name(ctx, name)
	if err != nil {
		return nil, err
	}
	o, err := c.r.f.NewObject(ctx, at)
	if err != nil {
		return nil, c.r.failed(err, "open record %s", name)
	}
	in, err := openObject(ctx, o)
	return in, c.r.failed(err, "open record %s", name)
}

// List lists the records in a folder.
func (c records) List(ctx context.Context, dir string) (names []string, err error) {
	at, err := c.name(ctx, dir)
	if err != nil {
		return nil, err
	}
	entries, err := c.r.f.List(ctx, at)
	if err != nil && !absent(err) {
		return nil, c.r.failed(err, "list records in %s", dir)
	}
	for _, e := range entries {
		name := base(e)
		if _, ok := e.(fs.Object); ok && target.CheckRecord(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, ctx.Err()
}

// Remove removes a record.
func (c records) Remove(ctx context.Context, name string) error {
	at, err := c.name(ctx, name)
	if err != nil {
		return err
	}
	o, err := c.r.f.NewObject(ctx, at)
	if err == nil {
		err = o.Remove(ctx)
	}
	if err != nil && !absent(err) {
		return c.r.failed(err, "remove record %s", name)
	}
	if name == target.MarkDir+"/"+c.r.key { // withdrawn: it is not missed
		c.r.mu.Lock()
		defer c.r.mu.Unlock()
		c.r.marked = false
	}
	return nil
}
