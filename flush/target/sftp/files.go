package sftp

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"forebay/proto"
)

// smallFile bounds what readSmall reads.
const smallFile = 64 << 20

// lstat describes what is at a name, without following a link there.
func (c *conn) lstat(name string) (os.FileInfo, error) { return c.sftp.Lstat(name) }

// attrs are a file's numbers.
func attrs(st os.FileInfo) *sftp.FileStat {
	a, ok := st.Sys().(*sftp.FileStat)
	if !ok {
		return &sftp.FileStat{}
	}
	return a
}

func (c *conn) readSmall(name string) ([]byte, error) {
	f, err := c.sftp.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return io.ReadAll(io.LimitReader(f, smallFile))
}

// remove removes a file, a link or an empty directory; one that is gone is no error.
func (c *conn) remove(name string) error {
	st, err := c.lstat(name)
	if err == nil {
		if st.IsDir() {
			err = c.sftp.RemoveDirectory(name)
		} else {
			err = c.sftp.Remove(name)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// openStaged opens a staged content. A commit that was cut short may have given it a mode that shuts us out.
func (c *conn) openStaged(name string, flags int) (*sftp.File, error) {
	f, err := c.sftp.OpenFile(name, flags)
	if errors.Is(err, fs.ErrPermission) {
		if err = c.sftp.Chmod(name, 0o600); err == nil {
			f, err = c.sftp.OpenFile(name, flags)
		}
	}
	return f, err
}

// setTime sets the time of what is at a name, in seconds.
func (c *conn) setTime(name string, sec int64) error {
	at := time.Unix(sec, 0)
	return c.sftp.Chtimes(name, at, at)
}

// syncFile makes a file's bytes durable, where the server can.
func (c *conn) syncFile(name string) error {
	if !c.fsync {
		_, err := c.lstat(name)
		return err
	}
	f, err := c.sftp.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only synced
	return f.Sync()
}

// syncDir makes the entries of a directory durable, where the server can: OpenSSH opens directories for reading.
func (c *conn) syncDir(name string) error {
	err := c.syncFile(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil // a directory that we may not read; its mode comes from the source
	}
	return err
}

// writeSmall writes a file whole and durably: under another name, then in its place.
func (d *SFTP) writeSmall(c *conn, name string, data []byte) error {
	return d.writeMoved(c, name, data, (*conn).replace)
}

// writeMoved is writeSmall by another move than over what has the name.
func (d *SFTP) writeMoved(c *conn, name string, data []byte, move func(c *conn, from, to string) error) error {
	tmp, err := d.writeTemp(c, data, nil)
	if err != nil {
		return err
	}
	if err := move(c, tmp, name); err != nil {
		_ = c.sftp.Remove(tmp) // the error that counts is the move's
		return err
	}
	return c.syncDir(name[:strings.LastIndexByte(name, '/')])
}

// tempName is a name in the stage folder that nobody has.
func (d *SFTP) tempName() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.temps++
	return d.stageDir() + "/" + tempStart + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(d.temps, 10)
}

// writeTemp writes a file under a name of its own, has dress give it its metadata, and makes it durable.
func (d *SFTP) writeTemp(c *conn, data []byte, dress func(f *sftp.File) error) (name string, err error) {
	name = d.tempName()
	f, err := c.sftp.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return name, err
	}
	if len(data) > 0 {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil && dress != nil {
		err = dress(f)
	}
	if err == nil && c.fsync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		_ = c.sftp.Remove(name) // the error that counts is the write's
	}
	return name, err
}

// renameNew renames a file to a name that nothing has (fs.ErrExist): the protocol's own rename takes no other, and does not say why.
func (c *conn) renameNew(from, to string) error {
	if _, err := c.recover(to); err != nil { // what is only away for a moment has its name
		return err
	}
	err := c.sftp.Rename(from, to)
	if err == nil {
		return nil
	}
	if _, serr := c.lstat(to); serr == nil {
		return proto.Errorf(proto.ClassConflict, "%w", fs.ErrExist)
	}
	return err
}
