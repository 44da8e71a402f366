package main

import (
	"context"
	"errors"
	"io"
	iofs "io/fs"

	"github.com/rclone/rclone/fs"

	"forebay/flush/target"
	"forebay/flush/target/text"
	"forebay/flush/target/tree"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// belowFile says that nothing is there, for what is above it is a file.
type belowFile struct{}

func (belowFile) Error() string        { return "what is above it is a file" }
func (belowFile) Is(target error) bool { return target == iofs.ErrNotExist }

var errBelowFile error = belowFile{}

// object finds the file at a path. Below a file there is none.
func (r *remote) object(ctx context.Context, p string) (fs.Object, error) {
	if err := proto.CheckPath(p); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	err := r.parents(ctx, p)
	if errors.Is(err, errNoDir) {
		return nil, errBelowFile
	}
	var o fs.Object
	if err == nil {
		o, err = r.f.NewObject(ctx, r.place(p))
	}
	if r.tooLong(ctx, err, r.place(p)) {
		return nil, errTooLong
	}
	return o, err
}

// Open opens a file of the mirror.
func (r *remote) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	o, err := r.object(ctx, p)
	if err != nil {
		return nil, r.failed(err, "open %q", p)
	}
	in, err := openObject(ctx, o)
	return in, r.failed(err, "open %q", p)
}

// Stat describes what is at a path.
func (r *remote) Stat(ctx context.Context, p string) (target.Entry, error) {
	o, err := r.object(ctx, p)
	switch {
	case err == nil:
		return r.entry(ctx, p, o, true), nil
	case errors.Is(err, fs.ErrorIsDir):
		return directory(p), nil
	case !absent(err) || errors.Is(err, errBelowFile) || errors.Is(err, errTooLong):
		return target.Entry{}, r.failed(err, "look for %q", p)
	}
	// Not each backend tells a directory from nothing. The directory above does.
	entries, err := r.entries(ctx, waves.Parent(p))
	if err != nil {
		return target.Entry{}, r.failed(err, "look for %q", p)
	}
	for _, e := range entries {
		if e.Path == p {
			return e, nil
		}
	}
	return target.Entry{}, proto.Errorf(proto.ClassTransient, "%q: %w", p, iofs.ErrNotExist)
}

func directory(p string) target.Entry {
	return target.Entry{Path: p, Desc: proto.Desc{Kind: proto.KindDir}}
}

// entry is a file's. Its time is asked for where that is cheap, or all is wanted.
func (r *remote) entry(ctx context.Context, p string, o fs.Object, all bool) target.Entry {
	e := target.Entry{Path: p, Desc: proto.Desc{Kind: proto.KindFile, Size: o.Size()}, Brief: r.can.SlowModTime && !all}
	if r.times() && !e.Brief {
		e.Desc.Meta.MtimeNs = o.ModTime(ctx).UnixNano()
	}
	return e
}

// List walks the mirror.
func (r *remote) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return tree.List(ctx, prefix, r.Stat, func(dir string) ([]target.Entry, error) {
		entries, err := r.entries(ctx, dir)
		return entries, r.failed(err, "list %q", dir)
	}, fn)
}

// entries lists one directory; one that is not there is empty.
func (r *remote) entries(ctx context.Context, dir string) (out []target.Entry, err error) {
	found, err := r.f.List(ctx, r.place(dir))
	if absent(err) {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	for _, e := range found {
		name := base(e)
		if clean, ok := text.Unescape(name); ok {
			name = clean
		}
		if name == "" || name == proto.ReservedName {
			continue
		}
		p := tree.Join(dir, name)
		if o, ok := e.(fs.Object); ok {
			out = append(out, r.entry(ctx, p, o, false))
		} else {
			out = append(out, directory(p))
		}
	}
	return out, ctx.Err()
}
