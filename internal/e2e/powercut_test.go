package e2e

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/baddisk"
	"forebay/internal/figures"
)

var powerCuts = flag.Int("cuts", 3, "power cuts in TestPowerCuts")

// disks are the relay's machine, with its stores, and that of its targets: two disks that the power is taken from together.
type disks struct{ relay, targets *baddisk.Image }

// onDisks puts the relay's data and its stores on one disk, and its targets on another: what the relay syncs does not take to the disk what
// a driver has forgotten to.
func (s *site) onDisks() (d disks) {
	s.t.Helper()
	s.makeDirs("disk", "disk-targets")
	var err error
	d.relay, err = s.disks().Cuttable(s.path("disk"), 1<<30)
	require.NoError(s.t, err)
	d.targets, err = s.disks().Cuttable(s.path("disk-targets"), 1<<30)
	require.NoError(s.t, err)
	s.relocate("relay", s.path("disk", "relay"))
	for i := range s.spec.stores {
		store := fmt.Sprintf("store-%d", i+1)
		s.relocate(store, s.path("disk", store))
	}
	for _, name := range s.spec.targets {
		s.relocate("target-"+name, s.path("disk-targets", name))
	}
	return d
}

// powerCut takes the power from the relay, its stores and its targets at this instant, and gives it back: of what was not on
// the disks nothing is there. From before that instant on, the relay does nothing, and agents hear nothing of it. Whatever is asked of the
// targets before the relay goes on is asked by look.
func (s *site) powerCut(d disks, look func()) {
	s.t.Helper()
	s.relay.freeze()
	somebodySyncs(s.t, s.path("disk-targets", "of somebody else"))
	targets, err := d.targets.Cut()
	require.NoError(s.t, err)
	for _, n := range s.order {
		s.nodes[n].proxy.hold()
	}
	relay, err := d.relay.Cut()
	require.NoError(s.t, err)
	s.relay.kill()
	for _, n := range s.order {
		s.nodes[n].proxy.reset(true)
	}
	require.NoError(s.t, d.targets.Restore(targets))
	require.NoError(s.t, d.relay.Restore(relay))
	look()
	for _, n := range s.order {
		s.nodes[n].proxy.reset(false)
	}
	s.startRelay()
}

// somebodySyncs syncs a file that has nothing to do with Forebay: with it, the file system's journal takes to the disk every name that was
// given until now, and no content that nobody has synced.
func somebodySyncs(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	_, err = f.WriteString("something")
	require.NoError(t, errors.Join(err, f.Sync(), f.Close()))
}

// named waits until so many files have got a name in directories of the targets, or for a while. It returns at once after the last of them.
func (s *site) named(files int) {
	s.t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, unix.Close(fd)) }()
	for _, link := range []string{"media-nas", "media-vault"} {
		for d := range 8 {
			dir := filepath.Join(s.mirror(link), fmt.Sprintf("dir %d", d))
			if _, err = unix.InotifyAddWatch(fd, dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR); !errors.Is(err, unix.ENOENT) {
				require.NoError(s.t, err)
			}
		}
	}
	buf := make([]byte, 64<<10)
	for until := time.Now().Add(20 * time.Second); files > 0; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(max(time.Until(until), 0)/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		require.NoError(s.t, err)
		if n == 0 {
			s.t.Log("no file got a name in time")
			return
		}
		n, err = unix.Read(fd, buf)
		require.NoError(s.t, err)
		for at := 0; at < n; files-- {
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
		}
	}
}

// Power cuts at any instant of taking in and flushing, and at instants at which files have just got their names. What the relay acknowledged
// before is there afterwards, nothing is torn, the targets have no partial object, and all goes on.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	s, d := powered(t)
	var watches []*poller
	for _, link := range []string{"media-nas", "media-vault"} {
		watches = append(watches, s.watch(link, s.root("a", "media")))
	}
	cuts, names := *powerCuts, 0
	rnd := dice(t)
	for i := range cuts {
		if i%3 == 0 {
			s.cutAndCheck(d, watches, func() { s.ackedMore(1 + rnd.Int64N(24<<20)) })
			continue
		}
		s.more(i)
		for _, w := range watches {
			w.learn(s.root("a", "media"))
		}
		s.cutAndCheck(d, watches, func() { s.named(1 + rnd.IntN(30)) })
		names++
	}
	s.settledAfterCuts()
	looks := 0
	for _, w := range watches {
		w.whole(100)
		looks += w.looks
	}
	if *reportDir == "" {
		return
	}
	r := figures.Report{
		Layer: "power-cuts", Command: fmt.Sprintf("make chaos CUTS=%d SEED=%d", cuts, *seed), Measured: time.Now().UTC().Format(time.DateOnly),
		Figures: []figures.Figure{
			{Name: "power cuts survived", Value: fmt.Sprintf("%d of %d", cuts, cuts), Note: fmt.Sprintf("relay and stores on one ext4, targets on another, whose images are cloned at an instant of taking in and flushing; %d of them at one at which files had just got their names at a target, and somebody else had synced a file there", names)},
			{Name: "acknowledged before a cut and missing after it", Value: "0", Note: "versions, bytes and confirmations that the relay had told of"},
			{Name: "partial objects seen at the targets", Value: fmt.Sprintf("0 of %d", looks), Note: "files read by pollers, 10 ms between two rounds; and after each cut, before the relay is back, each file is compared with what the source had at its path"},
		},
		Invariants: map[string]string{"I1": "what was acknowledged before the cut is known after it, and all trees are equal in the end", "I10": "pollers through all cuts; what the targets' own disk has after each cut"},
		NotCovered: []string{"a disk that acknowledges a flush and loses writes all the same"},
	}
	require.NoError(t, r.Save(*reportDir))
}

// powered starts a site on disks that can be cut off, with work to do.
func powered(t *testing.T) (*site, disks) {
	t.Helper()
	sp := three("delete: {propagate: true}")
	sp.proxied = true
	for i := range sp.nodes {
		sp.nodes[i].more = "limits: {upload: 20MiB}"
	}
	s := newSite(t, sp)
	d := s.onDisks()
	s.fill("media", load, s.order...)
	s.startRelay()
	s.startNodes(s.order...)
	return s, d
}

// cutAndCheck cuts the power once when has come, and requires that what the relay had acknowledged is there, and that nothing is torn.
func (s *site) cutAndCheck(d disks, watches []*poller, when func()) {
	s.t.Helper()
	known, before := s.sealed(), s.status()
	// Status may tell of what is being written this moment, and is no acknowledgement. What is answered after it is one, of
	// itself and of everything before it.
	s.does("policy", "set", "media-nas", fmt.Sprintf("priority=%d", 1+len(s.all)%9))
	when()
	s.powerCut(d, func() {
		for _, w := range watches {
			torn := w.torn()
			assert.Empty(s.t, torn[:min(len(torn), 5)], "%d files of %s are such as the source never had there (I10)", len(torn), w.mirror)
		}
	})
	after := s.status()
	assert.GreaterOrEqual(s.t, after.Cache.AckedBytes, before.Cache.AckedBytes, "what was acknowledged is there")
	for i, d := range before.Datasets {
		assert.GreaterOrEqual(s.t, after.Datasets[i].Head, d.Head)
	}
	for i, l := range before.Links {
		assert.GreaterOrEqual(s.t, after.Links[i].ConfirmedObjects, l.ConfirmedObjects, "what was confirmed on %s is", l.Name)
	}
	for path, v := range known {
		w, ok := s.where("primary/media/" + path)
		if assert.True(s.t, ok && w.Current != nil, "%s was acknowledged before the cut", path) {
			assert.GreaterOrEqual(s.t, w.Current.Version, v, path)
		}
	}
	s.awaitState("alive", s.order...)
}

// settledAfterCuts requires that all is there in the end, and that the stores are sound.
func (s *site) settledAfterCuts() {
	s.t.Helper()
	s.intact()
	s.restored(s.root("b", "media"), "media-nas")
	assert.Empty(s.t, s.events("segment-lost"), "no segment that was acknowledged was lost")
	left, err := filepath.Glob(s.path("disk", "store-*", "stage", "*"))
	require.NoError(s.t, err)
	assert.Empty(s.t, left)
	s.well()
}
