package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/flush/target/process"
	"forebay/flush/target/process/line"
	"forebay/proto"
)

// cable is a serial line between two devices: two terminals, and what is written into the one is read from the other.
type cable struct {
	near, far string // devices
	// noise is asked for each byte; what it says is done to it. nil: nothing.
	noise atomic.Pointer[func() damage]
}

type damage int

const (
	none damage = iota
	flip
	drop
	add
)

func newCable(t *testing.T) *cable {
	t.Helper()
	c := &cable{}
	a, near := terminal(t)
	b, far := terminal(t)
	c.near, c.far = near, far
	var both sync.WaitGroup
	both.Go(func() { c.carry(a, b) }) // ends when a is closed
	both.Go(func() { c.carry(b, a) }) // ends when b is closed
	t.Cleanup(func() {
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		both.Wait()
	})
	return c
}

// terminal makes a pseudo terminal, whose other end stays open as a plugged-in cable does.
func terminal(t *testing.T) (master *os.File, device string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	raw, err := master.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		require.NoError(t, unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0))
		n, err := unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		require.NoError(t, err)
		device = "/dev/pts/" + strconv.Itoa(n)
	}))
	slave, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, slave.Close()) })
	return master, device
}

func (c *cable) carry(from, to *os.File) {
	b := make([]byte, 4096)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		if _, err := to.Write(c.damaged(b[:n])); err != nil {
			return
		}
	}
}

func (c *cable) damaged(b []byte) []byte {
	noise := c.noise.Load()
	if noise == nil {
		return b
	}
	var out bytes.Buffer
	for _, x := range b {
		switch (*noise)() {
		case flip:
			x ^= 0x10
		case drop:
			continue
		case add:
			out.WriteByte(0xa5)
		}
		out.WriteByte(x)
	}
	return out.Bytes()
}

// openLine opens a directory by a driver at the other end of a cable.
func openLine(t *testing.T, c *cable, path string, cfg process.Config) *process.Process {
	t.Helper()
	cfg.Name, cfg.Line = "barn", true
	p, err := process.Open(cfg, process.Deps{
		Now: time.Now, Settings: func() (map[string]string, error) { return map[string]string{"path": path}, nil },
		Start: func(context.Context) (process.Stream, error) { return line.Open(c.near, 115200) },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// atTheOtherEnd starts the driver on the far device, a process of its own.
func atTheOtherEnd(t *testing.T, c *cable) {
	t.Helper()
	args := command(t, "--line", c.far)
	cmd := exec.Command(args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), "%s", said.String())
	})
}

func TestLine(t *testing.T) {
	t.Parallel()
	type end struct {
		c    *cable
		path string
	}
	var mu sync.Mutex
	ends := map[target.Target]end{}
	open := func(t *testing.T, e end) target.Target {
		p := openLine(t, e.c, e.path, process.Config{})
		mu.Lock()
		defer mu.Unlock()
		ends[p] = e
		return p
	}
	conformance.Run(t, func(t *testing.T) target.Target {
		e := end{newCable(t), t.TempDir()}
		atTheOtherEnd(t, e.c)
		return open(t, e)
	}, conformance.Caps{Reopen: func(t *testing.T, old target.Target) target.Target {
		require.NoError(t, old.Close()) // a line is one's alone
		mu.Lock()
		e := ends[old]
		mu.Unlock()
		return open(t, e)
	}})
}

// A line has one user at a time, and what is no line is said to be none.
func TestLineIsForOne(t *testing.T) {
	t.Parallel()
	c := newCable(t)
	atTheOtherEnd(t, c)
	p := openLine(t, c, t.TempDir(), process.Config{})
	_, err := p.Probe(t.Context())
	require.NoError(t, err)
	_, err = openLine(t, c, t.TempDir(), process.Config{}).Probe(t.Context())
	require.ErrorContains(t, err, "somebody else has it open: one link at a time can use a line")
	_, err = line.Open("/dev/null", 115200)
	require.ErrorContains(t, err, "is it a serial line?")
	_, err = line.Open(c.near, 12345)
	require.ErrorContains(t, err, "12345 bits a second: give 9600")
	_, err = openLine(t, newCable(t), t.TempDir(), process.Config{Timeout: time.Second}).Probe(t.Context())
	require.ErrorContains(t, err, "driver of target barn does not answer: it was greeted 1s ago")
}

// On a line that flips, loses and adds bytes, requests fail as transient; whatever gets its name is whole; and once the line is good
// everything gets there.
func TestNoise(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := newCable(t)
	atTheOtherEnd(t, c)
	at := t.TempDir()
	p := openLine(t, c, at, process.Config{Timeout: 2 * time.Second, Grace: 100 * time.Millisecond, BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond})
	var mu sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 0))
	damages := 0
	noise := func() damage {
		mu.Lock()
		defer mu.Unlock()
		if rnd.IntN(20_000) > 0 {
			return none
		}
		damages++
		if rnd.IntN(8) > 0 {
			return flip
		}
		return drop + damage(rnd.IntN(2))
	}
	c.noise.Store(&noise)
	const objects = 12
	content := func(i int) []byte {
		return bytes.Repeat([]byte(fmt.Sprintf("object %d of a noisy line\n", i)), 500+100*i)
	}
	errs, failed := 0, ""
	for i := 0; i < objects; {
		err := sendOver(t.Context(), p, fmt.Sprintf("o%d", i), content(i))
		if err == nil {
			i++
			continue
		}
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
		failed = err.Error()
		if errs++; errs == 40 { // enough was seen
			c.noise.Store(nil)
		}
		for j := range objects { // nothing is there that is not whole
			if got, err := os.ReadFile(filepath.Join(at, fmt.Sprintf("o%d", j))); err == nil {
				require.True(t, bytes.Equal(content(j), got), "object %d of %d bytes", j, len(got))
			}
		}
	}
	mu.Lock()
	t.Logf("%d damages, %d failed requests, the last: %s", damages, errs, failed)
	require.Positive(t, damages)
	mu.Unlock()
	require.Positive(t, errs)
	c.noise.Store(nil)
	var listed []string
	require.Eventually(t, func() bool {
		listed = nil
		return p.List(t.Context(), "", func(e target.Entry) error { listed = append(listed, e.Path); return nil }) == nil
	}, time.Minute, 10*time.Millisecond)
	require.Len(t, listed, objects)
	for i := range objects {
		got, err := os.ReadFile(filepath.Join(at, fmt.Sprintf("o%d", i)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(content(i), got))
	}
}

// sendOver stages what is missing of a content, as a flush does: what is not proved is read back.
func sendOver(ctx context.Context, p *process.Process, name string, content []byte) error {
	id := target.StageID(name)
	w, err := p.Stage(ctx, target.Content{ID: id, Size: int64(len(content))})
	if err != nil {
		return err
	}
	if w.Offset() > 0 && !w.Proved() {
		if err = w.Close(); err == nil {
			err = p.Unstage(ctx, func(target.StageID) bool { return false })
		}
		if err == nil {
			w, err = p.Stage(ctx, target.Content{ID: id, Size: int64(len(content))})
		}
		if err != nil {
			return err
		}
	}
	_, err = w.Write(content[w.Offset():])
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = p.Barrier(ctx, []target.StageID{id})
	}
	if err != nil {
		return err
	}
	desc := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1_700_000_000_000_000_000}}
	return p.Commit(ctx, []target.Change{{Op: target.OpPut, Path: name, Stage: id, Desc: desc}})[0]
}
