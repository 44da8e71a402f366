package dir

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/fsmeta"
	"forebay/proto"
)

// place gives what has a name in the folder of staged contents its path, in place of what is there.
func (c *commit) place(from, to string) error {
	dir, name, err := c.parent(to, true)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := c.checkTwin(dir, to, name); err != nil {
		return err
	}
	st, err := fsmeta.StatAt(int(dir.Fd()), name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case st.MountRoot:
		return unix.EXDEV
	case st.Kind() == proto.KindDir:
		return c.exchange(from, dir, name, to)
	}
	return c.withAccess(to, func() error {
		return retry(func() error { return unix.Renameat(int(c.stage.Fd()), from, int(dir.Fd()), name) })
	})
}

// exchange puts something in the place of an empty directory, or a directory in the place of something else, so that there
// is no moment without either where the file system can do that.
func (c *commit) exchange(from string, dir *os.File, name, to string) error {
	st, err := fsmeta.StatAt(int(dir.Fd()), name)
	if err != nil {
		return err
	}
	if st.Kind() == proto.KindDir {
		if err := c.checkEmpty(to); err != nil {
			return err
		}
	}
	err = c.withAccess(to, func() error {
		return retry(func() error {
			return unix.Renameat2(int(c.stage.Fd()), from, int(dir.Fd()), name, unix.RENAME_EXCHANGE)
		})
	})
	if is(err, unix.EINVAL, unix.ENOSYS, unix.ENOTSUP, unix.EACCES) { // EACCES: to move a directory one must be able to write to it
		if err := removeAt(dir, name); err != nil {
			return err
		}
		return retry(func() error { return unix.Renameat(int(c.stage.Fd()), from, int(dir.Fd()), name) })
	}
	if err != nil {
		return err
	}
	c.keep.forget(to)
	err = removeAt(c.stage, from)
	if is(err, unix.ENOTEMPTY, unix.EEXIST) { // something came into it meanwhile
		back := retry(func() error {
			return unix.Renameat2(int(c.stage.Fd()), from, int(dir.Fd()), name, unix.RENAME_EXCHANGE)
		})
		return errors.Join(notEmpty(), back)
	}
	return err
}

func notEmpty() error {
	return proto.Errorf(proto.ClassTransient, "the directory is not empty: its entries are to be deleted first: %w", unix.ENOTEMPTY)
}

func (c *commit) checkEmpty(p string) error {
	f, err := c.openDir(p)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	if names, _ := f.Readdirnames(1); len(names) > 0 {
		return notEmpty()
	}
	return nil
}

// openDir opens a directory of the mirror for reading.
func (c *commit) openDir(p string) (f *os.File, err error) {
	err = c.withAccess(path.Join(p, "-"), func() (err error) {
		f, err = c.p.Open(c.d.full(p), unix.O_RDONLY|unix.O_DIRECTORY, 0)
		return err
	})
	return f, err
}

// withAccess does something in the directory of p, and does it again with the directory unlocked when its mode was in the
// way.
func (c *commit) withAccess(p string, do func() error) error {
	err := do()
	if !is(err, unix.EACCES) {
		return err
	}
	if changed, uerr := c.keep.unlock(parent(p)); uerr != nil || !changed {
		return err
	}
	return do()
}

// parent opens the directory that an object lies in, with O_PATH, and remembers to sync it. It makes what is missing.
func (c *commit) parent(p string, makeIt bool) (dir *os.File, name string, err error) {
	full := c.d.full(p)
	err = c.withAccess(p, func() (err error) {
		dir, name, err = c.p.Parent(full)
		if errors.Is(err, fs.ErrNotExist) && makeIt {
			if err = c.makeParents(path.Dir(full)); err == nil {
				dir, name, err = c.p.Parent(full)
			}
		}
		return err
	})
	if err != nil {
		return nil, "", err
	}
	c.sync[path.Dir(full)] = true
	if in := parent(p); in != "" { // known already, unless a lock was in the way before
		if _, err := c.keep.note(in); err != nil {
			_ = dir.Close()
			return nil, "", err
		}
	}
	return dir, name, nil
}

// makeParents makes a directory of the mirror, and those above it, until their own descriptions come.
func (c *commit) makeParents(full string) error {
	for i := 1; i <= len(full); i++ {
		if i < len(full) && full[i] != '/' {
			continue
		}
		dir, name, err := c.p.Parent(full[:i])
		if err != nil {
			return err
		}
		err = retry(func() error { return unix.Mkdirat(int(dir.Fd()), name, 0o755) })
		_ = dir.Close() // only a place
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		if err == nil {
			c.sync[path.Dir(full[:i])] = true
			c.sync[full[:i]] = true
		}
	}
	return nil
}

var errTwin = errors.New("the target's names fold case")

// checkTwin refuses a path whose name, where names fold case, is that of another object (I12): errTwin.
func (c *commit) checkTwin(dir *os.File, p, name string) error {
	where := parent(p)
	folds, known := c.folds[where]
	if !known {
		f, err := c.openDir(where)
		if err != nil {
			return err
		}
		folds = caseFolds(c.p.t, f)
		_ = f.Close() // only looked at
		c.folds[where] = folds
	}
	if !folds {
		return nil
	}
	if _, err := fsmeta.StatAt(int(dir.Fd()), name); err != nil {
		return nil
	}
	f, err := c.openDir(where)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	twin := ""
	for _, n := range names {
		if n == name {
			return nil
		}
		if strings.EqualFold(n, name) {
			twin = n
		}
	}
	return proto.Errorf(proto.ClassPermanent, "%w and %q is there already: rename one of them at the source", errTwin, twin)
}
