package watch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/fsmeta"
)

// read reads what is there now; 0 when nothing is.
func read(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		default:
			return max(n, 0), err
		}
	}
}

// fanotify learns of the changes in a whole file system and keeps those below the root. Events carry a handle of the
// directory concerned; what it is called now is asked of the kernel.
type fanotify struct {
	events
	dir *os.File // the root, opened for reading: open_by_handle_at takes no O_PATH
}

const fanMask = unix.FAN_CREATE | unix.FAN_DELETE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO |
	unix.FAN_MODIFY | unix.FAN_CLOSE_WRITE | unix.FAN_ATTRIB | unix.FAN_ONDIR

func newFanotify(root *fsmeta.Root) (source, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_DFID_NAME|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, needs(err, "CAP_SYS_ADMIN and Linux 5.9")
	}
	f := &fanotify{events: events{f: os.NewFile(uintptr(fd), "fanotify"), raw: fd, buf: make([]byte, 64<<10)}}
	if err := f.mark(fd, root); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func needs(err error, what string) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("needs %s (%w)", what, err)
	}
	return err
}

func (f *fanotify) mark(fd int, root *fsmeta.Root) (err error) {
	if f.dir, err = root.Open("", unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, fanMask, int(f.dir.Fd()), "."); err != nil {
		return needs(err, "CAP_SYS_ADMIN, and a file system with file handles and an id")
	}
	// Try at once what each event will need.
	h, _, err := unix.NameToHandleAt(int(f.dir.Fd()), "", unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("file handle of the root: %w", err)
	}
	if _, ok, err := f.resolve(h, ""); err != nil || !ok {
		return needs(errors.Join(err), "CAP_DAC_READ_SEARCH")
	}
	return nil
}

func (f *fanotify) Close() error {
	err := f.events.Close()
	if f.dir != nil {
		err = errors.Join(err, f.dir.Close())
	}
	return err
}

func (f *fanotify) collect(c *collector) error {
	base, err := os.Readlink(procPath(int(f.dir.Fd())))
	if err != nil {
		return fmt.Errorf("%w: path of the root: %w", errGiveUp, err)
	}
	seen := map[string]bool{} // handles of this hint
	return f.each(func(b []byte) error { return f.parse(b, base, seen, c) })
}

// Layout of what is read, in the machine's byte order (fanotify(7)):
//
//	event_len u32 | vers u8 | reserved u8 | metadata_len u16 | mask u64 | fd s32 | pid s32     event
//	  info_type u8 | pad u8 | len u16 | fsid 8 bytes                                           info record
//	    handle_bytes u32 | handle_type s32 | handle | name NUL
const (
	eventLen  = 24
	infoLen   = 12
	handleLen = 8
)

var order = binary.NativeEndian

func (f *fanotify) parse(b []byte, base string, seen map[string]bool, c *collector) error {
	for len(b) >= eventLen {
		n, meta := int(order.Uint32(b)), int(order.Uint16(b[6:]))
		if b[4] != unix.FANOTIFY_METADATA_VERSION || n < meta || meta < eventLen || n > len(b) {
			return fmt.Errorf("%w: an event of %d bytes, version %d", errGiveUp, n, b[4])
		}
		if order.Uint64(b[8:])&unix.FAN_Q_OVERFLOW != 0 {
			c.everything = true
		}
		for info := b[meta:n]; len(info) >= infoLen && !c.everything; {
			l := int(order.Uint16(info[2:]))
			if l < infoLen || l > len(info) {
				break
			}
			if info[0] == unix.FAN_EVENT_INFO_TYPE_DFID_NAME || info[0] == unix.FAN_EVENT_INFO_TYPE_DFID {
				f.directory(info[infoLen:l], base, seen, c)
			}
			info = info[l:]
		}
		b = b[n:]
	}
	return nil
}

// directory adds the directory of one info record. What cannot be found any more is gone, and its parent has an event.
func (f *fanotify) directory(b []byte, base string, seen map[string]bool, c *collector) {
	if len(b) < handleLen {
		return
	}
	n := int(order.Uint32(b))
	if n > len(b)-handleLen {
		return
	}
	key := string(b[:handleLen+n])
	if seen[key] {
		return
	}
	if len(seen) < 4*maxDirs { // other directories of the file system count too
		seen[key] = true
	}
	h := unix.NewFileHandle(int32(order.Uint32(b[4:])), bytes.Clone(b[handleLen:handleLen+n]))
	if dir, ok, err := f.resolve(h, base); err == nil && ok {
		c.add(dir)
	}
}

// resolve returns the path of a directory relative to the root, whose path is base, and false when it lies elsewhere.
// With an empty base it only tries.
func (f *fanotify) resolve(h unix.FileHandle, base string) (string, bool, error) {
	fd, err := unix.OpenByHandleAt(int(f.dir.Fd()), h, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = unix.Close(fd) }()
	if base == "" {
		return "", true, nil
	}
	if st, err := fsmeta.StatAt(fd, ""); err != nil || st.Nlink == 0 {
		return "", false, err
	}
	path, err := os.Readlink(procPath(fd))
	if err != nil {
		return "", false, err
	}
	if path == base {
		return "", true, nil
	}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(base, "/")+"/")
	return rest, ok, nil
}

func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
