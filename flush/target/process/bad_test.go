package process_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/target/process"
	"forebay/flush/target/process/child"
	"forebay/flush/target/process/serve"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// asDriver is the first argument with which the test's own program is a driver, the second is how it behaves.
const asDriver = "as-driver"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == asDriver {
		if err := behave(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// driver keeps a mirror in the directory that the settings name.
var driver = serve.Driver{Name: "test", Version: "1", Open: func(_ context.Context, o serve.Opening) (target.Target, error) {
	return dir.Open(dir.Config{Path: o.Settings["path"], Prefix: o.Prefix, Expect: o.Expect, Legible: o.Writes}, dir.Deps{})
}}

// behave is the driver's main.
func behave(how string) error {
	d, out := driver, io.Writer(os.Stdout)
	open := d.Open
	wrap := func(fn func(*odd)) {
		d.Open = func(ctx context.Context, o serve.Opening) (target.Target, error) {
			t, err := open(ctx, o)
			w := &odd{Target: t}
			fn(w)
			return w, err
		}
	}
	switch how {
	case "well":
	case "hang":
		wrap(func(w *odd) { w.probe = func(target.Info) (target.Info, error) { select {} } })
	case "slow":
		wrap(func(w *odd) { w.waits = true })
	case "deaf": // does not read
		select {}
	case "die":
		wrap(func(w *odd) {
			w.probe = func(target.Info) (target.Info, error) {
				fmt.Fprintln(os.Stderr, "no more will to live")
				os.Exit(7)
				return target.Info{}, nil
			}
		})
	case "garbage":
		fmt.Println("Hello, this is a program that greets people on its standard output.")
	case "newer":
		f, err := wire.NewReader(os.Stdin, wire.MaxPayload).Next()
		if err != nil {
			return err
		}
		w := wire.Welcome{Version: 99, Driver: "future", Chunk: wire.MaxChunk}
		return wire.NewWriter(out, wire.MaxPayload).Write(wire.Frame{Kind: wire.KindWelcome, Session: f.Session, Payload: proto.Marshal(w)})
	case "unasked":
		wrap(func(w *odd) {
			w.probe = func(target.Info) (target.Info, error) {
				for i := uint32(1000); ; i++ {
					if err := wire.NewWriter(os.Stdout, wire.MaxPayload).Write(wire.Frame{Kind: wire.KindResult, Session: w.session, Request: i, Payload: proto.Marshal(wire.Result{})}); err != nil {
						return target.Info{}, err
					}
				}
			}
		})
		return serve.Serve(context.Background(), &sniffer{in: os.Stdin, saw: func(id uint32) { lastSession = id }}, out, d, serve.Options{})
	case "chatter":
		wrap(func(w *odd) {
			w.probe = func(target.Info) (target.Info, error) {
				line := []byte(strings.Repeat("x", 4000) + "\n")
				for {
					if _, err := os.Stderr.Write(line); err != nil {
						return target.Info{}, err
					}
				}
			}
		})
	case "lines":
		wrap(func(w *odd) {
			w.probe = func(i target.Info) (target.Info, error) {
				for n := range 1000 {
					fmt.Fprintf(os.Stderr, "line %d \x1b[31m%s\n", n, strings.Repeat("y", 2000))
				}
				return i, nil
			}
		})
	case "memory":
		wrap(func(w *odd) {
			w.probe = func(i target.Info) (target.Info, error) {
				for n := range 1 << 10 {
					b := make([]byte, 1<<20)
					for j := range b {
						b[j] = byte(j * n)
					}
					w.ate = append(w.ate, b)
				}
				select {}
			}
		})
	case "stubborn":
		if err := serve.Serve(context.Background(), os.Stdin, out, d, serve.Options{}); err != nil {
			return err
		}
		select {}
	case "tell": // what it was given by its parent
		wrap(func(w *odd) {
			w.probe = func(i target.Info) (target.Info, error) {
				fds, err := os.ReadDir("/proc/self/fd")
				for _, f := range fds {
					to, err := os.Readlink("/proc/self/fd/" + f.Name())
					if err == nil && !strings.HasPrefix(to, "anon_inode:") {
						i.Notes = append(i.Notes, f.Name()+" "+to)
					}
				}
				i.Notes = append(i.Notes, "env "+strings.Join(os.Environ(), " "))
				return i, err
			}
		})
	}
	return serve.Serve(context.Background(), os.Stdin, out, d, serve.Options{})
}

// lastSession is the session that the relay has begun with a driver that sends frames by itself.
var lastSession uint32

// sniffer notes the session of the first frame.
type sniffer struct {
	in  io.Reader
	saw func(uint32)
	buf []byte
}

func (s *sniffer) Read(p []byte) (int, error) {
	n, err := s.in.Read(p)
	if s.saw != nil {
		if s.buf = append(s.buf, p[:n]...); len(s.buf) >= 12 {
			s.saw(uint32(s.buf[8]) | uint32(s.buf[9])<<8 | uint32(s.buf[10])<<16 | uint32(s.buf[11])<<24)
			s.saw = nil
		}
	}
	return n, err
}

// odd is a target with a Probe of its own.
type odd struct {
	target.Target
	probe   func(target.Info) (target.Info, error)
	waits   bool // Probe waits until it is given up
	ate     [][]byte
	session uint32
}

func (o *odd) Probe(ctx context.Context) (target.Info, error) {
	if o.waits {
		<-ctx.Done()
		return target.Info{}, ctx.Err()
	}
	o.session = lastSession
	i, err := o.Target.Probe(ctx)
	if err == nil && o.probe != nil {
		i, err = o.probe(i)
	}
	return i, err
}

// place is a driver process of a test.
type place struct {
	*process.Process
	mu     sync.Mutex
	said   []string
	starts int
	last   process.Stream
}

func start(t *testing.T, how string, cfg process.Config, kid child.Config) *place {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	at := t.TempDir()
	p := &place{}
	cfg.Name = "shelf"
	kid.Command = []string{self, asDriver, how}
	p.Process, err = process.Open(cfg, process.Deps{
		Now:      time.Now,
		Settings: func() (map[string]string, error) { return map[string]string{"path": at}, nil },
		Start: func(context.Context) (process.Stream, error) {
			c, err := child.Start(kid, child.Deps{Now: time.Now, Say: func(line string) {
				p.mu.Lock()
				defer p.mu.Unlock()
				p.said = append(p.said, line)
			}})
			if err != nil {
				return nil, err
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.starts, p.last = p.starts+1, c
			return c, nil
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func (p *place) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.said)
}

// Whatever a driver does wrong is said in words, and the driver is ended, or was.
func TestBadDrivers(t *testing.T) {
	t.Parallel()
	quick := process.Config{Timeout: time.Second, Grace: 300 * time.Millisecond}
	for how, c := range map[string]struct {
		cfg   process.Config
		kid   child.Config
		class proto.Class
		want  []string // what the first or the next error says
	}{
		"hang":    {quick, child.Config{}, proto.ClassTransient, []string{"driver test of target shelf takes more than 1s for a request: it was given up", "it hangs: it does not answer a request that was given up 300ms ago, and was ended", "it is started again in"}},
		"slow":    {quick, child.Config{}, proto.ClassTransient, []string{"takes more than 1s for a request: it was given up"}},
		"deaf":    {quick, child.Config{}, proto.ClassTransient, []string{"driver of target shelf does not answer: it was greeted 1s ago, and ended"}},
		"die":     {process.Config{}, child.Config{}, proto.ClassTransient, []string{"driver test of target shelf: it ended: exit status 7; the last it said was \"no more will to live\""}},
		"garbage": {process.Config{}, child.Config{}, proto.ClassTransient, []string{"what it writes to its standard output is not the driver protocol: damaged frame: it begins with \"Hello, this is a\""}},
		"newer":   {process.Config{}, child.Config{}, proto.ClassPermanent, []string{"driver future speaks version 99 of the driver protocol, this relay 1 to 1: use a newer release of the relay, or an older driver"}},
		"unasked": {process.Config{}, child.Config{}, proto.ClassCorrupt, []string{"it answers request 1000, which was not asked or was answered"}},
		"chatter": {process.Config{}, child.Config{}, proto.ClassTransient, []string{"it floods its standard error: over 8 MiB within 10s; it was ended"}},
		"memory":  {process.Config{}, child.Config{Memory: 128 << 20}, proto.ClassTransient, []string{"MiB of memory, 128 MiB are allowed: it was ended. Raise memory for this target if it needs more"}},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			p := start(t, how, c.cfg, c.kid)
			_, err := p.Probe(t.Context())
			require.Error(t, err)
			require.Equal(t, c.class, proto.ClassOf(err), "%v", err)
			_, again := p.Probe(t.Context())
			require.Error(t, again)
			said := err.Error() + "\n" + again.Error()
			for _, w := range c.want {
				require.Contains(t, said, w)
			}
		})
	}
}

// A driver that gives up what it is asked to is left alive, one that does not is started again, and then does.
func TestSlowRequestDoesNotEndADriver(t *testing.T) {
	t.Parallel()
	p := start(t, "slow", process.Config{Timeout: 3 * time.Second}, child.Config{}) // in which it has to start, too
	for range 2 {
		_, err := p.Probe(t.Context())
		require.ErrorContains(t, err, "takes more than 3s")
	}
	ctx, stop := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, stop)
	_, err := p.Probe(ctx)
	require.ErrorIs(t, err, context.Canceled)
	_, err = p.Records().List(t.Context(), "journal")
	require.NoError(t, err)
	require.Equal(t, 1, p.starts)
}

// What a driver was in the middle of fails when it dies, and goes on with the next one. The back-off is short, and there.
func TestRestart(t *testing.T) {
	t.Parallel()
	p := start(t, "well", process.Config{BackoffMin: time.Millisecond, BackoffMax: 10 * time.Millisecond}, child.Config{})
	require.NoError(t, p.Records().Put(t.Context(), "a/b", []byte("kept")))
	w, err := p.Stage(t.Context(), target.Content{ID: "s-1", Size: 10})
	require.NoError(t, err)
	_, err = w.Write([]byte("01234"))
	require.NoError(t, err)
	_, err = w.Sync()
	require.NoError(t, err)
	p.last.Kill(errors.New("the test wanted it so"))
	_, err = w.Write([]byte("56789"))
	require.ErrorContains(t, err, "the test wanted it so")
	require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
	require.Error(t, w.Close())
	require.Eventually(t, func() bool {
		w, err = p.Stage(t.Context(), target.Content{ID: "s-1", Size: 10})
		return err == nil
	}, time.Minute, time.Millisecond)
	require.EqualValues(t, 5, w.Offset())
	_, err = w.Write([]byte("56789"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, p.Barrier(t.Context(), []target.StageID{"s-1"}))
	r, err := p.Reread(t.Context(), "s-1")
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, "0123456789", string(got))
	require.Equal(t, 2, p.starts)
}

// A driver gets three descriptors, the environment that is meant for it, and a process group that ends with it.
func TestWhatADriverIsGiven(t *testing.T) {
	t.Parallel()
	p := start(t, "tell", process.Config{}, child.Config{Env: []string{"A=b"}, Memory: 1 << 30})
	info, err := p.Probe(t.Context())
	require.NoError(t, err)
	var fds []string
	for _, n := range info.Notes {
		if n[0] >= '0' && n[0] <= '9' && !strings.Contains(n, " /proc/") && !strings.Contains(n, " /sys/") && !strings.Contains(n, " "+os.TempDir()) {
			fds = append(fds, n[:2]) // the others are those of Go's runtime and of the target
		}
	}
	require.Equal(t, []string{"0 ", "1 ", "2 "}, fds, "%q", info.Notes)
	require.Contains(t, info.Notes, fmt.Sprintf("env A=b GOMEMLIMIT=%d", int64(1<<30)/10*9))
}

// What a driver says is cut to a bearable length and rate.
func TestWhatADriverSays(t *testing.T) {
	t.Parallel()
	p := start(t, "lines", process.Config{}, child.Config{})
	_, err := p.Probe(t.Context())
	require.NoError(t, err)
	require.NoError(t, p.Close())
	said := p.lines()
	require.Equal(t, "line 0 [31m"+strings.Repeat("y", 1024-12), said[0], "without what would colour a terminal")
	require.Greater(t, len(said), 50)
	require.Less(t, len(said), 900)
	require.Contains(t, strings.Join(said, "\n"), "lines left out)")
}

// Close ends a driver that does not end with its input, and everything in its group.
func TestStubbornDriverIsEnded(t *testing.T) {
	t.Parallel()
	p := start(t, "stubborn", process.Config{}, child.Config{Patience: 100 * time.Millisecond})
	_, err := p.Probe(t.Context())
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.ErrorContains(t, p.last.Ended(), "target shelf was closed")
	_, err = p.Probe(t.Context())
	require.ErrorContains(t, err, "was closed")
}
