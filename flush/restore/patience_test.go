package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/proto"
)

func TestWhatMayPass(t *testing.T) {
	t.Parallel()
	busy := proto.Errorf(proto.ClassOverload, "busy")
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("connection reset"), true},
		{proto.Errorf(proto.ClassTransient, "gone away"), true},
		{fmt.Errorf("open: %w", busy), true},
		{proto.Errorf(proto.ClassPermanent, "no right"), false},
		{proto.Errorf(proto.ClassCorrupt, "rot"), false},
		{proto.Errorf(proto.ClassConflict, "another's"), false},
		{proto.Errorf(proto.ClassTransient, "a/b: %w", fs.ErrNotExist), false},
		{proto.Errorf(proto.ClassTransient, "a/b: %w", fs.ErrPermission), false},
		{here(busy), false},
		{wrap(&awayError{awayLimit, busy}, "x"), false},
	} {
		require.Equal(t, c.want, mayPass(c.err), "%v", c.err)
	}
}

// A busy server and a full disk are of one class: where the error arose says which of them ends the restore.
func TestWhatEndsARestore(t *testing.T) {
	t.Parallel()
	full := proto.Errorf(proto.ClassOverload, "full")
	require.False(t, fatal(t.Context(), full), "of the source")
	require.True(t, fatal(t.Context(), wrap(here(full), "x")))
	require.True(t, fatal(t.Context(), errors.Join(errors.New("read"), here(full))))
	require.False(t, fatal(t.Context(), errors.Join(full, here(errors.New("close")))), "the source's class is not that of this end")
	require.False(t, fatal(t.Context(), here(proto.Errorf(proto.ClassPermanent, "a name that it cannot hold"))))
	require.True(t, fatal(t.Context(), wrap(&awayError{awayLimit, full}, "x")))
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.True(t, fatal(ctx, errors.New("anything")))
	r := &run{}
	require.Error(t, r.settleWork(t.Context(), &work{err: here(full)}))
	require.NoError(t, r.settleWork(t.Context(), &work{err: full}))
	require.EqualValues(t, 1, r.report.FailedN)
}

// What cannot be written is not read again, and is known to be of this end.
func TestDiskThatIsFullIsOfThisEnd(t *testing.T) {
	t.Parallel()
	opens := 0
	open := func() (io.ReadCloser, error) { opens++; return io.NopCloser(strings.NewReader("0123456789")), nil }
	r := &run{src: newSource(Options{From: there{}}, nowhen)}
	f := &fetching{r: r, w: &work{item: item{desc: proto.Desc{Size: 10}}}, open: open, to: fullStage{}, sum: proto.NewContentHasher()}
	err := r.src.ask(t.Context(), func(n *tries) error { return f.read(t.Context(), n) })
	require.True(t, fatal(t.Context(), err), "%v", err)
	require.Equal(t, 1, opens)
}

func nowhen() time.Time { return time.Unix(0, 0) }

type there struct{ target.Target }

type fullStage struct{ target.Stage }

func (fullStage) Write([]byte) (int, error) { return 0, proto.Errorf(proto.ClassOverload, "full") }

func TestWaitsLongerWithEachFailure(t *testing.T) {
	t.Parallel()
	some := errors.New("reset")
	for n, seconds := range []float64{0.5, 1, 2, 4, 8, 15, 15} {
		want := time.Duration(seconds * float64(time.Second))
		require.Equal(t, want, wait(n, some, 0.5))
		require.Equal(t, want*3/4, wait(n, some, 0))
		require.Equal(t, want*5/4, wait(n, some, 1))
	}
	require.Equal(t, longestWait, wait(1<<40, some, 0.5))
	busy := proto.Errorf(proto.ClassOverload, "busy")
	busy.RetryAfter = 10 * time.Second
	require.Equal(t, 10*time.Second, wait(0, fmt.Errorf("read: %w", busy), 0), "not sooner than it asked for")
	require.Equal(t, 15*time.Second, wait(9, busy, 0.5))
	busy.RetryAfter = 24 * time.Hour
	require.Equal(t, time.Minute, wait(0, busy, 0))
}

// An object is given up after about a minute, sooner where that never helped, and never at once.
func TestTriesEnd(t *testing.T) {
	t.Parallel()
	last := func(patience time.Duration, spread float64) (n int, waited time.Duration) {
		var x tries
		for {
			d, again := x.next(io.ErrUnexpectedEOF, patience, spread)
			if !again {
				return x.n, waited
			}
			waited += d
		}
	}
	for spread := 0.0; spread <= 1; spread += 0.1 {
		n, waited := last(objectPatience, spread)
		require.GreaterOrEqual(t, waited, objectPatience)
		require.Less(t, waited, objectPatience+20*time.Second)
		require.LessOrEqual(t, n, 11)
	}
	n, _ := last(0, 0.5)
	require.Equal(t, 2, n, "once more in any case")
}

func TestOutage(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) time.Time { return time.Unix(1000, 0).Add(d) }
	var o outage
	require.Zero(t, o.over(at(time.Hour)), "it never failed")
	o.failed(at(0))
	o.failed(at(4 * time.Minute))
	require.False(t, o.notable(at(time.Second)))
	require.True(t, o.notable(at(time.Minute)))
	require.Zero(t, o.over(at(uselessLimit-1)), "nobody looked whether it is there")
	require.Equal(t, uselessLimit, o.over(at(uselessLimit)))
	o.probed(false, at(0))
	o.probed(false, at(4*time.Minute))
	require.Zero(t, o.over(at(awayLimit-1)))
	require.Equal(t, awayLimit, o.over(at(awayLimit)))
	o.idle(time.Minute)
	require.Zero(t, o.over(at(awayLimit)), "while it was not asked it may have been there")
	require.Equal(t, awayLimit, o.over(at(awayLimit+time.Minute)))
	o.probed(true, at(awayLimit))
	require.Zero(t, o.over(at(awayLimit+time.Minute)), "it is there")
	require.Equal(t, uselessLimit, o.over(at(uselessLimit+time.Minute)), "and gives nothing")
	o.answered(false)
	o.idle(time.Minute)
	require.Zero(t, o.over(at(2*time.Hour)))
	o.failed(at(2 * time.Hour))
	require.Zero(t, o.over(at(2*time.Hour+awayLimit)))

	require.Equal(t, objectPatience, o.patience())
	o.gaveUp(proto.Errorf(proto.ClassOverload, "busy"))
	require.Equal(t, objectPatience, o.patience(), "who is busy is not pressed")
	o.gaveUp(errors.New("no"))
	require.Equal(t, objectPatience/2, o.patience())
	for range 1000 {
		o.gaveUp(errors.New("no"))
	}
	require.Less(t, o.patience(), time.Millisecond)
	o.answered(false)
	require.Less(t, o.patience(), time.Millisecond, "another was read at once: that says nothing of waiting")
	o.answered(true)
	require.Equal(t, objectPatience, o.patience())
}

// Nothing of what progress told is told twice, and nothing taken back.
func TestProgressOnlyGrows(t *testing.T) {
	t.Parallel()
	var told []Progress
	r := &run{meter: meter{tell: func(p Progress) { told = append(told, p) }}}
	w := &work{}
	for _, n := range []int64{progressStep - 1, progressStep, 10, 2 * progressStep, 2*progressStep + 1} {
		r.arrived(w, n)
	}
	require.Equal(t, []Progress{{Bytes: progressStep}, {Bytes: 2 * progressStep}}, told)
	r.meter.objects(Report{Objects: 2, FailedN: 1, TotalObjects: 4, TotalBytes: 5})
	require.Equal(t, Progress{Objects: 3, TotalObjects: 4, Bytes: 2*progressStep + 1, TotalBytes: 5}, told[2])
}

// keeper is a target whose mirror has another content than the one that is looked for, and whose history breaks at first.
type keeper struct {
	target.Target
	mirror, kept  []byte
	opened, asked int
}

func (k *keeper) History() target.History                    { return keeperHistory{nil, k} }
func (k *keeper) Probe(context.Context) (target.Info, error) { return target.Info{}, nil }

func (k *keeper) Open(context.Context, string) (io.ReadCloser, error) {
	k.opened++
	return io.NopCloser(bytes.NewReader(k.mirror)), nil
}

type keeperHistory struct {
	target.History
	k *keeper
}

func (h keeperHistory) Open(context.Context, target.KeptName) (io.ReadCloser, error) {
	if h.k.asked++; h.k.asked == 1 {
		return nil, proto.Errorf(proto.ClassTransient, "connection reset")
	}
	if h.k.asked == 2 {
		return io.NopCloser(io.MultiReader(bytes.NewReader(h.k.kept[:proto.BlockSize+1]), iotest.ErrReader(io.ErrUnexpectedEOF))), nil
	}
	return io.NopCloser(bytes.NewReader(h.k.kept)), nil
}

// A kept version that breaks is read again too. What was read of the mirror's other content before does not count twice.
func TestKeptVersionThatBreaksGoesOn(t *testing.T) {
	t.Parallel()
	for _, past := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			k := &keeper{mirror: bytes.Repeat([]byte("m"), 3*proto.BlockSize), kept: bytes.Repeat([]byte("k"), 3*proto.BlockSize)}
			local, err := dir.Open(dir.Config{Path: t.TempDir()}, dir.Deps{})
			require.NoError(t, err)
			defer func() { _ = local.Close() }()
			var last Progress
			r := &run{o: Options{From: k}, src: newSource(Options{From: k}, time.Now), local: local, meter: meter{tell: func(p Progress) { last = p }}}
			w := &work{item: item{path: "a", kept: "k", past: past}}
			w.desc = proto.Desc{Kind: proto.KindFile, Size: int64(len(k.kept)), Digest: proto.ContentDigest(k.kept)}
			require.NoError(t, r.content(t.Context(), w, "r-1"))
			require.Equal(t, 3, k.asked)
			require.Equal(t, !past, k.opened == 1)
			require.Equal(t, w.desc.Size, w.wrote)
			require.Equal(t, w.desc.Size, last.Bytes)
		})
	}
}
