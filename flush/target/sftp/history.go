package sftp

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"forebay/flush/target"
	"forebay/proto"
)

// History returns the place for what is replaced and deleted.
func (d *SFTP) History() target.History { return history{d} }

type history struct{ d *SFTP }

func (h history) folder() string { return h.d.work(target.HistoryDir + "/" + h.d.key) }

// open checks a name and returns the connection and the place of a kept content.
func (h history) open(ctx context.Context, name target.KeptName) (*conn, string, error) {
	if err := target.CheckKept(name); err != nil {
		return nil, "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	c, err := h.d.use(ctx)
	return c, h.folder() + "/" + string(name), err
}

// Keep gives contents of the mirror a second name, or copies them through here where the server has no hard links.
func (h history) Keep(ctx context.Context, keeps []target.Keep) []error {
	errs := make([]error, len(keeps))
	all := func(err error) []error { return target.FillErrors(errs, err) }
	if len(keeps) == 0 {
		return errs
	}
	h.d.commits.Lock()
	defer h.d.commits.Unlock()
	c, err := h.d.use(ctx)
	if err != nil {
		return all(err)
	}
	defer c.during(ctx)()
	if err = h.d.lookForMark(c); err == nil {
		err = h.d.prepareStage(c)
	}
	if err != nil {
		return all(err)
	}
	k := &keeping{h: h, c: c, dirs: map[string]bool{}}
	var g errgroup.Group
	g.SetLimit(h.d.cfg.Requests)
	for i, one := range keeps {
		g.Go(func() error { // ends with its requests
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = h.d.failed(c, k.keep(one), "keep %q", one.Path)
			}
			return nil
		})
	}
	_ = g.Wait() // each has its error
	for dir := range k.dirs {
		if err := c.syncDir(dir); err != nil {
			return all(h.d.failed(c, err, "make what is kept durable"))
		}
	}
	return errs
}

// keeping is a Keep on its way.
type keeping struct {
	h history
	c *conn

	mu   sync.Mutex
	dirs map[string]bool // made, and to be synced
}

// makeDir makes the folder of a kept content.
func (k *keeping) makeDir(dir string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dirs[dir] {
		return nil
	}
	if err := k.h.d.makeDirs(k.c, dir); err != nil {
		return err
	}
	k.dirs[dir] = true
	return nil
}

func (k *keeping) keep(one target.Keep) error {
	if err := proto.CheckPath(one.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if err := target.CheckKept(one.Name); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	to := k.h.folder() + "/" + string(one.Name)
	if err := k.makeDir(to[:lastSlash(to)]); err != nil {
		return err
	}
	if _, err := k.c.lstat(to); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := k.h.d.above(k.c, one.Path)
	if absent(err) || k.h.d.tooLong(k.c, err, k.h.d.full(one.Path)) != "" {
		return proto.Errorf(proto.ClassTransient, "%w: there is nothing", target.ErrNotThere)
	}
	if err != nil {
		return err
	}
	from := k.h.d.full(one.Path)
	st, err := k.c.lstat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist), k.h.d.tooLong(k.c, err, from) != "":
		return proto.Errorf(proto.ClassTransient, "%w: there is nothing", target.ErrNotThere)
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Size() != one.Size:
		return proto.Errorf(proto.ClassTransient, "%w: there is a %s of %d bytes instead of a file of %d", target.ErrNotThere, kindOf(st), st.Size(), one.Size)
	case k.c.hardlink:
		return k.c.sftp.Link(from, to)
	}
	return k.copy(from, to, one.Size)
}

// copy keeps a content where it cannot have a second name: whole and durable before it has this one.
func (k *keeping) copy(from, to string, size int64) error {
	in, err := k.c.sftp.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read from
	tmp, err := k.h.d.writeTemp(k.c, nil, func(f *sftp.File) error {
		n, err := io.Copy(f, in)
		if err == nil && n != size {
			err = proto.Errorf(proto.ClassTransient, "%w: it has %d bytes instead of %d", target.ErrNotThere, n, size)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := k.c.replace(tmp, to); err != nil {
		_ = k.c.sftp.Remove(tmp) // the error that counts is the rename's
		return err
	}
	return nil
}

// Open opens a kept content.
func (h history) Open(ctx context.Context, name target.KeptName) (io.ReadCloser, error) {
	c, full, err := h.open(ctx, name)
	if err != nil {
		return nil, err
	}
	f, err := c.sftp.Open(full)
	if err != nil {
		return nil, h.d.failed(c, err, "open kept content %s", name)
	}
	return f, nil
}

// List lists what is kept.
func (h history) List(ctx context.Context, fn func(target.Kept) error) error {
	c, err := h.d.use(ctx)
	if err != nil {
		return err
	}
	folders, err := c.sftp.ReadDirContext(ctx, h.folder())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return h.d.failed(c, err, "list what is kept")
	}
	for _, folder := range folders {
		if !folder.IsDir() {
			continue
		}
		found, err := c.sftp.ReadDirContext(ctx, h.folder()+"/"+folder.Name())
		if err != nil {
			return h.d.failed(c, err, "list what is kept")
		}
		for _, st := range found {
			name := target.KeptName(folder.Name() + "/" + st.Name())
			if target.CheckKept(name) != nil {
				continue
			}
			if err := fn(target.Kept{Name: name, Size: st.Size()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Remove takes names of kept contents away. What else has such a content has it still.
func (h history) Remove(ctx context.Context, names []target.KeptName) []error {
	errs := make([]error, len(names))
	c, err := h.d.use(ctx)
	if err != nil {
		return target.FillErrors(errs, err)
	}
	defer c.during(ctx)()
	dirs := map[string]bool{}
	for i, name := range names {
		if err := target.CheckKept(name); err != nil {
			errs[i] = proto.Errorf(proto.ClassPermanent, "%w", err)
			continue
		}
		full := h.folder() + "/" + string(name)
		if err := c.remove(full); err != nil {
			errs[i] = h.d.failed(c, err, "remove kept content %s", name)
			if !errors.Is(err, fs.ErrPermission) { // the connection may have ended: the rest is tried again
				return target.FillErrors(errs, errs[i])
			}
			continue
		}
		dirs[full[:lastSlash(full)]] = true
	}
	for dir := range dirs {
		if err := c.syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return target.FillErrors(errs, h.d.failed(c, err, "remove what was kept"))
		}
	}
	return errs
}
