package sftp

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"forebay/flush/target"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// Commit carries out changes, several at a time where their order does not matter, then makes directories durable.
func (d *SFTP) Commit(ctx context.Context, changes []target.Change) []error {
	d.commits.Lock()
	defer d.commits.Unlock()
	all := func(err error) []error { return target.FillErrors(make([]error, len(changes)), err) }
	if len(changes) == 0 {
		return nil
	}
	c, err := d.use(ctx)
	if err != nil {
		return all(err)
	}
	defer c.during(ctx)()
	if err = d.lookForMark(c); err == nil {
		err = d.prepareStage(c)
	}
	if err != nil {
		return all(err)
	}
	k := &commit{d: d, c: c, touched: map[string]bool{}}
	if k.keep, err = d.keepDirs(c, changes); err != nil {
		return all(err)
	}
	errs := waves.Commit(ctx, changes, d.cfg.Requests, k.apply)
	if err := k.finish(); err != nil { // nothing is known to be durable
		for i := range errs {
			if errs[i] == nil {
				errs[i] = err
			}
		}
		return errs
	}
	for i, ch := range changes {
		if errs[i] == nil && ch.Op == target.OpPut {
			d.done(c, ch.Stage)
		}
	}
	return errs
}

// done forgets a content that is committed. What stays of it is harmless: Unstage takes it.
func (d *SFTP) done(c *conn, id target.StageID) {
	if _, ok := d.held.Data(id); ok {
		d.held.Drop(id)
		return
	}
	_ = c.sftp.Remove(d.stageDir() + "/" + string(id) + atSuffix)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.durable, id)
}

// commit is a commit on its way.
type commit struct {
	d    *SFTP
	c    *conn
	keep *keeper

	mu      sync.Mutex
	touched map[string]bool // directories whose entries changed, by full name
}

func (k *commit) touch(full string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.touched[full] = true
}

// finish gives directories back what they had and makes all of it durable.
func (k *commit) finish() error {
	if err := k.keep.restore(); err != nil {
		return err
	}
	for dir := range k.touched {
		if err := k.c.syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return k.d.failed(k.c, err, "sync directory %s", dir)
		}
	}
	return k.keep.clear()
}

func (k *commit) apply(ctx context.Context, ch target.Change) error {
	if err := proto.CheckPath(ch.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "commit: %w", err)
	}
	what, err := k.change(ctx, ch)
	if long := k.d.tooLong(k.c, err, k.d.full(ch.Path)); long != "" {
		if ch.Op == target.OpDelete {
			return nil // it never came there
		}
		return proto.Errorf(proto.ClassPermanent, "%s: the server cannot hold it: %s: give it a shorter one at the source", what, long)
	}
	return k.d.failed(k.c, err, "%s %q", what, ch.Path)
}

// change makes a change, and says what it does.
func (k *commit) change(ctx context.Context, ch target.Change) (what string, err error) {
	switch ch.Op {
	case target.OpPut:
		return "put", k.put(ctx, ch)
	case target.OpMkdir:
		return "make directory", k.mkdir(ch)
	case target.OpSymlink:
		return "make symlink", k.symlink(ch)
	case target.OpLink:
		return "link", k.link(ch)
	case target.OpMeta:
		return "set metadata of", k.meta(ch)
	case target.OpDelete:
		return "delete", k.delete(ch)
	}
	return "commit", proto.Errorf(proto.ClassPermanent, "unknown operation %d", ch.Op)
}

// put moves a content to its name.
func (k *commit) put(_ context.Context, ch target.Change) error {
	d, c := k.d, k.c
	if err := target.CheckStageID(ch.Stage); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if d.held.Writing(ch.Stage) {
		return proto.Errorf(proto.ClassTransient, "staged content %s is being written", ch.Stage)
	}
	name := d.stageDir() + "/" + string(ch.Stage)
	data, small := d.held.Data(ch.Stage)
	size := int64(len(data))
	if !small {
		st, err := c.lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return k.already(ch)
		}
		if err != nil {
			return err
		}
		if size, err = c.recordedAt(name + atSuffix); err != nil {
			return err
		}
		size = min(size, st.Size())
	}
	if size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "staged content %s has %d bytes, the object has %d: stage it again", ch.Stage, size, ch.Desc.Size)
	}
	if err := k.parents(ch.Path); err != nil {
		return err
	}
	if small {
		tmp, err := d.writeTemp(c, data, func(f *sftp.File) error { return k.dress(f.Name(), ch.Desc.Meta) })
		if err != nil {
			return err
		}
		if err := k.place(tmp, ch.Path); err != nil {
			_ = c.sftp.Remove(tmp) // the error that counts is the other
			return err
		}
		return nil
	}
	f, err := c.openStaged(name, os.O_RDWR)
	if err != nil {
		return err
	}
	if err = k.dress(name, ch.Desc.Meta); err == nil && c.fsync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return k.place(name, ch.Path)
}

// already reports whether the path has what a change was to bring whose stage is gone: the change was carried out before. The mtime
// belongs to that, for an older version may have the same size.
func (k *commit) already(ch target.Change) error {
	st, err := k.c.lstat(k.d.full(ch.Path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && st.Mode().IsRegular() && st.Size() == ch.Desc.Size && int64(attrs(st).Mtime) == seconds(ch.Desc.Meta.MtimeNs) {
		return nil
	}
	return proto.Errorf(proto.ClassTransient, "staged content %s is not there, and the object is not at its path either: stage it again", ch.Stage)
}

// seconds is a time as SFTP has it: unsigned 32 bits.
func seconds(ns int64) int64 { return min(max(floor(ns), 0), 1<<32-1) }

func floor(ns int64) int64 {
	s := ns / int64(time.Second)
	if ns%int64(time.Second) < 0 {
		s--
	}
	return s
}

// mode is the mode that an object gets: legible where we are not root.
func (k *commit) mode(kind proto.Kind, mode uint32) uint32 {
	if !k.c.root() {
		mode = target.Legible(kind, mode) & 0o1777
	}
	return mode & 0o7777
}

// give gives an owner to what is at a name, where we may.
func (k *commit) give(name string, m proto.Meta) error {
	if !k.c.root() {
		return nil
	}
	return k.c.sftp.Chown(name, int(m.UID), int(m.GID))
}

// dress gives a file its metadata.
func (k *commit) dress(name string, m proto.Meta) error {
	if err := k.give(name, m); err != nil {
		return err
	}
	if err := k.c.sftp.Chmod(name, fileMode(k.mode(proto.KindFile, m.Mode))); err != nil {
		return err
	}
	return k.c.setTime(name, seconds(m.MtimeNs))
}

// place moves a file or link to its path. An empty directory makes way.
func (k *commit) place(from, p string) error {
	to := k.d.full(p)
	k.d.dirs.Drop(p)
	err := k.c.rename(from, to, k.d.asideOf(p))
	if err != nil {
		st, serr := k.c.lstat(to)
		if serr != nil || !st.IsDir() {
			return err
		}
		if rerr := k.c.sftp.RemoveDirectory(to); rerr != nil {
			return proto.Errorf(proto.ClassTransient, "directory %q is not empty", p)
		}
		if err = k.c.rename(from, to, k.d.asideOf(p)); err != nil {
			return err
		}
	}
	k.touch(k.d.full(waves.Parent(p)))
	return nil
}

// parents makes what is missing above a path, and sees that nothing above it is a link or a file.
func (k *commit) parents(p string) error { return k.d.eachAbove(p, k.makeDir) }

// makeDir sees that there is a directory, and makes it. Name is how it is remembered.
func (k *commit) makeDir(name, full string) error {
	err := k.d.isDir(k.c, name, full)
	if errors.Is(err, fs.ErrNotExist) {
		if err = k.c.sftp.Mkdir(full); err != nil { // another change of the wave may have made it
			if st, serr := k.c.lstat(full); serr != nil || !st.IsDir() {
				return err
			}
		}
		k.touch(full[:max(1, lastSlash(full))])
		k.d.dirs.Add(name)
		return nil
	}
	return err
}

func (k *commit) mkdir(ch target.Change) error {
	if err := k.parents(ch.Path); err != nil {
		return err
	}
	full := k.d.full(ch.Path)
	st, err := k.c.lstat(full)
	if err == nil && !st.IsDir() {
		if err = k.c.sftp.Remove(full); err == nil {
			err = fs.ErrNotExist
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = k.c.sftp.Mkdir(full); err == nil {
			k.touch(k.d.full(waves.Parent(ch.Path)))
		}
	}
	if err != nil {
		return err
	}
	k.d.dirs.Add(ch.Path)
	return k.dressDir(ch)
}

// dressDir gives a directory its metadata. While entries change in it, it has a mode with which we may.
func (k *commit) dressDir(ch target.Change) error {
	full := k.d.full(ch.Path)
	if err := k.give(full, ch.Desc.Meta); err != nil {
		return err
	}
	mode := k.mode(proto.KindDir, ch.Desc.Meta.Mode)
	k.keep.set(ch.Path, mode, seconds(ch.Desc.Meta.MtimeNs))
	if err := k.c.sftp.Chmod(full, fileMode(mode|0o300)); err != nil {
		return err
	}
	k.touch(full) // its own metadata
	return nil
}

func (k *commit) symlink(ch target.Change) error {
	if err := k.parents(ch.Path); err != nil {
		return err
	}
	tmp := k.d.tempName()
	if err := k.c.sftp.Symlink(ch.Desc.LinkTo, tmp); err != nil {
		if k.c.textTooLong(err, tmp) {
			return proto.Errorf(proto.ClassPermanent, "the server cannot hold its text of %d bytes: %w", len(ch.Desc.LinkTo), err)
		}
		return err
	}
	if err := k.place(tmp, ch.Path); err != nil {
		_ = k.c.sftp.Remove(tmp) // the error that counts is the other
		return err
	}
	return nil
}

// link makes a hard link, or a copy where the server has none.
func (k *commit) link(ch target.Change) error {
	if err := proto.CheckPath(ch.Desc.LinkTo); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if ch.Desc.LinkTo == ch.Path {
		return proto.Errorf(proto.ClassPermanent, "it is the path itself")
	}
	if err := k.d.above(k.c, ch.Desc.LinkTo); err != nil {
		return err
	}
	from := k.d.full(ch.Desc.LinkTo)
	st, err := k.c.lstat(from)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "%q is no file of %d bytes", ch.Desc.LinkTo, ch.Desc.Size)
	}
	if err := k.parents(ch.Path); err != nil {
		return err
	}
	if !k.c.hardlink {
		return k.copy(from, ch)
	}
	tmp := k.d.tempName()
	if err := k.c.sftp.Link(from, tmp); err != nil {
		return err
	}
	err = k.place(tmp, ch.Path)
	if rerr := k.c.remove(tmp); err == nil { // renaming a link over another of the same file does nothing
		err = rerr
	}
	return err
}

// copy reads a file and writes it beside.
func (k *commit) copy(from string, ch target.Change) error {
	in, err := k.c.sftp.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read from
	tmp, err := k.d.writeTemp(k.c, nil, func(f *sftp.File) error {
		if _, err := io.Copy(f, in); err != nil {
			return err
		}
		return k.dress(f.Name(), ch.Desc.Meta)
	})
	if err != nil {
		return err
	}
	return k.place(tmp, ch.Path)
}

func (k *commit) meta(ch target.Change) error {
	if err := k.d.above(k.c, ch.Path); err != nil {
		return err
	}
	full := k.d.full(ch.Path)
	st, err := k.c.lstat(full)
	if err != nil {
		return err
	}
	kind := kindOf(st)
	same := kind == ch.Desc.Kind || kind.HasContent() && ch.Desc.Kind.HasContent()
	if !same || kind.HasContent() && st.Size() != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "there is a %s of %d bytes: put it again", kind, st.Size())
	}
	switch kind {
	case proto.KindDir:
		return k.dressDir(ch)
	case proto.KindSymlink:
		return nil // SFTP sets nothing of a link itself
	}
	if err := k.dress(full, ch.Desc.Meta); err != nil {
		return err
	}
	return k.c.syncDir(full)
}

func (k *commit) delete(ch target.Change) error {
	if err := k.d.above(k.c, ch.Path); err != nil {
		if absent(err) {
			return nil
		}
		return err
	}
	full := k.d.full(ch.Path)
	st, err := k.c.lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	k.d.dirs.Drop(ch.Path)
	if st.IsDir() {
		if err := k.c.sftp.RemoveDirectory(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return proto.Errorf(proto.ClassTransient, "directory %q is not empty, or cannot be removed: %w", ch.Path, err)
		}
	} else if err := k.c.sftp.Remove(full); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.touch(k.d.full(waves.Parent(ch.Path)))
	return nil
}
