package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// History returns the place for what is replaced and deleted.
func (d *Dir) History() target.History { return history{d} }

type history struct{ d *Dir }

// full returns the place of a kept content below the root.
func (h history) full(name target.KeptName) (string, error) {
	if err := target.CheckKept(name); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return path.Join(h.d.cfg.Work, target.KeptRecord(h.d.key, name)), nil
}

// Keep gives contents of the mirror a second name, or copies them where the file system has no hard links. No content of the mirror
// is ever written in its place, so that a shared one does not change.
func (h history) Keep(ctx context.Context, keeps []target.Keep) []error {
	errs := make([]error, len(keeps))
	if len(keeps) == 0 {
		return errs
	}
	h.d.commits.Lock()
	defer h.d.commits.Unlock()
	p, err := h.d.write(ctx)
	if err != nil {
		return target.FillErrors(errs, err)
	}
	defer func() { _ = p.Close() }()
	if err := p.stageRoot(); err != nil {
		return target.FillErrors(errs, err)
	}
	// Opened before anything is written, so that syncfs tells of failed writes.
	watch, err := p.Open(h.d.stageDir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return target.FillErrors(errs, classify(err, "keep what is replaced"))
	}
	defer func() { _ = watch.Close() }() // only synced
	dirs := map[string]bool{}
	for i, k := range keeps {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = classify(h.keep(p, k, dirs), "keep %q", k.Path)
		}
		if err := h.d.at(faultpoint.DirHeld); err != nil {
			return target.FillErrors(errs, err)
		}
	}
	if p.t.syncfs {
		err = retry(func() error { return unix.Syncfs(int(watch.Fd())) })
	} else {
		for dir := range dirs {
			err = errors.Join(err, p.syncDir(dir))
		}
	}
	if err != nil {
		return target.FillErrors(errs, classify(err, "make what is kept durable"))
	}
	return errs
}

func (h history) keep(p *place, k target.Keep, dirs map[string]bool) error {
	if err := proto.CheckPath(k.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	to, err := h.full(k.Name)
	if err != nil {
		return err
	}
	if !dirs[path.Dir(to)] {
		if err := p.makeDirs(path.Dir(to)); err != nil {
			return err
		}
		dirs[path.Dir(to)] = true
	}
	if _, err := p.Stat(to); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	from, err := p.Open(h.d.full(k.Path), unix.O_PATH, 0)
	if absent(err) {
		return proto.Errorf(proto.ClassTransient, "%w: there is nothing", target.ErrNotThere)
	}
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	st, err := fsmeta.StatOf(from)
	if err != nil {
		return err
	}
	if st.Kind() != proto.KindFile || st.Size != k.Size {
		return proto.Errorf(proto.ClassTransient, "%w: there is a %s of %d bytes instead of a file of %d", target.ErrNotThere, st.TypeName(), st.Size, k.Size)
	}
	folder, name, err := p.Parent(to)
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	err = error(unix.ENOTSUP)
	if !h.d.noLinks {
		err = retry(func() error {
			return unix.Linkat(unix.AT_FDCWD, procPath(from), int(folder.Fd()), name, unix.AT_SYMLINK_FOLLOW)
		})
	}
	if is(err, unix.EPERM, unix.ENOTSUP, unix.EMLINK, unix.EXDEV, unix.ENOSYS) {
		return h.copy(p, k, to)
	}
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// copy keeps a content where it cannot have a second name: whole and durable before it has this one.
func (h history) copy(p *place, k target.Keep, to string) error {
	from, err := p.Open(h.d.full(k.Path), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // only read from
	f, tmp, err := p.newTemp(h.d.stageDir())
	if err != nil {
		return err
	}
	n, err := io.Copy(f, from)
	if err == nil && n != k.Size {
		err = proto.Errorf(proto.ClassTransient, "%w: it has %d bytes instead of %d", target.ErrNotThere, n, k.Size)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = p.rename(h.d.stageDir()+"/"+tmp, to)
	}
	if err != nil {
		_ = p.remove(h.d.stageDir() + "/" + tmp) // the error that counts is the one before
	}
	return err
}

// Open opens a kept content. Its mode is that of an object of the mirror, which may keep an ordinary user out.
func (h history) Open(ctx context.Context, name target.KeptName) (io.ReadCloser, error) {
	full, err := h.full(name)
	if err != nil {
		return nil, err
	}
	p, err := h.d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	f, err := p.Open(full, unix.O_RDONLY, 0)
	if err != nil {
		return nil, gone(err, "open kept content %s", name)
	}
	return f, nil
}

// List lists what is kept.
func (h history) List(ctx context.Context, fn func(target.Kept) error) error {
	p, err := h.d.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	for _, folder := range target.KeptFolders() {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := p.Open(path.Join(h.d.cfg.Work, target.HistoryDir, h.d.key, folder), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = listKept(f, folder, fn)
			_ = f.Close() // only read from
		}
		if err != nil {
			return classify(err, "list what is kept")
		}
	}
	return nil
}

func listKept(f *os.File, folder string, fn func(target.Kept) error) error {
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, base := range names {
		name := target.KeptName(folder + "/" + base)
		st, err := fsmeta.StatAt(int(f.Fd()), base)
		if target.CheckKept(name) != nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = fn(target.Kept{Name: name, Size: st.Size})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Remove takes names of kept contents away. What else has such a content has it still.
func (h history) Remove(ctx context.Context, names []target.KeptName) []error {
	errs := make([]error, len(names))
	if len(names) == 0 {
		return errs
	}
	p, err := h.d.write(ctx)
	if err != nil {
		return target.FillErrors(errs, err)
	}
	defer func() { _ = p.Close() }()
	dirs := map[string]bool{}
	for i, name := range names {
		full, err := h.full(name)
		if err == nil {
			err = classify(p.remove(full), "remove kept content %s", name)
			dirs[path.Dir(full)] = true
		}
		errs[i] = err
	}
	for dir := range dirs {
		if serr := p.syncDir(dir); serr != nil && !absent(serr) {
			err = errors.Join(err, serr)
		}
	}
	if err != nil {
		return target.FillErrors(errs, classify(err, "remove what was kept"))
	}
	return errs
}
