package dir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/proto"
)

// mkdir makes a directory or describes the one that is there.
func (c *commit) mkdir(ch target.Change) error {
	dir, name, err := c.parent(ch.Path, true)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := c.checkTwin(dir, ch.Path, name); err != nil {
		return err
	}
	st, err := fsmeta.StatAt(int(dir.Fd()), name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = c.withAccess(ch.Path, func() error {
			return retry(func() error { return unix.Mkdirat(int(dir.Fd()), name, 0o700) })
		})
	case err != nil:
	case st.MountRoot:
		err = unix.EXDEV
	case st.Kind() != proto.KindDir:
		err = c.dirInPlace(dir, name, ch.Path)
	}
	if err != nil {
		return err
	}
	return c.describeDir(ch.Path, ch.Desc.Meta)
}

// dirInPlace puts a new directory in the place of something else.
func (c *commit) dirInPlace(dir *os.File, name, p string) error {
	tmp := c.p.tempName()
	if err := retry(func() error { return unix.Mkdirat(int(c.stage.Fd()), tmp, 0o700) }); err != nil {
		return err
	}
	err := c.exchange(tmp, dir, name, p)
	if err != nil {
		_ = removeAt(c.stage, tmp) // the error that counts is the exchange's
	}
	return err
}

// describeDir gives a directory its metadata. Its final mode and time come at the end of the commit.
func (c *commit) describeDir(p string, m proto.Meta) error {
	var f *os.File
	err := c.withAccess(p, func() (err error) {
		f, err = c.p.Open(c.d.full(p), unix.O_PATH|unix.O_DIRECTORY, 0)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := c.describe(f, proto.KindDir, m); err != nil {
		return err
	}
	st, err := fsmeta.StatOf(f)
	if err != nil {
		return err
	}
	c.keep.set(p, st.Mode&0o7777, m.MtimeNs, st.Ino)
	c.sync[c.d.full(p)] = true
	return nil
}

// symlink makes a link with any text. The text is never looked at.
func (c *commit) symlink(ch target.Change) error {
	tmp := c.p.tempName()
	if err := retry(func() error { return unix.Symlinkat(ch.Desc.LinkTo, int(c.stage.Fd()), tmp) }); err != nil {
		if is(err, unix.EPERM, unix.ENOSYS, unix.ENOTSUP) {
			return proto.Errorf(proto.ClassPermanent, "the target's file system has no symlinks: %w", err)
		}
		return err
	}
	err := c.describeStaged(tmp, proto.KindSymlink, ch.Desc.Meta)
	if err == nil {
		err = c.place(tmp, ch.Path)
	}
	if err != nil {
		_ = removeAt(c.stage, tmp) // the error that counts is the one before
	}
	return err
}

func (c *commit) describeStaged(name string, kind proto.Kind, m proto.Meta) error {
	f, err := c.p.Open(c.d.stageDir()+"/"+name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return c.describe(f, kind, m)
}

// link makes a hard link to the file LinkTo, or a copy of it.
func (c *commit) link(ch target.Change) error {
	if err := proto.CheckPath(ch.Desc.LinkTo); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if ch.Desc.LinkTo == ch.Path {
		return proto.Errorf(proto.ClassPermanent, "a hard link to itself")
	}
	leader, st, err := c.leader(ch)
	if err != nil {
		return err
	}
	defer func() { _ = leader.Close() }()
	if now, err := c.p.Stat(c.d.full(ch.Path)); err == nil && now.Ino == st.Ino && now.Dev == st.Dev {
		return nil // a rename of one link onto another does nothing and leaves both
	}
	tmp := c.p.tempName()
	err = retry(func() error {
		return unix.Linkat(unix.AT_FDCWD, procPath(leader), int(c.stage.Fd()), tmp, unix.AT_SYMLINK_FOLLOW)
	})
	if is(err, unix.EPERM, unix.ENOTSUP, unix.EMLINK, unix.EXDEV, unix.ENOSYS) {
		if !is(err, unix.EMLINK) {
			c.d.note("hard links cannot be made here: they become copies")
		}
		tmp, err = c.copyLeader(ch)
	}
	if err == nil {
		err = c.place(tmp, ch.Path)
	}
	if err != nil {
		_ = removeAt(c.stage, tmp) // the error that counts is the one before
	}
	return err
}

// leader opens, with O_PATH, the file that a hard link shares.
func (c *commit) leader(ch target.Change) (*os.File, fsmeta.Stat, error) {
	var f *os.File
	err := c.withAccess(ch.Desc.LinkTo, func() (err error) {
		f, err = c.p.Open(c.d.full(ch.Desc.LinkTo), unix.O_PATH, 0)
		return err
	})
	if err != nil {
		return nil, fsmeta.Stat{}, err
	}
	st, err := fsmeta.StatOf(f)
	if err == nil && (st.Kind() != proto.KindFile || st.Size != ch.Desc.Size) {
		err = proto.Errorf(proto.ClassTransient, "what it is to share is a %s of %d bytes, not a file of %d: that file must be committed first", st.TypeName(), st.Size, ch.Desc.Size)
	}
	if err != nil {
		_ = f.Close()
		return nil, fsmeta.Stat{}, err
	}
	return f, st, nil
}

// copyLeader copies the file a link would share into the folder of staged contents.
func (c *commit) copyLeader(ch target.Change) (string, error) {
	from, err := c.p.Open(c.d.full(ch.Desc.LinkTo), unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = from.Close() }() // only read from
	to, tmp, err := c.p.newTemp(c.d.stageDir())
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = c.describe(to, proto.KindFile, ch.Desc.Meta)
	}
	if err == nil {
		err = to.Sync() // data before the name
	}
	return tmp, errors.Join(err, to.Close())
}

// meta gives an object that is there its metadata.
func (c *commit) meta(ch target.Change) error {
	want := ch.Desc.Kind
	if want == proto.KindHardlink {
		want = proto.KindFile
	}
	var f *os.File
	err := c.withAccess(ch.Path, func() (err error) {
		f, err = c.p.Open(c.d.full(ch.Path), unix.O_PATH, 0)
		return err
	})
	if absent(err) {
		return proto.Errorf(proto.ClassPermanent, "it is not at the target any more: %w", err)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := fsmeta.StatOf(f)
	if err != nil {
		return err
	}
	if st.Kind() != want {
		return proto.Errorf(proto.ClassPermanent, "the target has a %s at its path, not a %s", st.TypeName(), want)
	}
	if want == proto.KindDir {
		return c.describeDir(ch.Path, ch.Desc.Meta)
	}
	if want == proto.KindFile {
		c.files[c.d.full(ch.Path)] = true
	}
	c.sync[path.Dir(c.d.full(ch.Path))] = true
	return c.describe(f, want, ch.Desc.Meta)
}

// delete removes what is at a path. Below a link, or a file, there is no such path.
func (c *commit) delete(ch target.Change) error {
	dir, name, err := c.parent(ch.Path, false)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	switch err := c.checkTwin(dir, ch.Path, name); {
	case errors.Is(err, errTwin):
		return nil // what is there is another object
	case err != nil:
		return err
	}
	if st, err := fsmeta.StatAt(int(dir.Fd()), name); err == nil && st.MountRoot {
		return unix.EXDEV
	}
	err = c.withAccess(ch.Path, func() error { return removeAt(dir, name) })
	if is(err, unix.ENOTEMPTY, unix.EEXIST) {
		return notEmpty()
	}
	if err == nil {
		c.keep.forget(ch.Path)
	}
	return err
}
