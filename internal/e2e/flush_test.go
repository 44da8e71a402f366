package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// untouched requires that nothing has been written to a link's place.
func (s *site) untouched(link string) {
	s.t.Helper()
	entries, err := os.ReadDir(s.mirror(link))
	if os.IsNotExist(err) {
		return
	}
	require.NoError(s.t, err)
	for _, e := range entries {
		assert.Equal(s.t, proto.ReservedName, e.Name(), "nothing is at the target of link %s", link)
	}
}

// Outside its window a link waits and says so, everywhere; by hand it can be told not to.
func TestWindowThatIsClosed(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC()
	window := fmt.Sprintf("%02d:00-%02d:00", (now.Hour()+11)%24, (now.Hour()+12)%24)
	sp := three("")
	sp.links[0].more = fmt.Sprintf("flush: {window: %q}", window)
	s := runs(t, sp, func(s *site) { s.fill("media", first, "a", "b", "c") })
	s.acknowledged("media-nas")
	s.settle("media-vault")
	s.equal(s.root("a", "media"), "media-vault")
	l := s.link("media-nas")
	assert.Equal(t, "waiting", l.State)
	assert.NotEmpty(t, l.WindowOpensAt)
	assert.Positive(t, l.BacklogObjects)
	assert.Contains(t, s.does("plan", "media-nas"), "window opens")
	out, code := s.forebay("wait", "media-nas", "--timeout", "3s")
	assert.Equal(t, 1, code, out)
	assert.Contains(t, out, "window opens")
	s.does("flush", "media-nas", "--no-wait") // within the window, that is
	s.untouched("media-nas")
	s.does("flush", "media-nas", "--ignore-window")
	s.equal(s.root("a", "media"), "media-nas")

	// What comes later waits again; the policy can be changed while it does.
	s.fill("media", func(t *tree) { t.file("later", 10_000) }, s.order...)
	s.acknowledged("media-nas")
	s.settle("media-vault")
	assert.NoFileExists(t, filepath.Join(s.mirror("media-nas"), "later"))
	assert.Contains(t, s.does("policy", "show", "media-nas"), window)
	s.does("policy", "set", "media-nas", "window=always")
	s.settle("media-nas")
	s.equal(s.root("b", "media"), "media-nas")
	assert.Equal(t, 1, s.link("media-nas").Overrides)
	s.does("policy", "reset", "media-nas")
	s.awaitLink("media-nas", "without overrides", func(l proto.LinkStatus) bool { return l.Overrides == 0 && l.WindowOpensAt != "" })
	s.sound("media-nas")
}

// A pause outlives the relay, however that ends; a policy set by hand does, too.
func TestPauseOutlivesTheRelay(t *testing.T) {
	t.Parallel()
	s := runs(t, three(""), func(s *site) {})
	s.does("pause", "media-nas")
	s.does("policy", "set", "media-vault", "age=1h")
	s.fill("media", first, s.order...)
	s.acknowledged("media-nas")
	for _, end := range []func(){s.relay.stop, func() { s.relay.kill() }} {
		end()
		s.startRelay()
		s.awaitState("alive", s.order...)
		s.acknowledged("media-nas")
		assert.Equal(t, "paused", s.link("media-nas").State)
		assert.Equal(t, "waiting", s.link("media-vault").State)
		s.untouched("media-nas")
		s.untouched("media-vault")
	}
	out, code := s.forebay("wait", "media-nas", "--timeout", "2s")
	assert.Equal(t, 1, code)
	assert.Contains(t, out, "paused")
	s.does("resume", "media-nas")
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
	s.untouched("media-vault")
	s.does("flush", "media-vault")
	s.equal(s.root("a", "media"), "media-vault")
}

// Deletes beyond the guard are held until an operator approves them; everything else goes on.
func TestHeldDeletes(t *testing.T) {
	t.Parallel()
	sp := three("delete: {propagate: true, guard: {share: 20%, objects: 1000}}")
	for i := range sp.nodes {
		sp.nodes[i].scan = "2s"
	}
	s := runs(t, sp, func(s *site) { s.fill("media", first, "a", "b", "c") })
	s.settle("media-nas", "media-vault")
	// The links see all of the deletes at once: of a few at a time the first ones are within the guard, and go through.
	s.does("pause", "media-nas")
	s.does("pause", "media-vault")
	known := s.dataset("primary/media").Objects
	for _, n := range s.order {
		for i := range 40 {
			require.NoError(t, os.Remove(filepath.Join(s.root(n, "media"), fmt.Sprintf("dir/%d", i))))
		}
		tr := s.newTree(s.root(n, "media"))
		tr.stamp("dir", tr.when("after the delete"))
	}
	s.fill("media", func(t *tree) { t.file("new", 30_000) }, s.order...)
	s.until("all of them to be known as gone", func() bool { return s.dataset("primary/media").Objects == known-40+1 })
	s.does("resume", "media-nas")
	s.does("resume", "media-vault")
	out, code := s.forebay("wait", "media-nas", "--timeout", "2m")
	assert.Equal(t, 3, code, out)
	assert.Contains(t, out, "dir/0")
	assert.Contains(t, out, "held")
	assert.Contains(t, out, "all but 40 objects, the first 20 are listed above")
	l := s.link("media-nas")
	assert.Equal(t, "held", l.State)
	assert.Equal(t, int64(40), l.HeldDeletes)
	assert.NotNil(t, s.problem("deletes-held", "media-nas"))
	assert.FileExists(t, filepath.Join(s.mirror("media-nas"), "new"))
	assert.FileExists(t, filepath.Join(s.mirror("media-nas"), "dir/38"))
	assert.Contains(t, s.does("deletes", "media-nas"), "dir/39")
	s.does("deletes", "approve", "media-nas", "--yes")
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
	assert.FileExists(t, filepath.Join(s.mirror("media-vault"), "dir/38"), "the other link was not approved")
	s.does("deletes", "approve", "media-vault", "--yes")
	s.settle("media-vault")
	s.equal(s.root("b", "media"), "media-vault")
	s.sound("media-nas")
}

// A target that is not there stalls its own link, in red and with the reason, and no other; it goes on by itself.
func TestTargetGoneAndBack(t *testing.T) {
	t.Parallel()
	s := runs(t, three(""), func(s *site) { s.fill("media", load, "a", "b", "c") })
	s.ackedMore(10 << 20) // in the middle of it
	aside := s.target("nas") + "-aside"
	require.NoError(t, os.Rename(s.target("nas"), aside))
	s.settle("media-vault")
	s.equal(s.root("a", "media"), "media-vault")
	l := s.awaitLink("media-nas", "stalled", func(l proto.LinkStatus) bool { return l.State == "stalled" })
	assert.Contains(t, l.Reason, s.target("nas"))
	assert.NotEmpty(t, l.NextTry)
	p := s.awaitProblem("link-stalled", "media-nas")
	assert.Equal(t, proto.Red, p.Health)
	assert.Equal(t, proto.Red, s.status().Health)
	_, code := s.forebay("status", "--check")
	assert.Equal(t, 1, code, "red")

	// The relay starts without it, too, and an empty directory in its place is not it.
	s.relay.kill()
	s.startRelay()
	s.awaitState("alive", s.order...)
	s.fill("media", func(t *tree) { t.file("meanwhile", 50_000) }, s.order...)
	s.settle("media-vault")
	assert.NoDirExists(t, s.target("nas"))

	require.NoError(t, os.Rename(aside, s.target("nas")))
	s.settle("media-nas")
	s.equal(s.root("b", "media"), "media-nas")
	s.sound("media-nas")
	s.until("all to be well", func() bool { return s.status().Health == proto.Green })
}

// eight makes the n-th eight large files.
func eight(t *tree, n int) {
	t.t.Helper()
	for i := range 8 {
		t.file(fmt.Sprintf("large %d.%d", n, i), 7<<20+int64(n*i))
	}
}

// What a stalled link owes does not fill the cache for the others: it is let go, still owed, and asked for again.
func TestStalledLinkDoesNotFillTheCache(t *testing.T) {
	t.Parallel()
	sp := three("")
	sp.cache = "capacity: 192MiB\nhigh_water: 80%\nlow_water: 50%"
	s := newSite(t, sp)
	big := func(n int) func(*tree) {
		return func(t *tree) {
			t.t.Helper()
			eight(t, n)
			t.file(fmt.Sprintf("larger %d", n), 20<<20)
		}
	}
	s.fill("media", func(t *tree) { content(t); big(0)(t) }, s.order...)
	require.NoError(t, os.Rename(s.target("nas"), s.target("nas")+"-aside"))
	s.startRelay()
	s.startNodes(s.order...)
	for n := 1; n <= 4; n++ { // four times what fits
		s.settle("media-vault")
		s.fill("media", big(n), s.order...)
	}
	s.settle("media-vault")
	s.equal(s.root("a", "media"), "media-vault")
	l := s.awaitLink("media-nas", "released", func(l proto.LinkStatus) bool { return l.OwedNotCachedObjects > 0 })
	assert.Equal(t, "stalled", l.State)
	assert.EqualValues(t, s.dataset("primary/media").Objects, l.BacklogObjects, "all of it is owed")
	c := s.status().Cache
	assert.LessOrEqual(t, c.UsedBytes, c.CapacityBytes)
	assert.NotEmpty(t, s.events("released"))

	require.NoError(t, os.Rename(s.target("nas")+"-aside", s.target("nas")))
	s.settle("media-nas")
	s.equal(s.root("b", "media"), "media-nas")
	assert.Zero(t, s.link("media-nas").OwedNotCachedObjects)
	s.sound("media-nas")
	s.restored(s.root("c", "media"), "media-nas")
}

// A link that is only slow must not make the others wait for its share of the cache, and in the end has everything, too.
func TestSlowLinkDoesNotFillTheCache(t *testing.T) {
	t.Parallel()
	sp := three("")
	sp.cache = "capacity: 192MiB\nhigh_water: 80%\nlow_water: 50%"
	sp.links[0].more = "flush: {bandwidth: 200KB/s}"
	s := newSite(t, sp)
	s.fill("media", content, s.order...)
	s.startRelay()
	s.startNodes(s.order...)
	for n := 1; n <= 6; n++ { // twice what fits
		s.fill("media", func(t *tree) { eight(t, n) }, s.order...)
	}
	s.settle("media-vault")
	s.equal(s.root("a", "media"), "media-vault")
	l := s.link("media-nas")
	assert.Positive(t, l.OwedNotCachedObjects)
	assert.NotEqual(t, "stalled", l.State)
	c := s.status().Cache
	assert.LessOrEqual(t, c.UsedBytes, c.CapacityBytes)
	assert.NotEmpty(t, s.events("released"))

	_, code := s.forebay("policy", "set", "media-nas", "bandwidth=off")
	require.Zero(t, code)
	s.settle("media-nas")
	s.equal(s.root("b", "media"), "media-nas")
	assert.Zero(t, s.link("media-nas").OwedNotCachedObjects)
	s.sound("media-nas")
}
