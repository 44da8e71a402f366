package dir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/proto"
)

// Commit carries out changes in order, then makes them durable: the second barrier. One commit runs at a time.
func (d *Dir) Commit(ctx context.Context, changes []target.Change) []error {
	errs := make([]error, len(changes))
	if len(changes) == 0 {
		return errs
	}
	d.commits.Lock()
	defer d.commits.Unlock()
	c, err := d.begin(ctx, changes)
	if err != nil {
		return fill(errs, err)
	}
	defer func() { _ = c.p.Close() }()
	for i, ch := range changes {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = c.apply(ch)
		}
		if err := d.at("change"); err != nil {
			return fill(errs, err)
		}
	}
	if err := c.finish(); err != nil {
		return fill(errs, err) // nothing is known to be durable
	}
	for i, ch := range changes {
		if errs[i] == nil && ch.Op == target.OpPut {
			_ = c.p.remove(d.stageDir() + "/" + string(ch.Stage) + atSuffix) // harmless if it stays: Unstage takes it
		}
	}
	return errs
}

// fill sets every error that is nil.
func fill(errs []error, err error) []error {
	for i := range errs {
		if errs[i] == nil {
			errs[i] = err
		}
	}
	return errs
}

// at is a crash point.
func (d *Dir) at(step string) error {
	if d.step == nil {
		return nil
	}
	return d.step(step)
}

// commit is a commit on its way.
type commit struct {
	d     *Dir
	p     *place
	stage *os.File // O_PATH
	watch *os.File // opened before anything is changed, so that syncfs tells of failed writes
	keep  *keeper
	sync  map[string]bool // directories below the root to be synced, where syncfs does not do it
	files map[string]bool // and files whose metadata changed in place
	folds map[string]bool // directories of which it is known whether names fold case
}

func (d *Dir) begin(ctx context.Context, changes []target.Change) (*commit, error) {
	p, err := d.write(ctx)
	if err != nil {
		return nil, err
	}
	c := &commit{d: d, p: p, sync: map[string]bool{}, files: map[string]bool{}, folds: map[string]bool{}}
	err = p.stageRoot()
	if err == nil {
		c.keep, err = newKeeper(p, changes)
	}
	if err == nil {
		err = d.at("kept")
	}
	if err == nil {
		c.stage, err = p.Open(d.stageDir(), unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	if err == nil {
		c.watch, err = p.Open(d.stageDir(), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		c.close()
		_ = p.Close()
		return nil, classify(err, "begin a commit")
	}
	return c, nil
}

func (c *commit) close() {
	for _, f := range []*os.File{c.stage, c.watch} {
		if f != nil {
			_ = f.Close() // directories that were only used as places
		}
	}
}

// finish gives directories back what they had and makes all of it durable.
func (c *commit) finish() error {
	defer c.close()
	if err := c.keep.restore(); err != nil {
		return err
	}
	if err := c.d.at("restored"); err != nil {
		return err
	}
	if c.p.t.syncfs {
		if err := c.keep.clear(); err != nil {
			return classify(err, "end a commit")
		}
		return classify(retry(func() error { return unix.Syncfs(int(c.watch.Fd())) }), "sync the target's file system")
	}
	for f := range c.files {
		if err := c.syncFile(f); err != nil {
			return classify(err, "sync %s", f)
		}
	}
	for dir := range c.sync {
		if err := c.syncDir(dir); err != nil && !absent(err) {
			return classify(err, "sync directory %s", dir)
		}
	}
	if err := c.keep.clear(); err != nil {
		return classify(err, "end a commit")
	}
	return classify(c.watch.Sync(), "sync the folder of staged contents")
}

// syncDir syncs a directory below the root; one that this process may not read is left to a sync of the file system.
func (c *commit) syncDir(name string) error {
	err := c.p.syncDir(name)
	if is(err, unix.EACCES) {
		err = retry(func() error { return unix.Syncfs(int(c.watch.Fd())) })
	}
	return err
}

func (c *commit) syncFile(name string) error {
	f, err := c.p.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		if absent(err) {
			return nil
		}
		return retry(func() error { return unix.Syncfs(int(c.watch.Fd())) })
	}
	defer func() { _ = f.Close() }() // only synced
	return f.Sync()
}

func (c *commit) apply(ch target.Change) error {
	if err := proto.CheckPath(ch.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "commit: %w", err)
	}
	switch ch.Op {
	case target.OpPut:
		return classify(c.put(ch), "put %q", ch.Path)
	case target.OpMkdir:
		return classify(c.mkdir(ch), "make directory %q", ch.Path)
	case target.OpSymlink:
		return classify(c.symlink(ch), "make symlink %q", ch.Path)
	case target.OpLink:
		return classify(c.link(ch), "link %q to %q", ch.Path, ch.Desc.LinkTo)
	case target.OpMeta:
		return classify(c.meta(ch), "set metadata of %q", ch.Path)
	case target.OpDelete:
		return classify(c.delete(ch), "delete %q", ch.Path)
	}
	return proto.Errorf(proto.ClassPermanent, "commit %q: unknown operation %d", ch.Path, ch.Op)
}

// put moves a staged content to its name.
func (c *commit) put(ch target.Change) error {
	if err := target.CheckStageID(ch.Stage); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	c.d.mu.Lock()
	tainted, writing := c.d.tainted[ch.Stage], c.d.writing[ch.Stage]
	c.d.mu.Unlock()
	if tainted || writing {
		return proto.Errorf(proto.ClassTransient, "staged content %s is being written or may be spoiled: stage it again", ch.Stage)
	}
	name := c.d.stageDir() + "/" + string(ch.Stage)
	f, err := c.p.Open(name, unix.O_PATH, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return c.already(ch)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := fsmeta.StatAt(int(f.Fd()), "")
	if err != nil {
		return err
	}
	if st.Kind() != proto.KindFile {
		return c.already(ch)
	}
	if st.Size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "staged content %s has %d bytes, the object has %d: stage it again", ch.Stage, st.Size, ch.Desc.Size)
	}
	if err := c.describe(f, proto.KindFile, ch.Desc.Meta); err != nil {
		return err
	}
	if err := c.d.at("described"); err != nil {
		return err
	}
	if !c.p.t.syncfs {
		if err := c.syncStaged(name, f); err != nil {
			return err
		}
	}
	return c.place(string(ch.Stage), ch.Path)
}

// syncStaged makes the metadata of a staged content durable before it gets its name.
func (c *commit) syncStaged(name string, o *os.File) error {
	f, err := c.p.Open(name, unix.O_RDONLY, 0)
	if is(err, unix.EACCES) { // its own mode shuts us out
		var st fsmeta.Stat
		if st, err = fsmeta.StatAt(int(o.Fd()), ""); err == nil {
			if f, err = c.p.openStaged(name, unix.O_RDONLY); err == nil {
				err = unix.Chmod(procPath(o), st.Mode&0o7777)
			}
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only synced
	return f.Sync()
}

// mtimeSlack is how far a file system's times may be off what they were set to.
const mtimeSlack = 2_000_000_000

// already reports whether the path has what a change was to bring whose stage is gone: the change was carried out before.
// The mtime belongs to that, for an older version may have the same size.
func (c *commit) already(ch target.Change) error {
	st, err := c.p.Stat(c.d.full(ch.Path))
	if err != nil && !absent(err) {
		return err
	}
	if err == nil && st.Kind() == proto.KindFile && st.Size == ch.Desc.Size {
		if diff := st.MtimeNs - ch.Desc.Meta.MtimeNs; -mtimeSlack <= diff && diff <= mtimeSlack {
			return nil
		}
	}
	return proto.Errorf(proto.ClassTransient, "staged content %s is not there, and the object is not at its path either: stage it again: %w", ch.Stage, fs.ErrNotExist)
}

// describe gives an object its metadata. What the target cannot carry becomes a note; the journal has it.
func (c *commit) describe(f *os.File, kind proto.Kind, m proto.Meta) error {
	if open := m.Mode | 0o600; !c.d.rights.override && len(m.Xattrs) > 0 && open != m.Mode && kind != proto.KindSymlink {
		// An ordinary user may set attributes only on what it may write: they come before the mode or ACL that forbids it.
		opened := m
		opened.Mode = open
		opened.Xattrs = slices.DeleteFunc(slices.Clone(m.Xattrs), func(x proto.Xattr) bool { return strings.HasPrefix(x.Name, "system.") })
		if _, err := fsmeta.Apply(int(f.Fd()), kind, opened); err != nil {
			return err
		}
	}
	missed, err := fsmeta.Apply(int(f.Fd()), kind, m)
	if err != nil {
		return err
	}
	if len(missed.Xattrs) > 0 {
		c.d.note("some extended attributes cannot be set here and are kept under .forebay/ only: " + strings.Join(missed.Xattrs[:min(3, len(missed.Xattrs))], ", "))
	}
	return nil
}

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

// checkTwin refuses a path whose name, where names fold case, is that of another object (I12).
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
	return proto.Errorf(proto.ClassPermanent, "the target's names fold case and %q is there already: rename one of them at the source", twin)
}
