package dir

import (
	"errors"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"

	"forebay/fsmeta"
	"forebay/proto"
)

// A specimen is one object of each kind, made once in the work folder of a target whose file system's type does not tell all: what
// has become of them tells what it can hold. FUSE, SMB and NFS hide anything. Nothing is written down of it, so that it stays true
// for a target that is moved to another file system with all that is in it.
const (
	specimenDir   = "specimen-1" // the number is its version
	specimenName  = "Name"
	specimenTwin  = "nAME"
	specimenRaw   = "raw:\xff"
	specimenLink  = "link"
	specimenHard  = "hard"
	specimenMode  = 0o604
	specimenMtime = 1_000_000_001_123_456_789
)

// learn sets the traits of the place: those of the type of its file system and what a specimen adds. d.mu is held.
func (p *place) learn(now identity) error {
	d := p.d
	p.t = traitsOf(p.fs.Type)
	p.t.syncfs, p.t.local = (p.t.syncfs || d.syncfs != nil) && !d.noSyncfs, p.t.local && !d.hidden
	if p.t.local {
		return nil
	}
	if d.seen == nil || d.seenOn != now {
		seen, err := p.lookAtSpecimen()
		if err != nil {
			return err
		}
		d.seen, d.seenOn = seen, now
	}
	if d.seen != nil {
		p.t.traitsSeen = *d.seen
	}
	return nil
}

func (p *place) specimenPath(name string) string { return path.Join(p.d.cfg.Work, specimenDir, name) }

// lookAtSpecimen returns nil when there is none.
func (p *place) lookAtSpecimen() (*traitsSeen, error) {
	st, err := p.Stat(p.specimenPath(specimenName))
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &traitsSeen{modes: st.Mode&0o777 == specimenMode, exact: st.MtimeNs == specimenMtime}
	for _, one := range []struct {
		has  *bool
		name string
		kind proto.Kind
	}{{&s.folds, specimenTwin, proto.KindFile}, {&s.raw, specimenRaw, proto.KindFile}, {&s.symlinks, specimenLink, proto.KindSymlink}, {&s.hardlinks, specimenHard, proto.KindFile}} {
		st, err := p.Stat(p.specimenPath(one.name))
		if err = can(err); err != nil {
			return nil, err
		}
		*one.has = st.Kind() == one.kind
	}
	return s, nil
}

// can takes away the errors of file systems that do not have what they were asked for. Others pass, and what they were met with is tried
// again: they say nothing of what the file system can hold.
func can(err error) error {
	if is(err, unix.EPERM, unix.EACCES, unix.ENOTSUP, unix.ENOSYS, unix.EINVAL, unix.EILSEQ, unix.ENOENT, unix.EEXIST) {
		return nil
	}
	return err
}

// leaveSpecimen makes the specimen where one is called for and missing. What cannot be made is what it is to show. Its first name comes
// last, for a look asks for that, and whole, for others may be making it too. d.mu is held.
func (p *place) leaveSpecimen() error {
	d := p.d
	if p.t.local || d.seen != nil {
		return nil
	}
	at := p.specimenPath("")
	if err := p.makeDirs(at); err != nil {
		return err
	}
	dir, err := p.Open(at, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // what counts is its sync
	fd := int(dir.Fd())
	first, name, err := p.newTemp(at)
	if err != nil {
		return err
	}
	err = errors.Join(
		can(retry(func() error { return unix.Fchmod(int(first.Fd()), specimenMode) })),
		can(fsmeta.SetMtime(procPath(first), specimenMtime)),
		can(retry(func() error { return unix.Linkat(fd, name, fd, specimenHard, 0) })),
		can(retry(func() error { return unix.Symlinkat(specimenName, fd, specimenLink) })),
	)
	raw, rawErr := p.Open(p.specimenPath(specimenRaw), unix.O_WRONLY|unix.O_CREAT, specimenMode)
	if rawErr == nil {
		rawErr = raw.Close()
	}
	err = errors.Join(err, can(rawErr), first.Sync(), first.Close())
	if err == nil {
		err = dir.Sync() // the others before the first name
	}
	if err == nil {
		err = retry(func() error { return unix.Renameat(fd, name, fd, specimenName) })
	}
	if err != nil {
		_ = p.remove(at + "/" + name) // the error that counts is the one before
		return err
	}
	if err := dir.Sync(); err != nil {
		return err
	}
	seen, err := p.lookAtSpecimen()
	if err == nil && seen == nil {
		err = fs.ErrNotExist
	}
	if err != nil {
		return err
	}
	d.seen, d.seenOn = seen, *d.bound
	p.t.traitsSeen = *seen
	return nil
}
