package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"forebay/flush/target"
	"forebay/proto"
)

// temp is where what is about to get its name lies; Commit alone uses it. It is no stage id.
const temp = ".new"

// Commit carries out changes one after the other, then makes the directories durable in which something changed.
func (m *mirror) Commit(ctx context.Context, changes []target.Change) []error {
	m.commit.Lock()
	defer m.commit.Unlock()
	errs := make([]error, len(changes))
	touched := map[string][]int{} // the changes by directory
	for i, ch := range changes {
		if errs[i] = checked(ctx, ch.Path); errs[i] == nil {
			errs[i] = failed(m.apply(ch), "commit %q", ch.Path)
		}
		if errs[i] == nil {
			dir := path.Dir(m.place(ch.Path))
			touched[dir] = append(touched[dir], i)
		}
	}
	for dir, of := range touched {
		if err := m.syncDir(dir); err != nil && !gone(err) {
			for _, i := range of {
				errs[i] = failed(err, "sync directory %q", dir)
			}
		}
	}
	return errs
}

func (m *mirror) apply(ch target.Change) error {
	switch ch.Op {
	case target.OpPut:
		return m.put(ch)
	case target.OpMkdir:
		return m.mkdir(ch)
	case target.OpSymlink:
		return m.make(ch.Path, func(tmp string) error { return m.root.Symlink(ch.Desc.LinkTo, tmp) })
	case target.OpLink:
		return m.link(ch)
	case target.OpMeta:
		return m.meta(ch)
	case target.OpDelete:
		return m.remove(ch)
	}
	return proto.Errorf(proto.ClassPermanent, "unknown operation %d", ch.Op)
}

// put moves a staged content to its name.
func (m *mirror) put(ch target.Change) error {
	if err := target.CheckStageID(ch.Stage); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	if m.isWriting(ch.Stage) {
		return proto.Errorf(proto.ClassTransient, "staged content %s is being written", ch.Stage)
	}
	name := m.staged(ch.Stage)
	st, err := m.root.Lstat(name)
	if gone(err) {
		return m.already(ch)
	}
	if err != nil {
		return err
	}
	if st.Size() != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "staged content %s has %d bytes, the object has %d: stage it again", ch.Stage, st.Size(), ch.Desc.Size)
	}
	if err := m.setTime(name, ch.Desc); err != nil {
		return err
	}
	return m.takeName(name, ch.Path)
}

// already reports whether a put whose stage is gone was carried out before. The time belongs to it: an older version may have the size.
func (m *mirror) already(ch target.Change) error {
	if m.above(ch.Path) == nil {
		st, err := m.root.Lstat(m.place(ch.Path))
		if err == nil && st.Mode().IsRegular() && st.Size() == ch.Desc.Size && st.ModTime().Equal(mtime(ch.Desc)) {
			return nil
		}
	}
	return proto.Errorf(proto.ClassTransient, "staged content %s is not there, and the object is not at its path either: stage it again", ch.Stage)
}

// setTime gives a file its time, durably.
func (m *mirror) setTime(name string, d proto.Desc) error {
	if err := m.root.Chtimes(name, mtime(d), mtime(d)); err != nil {
		return err
	}
	f, err := m.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// takeName moves something to a path. An empty directory makes way.
func (m *mirror) takeName(from, p string) error {
	if err := m.parents(p); err != nil {
		return err
	}
	to := m.place(p)
	if st, err := m.root.Lstat(to); err == nil && st.IsDir() {
		if err := m.removeDir(to, p); err != nil {
			return err
		}
	}
	return m.root.Rename(from, to)
}

func (m *mirror) removeDir(name, p string) error {
	err := m.root.Remove(name)
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) {
		return proto.Errorf(proto.ClassTransient, "directory %q is not empty", p)
	}
	return err
}

// parents makes the directories above a path.
func (m *mirror) parents(p string) error {
	if dir := path.Dir(m.place(p)); dir != "." {
		return m.makeDirs(dir)
	}
	return nil
}

func (m *mirror) mkdir(ch target.Change) error {
	if err := m.parents(ch.Path); err != nil {
		return err
	}
	name := m.place(ch.Path)
	if st, err := m.root.Lstat(name); err == nil && !st.IsDir() {
		if err := m.root.Remove(name); err != nil {
			return err
		}
	}
	return m.makeDirs(name)
}

// make has fn make something aside, and moves it to a path.
func (m *mirror) make(p string, fn func(tmp string) error) error {
	if err := m.makeDirs(m.stageDir()); err != nil {
		return err
	}
	tmp := path.Join(m.stageDir(), temp)
	if err := m.root.Remove(tmp); err != nil && !gone(err) {
		return err
	}
	if err := fn(tmp); err != nil {
		return err
	}
	if err := m.takeName(tmp, p); err != nil {
		_ = m.root.Remove(tmp) // the error that counts is the other
		return err
	}
	return nil
}

func (m *mirror) link(ch target.Change) error {
	to := ch.Desc.LinkTo
	if err := proto.CheckPath(to); err != nil || to == ch.Path {
		return proto.Errorf(proto.ClassPermanent, "it cannot share %q", to)
	}
	if err := m.above(to); err != nil {
		return err
	}
	st, err := m.root.Lstat(m.place(to))
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() || st.Size() != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "%q is no file of %d bytes", to, ch.Desc.Size)
	}
	if now, err := m.root.Lstat(m.place(ch.Path)); err == nil && os.SameFile(now, st) && m.above(ch.Path) == nil {
		return nil // a rename onto itself would leave both names
	}
	return m.make(ch.Path, func(tmp string) error { return m.root.Link(m.place(to), tmp) })
}

func (m *mirror) meta(ch target.Change) error {
	if err := m.above(ch.Path); err != nil {
		return err
	}
	st, err := m.root.Lstat(m.place(ch.Path))
	if err != nil {
		return err
	}
	e, err := m.entry(ch.Path, st)
	if err != nil {
		return err
	}
	same := e.Desc.Kind == ch.Desc.Kind || e.Desc.Kind.HasContent() && ch.Desc.Kind.HasContent()
	if !same || ch.Desc.Kind.HasContent() && e.Desc.Size != ch.Desc.Size {
		return proto.Errorf(proto.ClassTransient, "there is a %s of %d bytes: put it again", e.Desc.Kind, e.Desc.Size)
	}
	if e.Desc.Kind != proto.KindFile {
		return nil
	}
	return m.setTime(m.place(ch.Path), ch.Desc)
}

func (m *mirror) remove(ch target.Change) error {
	if err := m.above(ch.Path); gone(err) {
		return nil
	} else if err != nil {
		return err
	}
	err := m.removeDir(m.place(ch.Path), ch.Path) // a file, too
	if gone(err) {
		return nil
	}
	return err
}
