package sftp

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/pkg/sftp"

	"forebay/flush/target"
	"forebay/flush/target/held"
	"forebay/proto"
)

const (
	atSuffix  = ".at"
	tempStart = ".t-"
	dirsFile  = ".dirs"
)

// syncStep is after how many bytes a large content is made durable while it is written: what a killed relay may have to send again.
const syncStep = 32 << 20

// Stage opens a content for writing: in memory when it is small and there is room for it, else as a file on the server.
func (d *SFTP) Stage(ctx context.Context, k target.Content) (target.Stage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.held.Begin(k); err != nil {
		return nil, err
	}
	if s := d.held.Stage(k); s != nil {
		return s, nil
	}
	s, err := d.openFile(ctx, k)
	if err != nil {
		d.held.End(k.ID)
		return nil, err
	}
	return s, nil
}

// prepareStage makes the stage folder and mends what a commit that was cut short left, once a connection.
func (d *SFTP) prepareStage(c *conn) error {
	d.staging.Lock()
	defer d.staging.Unlock()
	d.mu.Lock()
	done := d.staged && d.conn == c
	d.mu.Unlock()
	if done {
		return nil
	}
	if err := d.makeDirs(c, d.stageDir()); err != nil {
		return d.failed(c, err, "make %s", d.stageDir())
	}
	st, err := c.lstat(d.stageDir())
	if err != nil {
		return d.failed(c, err, "look at %s", d.stageDir())
	}
	c.uid.Store(int64(attrs(st).UID)) // we made it
	if err := d.restoreDirs(c); err != nil {
		return err
	}
	names, err := c.sftp.ReadDir(d.stageDir())
	if err != nil {
		return d.failed(c, err, "list staged contents")
	}
	for _, st := range names {
		// What lies beside the length of a content is an older length, which is of no use without it.
		if strings.HasPrefix(st.Name(), tempStart) || strings.HasSuffix(st.Name(), atSuffix+oldEnd) {
			if err := c.remove(d.stageDir() + "/" + st.Name()); err != nil {
				return d.failed(c, err, "remove a left-over")
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.staged = d.conn == c
	return nil
}

// makeDirs makes a folder below the target's root and what is missing above it, for nobody else to look into.
func (d *SFTP) makeDirs(c *conn, name string) error {
	st, err := c.lstat(name)
	if err == nil {
		if !st.IsDir() {
			return proto.Errorf(proto.ClassTransient, "%s is no directory", name)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) || name == d.cfg.Path {
		return err
	}
	above := name[:strings.LastIndexByte(name, '/')]
	if err := d.makeDirs(c, above); err != nil {
		return err
	}
	if err := c.sftp.Mkdir(name); err != nil {
		if st, serr := c.lstat(name); serr != nil || !st.IsDir() { // another link may have made it
			return err
		}
		return nil
	}
	if err := c.sftp.Chmod(name, 0o700); err != nil {
		return err
	}
	return c.syncDir(above)
}

// file is a large content on the server.
type file struct {
	d    *SFTP
	c    *conn
	id   target.StageID
	f    *sftp.File
	size int64
	off  int64
	safe int64 // durable, and recorded
}

// openFile opens the file of a content. What was not made durable of it is cut off.
func (d *SFTP) openFile(ctx context.Context, k target.Content) (*file, error) {
	c, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.prepareStage(c); err != nil {
		return nil, err
	}
	name := d.stageDir() + "/" + string(k.ID)
	f, err := c.openStaged(name, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, d.failed(c, err, "stage %s", k.ID)
	}
	s := &file{d: d, c: c, id: k.ID, f: f, size: k.Size}
	at, err := c.recordedAt(name + atSuffix)
	var st os.FileInfo
	if err == nil {
		st, err = f.Stat()
	}
	if err == nil {
		if at <= st.Size() && at <= k.Size {
			s.off, s.safe = at, at
		} else if err = c.remove(name + atSuffix); err == nil { // of another file of that name: it must not vouch for this one
			err = c.syncDir(d.stageDir())
		}
	}
	if err == nil {
		err = f.Truncate(s.off)
	}
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, d.failed(c, err, "stage %s", k.ID)
	}
	return s, nil
}

// recordedAt returns how many bytes of a content are known to be durable: 0 without a record.
func (c *conn) recordedAt(name string) (int64, error) {
	b, err := c.readSmall(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil || len(b) != 16 {
		return 0, err
	}
	n, check := binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	if n != ^check || int64(n) < 0 {
		return 0, nil // torn
	}
	return int64(n), nil
}

func (s *file) Offset() int64 { return s.off }

// Proved is true: what was recorded as durable came through a transport that detects damage.
func (s *file) Proved() bool { return true }
func (s *file) Unit() int64  { return 1 }

func (s *file) room(n int64) error {
	if s.off+n > s.size {
		return proto.Errorf(proto.ClassPermanent, "stage %s: %w (%d)", s.id, held.ErrTooMuch, s.size)
	}
	return nil
}

func (s *file) Write(p []byte) (int, error) {
	if err := s.room(int64(len(p))); err != nil {
		return 0, err
	}
	n, err := s.f.WriteAt(p, s.off)
	if err != nil || n < len(p) {
		if err == nil {
			err = io.ErrShortWrite
		}
		return 0, s.d.failed(s.c, err, "stage %s", s.id) // concurrent writes may have left holes: nothing counts
	}
	s.off += int64(n)
	if s.off-s.safe >= syncStep {
		if _, err := s.Sync(); err != nil {
			return len(p), err
		}
	}
	return len(p), nil
}

// Hole leaves zeros out.
func (s *file) Hole(n int64) error {
	if err := s.room(n); err != nil {
		return err
	}
	s.off += n
	return nil
}

// Sync makes what was written durable and records how much that is.
func (s *file) Sync() (int64, error) {
	if s.off == s.safe {
		return s.safe, nil
	}
	err := s.f.Truncate(s.off) // a hole at the end
	if err == nil && s.c.fsync {
		err = s.f.Sync()
	}
	if err == nil {
		b := binary.BigEndian.AppendUint64(nil, uint64(s.off))
		err = s.d.writeSmall(s.c, s.d.stageDir()+"/"+string(s.id)+atSuffix, binary.BigEndian.AppendUint64(b, ^uint64(s.off)))
	}
	if err != nil {
		return s.safe, s.d.failed(s.c, err, "make staged content %s durable", s.id)
	}
	s.safe = s.off
	return s.safe, nil
}

// Close ends the writing. A whole content is made durable, so that the barrier need not open it again.
func (s *file) Close() error {
	defer s.d.held.End(s.id)
	var err error
	if s.off == s.size {
		_, err = s.Sync()
	}
	if cerr := s.f.Close(); err == nil && cerr != nil {
		err = s.d.failed(s.c, cerr, "stage %s", s.id)
	}
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	s.d.durable[s.id] = err == nil && s.safe == s.off
	return err
}

// Barrier sees that the contents are there and durable; those in memory become so when they are committed.
func (d *SFTP) Barrier(ctx context.Context, ids []target.StageID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		if err := target.CheckStageID(id); err != nil {
			return proto.Errorf(proto.ClassPermanent, "barrier: %w", err)
		}
		if _, ok := d.held.Data(id); ok {
			continue
		}
		c, err := d.use(ctx)
		if err != nil {
			return err
		}
		name := d.stageDir() + "/" + string(id)
		d.mu.Lock()
		durable := d.durable[id]
		d.mu.Unlock()
		if durable {
			_, err = c.lstat(name)
		} else {
			err = c.syncFile(name)
		}
		if err != nil {
			return d.failed(c, err, "barrier: staged content %s", id)
		}
	}
	return nil
}

// Reread reads a content: it may come from the server's cache, so that no class rests on it.
func (d *SFTP) Reread(ctx context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "reread: %w", err)
	}
	if r := d.held.Reread(id); r != nil {
		return r, nil
	}
	c, err := d.use(ctx)
	if err != nil {
		return nil, err
	}
	f, err := c.sftp.Open(d.stageDir() + "/" + string(id))
	if err != nil {
		return nil, d.failed(c, err, "reread %s", id)
	}
	return f, nil
}

// Unstage removes every staged content that keep does not want.
func (d *SFTP) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	c, err := d.use(ctx)
	if err != nil {
		return err
	}
	d.held.DropUnless(keep)
	names, err := c.sftp.ReadDir(d.stageDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return d.failed(c, err, "list staged contents")
	}
	for _, st := range names {
		name := st.Name()
		id := target.StageID(strings.TrimSuffix(name, atSuffix))
		if target.CheckStageID(id) != nil || d.held.Writing(id) || keep(id) {
			continue
		}
		if err := c.remove(d.stageDir() + "/" + name); err != nil {
			return d.failed(c, err, "remove staged content %s", id)
		}
	}
	return nil
}
