package dir

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/proto"
)

const (
	bootFile  = ".boot"
	atSuffix  = ".at"
	tempStart = ".t-"
)

// stageRoot makes the folder of staged contents and deals, once, with what another boot left in it.
func (p *place) stageRoot() error {
	d := p.d
	if err := p.makeDirs(d.stageDir()); err != nil {
		return classify(err, "make %s", d.stageDir())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := p.leaveSpecimen(); err != nil {
		return classify(err, "try out what the file system can hold")
	}
	if d.recovered {
		return nil
	}
	if err := p.recoverStage(); err != nil {
		return classify(err, "look through staged contents")
	}
	d.recovered = true
	return nil
}

// makeDirs makes a folder below the work folder and what is missing above it, durably, for nobody else to look into.
func (p *place) makeDirs(name string) error {
	f, err := p.Open(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		if err := p.makeDirs(name[:i]); err != nil {
			return err
		}
	}
	dir, base, err := p.Parent(name)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	if err := unix.Mkdirat(int(dir.Fd()), base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return p.syncDir(path.Dir(name))
}

// syncDir makes the entries of a directory durable.
func (p *place) syncDir(name string) error {
	f, err := p.Open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only synced
	return f.Sync()
}

// recoverStage cuts the contents staged under another boot of this machine, or by another machine, to what was made
// durable: a length alone proves nothing after a power cut, for a hole made behind bytes that were not written yet is
// durable before they are. d.mu is held.
func (p *place) recoverStage() error {
	dir := p.d.stageDir()
	names, err := p.names(dir)
	if err != nil {
		return err
	}
	boot := bootID()
	last, err := p.readSmall(dir + "/" + bootFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	foreign := boot == "" || string(last) != boot
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, tempStart):
			err = p.remove(dir + "/" + name)
		case foreign && target.CheckStageID(target.StageID(name)) == nil:
			err = p.cut(dir, name)
		}
		if err != nil {
			return err
		}
	}
	if !foreign {
		return nil
	}
	return p.writeSmall(dir+"/"+bootFile, []byte(boot))
}

// cut shortens a staged content to its durable length.
func (p *place) cut(dir, name string) error {
	f, err := p.openStaged(dir+"/"+name, unix.O_RDWR)
	if is(err, unix.EISDIR) {
		return p.remove(dir + "/" + name)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // Sync tells of errors
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if at := p.durable(dir, name); at < st.Size() {
		if err := f.Truncate(at); err != nil {
			return err
		}
	}
	return f.Sync()
}

// durable returns how many bytes of a staged content are known to be durable.
func (p *place) durable(dir, name string) int64 {
	b, err := p.readSmall(dir + "/" + name + atSuffix)
	if err != nil || len(b) != 16 {
		return 0
	}
	n, check := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	if n != ^check || int64(n) < 0 {
		return 0 // torn
	}
	return int64(n)
}

// openStaged opens a staged content. A commit that was cut short may have given it a mode that shuts us out.
func (p *place) openStaged(name string, flags int) (*os.File, error) {
	f, err := p.Open(name, flags, 0o600)
	if !is(err, unix.EACCES) {
		return f, err
	}
	o, perr := p.Open(name, unix.O_PATH, 0)
	if perr != nil {
		return nil, err
	}
	defer func() { _ = o.Close() }()
	if perr := unix.Chmod(procPath(o), 0o600); perr != nil {
		return nil, err
	}
	return p.Open(name, flags, 0o600)
}

// Stage opens a content for writing.
func (d *Dir) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	id := c.ID
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "stage: %w", err)
	}
	if c.Size < 0 {
		return nil, proto.Errorf(proto.ClassPermanent, "stage %s: size %d is negative", id, c.Size)
	}
	p, err := d.write(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	if err := p.stageRoot(); err != nil {
		return nil, err
	}
	tainted, err := d.claim(p, id)
	if err != nil {
		return nil, err
	}
	s, err := p.openStage(c, tainted)
	if err != nil {
		d.giveBack(id)
		d.taint([]target.StageID{id})
		return nil, classify(err, "stage %s", id)
	}
	return s, nil
}

// claim makes the caller the one writer of id and sees to it that failed writes from now on will be told.
func (d *Dir) claim(p *place, id target.StageID) (tainted bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.writing[id] {
		return false, proto.Errorf(proto.ClassConflict, "stage %s: it is being written already", id)
	}
	if d.watch == nil {
		if d.watch, err = p.Open(d.stageDir(), unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return false, classify(err, "open %s", d.stageDir())
		}
	}
	d.writing[id] = true
	d.unsynced[id] = true
	tainted = d.tainted[id]
	delete(d.tainted, id) // what taints it from here on is news
	return tainted, nil
}

func (d *Dir) giveBack(id target.StageID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.writing, id)
}

func (p *place) openStage(c target.Content, tainted bool) (*stage, error) {
	d, id := p.d, c.ID
	name := d.stageDir() + "/" + string(id)
	f, err := p.openStaged(name, unix.O_RDWR|unix.O_CREAT)
	if is(err, unix.EISDIR) { // a directory that a commit took out of the mirror and could not remove any more
		if err = p.remove(name); err == nil {
			f, err = p.Open(name, unix.O_RDWR|unix.O_CREAT, 0o600)
		}
	}
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("something that is no file is in its place")
	}
	off := int64(0)
	if err == nil {
		switch off = st.Size(); {
		case off > c.Size:
			off = 0
		case tainted: // what was made durable by itself, a stream's, is not in doubt
			off = min(off, p.durable(d.stageDir(), string(id)))
		}
		if off < st.Size() {
			err = f.Truncate(off)
		}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &stage{d: d, f: f, id: id, path: c.Path, size: c.Size, off: off, behind: off}, nil
}

// stage is an open staged content.
type stage struct {
	d         *Dir
	f         *os.File
	id        target.StageID
	path      string // where it is to be committed
	size, off int64
	behind    int64    // up to where the kernel was told to write
	before    *os.File // what is there; nil until something of it is used again
}

// Offset returns how many bytes the content has.
func (s *stage) Offset() int64 { return s.off }

// Proved is false: a file that a power cut met has its length before it has its bytes.
func (s *stage) Proved() bool { return false }

// Unit is any byte.
func (s *stage) Unit() int64 { return 1 }

// Write appends p.
func (s *stage) Write(p []byte) (int, error) {
	if err := s.room(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := s.f.WriteAt(p, s.off)
	s.off += int64(n)
	s.writeBehind()
	return n, classify(err, "write staged content %s at byte %d", s.id, s.off)
}

// writeBehindBytes is how much of a content is left to the kernel at a time.
const writeBehindBytes = 8 << 20

// writeBehind has the kernel begin to write what has come of a large content, so that the disk is busy while the rest comes and the
// barrier finds little left. It proves nothing, and takes no error from the barrier: it waits for no write to end.
func (s *stage) writeBehind() {
	if n := s.off - s.behind; n >= writeBehindBytes {
		_ = unix.SyncFileRange(int(s.f.Fd()), s.behind, n, unix.SYNC_FILE_RANGE_WRITE) // some file systems cannot
		s.behind = s.off
	}
}

// Hole appends n zero bytes as a hole.
func (s *stage) Hole(n int64) error {
	if err := s.room(n); err != nil {
		return err
	}
	if err := s.f.Truncate(s.off + n); err != nil {
		return classify(err, "make a hole in staged content %s at byte %d", s.id, s.off)
	}
	s.off += n
	return nil
}

func (s *stage) room(n int64) error {
	if n < 0 || s.off+n > s.size {
		return proto.Errorf(proto.ClassPermanent, "staged content %s was announced with %d bytes and is to get %d", s.id, s.size, s.off+n)
	}
	return nil
}

// Sync makes what was written durable, and the fact that it is.
func (s *stage) Sync() (int64, error) {
	if err := s.f.Sync(); err != nil {
		s.d.taint([]target.StageID{s.id})
		return 0, classify(err, "sync staged content %s", s.id)
	}
	p, err := s.d.write(context.Background()) // a step of the caller's write, which has no context of its own
	if err != nil {
		return 0, err
	}
	defer func() { _ = p.Close() }()
	b := binary.BigEndian.AppendUint64(nil, uint64(s.off))
	b = binary.BigEndian.AppendUint64(b, ^uint64(s.off))
	if err := p.writeSmall(s.d.stageDir()+"/"+string(s.id)+atSuffix, b); err != nil {
		return 0, classify(err, "sync staged content %s", s.id)
	}
	return s.off, nil
}

// Close ends the writing.
func (s *stage) Close() error {
	s.d.giveBack(s.id)
	if s.before != nil {
		_ = s.before.Close() // only read from
	}
	return classify(s.f.Close(), "close staged content %s", s.id)
}

// Reread opens a staged content for reading from the disk.
func (d *Dir) Reread(ctx context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "reread: %w", err)
	}
	p, err := d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	r, err := openDirect(p, d.stageDir()+"/"+string(id))
	return r, classify(err, "reread staged content %s", id)
}

// Unstage removes staged contents.
func (d *Dir) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	d.commits.Lock()
	defer d.commits.Unlock()
	p, err := d.enter(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	names, err := p.names(d.stageDir())
	if absent(err) {
		return nil
	}
	if err != nil {
		return classify(err, "list staged contents")
	}
	for _, name := range names {
		id := target.StageID(strings.TrimSuffix(name, atSuffix))
		if target.CheckStageID(id) != nil || keep(id) {
			continue
		}
		if err := p.remove(d.stageDir() + "/" + name); err != nil {
			return classify(err, "remove staged content %s", id)
		}
		d.mu.Lock()
		delete(d.tainted, id)
		d.settled([]target.StageID{id})
		d.mu.Unlock()
	}
	return nil
}

// taint remembers contents of which it is unknown whether they are durable.
func (d *Dir) taint(ids []target.StageID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		d.tainted[id] = true
	}
	d.settled(ids)
}

// settled takes ids out of those that wait to be made durable. d.mu is held.
func (d *Dir) settled(ids []target.StageID) {
	for _, id := range ids {
		delete(d.unsynced, id)
	}
	if len(d.unsynced) == 0 && len(d.writing) == 0 {
		d.unwatch()
	}
}

func (d *Dir) unwatch() {
	if d.watch != nil {
		_ = d.watch.Close() // a directory that was only synced
		d.watch = nil
	}
}
