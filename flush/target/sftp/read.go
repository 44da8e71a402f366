package sftp

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"forebay/flush/target"
	"forebay/flush/target/tree"
	"forebay/proto"
)

// kindOf is the kind of what is at a name.
func kindOf(st os.FileInfo) proto.Kind {
	switch m := st.Mode(); {
	case m.IsRegular():
		return proto.KindFile
	case m.IsDir():
		return proto.KindDir
	case m&os.ModeSymlink != 0:
		return proto.KindSymlink
	}
	return proto.KindNone
}

// entry describes what is at a path.
func (d *SFTP) entry(c *conn, p string, st os.FileInfo) (target.Entry, error) {
	a := attrs(st)
	e := target.Entry{Path: p, Desc: proto.Desc{Kind: kindOf(st), Meta: proto.Meta{Mode: a.Mode & 0o7777, UID: a.UID, GID: a.GID, MtimeNs: int64(a.Mtime) * 1e9}}}
	switch e.Desc.Kind {
	case proto.KindFile:
		e.Desc.Size = st.Size()
	case proto.KindSymlink:
		text, err := c.sftp.ReadLink(d.full(p))
		if err != nil {
			return e, err
		}
		e.Desc.LinkTo, e.Desc.Meta.Mode = text, 0
	}
	return e, nil
}

// absent is what an error means for reading: below a file or a link there is nothing.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errNoDir) }

func gone(p string) error { return proto.Errorf(proto.ClassTransient, "%q: %w", p, fs.ErrNotExist) }

// look describes a path after looking above it.
func (d *SFTP) look(ctx context.Context, p string) (*conn, os.FileInfo, error) {
	c, err := d.use(ctx)
	if err != nil {
		return nil, nil, err
	}
	var st os.FileInfo
	if err = d.above(c, p); err == nil {
		st, err = c.lstat(d.full(p))
	}
	if absent(err) || d.tooLong(c, err, d.full(p)) != "" {
		return c, nil, gone(p)
	}
	return c, st, d.failed(c, err, "look at %q", p)
}

// Open opens a file of the mirror.
func (d *SFTP) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	if err := proto.CheckPath(p); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "open: %w", err)
	}
	c, st, err := d.look(ctx, p)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, proto.Errorf(proto.ClassPermanent, "open %q: it is no file", p)
	}
	f, err := c.sftp.Open(d.full(p))
	if err != nil {
		return nil, d.failed(c, err, "open %q", p)
	}
	return f, nil
}

// Stat describes what is at a path.
func (d *SFTP) Stat(ctx context.Context, p string) (target.Entry, error) {
	if err := proto.CheckPath(p); err != nil {
		return target.Entry{}, proto.Errorf(proto.ClassPermanent, "stat: %w", err)
	}
	c, st, err := d.look(ctx, p)
	if err != nil {
		return target.Entry{}, err
	}
	e, err := d.entry(c, p, st)
	return e, d.failed(c, err, "look at %q", p)
}

// List walks the mirror.
func (d *SFTP) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	c, err := d.use(ctx)
	if err != nil {
		return err
	}
	if prefix == "" {
		if err := d.above(c, ""); absent(err) {
			return nil // a mirror that was never made
		} else if err != nil {
			return d.failed(c, err, "list the mirror")
		}
	}
	return tree.List(ctx, prefix, d.Stat, func(dir string) ([]target.Entry, error) { return d.entries(ctx, c, dir) }, fn)
}

// entries describes what is in one directory.
func (d *SFTP) entries(ctx context.Context, c *conn, p string) (entries []target.Entry, err error) {
	names, err := c.sftp.ReadDirContext(ctx, d.full(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // deleted meanwhile
	}
	if err != nil {
		return nil, d.failed(c, err, "list %q", p)
	}
	for _, st := range names {
		if st.Name() == proto.ReservedName {
			continue
		}
		path := tree.Join(p, st.Name())
		e, err := d.entry(c, path, st)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, d.failed(c, err, "list %q", path)
		}
		entries = append(entries, e)
	}
	return entries, nil
}
