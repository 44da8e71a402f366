package bench

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/cmd/forebay/relayd"
	"forebay/config"
	"forebay/flush/target"
	"forebay/internal/show"
	"forebay/internal/testfs"
	"forebay/shard/store"
)

const (
	shortTime = 200 * time.Millisecond
	smallRoom = 16 << 20
)

// yard is a relay's configuration in a directory.
type yard struct {
	dir string
	cfg *config.Relay
}

func newYard(t *testing.T) *yard {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf("name: r\ndata: %[1]s/data\nlisten: 127.0.0.1:0\nnats: {listen: \"127.0.0.1:0\"}\n"+
		"cache: {stores: [%[1]s/1/store, %[1]s/2/store, %[1]s/3/store], capacity: 1GiB, ballast: 1MiB}\n"+
		"targets:\n  nas: {type: dir, path: %[1]s/nas}\nlinks:\n  - {name: l, from: primary/media, to: nas}\n", dir)
	cfg, err := config.ParseRelay([]byte(text), "relay.yaml")
	require.NoError(t, err)
	for _, d := range []string{"1", "2", "3", "nas"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	return &yard{dir, cfg}
}

// start runs the relay itself.
func (y *yard) start(t *testing.T) (url string) {
	t.Helper()
	d, err := relayd.New(y.cfg, relayd.Deps{Log: zerolog.Nop(), Now: time.Now, Load: func() (*config.Relay, error) { return y.cfg, nil }})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }() // ends at the cleanup
	t.Cleanup(func() {
		stop()
		assert.NoError(t, <-ended)
	})
	return "http://" + d.Addr()
}

// names are all paths of the yard, but for what is at the target: a trial may leave folders there, as targets check does.
func (y *yard) names(t *testing.T) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(y.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && path == filepath.Join(y.dir, "nas") {
			return fs.SkipDir
		}
		all = append(all, path)
		return err
	}))
	return all
}

func deps(now func() time.Time) Deps {
	return Deps{Now: now, Getenv: func(string) string { return "" }, Progress: show.NewProgress(io.Discard, false, time.Now)}
}

func (y *yard) bench(parts ...string) *Bench {
	return New(Options{Relay: y.cfg, Parts: parts, Time: shortTime, Size: smallRoom}, deps(time.Now))
}

func TestAllIsMeasuredAndNothingLeft(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	before := y.names(t)
	r, err := y.bench(Disks, Coding, Ingest, Targets).Run(t.Context())
	require.NoError(t, err)
	require.Empty(t, r.Skipped)
	require.Equal(t, before, y.names(t))
	require.Len(t, r.Disks, 4)
	for i, d := range r.Disks {
		assert.Positive(t, d.Write, d.Path)
		assert.Positive(t, d.Read, d.Path)
		assert.Positive(t, d.SyncP50, d.Path)
		assert.GreaterOrEqual(t, d.SyncP99, d.SyncP50, d.Path)
		assert.Equal(t, i < 3, d.Together > 0, d.Path)
		assert.Equal(t, r.Disks[0].Device, d.Device)
		assert.NotEmpty(t, d.FileSystem)
	}
	require.NotNil(t, r.Coding)
	assert.Equal(t, "2+1", r.Coding.Coding)
	assert.Positive(t, r.Coding.EncodeCore*r.Coding.EncodeAll*r.Coding.DigestCore*r.Coding.DigestAll)
	require.NotNil(t, r.Ingest)
	assert.Positive(t, r.Ingest.LargeBytes)
	assert.GreaterOrEqual(t, r.Ingest.SmallObjects, int64(1000))
	assert.Positive(t, r.Ingest.Large*r.Ingest.Small)
	require.Len(t, r.Targets, 1)
	assert.Positive(t, r.Targets[0].Write*r.Targets[0].Read*r.Targets[0].Small)
	assert.NotEmpty(t, r.Targets[0].Confirm)
	kept, err := filepath.Glob(filepath.Join(y.dir, "nas", target.TrialPrefix, "*"))
	require.NoError(t, err)
	assert.Empty(t, kept)
}

// Whenever it is cut short, nothing is left.
func TestCutShortItLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, part := range []string{Disks, Coding, Ingest} {
		for _, after := range []int64{1, 5, 20} {
			t.Run(fmt.Sprint(part, after), func(t *testing.T) {
				t.Parallel()
				y := newYard(t)
				before := y.names(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var looks atomic.Int64
				now := func() time.Time {
					if looks.Add(1) == after {
						cancel()
					}
					return time.Now()
				}
				_, err := New(Options{Relay: y.cfg, Parts: []string{part}, Time: time.Hour, Size: smallRoom}, deps(now)).Run(ctx)
				require.ErrorIs(t, err, context.Canceled)
				require.Equal(t, before, y.names(t))
			})
		}
	}
}

// Beside a relay that works it measures, and the relay does not notice; the way to it is measured through its own port.
func TestBesideARelay(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	url := y.start(t)
	b := New(Options{Relay: y.cfg, Parts: []string{Disks, Ingest, InNetwork}, Network: url, Time: shortTime, Size: smallRoom}, deps(time.Now))
	r, err := b.Run(t.Context())
	require.NoError(t, err)
	require.Empty(t, r.Skipped)
	require.Len(t, r.Disks, 4)
	assert.Positive(t, r.Disks[0].OwnBytes, "what the store takes is seen")
	require.NotNil(t, r.Ingest)
	require.NotNil(t, r.Network)
	assert.Positive(t, r.Network.TripP50*r.Network.Upload)
	assert.Equal(t, url, r.Network.Relay)
	for _, s := range y.cfg.Cache.Stores {
		id, found, err := store.Look(s)
		require.NoError(t, err)
		require.True(t, found)
		assert.EqualValues(t, 1, id.Opened, "nobody but the relay has opened it")
		left, err := filepath.Glob(filepath.Join(s, store.ScratchPrefix+"*"))
		require.NoError(t, err)
		assert.Empty(t, left)
	}
}

func TestRelayThatIsNotThere(t *testing.T) {
	t.Parallel()
	b := New(Options{Parts: []string{InNetwork}, Network: "http://127.0.0.1:1", Time: shortTime}, deps(time.Now))
	r, err := b.Run(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Skipped, 1)
	assert.Contains(t, r.Skipped[0].Why, "is the relay at http://127.0.0.1:1 running")
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		do   func(t *testing.T, y *yard)
		says string
	}{
		{"a directory of others", func(t *testing.T, y *yard) {
			require.NoError(t, os.MkdirAll(filepath.Join(y.cfg.Cache.Stores[1], "photos"), 0o755))
		}, `holds "photos" but is no store`},
		{"a disk that is away", func(t *testing.T, y *yard) {
			require.NoError(t, os.MkdirAll(filepath.Join(y.cfg.Data, "ledger"), 0o755))
		}, "the relay has run before: mount the disk"},
		{"nothing above it", func(t *testing.T, y *yard) { require.NoError(t, os.Remove(filepath.Join(y.dir, "2"))) },
			"mount the disk, or make the directory"},
		{"a file", func(t *testing.T, y *yard) {
			require.NoError(t, os.WriteFile(y.cfg.Data, nil, 0o600))
		}, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t)
			c.do(t, y)
			before := y.names(t)
			r, err := y.bench(Disks, Ingest).Run(t.Context())
			require.NoError(t, err)
			require.NotEmpty(t, r.Skipped)
			assert.Contains(t, r.Skipped[0].Why, c.says)
			assert.Nil(t, r.Ingest, "it needs all of them")
			assert.Equal(t, before, y.names(t))
		})
	}
}

func TestStoresThatAreNotThisRelays(t *testing.T) {
	t.Parallel()
	one, other := newYard(t), newYard(t)
	t.Run("", func(t *testing.T) { // its cleanup stops them
		one.start(t)
		other.start(t)
	})
	require.NoError(t, os.CopyFS(filepath.Join(one.dir, "copy"), os.DirFS(one.cfg.Cache.Stores[0])))
	for says, path := range map[string]string{"hold the same store": filepath.Join(one.dir, "copy"),
		"give each relay directories of its own": other.cfg.Cache.Stores[0]} {
		cfg := *one.cfg
		cfg.Cache.Stores = []string{one.cfg.Cache.Stores[0], one.cfg.Cache.Stores[1], path}
		r, err := New(Options{Relay: &cfg, Parts: []string{Disks}, Time: shortTime, Size: smallRoom}, deps(time.Now)).Run(t.Context())
		require.NoError(t, err)
		require.Len(t, r.Skipped, 1)
		assert.Contains(t, r.Skipped[0].Why, says)
		assert.Len(t, r.Disks, 3)
	}
}

// A target whose disk is away is not measured in its place.
func TestTargetThatIsNotMounted(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	require.NoError(t, os.MkdirAll(filepath.Join(y.cfg.Data, "ledger"), 0o755))
	r, err := y.bench(Targets).Run(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Skipped, 1)
	assert.Contains(t, r.Skipped[0].Why, "is the disk mounted?")
	left, err := os.ReadDir(filepath.Join(y.dir, "nas"))
	require.NoError(t, err)
	assert.Empty(t, left)
	require.NoError(t, os.Remove(filepath.Join(y.dir, "nas")))
	r, err = y.bench(Targets).Run(t.Context())
	require.NoError(t, err)
	require.Len(t, r.Skipped, 1)
	assert.Contains(t, r.Skipped[0].Why, "is it mounted")
}

func TestTooLittleSpace(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	disk := filepath.Join(y.dir, "2")
	testfs.Tmpfs(t, disk, "32m")
	r, err := y.bench(Disks).Run(t.Context())
	require.NoError(t, err)
	require.NotEmpty(t, r.Skipped)
	assert.Equal(t, "store "+filepath.Join(disk, "store"), r.Skipped[0].What)
	assert.Contains(t, r.Skipped[0].Why, "make room, or ask for less with --size")
	require.Len(t, r.Disks, 3)
	left, err := os.ReadDir(disk)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestMemoryIsKnown(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	testfs.Tmpfs(t, filepath.Join(y.dir, "2"), "512m")
	r, err := y.bench(Disks).Run(t.Context())
	require.NoError(t, err)
	require.Empty(t, r.Skipped)
	for i, d := range r.Disks {
		assert.Equal(t, i == 1, d.InMemory, d.Path)
		assert.Equal(t, i == 1, d.Device != r.Disks[0].Device, d.Path)
	}
}

// What a bench that was killed has left is removed by the next, what one has that runs is not.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	dead, live := filepath.Join(y.dir, "1", store.ScratchPrefix+"dead"), filepath.Join(y.dir, "1", store.ScratchPrefix+"live")
	for _, d := range []string{dead, live} {
		require.NoError(t, os.MkdirAll(filepath.Join(d, "tables"), 0o700))
	}
	f, err := os.Open(live)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	_, err = y.bench(Disks).Run(t.Context())
	require.NoError(t, err)
	assert.NoDirExists(t, dead)
	assert.DirExists(t, live)
}

func TestDeniedSaysWhatToDo(t *testing.T) {
	t.Parallel()
	err := denied(&fs.PathError{Op: "open", Path: "/disk1", Err: unix.EACCES})
	assert.EqualError(t, err, "open /disk1: permission denied: run the bench as the user that the relay runs as, such as sudo -u forebay "+
		"forebay bench")
	assert.Equal(t, io.EOF, denied(io.EOF))
}

func TestPercentiles(t *testing.T) {
	t.Parallel()
	var v []float64
	for i := range 1000 {
		v = append(v, float64(1000-i))
	}
	p50, p99 := percentiles(v)
	assert.Equal(t, []float64{500, 990}, []float64{p50, p99})
	p50, p99 = percentiles([]float64{7})
	assert.Equal(t, []float64{7, 7}, []float64{p50, p99})
}
