package restore_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/journal"
	"forebay/flush/restore"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/proto"
)

// shaky is a target of which reads fail as a test says.
type shaky struct {
	target.Target
	fails  func(path string) error // what is asked of it; a probe's path is ""
	body   func(path string, from io.ReadCloser) io.ReadCloser
	mu     sync.Mutex
	opened map[string]int
	probes atomic.Int64
}

func shake(tgt target.Target) *shaky { return &shaky{Target: tgt, opened: map[string]int{}} }

func (s *shaky) fail(path string) error {
	if s.fails == nil {
		return nil
	}
	return s.fails(path)
}

func (s *shaky) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	s.mu.Lock()
	s.opened[path]++
	s.mu.Unlock()
	if err := s.fail(path); err != nil {
		return nil, err
	}
	from, err := s.Target.Open(ctx, path)
	if err == nil && s.body != nil {
		from = s.body(path, from)
	}
	return from, err
}

func (s *shaky) Stat(ctx context.Context, path string) (target.Entry, error) {
	if err := s.fail(path); err != nil {
		return target.Entry{}, err
	}
	return s.Target.Stat(ctx, path)
}

func (s *shaky) Probe(ctx context.Context) (target.Info, error) {
	s.probes.Add(1)
	if err := s.fail(""); err != nil {
		return target.Info{}, err
	}
	return s.Target.Probe(ctx)
}

func (s *shaky) Records() target.Records { return shakyRecords{s.Target.Records(), s} }

type shakyRecords struct {
	target.Records
	s *shaky
}

func (r shakyRecords) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := r.s.fail(recordStart + name); err != nil {
		return nil, err
	}
	from, err := r.Records.Open(ctx, name)
	if err == nil && r.s.body != nil {
		from = r.s.body(recordStart+name, from)
	}
	return from, err
}

// recordStart begins what shaky.fails is asked of a record.
const recordStart = "record "

// opens is how often files were opened, each or all.
func (s *shaky) opens(path string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, k := range s.opened {
		if path == "" || path == p {
			n += k
		}
	}
	return n
}

// inTime runs a test in a time of its own: waiting takes none.
func inTime(t *testing.T, fn func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, fn)
}

func busy(path string) error {
	e := proto.Errorf(proto.ClassOverload, "%s: the server is busy", path)
	e.RetryAfter = 10 * time.Second
	return e
}

func reset(path string) error {
	return proto.Errorf(proto.ClassTransient, "%s: connection reset", path)
}

// first returns what fails the first times that something is asked for which begins so.
func first(times int, start string, err func(string) error) func(string) error {
	var mu sync.Mutex
	return func(path string) error {
		mu.Lock()
		defer mu.Unlock()
		if path == "" || !strings.HasPrefix(path, start) || strings.HasPrefix(path, recordStart) != (start == recordStart) || times == 0 {
			return nil
		}
		times--
		return err(path)
	}
}

// A source that stumbles, or asks to be asked later, costs no object and ends nothing.
func TestReadThatFailsIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		start string
		times int
		err   func(string) error
	}{
		"a reset": {"", 1, reset}, "resets": {"", 5, reset}, "busy": {"", 1, busy}, "busy for a while": {"big", 3, busy},
		"a record": {recordStart, 1, reset}, "busy records": {recordStart, 4, busy},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				src, tgt, _, entries := backup(t, "")
				s := shake(tgt)
				j := openJournal(t, s, "")
				s.fails = first(c.times, c.start, c.err)
				to := filepath.Join(folder(t), "x")
				report, err := restore.Restore(t.Context(), restore.Options{From: s, Journal: j, To: to}, deps())
				require.NoError(t, err)
				require.True(t, report.Complete(), "%+v", report)
				require.EqualValues(t, len(entries), report.Objects)
				require.EqualValues(t, report.TotalObjects, report.Objects, "what the journal said before it failed is counted once")
				require.NoError(t, s.fail(c.start+"x"), "it failed as often as it should")
				requireSame(t, src, to)
				if c.start != recordStart {
					require.Equal(t, contents(entries)+c.times, s.opens(""), "each is read once, and once more for each failure")
				}
			})
		})
	}
}

// contents is how many files are read for a backup: of hard links, the first.
func contents(entries []journal.Entry) (n int) {
	for _, e := range entries {
		if e.Desc.Kind == proto.KindFile {
			n++
		}
	}
	return n
}

// What will fail again is not tried again, and one object that fails for ever neither ends the restore nor looks like a source that is
// away. It is given up after a minute or so.
func TestOneObjectThatFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err   error
		least int
		most  int
	}{
		"permanent": {proto.Errorf(proto.ClassPermanent, "no right"), 1, 1},
		"corrupt":   {proto.Errorf(proto.ClassCorrupt, "rot"), 1, 1},
		"transient": {reset("big"), 7, 12},
		"busy":      {busy("big"), 5, 12},
	} {
		for _, workers := range []int{1, 16} {
			t.Run(fmt.Sprint(name, " ", workers), func(t *testing.T) {
				inTime(t, func(t *testing.T) {
					_, tgt, j, entries := backup(t, "")
					s := shake(tgt)
					s.fails = func(path string) error {
						if path == "big" {
							return c.err
						}
						return nil
					}
					began := time.Now()
					report, err := restore.Restore(t.Context(), restore.Options{From: s, Journal: j, To: folder(t), Workers: workers}, deps())
					require.NoError(t, err)
					require.EqualValues(t, 1, report.FailedN)
					require.Equal(t, "big", report.Failed[0].Path)
					require.Contains(t, report.Failed[0].Reason, c.err.Error())
					require.EqualValues(t, len(entries)-1, report.Objects)
					require.GreaterOrEqual(t, s.opens("big"), c.least)
					require.LessOrEqual(t, s.opens("big"), c.most)
					if c.most == 1 {
						require.Zero(t, time.Since(began))
						require.Zero(t, s.probes.Load())
					} else {
						require.Less(t, time.Since(began), 2*time.Minute)
					}
				})
			})
		}
	}
}

// many backs up files of a byte or so.
func many(t *testing.T, n int) (*dir.Dir, *journal.Journal) {
	t.Helper()
	src := folder(t)
	for i := range n {
		require.NoError(t, os.WriteFile(filepath.Join(src, fmt.Sprintf("%04d", i)), []byte(strconv.Itoa(i)), 0o600))
	}
	tgt := openTarget(t, folder(t), "")
	j := openJournal(t, tgt, "")
	require.NoError(t, (&flusher{src: src, tgt: tgt, jrn: j, size: n}).run(t.Context(), scan(t, src)))
	return tgt, j
}

// A source that goes away for minutes is waited for by all workers together: nothing fails, it is not asked for each object, and the
// restore says that it waits, once, and that it goes on.
func TestSourceThatIsAwayForAWhile(t *testing.T) {
	inTime(t, func(t *testing.T) {
		tgt, j := many(t, 100)
		s := shake(tgt)
		var until time.Time
		began := time.Now()
		s.fails = func(path string) error {
			if path == "0050" && until.IsZero() {
				until = time.Now().Add(4 * time.Minute)
			}
			if time.Now().Before(until) {
				return reset(path)
			}
			return nil
		}
		var said []error
		o := restore.Options{From: s, Journal: j, To: folder(t), Workers: 8, Waiting: func(why error) { said = append(said, why) }}
		s.fails = locked(s.fails)
		report, err := restore.Restore(t.Context(), o.InBatchesOf(20), deps())
		require.NoError(t, err)
		require.True(t, report.Complete(), "%+v", report)
		require.EqualValues(t, 100, report.Objects)
		require.Len(t, said, 2)
		require.ErrorContains(t, said[0], "connection reset")
		require.NoError(t, said[1])
		require.LessOrEqual(t, s.opens(""), 100+2*8, "who waits does not ask")
		require.LessOrEqual(t, s.probes.Load(), int64(4*60/10+8), "one looks for all")
		require.Less(t, time.Since(began), 5*time.Minute)
	})
}

func locked(fn func(string) error) func(string) error {
	var mu sync.Mutex
	return func(path string) error {
		mu.Lock()
		defer mu.Unlock()
		return fn(path)
	}
}

// A source that stays away ends the restore after five minutes, however many objects are left; what was committed stays, and a restore
// goes on from there. One that is there and gives nothing at all ends it after an hour.
func TestSourceThatStaysAway(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		there bool
		least time.Duration
		says  string
	}{"away": {false, 5 * time.Minute, "for 5m0s"}, "there, and of no use": {true, time.Hour, "for 1h0m0s"}} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				tgt, j := many(t, 600)
				s := shake(tgt)
				s.fails = func(path string) error {
					if path >= "0100" || path == "" && s.opens("") > 100 && !c.there {
						return busy(path)
					}
					return nil
				}
				o := restore.Options{From: s, Journal: j, To: folder(t), Workers: 4, IntoExisting: true}
				began := time.Now()
				report, err := restore.Restore(t.Context(), o.InBatchesOf(50), deps())
				require.ErrorContains(t, err, "restore: nothing could be read from the source "+c.says)
				require.ErrorContains(t, err, "server is busy")
				require.EqualValues(t, 100, report.Objects)
				took := time.Since(began)
				require.GreaterOrEqual(t, took, c.least)
				require.Less(t, took, c.least+3*time.Minute)
				if !c.there {
					require.LessOrEqual(t, s.opens(""), 100+2*4, "who waits does not ask")
				}
				s.fails = nil
				report, err = restore.Restore(t.Context(), o, deps())
				require.NoError(t, err)
				require.EqualValues(t, 600, report.Objects)
				require.EqualValues(t, 100, report.Equal)
			})
		})
	}
}

// A folder that gives nothing, of a source that is there, is listed, and what comes after it is restored, be it of thousands; nor does it take
// a minute for each object.
func TestFolderThatCannotBeRead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		all, failed int
		within      time.Duration
	}{{300, 150, 5 * time.Minute}, {3000, 2800, time.Hour}} {
		t.Run(strconv.Itoa(c.all), func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				tgt, j := many(t, c.all)
				s := shake(tgt)
				last := fmt.Sprintf("%04d", 100+c.failed)
				s.fails = func(path string) error {
					if path > "0100" && path <= last {
						return reset(path)
					}
					return nil
				}
				began := time.Now()
				report, err := restore.Restore(t.Context(), restore.Options{From: s, Journal: j, To: folder(t), Workers: 2}, deps())
				require.NoError(t, err)
				require.EqualValues(t, c.failed, report.FailedN)
				require.EqualValues(t, c.all-c.failed, report.Objects)
				require.Less(t, time.Since(began), c.within)
			})
		})
	}
}

func TestWaitingEndsWithTheRestore(t *testing.T) {
	t.Parallel()
	for name, probed := range map[string]bool{"for the source": false, "for an object": true} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				tgt, j := many(t, 40)
				s := shake(tgt)
				s.fails = func(path string) error {
					if path == "" && probed {
						return nil
					}
					return reset(path)
				}
				ctx, stop := context.WithCancel(t.Context())
				var at time.Time
				o := restore.Options{From: s, Journal: j, To: folder(t), Waiting: func(error) { at = time.Now(); stop() }}
				_, err := restore.Restore(ctx, o, deps())
				require.ErrorIs(t, err, context.Canceled)
				require.Zero(t, time.Since(at))
			})
		})
	}
}

// cut is a body that ends amid a block, as a connection that is lost does.
type cut struct {
	io.ReadCloser
	left int64
	read *atomic.Int64
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.read.Add(int64(n))
	return n, err
}

// seekable is a body that can begin anywhere.
type seekable struct{ *cut }

func (s seekable) Seek(off int64, whence int) (int64, error) {
	return s.cut.ReadCloser.(io.Seeker).Seek(off, whence)
}

// What breaks amid a content goes on from the last whole block, by seeking where the target can. What it has is written, and told as
// progress, once.
func TestContentThatBreaksGoesOn(t *testing.T) {
	t.Parallel()
	for name, seeks := range map[string]bool{"seeking": true, "from its beginning": false} {
		t.Run(name, func(t *testing.T) {
			inTime(t, func(t *testing.T) {
				src, tgt, j, entries := backup(t, "")
				var read atomic.Int64
				s := shake(tgt)
				s.body = func(path string, from io.ReadCloser) io.ReadCloser {
					if path != "big" {
						return from
					}
					left := int64(1<<20 + 1<<19)
					if !seeks {
						left *= int64(s.opens("big"))
					}
					c := &cut{from, left, &read}
					if seeks {
						return seekable{c}
					}
					return c
				}
				var told []restore.Progress
				to := filepath.Join(folder(t), "x")
				o := restore.Options{From: s, Journal: j, To: to, Progress: func(p restore.Progress) { told = append(told, p) }}
				report, err := restore.Restore(t.Context(), o, deps())
				require.NoError(t, err)
				require.True(t, report.Complete(), "%+v", report)
				require.EqualValues(t, len(entries), report.Objects)
				requireSame(t, src, to)
				if seeks {
					require.Equal(t, 3, s.opens("big"))
					require.Less(t, read.Load(), int64(5<<20), "what was there is not read again")
				}
				requireGrows(t, told)
				require.Equal(t, report.TotalBytes, told[len(told)-1].Bytes)
			})
		})
	}
}

// A journal that breaks amid a file is read again, and goes on with the path after the last.
func TestJournalThatBreaksGoesOn(t *testing.T) {
	inTime(t, func(t *testing.T) {
		tgt, _ := many(t, 100)
		s := shake(tgt)
		j := openJournal(t, s, "")
		var read atomic.Int64
		breaks := int64(0)
		s.body = func(path string, from io.ReadCloser) io.ReadCloser {
			if !strings.HasPrefix(path, recordStart+target.JournalDir) {
				return from
			}
			breaks++
			return &cut{from, 2000 * (breaks%8 + 1), &read}
		}
		o := restore.Options{From: s, Journal: j, To: folder(t)}
		report, err := restore.Restore(t.Context(), o.InBatchesOf(10), deps())
		require.NoError(t, err)
		require.True(t, report.Complete(), "%+v", report)
		require.Greater(t, breaks, int64(6))
		require.EqualValues(t, 100, report.TotalObjects)
		require.EqualValues(t, 100, report.Objects)
		require.Equal(t, 100, s.opens(""), "nothing is restored twice")
	})
}

// requireGrows checks that nothing in what was told goes down, and that nothing is more than there is.
func requireGrows(t *testing.T, told []restore.Progress) {
	t.Helper()
	for i, p := range told {
		if p.TotalBytes > 0 {
			require.LessOrEqual(t, p.Bytes, p.TotalBytes)
		}
		if i > 0 {
			require.GreaterOrEqual(t, p.Bytes, told[i-1].Bytes)
			require.GreaterOrEqual(t, p.Objects, told[i-1].Objects)
		}
	}
}

// Progress comes with the bytes of a content, not only once a batch of objects is committed.
func TestProgressComesWithTheBytes(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "")
	var told []restore.Progress
	o := restore.Options{From: tgt, Journal: j, To: folder(t), Path: "big", Progress: func(p restore.Progress) { told = append(told, p) }}
	report, err := restore.Restore(t.Context(), o, deps())
	require.NoError(t, err)
	require.True(t, report.Complete(), "%+v", report)
	requireGrows(t, told)
	require.GreaterOrEqual(t, len(told), 5, "3 MiB of an object")
	for i := range 4 {
		require.Equal(t, restore.Progress{TotalObjects: 1, TotalBytes: 3<<20 + 17, Bytes: int64(i) << 20}, told[i])
	}
}
