package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/proto"
)

// Open opens a file of the mirror.
func (d *Dir) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := proto.CheckPath(name); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "open: %w", err)
	}
	p, err := d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	f, err := p.Open(d.full(name), unix.O_RDONLY, 0)
	if err != nil {
		return nil, gone(err, "open %q", name)
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = proto.Errorf(proto.ClassPermanent, "it is no file")
	}
	if err != nil {
		_ = f.Close()
		return nil, classify(err, "open %q", name)
	}
	return f, nil
}

// gone is classify for reading: what cannot be there is not there.
func gone(err error, format string, args ...any) error {
	if absent(err) && !errors.Is(err, fs.ErrNotExist) {
		err = &os.PathError{Op: "open", Path: err.Error(), Err: fs.ErrNotExist}
	}
	return classify(err, format, args...)
}

// Stat describes what is at a path.
func (d *Dir) Stat(ctx context.Context, name string) (target.Entry, error) {
	if err := proto.CheckPath(name); err != nil {
		return target.Entry{}, proto.Errorf(proto.ClassPermanent, "stat: %w", err)
	}
	p, err := d.enter(ctx)
	if err != nil {
		return target.Entry{}, err
	}
	defer func() { _ = p.Close() }()
	dir, base, err := p.Parent(d.full(name))
	if err != nil {
		return target.Entry{}, gone(err, "stat %q", name)
	}
	defer func() { _ = dir.Close() }()
	e, err := p.entry(dir, base, name)
	return e, classify(err, "stat %q", name)
}

// entry describes the object base in dir, whose path in the mirror is name.
func (p *place) entry(dir *os.File, base, name string) (target.Entry, error) {
	o, err := fsmeta.ReadAt(int(dir.Fd()), base, p.d.names)
	if err != nil {
		return target.Entry{}, err
	}
	e := target.Entry{Path: name, Desc: proto.Desc{Kind: o.Kind, LinkTo: o.LinkTo, Meta: o.Meta}}
	if o.Kind == proto.KindFile {
		e.Desc.Size = o.Stat.Size
	}
	if o.Stat.MountRoot {
		e.Desc.Kind = proto.KindNone // another file system is no part of the mirror
	}
	return e, nil
}

// List walks the mirror. Memory is the names in one directory for each level.
func (d *Dir) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	if prefix != "" {
		if err := proto.CheckPath(prefix); err != nil {
			return proto.Errorf(proto.ClassPermanent, "list: %w", err)
		}
	}
	p, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	w := &walk{ctx: ctx, p: p, fn: fn}
	if prefix == "" {
		return w.dir("")
	}
	dir, base, err := p.Parent(d.full(prefix))
	if err == nil {
		var e target.Entry
		e, err = p.entry(dir, base, prefix)
		_ = dir.Close() // only a place
		if err == nil {
			if err := fn(e); err != nil || e.Desc.Kind != proto.KindDir {
				return err
			}
			return w.dir(prefix)
		}
	}
	if absent(err) {
		return nil
	}
	return classify(err, "list %q", prefix)
}

type walk struct {
	ctx context.Context // of the one call that owns the walk
	p   *place
	fn  func(target.Entry) error
}

// dir walks a directory in byte order of full paths: what is in "a" comes after "a-b", because '-' sorts before '/'. The
// directories that wait for their turn form a stack, for a later one's name then begins with an earlier one's.
func (w *walk) dir(name string) error {
	d, err := w.p.Open(w.p.d.full(name), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		if absent(err) {
			return nil // deleted meanwhile, or a mirror that was never made
		}
		return classify(err, "list %q", name)
	}
	defer func() { _ = d.Close() }() // only read from
	names, err := d.Readdirnames(-1)
	if err != nil {
		return classify(err, "list %q", name)
	}
	slices.Sort(names)
	var waiting []string
	descend := func(before string) error {
		for n := len(waiting) - 1; n >= 0 && (before == "" || waiting[n]+"/" < before); n-- {
			sub := waiting[n]
			waiting = waiting[:n]
			if err := w.dir(path.Join(name, sub)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, base := range names {
		if base == proto.ReservedName || name == "" && base == w.p.d.cfg.Work {
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if err := descend(base); err != nil {
			return err
		}
		e, err := w.p.entry(d, base, path.Join(name, base))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return classify(err, "list %q", path.Join(name, base))
		}
		if e.Desc.Kind == proto.KindDir && unix.Faccessat(int(d.Fd()), base, unix.R_OK|unix.X_OK, 0) != nil {
			e.Unlisted = "the user this runs as may not list it"
		}
		if err := w.fn(e); err != nil {
			return err
		}
		if e.Desc.Kind == proto.KindDir && e.Unlisted == "" {
			waiting = append(waiting, base)
		}
	}
	return descend("")
}
