package e2e

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
)

var overwrites = flag.Int("overwrites", 3, "versions in TestOverwrittenBeforeTheWindowOpens; each takes three seconds")

// An object is overwritten again and again before the window of a link opens: each version is acknowledged, the cache holds
// the last, and the target gets that once. The other link had each in its turn.
func TestOverwrittenBeforeTheWindowOpens(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	s := runs(t, three(""), func(s *site) { s.fill("media", func(t *tree) { t.file("object", size) }, s.order...) })
	s.settle("media-nas", "media-vault")
	before := s.link("media-nas")
	now := time.Now().UTC()
	s.does("policy", "set", "media-nas", fmt.Sprintf("window=%02d:00-%02d:00", (now.Hour()+11)%24, (now.Hour()+12)%24))
	head := s.dataset("primary/media").Head
	for v := range *overwrites {
		for i := range 25 { // most of these nobody sees: they never hold still
			s.fill("media", func(t *tree) { t.salt = fmt.Sprint(v, i); t.file("object", size) }, s.order...)
		}
		s.settle("media-vault")
		require.Greater(t, s.dataset("primary/media").Head, head, "version %d is known", v)
		head = s.dataset("primary/media").Head
	}
	l := s.link("media-nas")
	assert.EqualValues(t, 1, l.BacklogObjects)
	assert.EqualValues(t, size, l.BacklogBytes)
	assert.Equal(t, before.ConfirmedBytes, l.ConfirmedBytes)
	s.until("the cache to hold the last version alone", func() bool { return s.status().Cache.UsedBytes < 3*size })
	s.does("policy", "reset", "media-nas")
	s.settle("media-nas")
	s.equal(s.root("a", "media"), "media-nas")
	after := s.awaitLink("media-nas", "idle", func(l proto.LinkStatus) bool { return l.BacklogObjects == 0 })
	assert.EqualValues(t, size, after.ConfirmedBytes-before.ConfirmedBytes, "bytes sent to the target: of the last version, once")
	assert.EqualValues(t, 1, after.ConfirmedObjects-before.ConfirmedObjects)
	assert.GreaterOrEqual(t, s.link("media-vault").ConfirmedBytes-before.ConfirmedBytes, int64(*overwrites)*size)
}

// An object that is larger than the cache is sent through it. In the middle its sender dies, then the relay; it is whole in the
// end.
func TestLargerThanTheCacheUnderFaults(t *testing.T) {
	t.Parallel()
	sp := three("")
	sp.cache = "capacity: 240MiB\nhigh_water: 85%\nlow_water: 50%"
	sp.suspicion = "2s"
	for i := range sp.nodes {
		sp.nodes[i].more = "limits: {upload: 60MiB}"
	}
	const size = 400 << 20
	s := runs(t, sp, func(s *site) {
		s.fill("media", func(t *tree) { t.file("huge", size); t.file("small", 1000) }, s.order...)
	})
	by, _ := s.underWay("primary/media/huge", size, size/8)
	by.agent.kill()
	s.launch(by.name)
	s.underWay("primary/media/huge", size, size/2)
	s.relay.kill()
	s.startRelay()
	s.awaitState("alive", s.order...)
	s.intact()
	c := s.status().Cache
	t.Logf("%d bytes acknowledged for %d, %d in vain", c.AckedBytes, size, c.WastedBytes)
	assert.LessOrEqual(t, c.UsedBytes, c.CapacityBytes)
}
