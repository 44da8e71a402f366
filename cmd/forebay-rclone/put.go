package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/hash"
	"github.com/rclone/rclone/fs/object"

	"forebay/proto"
)

// put puts an object of a declared size, and compares what was read, what was declared and what the remote has of it.
func (r *remote) put(ctx context.Context, name string, in io.Reader, size int64, mtime time.Time) (fs.Object, error) {
	sums, err := hash.NewMultiHasherTypes(r.hashes())
	if err != nil {
		return nil, err
	}
	o, err := r.f.Put(ctx, io.TeeReader(in, sums), object.NewStaticObjectInfo(name, mtime, size, true, nil, r.f))
	if err != nil {
		return nil, err
	}
	if err := r.compare(ctx, o, size, sums); err != nil {
		var other *proto.Error
		if errors.As(err, &other) { // it is not what was sent; where that could not be found out, it may well be, and have replaced another
			_ = o.Remove(ctx) // the error that counts is the other
		}
		return nil, err
	}
	return o, nil
}

// compare compares an object with what was sent. sums may be nil.
func (r *remote) compare(ctx context.Context, o fs.Object, size int64, sums *hash.MultiHasher) error {
	if sums != nil && sums.Size() != size {
		return proto.Errorf(proto.ClassTransient, "%s: %d bytes were declared and %d sent", o.Remote(), size, sums.Size())
	}
	if o.Size() != size {
		return proto.Errorf(proto.ClassCorrupt, "%s: %d bytes were sent, the remote has %d", o.Remote(), size, o.Size())
	}
	if sums == nil {
		return nil
	}
	for kind, sent := range sums.Sums() {
		has, err := o.Hash(ctx, kind)
		if err != nil && !errors.Is(err, hash.ErrUnsupported) {
			return err
		}
		if err == nil && !hash.Equals(sent, has) { // one that is not known equals any
			return proto.Errorf(proto.ClassCorrupt, "%s: the remote has %s %s, %s was sent", o.Remote(), kind, has, sent)
		}
	}
	return nil
}

// moveTo gives an object another name on the server, in place of what has it; where the remote cannot move, it is copied.
func (r *remote) moveTo(ctx context.Context, o fs.Object, name string, mtime time.Time) error {
	size := o.Size()
	if r.can.Move != nil {
		return patiently(ctx, func() error {
			moved, err := r.can.Move(ctx, o, name)
			if err != nil {
				return err
			}
			return r.compare(ctx, moved, size, nil)
		})
	}
	if err := r.copyTo(ctx, o, name, mtime); err != nil {
		return err
	}
	return o.Remove(ctx)
}

// copyTo makes a second object of one, on the server where the remote can.
func (r *remote) copyTo(ctx context.Context, o fs.Object, name string, mtime time.Time) error {
	if r.can.Copy != nil {
		made, err := r.can.Copy(ctx, o, name)
		if err == nil {
			return r.compare(ctx, made, o.Size(), nil)
		}
		if !errors.Is(err, fs.ErrorCantCopy) {
			return err
		}
	}
	in, err := openObject(ctx, o)
	if err != nil {
		return err
	}
	_, err = r.put(ctx, name, in, o.Size(), mtime)
	if cerr := in.Close(); err == nil {
		err = cerr
	}
	return err
}

// whole puts an object so that no part of it is seen under its name.
func (r *remote) whole(ctx context.Context, name string, in io.Reader, size int64, mtime time.Time) error {
	if r.can.Move == nil { // it appears whole, or the operator takes it as it is
		_, err := r.put(ctx, name, in, size, mtime)
		return err
	}
	o, err := r.put(ctx, r.temp(), in, size, mtime)
	if err != nil {
		return err
	}
	if err := r.moveTo(ctx, o, name, mtime); err != nil {
		_ = o.Remove(ctx) // the error that counts is the other
		return err
	}
	return nil
}

// setTime sets the time of a file where the remote has times of its own.
func (r *remote) setTime(ctx context.Context, o fs.Object, d proto.Desc) error {
	if !r.times() || o.ModTime(ctx).Truncate(r.f.Precision()).Equal(mtime(d).Truncate(r.f.Precision())) {
		return nil
	}
	err := o.SetModTime(ctx, mtime(d))
	if errors.Is(err, fs.ErrorCantSetModTime) || errors.Is(err, fs.ErrorCantSetModTimeWithoutDelete) {
		return nil
	}
	return err
}

func mtime(d proto.Desc) time.Time { return time.Unix(0, d.Meta.MtimeNs) }

// openObject opens an object for reading.
func openObject(ctx context.Context, o fs.Object) (in io.ReadCloser, err error) {
	err = patiently(ctx, func() error {
		in, err = o.Open(ctx)
		return err
	})
	return in, err
}
