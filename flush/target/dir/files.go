package dir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// smallMax bounds what readSmall reads.
const smallMax = 64 << 20

// procPath names an opened object for system calls that take no descriptor opened with O_PATH.
func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// names returns the unsorted names in a directory.
func (p *place) names(dir string) ([]string, error) {
	f, err := p.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return f.Readdirnames(-1)
}

// remove removes a file or an empty directory; one that is gone is no error.
func (p *place) remove(name string) error {
	dir, base, err := p.Parent(name)
	if err != nil {
		if absent(err) {
			return nil
		}
		return err
	}
	defer func() { _ = dir.Close() }()
	return removeAt(dir, base)
}

func removeAt(dir *os.File, name string) error {
	err := retry(func() error { return unix.Unlinkat(int(dir.Fd()), name, 0) })
	if is(err, unix.EISDIR, unix.EPERM) {
		if derr := retry(func() error { return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR) }); !is(derr, unix.ENOTDIR) {
			err = derr
		}
	}
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "remove", Path: name, Err: err}
}

func (p *place) readSmall(name string) ([]byte, error) {
	f, err := p.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return io.ReadAll(io.LimitReader(f, smallMax))
}

// writeSmall writes a file whole and durably: under another name, then renamed.
func (p *place) writeSmall(name string, data []byte) error {
	return p.writeMoved(name, data, (*place).rename)
}

// writeMoved is writeSmall by another move than a rename over what has the name.
func (p *place) writeMoved(name string, data []byte, move func(p *place, from, to string) error) error {
	stage := p.d.stageDir()
	tmp, err := p.makeTemp(stage, data)
	if err != nil {
		return err
	}
	if err := move(p, stage+"/"+tmp, name); err != nil {
		_ = p.remove(stage + "/" + tmp) // the error that counts is the move's
		return err
	}
	return p.syncDir(path.Dir(name))
}

// makeTemp makes a file with a free name in dir, writes data and makes the data durable.
func (p *place) makeTemp(dir string, data []byte) (string, error) {
	f, name, err := p.newTemp(dir)
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		_ = p.remove(dir + "/" + name) // the error that counts is the write's
	}
	return name, err
}

func (p *place) newTemp(dir string) (*os.File, string, error) {
	for {
		name := p.tempName()
		f, err := p.Open(dir+"/"+name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		if !errors.Is(err, fs.ErrExist) {
			return f, name, err
		}
	}
}

func (p *place) tempName() string {
	return tempStart + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(p.d.temps.Add(1), 10)
}

func (p *place) rename(from, to string) error {
	return p.between(from, to, func(a int, an string, b int, bn string) error { return unix.Renameat(a, an, b, bn) })
}

// renameNew renames a file to a name that nothing has (fs.ErrExist).
func (p *place) renameNew(from, to string) error {
	err := p.between(from, to, func(a int, an string, b int, bn string) error {
		return unix.Renameat2(a, an, b, bn, unix.RENAME_NOREPLACE)
	})
	if !is(err, unix.EINVAL, unix.ENOSYS, unix.ENOTSUP) {
		return taken(err)
	}
	// As on NFS, which has links in its place.
	err = p.between(from, to, func(a int, an string, b int, bn string) error { return unix.Linkat(a, an, b, bn, 0) })
	if is(err, unix.EPERM, unix.ENOSYS, unix.ENOTSUP, unix.EMLINK) {
		return errors.ErrUnsupported
	}
	if err != nil {
		return taken(err)
	}
	return p.remove(from)
}

// taken gives an error that says that a name is taken its class.
func taken(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return proto.Errorf(proto.ClassConflict, "%w", fs.ErrExist)
	}
	return err
}

// between carries out what takes two names, each in its directory.
func (p *place) between(from, to string, do func(a int, an string, b int, bn string) error) error {
	a, an, err := p.Parent(from)
	if err != nil {
		return err
	}
	defer func() { _ = a.Close() }()
	b, bn, err := p.Parent(to)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	return retry(func() error { return do(int(a.Fd()), an, int(b.Fd()), bn) })
}

// direct reads a file past the page cache, in aligned pieces.
type direct struct {
	f    *os.File
	buf  []byte // aligned
	rest []byte // of buf, still to be given
	off  int64
	size int64
}

const directPiece = 1 << 20

// openDirect opens a file for reading past the cache. Where O_DIRECT does not exist, the cached pages are dropped first,
// which needs them to be on disk: so it syncs.
func openDirect(p *place, name string) (io.ReadCloser, error) {
	f, err := p.openStaged(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	if d, err := p.Open(name, unix.O_RDONLY|unix.O_DIRECT, 0); err == nil {
		_ = f.Close()
		return &direct{f: d, buf: aligned(directPiece), size: st.Size()}, nil
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// aligned returns n bytes at an address that every block device accepts.
func aligned(n int) []byte {
	const align = 4096
	b := make([]byte, n+align)
	skip := align - int(uintptr(unsafe.Pointer(&b[0]))%align)
	return b[skip : skip+n]
}

// Read implements io.Reader.
func (d *direct) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		if d.off >= d.size {
			return 0, io.EOF
		}
		n, err := d.f.ReadAt(d.buf, d.off)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		d.rest = d.buf[:n]
		d.off += int64(n)
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// Close closes the file.
func (d *direct) Close() error { return d.f.Close() }
