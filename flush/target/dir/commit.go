package dir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/internal/faultpoint"
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
		return target.FillErrors(errs, err)
	}
	defer func() { _ = c.p.Close() }()
	for i, ch := range changes {
		if errs[i] = ctx.Err(); errs[i] == nil {
			errs[i] = c.apply(ch)
		}
		if err := d.at(faultpoint.DirChanged); err != nil {
			return target.FillErrors(errs, err)
		}
	}
	if err := c.finish(); err != nil {
		return target.FillErrors(errs, err) // nothing is known to be durable
	}
	for i, ch := range changes {
		if errs[i] == nil && ch.Op == target.OpPut {
			_ = c.p.remove(d.stageDir() + "/" + string(ch.Stage) + atSuffix) // harmless if it stays: Unstage takes it
		}
	}
	return errs
}

// at tells that a boundary between durable steps is passed.
func (d *Dir) at(p faultpoint.Point) error {
	if d.fault == nil {
		return nil
	}
	return d.fault(p)
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
		err = d.at(faultpoint.DirKept)
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
	if err := c.d.at(faultpoint.DirRestored); err != nil {
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
		return c.classify(ch, c.put(ch), "put %q", ch.Path)
	case target.OpMkdir:
		return c.classify(ch, c.mkdir(ch), "make directory %q", ch.Path)
	case target.OpSymlink:
		return c.classify(ch, c.symlink(ch), "make symlink %q", ch.Path)
	case target.OpLink:
		return c.classify(ch, c.link(ch), "link %q to %q", ch.Path, ch.Desc.LinkTo)
	case target.OpMeta:
		return c.classify(ch, c.meta(ch), "set metadata of %q", ch.Path)
	case target.OpDelete:
		return c.classify(ch, c.delete(ch), "delete %q", ch.Path)
	}
	return proto.Errorf(proto.ClassPermanent, "commit %q: unknown operation %d", ch.Path, ch.Op)
}

// classify is classify for a change: what looks like a lost object may be a name that cannot be, which exfat-fuse for one tells as
// ENOENT.
func (c *commit) classify(ch target.Change, err error, format string, args ...any) error {
	if !c.p.t.raw && is(err, unix.ENOENT, unix.EINVAL) && !holdable(ch.Path) {
		err = proto.Errorf(proto.ClassPermanent, "the target's file system takes no such name: %w", err)
	}
	return classify(err, format, args...)
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
	st, err := fsmeta.StatOf(f)
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
	if err := c.d.at(faultpoint.DirDescribed); err != nil {
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
		if st, err = fsmeta.StatOf(o); err == nil {
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
	if open := target.Legible(kind, m.Mode); c.d.legible() && open != m.Mode {
		m.Mode = open
		c.d.note("modes that keep their owner out are kept under .forebay/ only, and the owner may read here: without more rights the relay could not read its own mirror")
	}
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
