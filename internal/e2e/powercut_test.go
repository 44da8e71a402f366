package e2e

import (
	"flag"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/baddisk"
	"forebay/internal/figures"
)

var powerCuts = flag.Int("cuts", 3, "power cuts in TestPowerCuts")

// onOneDisk puts the relay's data, its stores and its targets on one disk, which can be cut off at any instant.
func (s *site) onOneDisk() *baddisk.Image {
	s.t.Helper()
	s.makeDirs("disk")
	disk, err := s.disks().Cuttable(s.path("disk"), 1<<30)
	require.NoError(s.t, err)
	dirs := []string{"relay"}
	for i := range s.spec.stores {
		dirs = append(dirs, fmt.Sprintf("store-%d", i+1))
	}
	for _, name := range s.spec.targets {
		dirs = append(dirs, "target-"+name)
	}
	for _, dir := range dirs {
		s.relocate(dir, s.path("disk", dir))
	}
	return disk
}

// powerCut takes the power from the relay, its stores and its targets at this instant, and gives it back: of what was not on
// the disk nothing is there. From before that instant on, agents hear nothing of what the relay says.
func (s *site) powerCut(disk *baddisk.Image) {
	s.t.Helper()
	for _, n := range s.order {
		s.nodes[n].proxy.hold()
	}
	cut, err := disk.Cut()
	require.NoError(s.t, err)
	s.relay.kill()
	for _, n := range s.order {
		s.nodes[n].proxy.reset(true)
	}
	require.NoError(s.t, disk.Restore(cut))
	for _, n := range s.order {
		s.nodes[n].proxy.reset(false)
	}
	s.startRelay()
}

// Power cuts at any instant of taking in and flushing. What the relay acknowledged before is there afterwards, nothing is
// torn, the targets have no partial object, and all goes on.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	s, disk := powered(t)
	var watches []*poller
	for _, link := range []string{"media-nas", "media-vault"} {
		watches = append(watches, s.watch(link, s.root("a", "media")))
	}
	cuts := *powerCuts
	rnd := dice(t)
	for i := range cuts {
		s.ackedMore(1 + rnd.Int64N(24<<20))
		s.cutAndCheck(disk)
		if i%2 == 1 {
			s.more(i)
			for _, w := range watches {
				w.learn(s.root("a", "media"))
			}
		}
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
			{Name: "power cuts survived", Value: fmt.Sprintf("%d of %d", cuts, cuts), Note: "relay, stores and targets on one ext4, whose image is cloned at an instant of taking in and flushing"},
			{Name: "acknowledged before a cut and missing after it", Value: "0", Note: "versions, bytes and confirmations that the relay had told of"},
			{Name: "partial objects seen at the targets", Value: fmt.Sprintf("0 of %d", looks), Note: "files read by pollers, 10 ms between two rounds"},
		},
		Invariants: map[string]string{"I1": "what was acknowledged before the cut is known after it, and all trees are equal in the end", "I10": "pollers through all cuts"},
		NotCovered: []string{"a disk that acknowledges a flush and loses writes all the same"},
	}
	require.NoError(t, r.Save(*reportDir))
}

// powered starts a site on one disk, with work to do.
func powered(t *testing.T) (*site, *baddisk.Image) {
	t.Helper()
	sp := three("delete: {propagate: true}")
	sp.proxied = true
	for i := range sp.nodes {
		sp.nodes[i].more = "limits: {upload: 20MiB}"
	}
	s := newSite(t, sp)
	disk := s.onOneDisk()
	s.fill("media", load, s.order...)
	s.startRelay()
	s.startNodes(s.order...)
	return s, disk
}

// cutAndCheck cuts the power and requires that what the relay had acknowledged is there.
func (s *site) cutAndCheck(disk *baddisk.Image) {
	s.t.Helper()
	known, before := s.sealed(), s.status()
	// Status may tell of what is being written this moment, and is no acknowledgement. What is answered after it is one, of
	// itself and of everything before it.
	s.does("policy", "set", "media-nas", fmt.Sprintf("priority=%d", 1+len(s.all)%9))
	s.powerCut(disk)
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
