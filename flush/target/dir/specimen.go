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
	specimenDir    = "specimen-1" // the number is its version
	specimenName   = "Name"
	specimenTwin   = "nAME"
	specimenRaw    = "raw:\xff"
	specimenLink   = "link"
	specimenHard   = "hard"
	specimenMaking = ".t-name"
	specimenMode   = 0o604
	specimenMtime  = 1_000_000_001_123_456_789
)

// specimen is what a look at one found.
type specimen struct{ modes, folds, raw, exact, symlinks, hardlinks bool }

// learn sets the traits of the place: those of the type of its file system and what a specimen adds. d.mu is held.
func (p *place) learn(now identity) error {
	d := p.d
	p.t = traitsOf(p.fs.Type)
	p.t.syncfs = p.t.syncfs && !d.noSyncfs
	if p.t.local && !d.hidden {
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
		p.t.amend(*d.seen)
	}
	return nil
}

func (t *traits) amend(s specimen) {
	t.plain, t.folds, t.unraw, t.coarse, t.symlinks, t.hardlinks = !s.modes, s.folds, !s.raw, !s.exact, s.symlinks, s.hardlinks
}

func (p *place) specimenPath(name string) string { return path.Join(p.d.cfg.Work, specimenDir, name) }

// lookAtSpecimen returns nil when there is none.
func (p *place) lookAtSpecimen() (*specimen, error) {
	st, err := p.Stat(p.specimenPath(specimenName))
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &specimen{modes: st.Mode&0o777 == specimenMode, exact: st.MtimeNs == specimenMtime}
	s.folds = p.has(specimenTwin, proto.KindFile)
	s.raw = p.has(specimenRaw, proto.KindFile)
	s.symlinks = p.has(specimenLink, proto.KindSymlink)
	s.hardlinks = p.has(specimenHard, proto.KindFile)
	return s, nil
}

func (p *place) has(name string, kind proto.Kind) bool {
	st, err := p.Stat(p.specimenPath(name))
	return err == nil && st.Kind() == kind
}

// leaveSpecimen makes the specimen where one is called for and missing. What cannot be made is what it is to show. Its first name comes
// last, for a look asks for that. d.mu is held.
func (p *place) leaveSpecimen() error {
	d := p.d
	if p.t.local && !d.hidden || d.seen != nil {
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
	defer func() { _ = dir.Close() }() // synced below
	fd := int(dir.Fd())
	if f, err := p.Open(p.specimenPath(specimenRaw), unix.O_WRONLY|unix.O_CREAT, specimenMode); err == nil {
		_ = f.Close() // it has no content
	}
	_ = unix.Symlinkat(specimenName, fd, specimenLink)
	f, err := p.Open(p.specimenPath(specimenMaking), unix.O_WRONLY|unix.O_CREAT, specimenMode)
	if err != nil {
		return err
	}
	_ = unix.Fchmod(int(f.Fd()), specimenMode)
	_ = fsmeta.SetMtime(procPath(f), specimenMtime)
	_ = unix.Linkat(fd, specimenMaking, fd, specimenHard, 0)
	err = errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = retry(func() error { return unix.Renameat(fd, specimenMaking, fd, specimenName) })
	}
	if err == nil {
		err = dir.Sync()
	}
	if err != nil {
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
	p.t.amend(*seen)
	return nil
}
