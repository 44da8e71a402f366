package line

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// speeds are the rates that a line can be set to.
var speeds = map[int]uint32{ // never written
	9600: unix.B9600, 19200: unix.B19200, 38400: unix.B38400, 57600: unix.B57600, 115200: unix.B115200, 230400: unix.B230400,
	460800: unix.B460800, 921600: unix.B921600, 1000000: unix.B1000000, 2000000: unix.B2000000, 4000000: unix.B4000000,
}

// CheckSpeed says whether a line can be set to a rate, in bits a second.
func CheckSpeed(bits int) error {
	if _, ok := speeds[bits]; !ok {
		return fmt.Errorf("%d bits a second: give 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600, 1000000, 2000000 or 4000000", bits)
	}
	return nil
}

// Line is an open line.
type Line struct {
	file *os.File
	name string

	mu  sync.Mutex
	why error
}

// Open opens a device for itself alone, eight bits, no parity, nothing translated, and drops what lies in its buffers.
func Open(device string, bits int) (*Line, error) {
	if err := CheckSpeed(bits); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "%s: %w", device, err)
	}
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, proto.Errorf(proto.ClassTransient, "open the line: %w", err)
	}
	if err := set(f, speeds[bits]); err != nil {
		_ = f.Close() // nothing was written
		return nil, proto.Errorf(proto.ClassTransient, "set line %s: %w", device, err)
	}
	return &Line{file: f, name: device}, nil
}

func set(f *os.File, speed uint32) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = raw.Control(func(fd uintptr) {
		n := int(fd)
		if ierr = unix.Flock(n, unix.LOCK_EX|unix.LOCK_NB); ierr != nil {
			if errors.Is(ierr, unix.EWOULDBLOCK) {
				ierr = errors.New("somebody else has it open: one link at a time can use a line")
			}
			return
		}
		var t *unix.Termios
		if t, ierr = unix.IoctlGetTermios(n, unix.TCGETS); ierr != nil {
			ierr = fmt.Errorf("is it a serial line? %w", ierr)
			return
		}
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
		t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | speed
		t.Ispeed, t.Ospeed = speed, speed
		t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
		if ierr = unix.IoctlSetTermios(n, unix.TCSETS, t); ierr != nil {
			return
		}
		ierr = unix.IoctlSetInt(n, unix.TCFLSH, unix.TCIOFLUSH)
	})
	return errors.Join(err, ierr)
}

// Read reads what the driver sent.
func (l *Line) Read(p []byte) (int, error) { return l.file.Read(p) }

// Write writes to the driver.
func (l *Line) Write(p []byte) (int, error) { return l.file.Write(p) }

// Kill closes the line; the driver at the other end goes on waiting for a greeting.
func (l *Line) Kill(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		l.why = why
		_ = l.file.Close() // what was lost is known by the answer that did not come
	}
}

// End closes the line.
func (l *Line) End() { l.Kill(errors.New("it was closed")) }

// Ended says why the line is closed.
func (l *Line) Ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		return fmt.Errorf("line %s was cut", l.name)
	}
	return l.why
}
