package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/bus/embedded"
)

// dice returns randomness of its own for a test, from the seed that the run prints.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	t.Logf("go test -run %s -seed %d", t.Name(), *seed)
	return rand.New(rand.NewPCG(uint64(*seed), hash(t.Name())))
}

// load is enough work for some seconds: small objects, directories, and large ones.
func load(t *tree) {
	t.t.Helper()
	for d := range 8 {
		dir := fmt.Sprintf("dir %d", d)
		t.dir(dir, 0o755)
		for i := range 150 {
			t.file(fmt.Sprintf("%s/%d", dir, i), int64((i*7919+d)%60_000))
		}
		t.file(dir+"/large", int64(9+5*d)<<20)
	}
}

// more makes further objects and changes some, the n-th time, on all nodes.
func (s *site) more(n int) {
	s.t.Helper()
	s.fill("media", func(t *tree) {
		t.salt = fmt.Sprint("more ", n)
		for i := range 20 {
			t.file(fmt.Sprintf("dir %d/%d", n%8, i), int64(i)*1000)
			t.file(fmt.Sprintf("dir %d/more %d.%d", n%8, n, i), int64(i)*3000)
		}
		t.file(fmt.Sprintf("dir %d/more large %d", n%8, n), 12<<20)
	}, s.order...)
	for _, node := range s.order {
		t := s.newTree(s.root(node, "media"))
		t.stamp(fmt.Sprintf("dir %d", n%8), t.when(fmt.Sprint(n)))
	}
}

// ackedMore waits until some more bytes are acknowledged, or for a while: for acting at different stages of the work.
func (s *site) ackedMore(bytes int64) {
	start := int64(-1)
	s.poll(2*time.Second, func() bool {
		st, err := s.op.Status(s.t.Context())
		if err != nil {
			return false
		}
		if start < 0 {
			start = st.Cache.AckedBytes
		}
		return st.Cache.AckedBytes >= start+bytes
	})
}

// Agents end and start at any moment, well or not, while there is work.
func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	rnd := dice(t)
	sp := three("delete: {propagate: true}")
	sp.suspicion = "2s"
	for i := range sp.nodes {
		sp.nodes[i].more = "limits: {upload: 40MiB}"
	}
	s := runs(t, sp, func(s *site) { s.fill("media", load, "a", "b", "c") })
	for step := range 14 {
		n := s.nodes[s.order[rnd.IntN(3)]]
		switch {
		case !n.agent.running():
			s.launch(n.name)
		case rnd.IntN(3) == 0:
			n.agent.stop()
		default:
			n.agent.kill()
		}
		if step%5 == 4 {
			s.more(step)
		}
		s.ackedMore(rnd.Int64N(24 << 20))
	}
	for _, name := range s.order {
		if !s.nodes[name].agent.running() {
			s.launch(name)
		}
	}
	s.awaitState("alive", s.order...)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("c", "media"), "media-vault")
	s.sound("media-nas")
	c := s.status().Cache
	t.Logf("%d bytes acknowledged, %d in vain", c.AckedBytes, c.WastedBytes)
	assert.LessOrEqual(t, c.WastedBytes, int64(14)*proto.DefaultWindow)
}

// The relay ends at any moment, by SIGKILL, and starts again. What it acknowledged is there; agents go on from where they
// were.
func TestRelayKilledUnderLoad(t *testing.T) {
	t.Parallel()
	rnd := dice(t)
	sp := three("delete: {propagate: true}")
	sp.proxied = true
	for i := range sp.nodes {
		sp.nodes[i].more = "limits: {upload: 40MiB}"
	}
	s := runs(t, sp, func(s *site) { s.fill("media", load, "a", "b", "c") })
	const kills = 5
	for i := range kills {
		s.ackedMore(1 + rnd.Int64N(40<<20))
		known := s.sealed()
		before := s.status()
		s.relay.kill()
		if i == kills-1 { // once with all there is, as when the power fails
			for _, n := range s.order {
				s.nodes[n].agent.kill()
			}
		}
		s.startRelay()
		after := s.status()
		assert.GreaterOrEqual(t, after.Cache.AckedBytes, before.Cache.AckedBytes, "what was acknowledged is there")
		assert.GreaterOrEqual(t, after.Datasets[0].Head, before.Datasets[0].Head)
		for path, v := range known {
			w, ok := s.where("primary/media/" + path)
			if assert.True(t, ok && w.Current != nil, "%s was acknowledged before the kill", path) {
				assert.GreaterOrEqual(t, w.Current.Version, v, path)
			}
		}
		if i == kills-1 {
			s.startNodes(s.order...)
		}
		s.awaitState("alive", s.order...)
		if i == 2 {
			s.more(i)
		}
	}
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.equal(s.root("b", "media"), "media-vault")
	s.sound("media-nas")
	s.sound("media-vault")
	s.restored(s.root("c", "media"), "media-nas")
	var wire int64
	for _, n := range s.order {
		wire += s.nodes[n].proxy.sent.Load()
	}
	all := total(t, s.root("a", "media")) + 20*19/2*1000 // some were changed
	t.Logf("%d bytes on the wire for %d of content", wire, all)
	assert.LessOrEqual(t, wire, all+all/20+kills*3*proto.DefaultWindow)
	assert.LessOrEqual(t, s.status().Cache.WastedBytes, int64(kills)*3*proto.DefaultWindow)
}

// sealed returns some paths that the relay has acknowledged, with their versions.
func (s *site) sealed() map[string]proto.VersionID {
	s.t.Helper()
	out := map[string]proto.VersionID{}
	for d := range 8 {
		for _, name := range []string{"7", "77", "123", "large"} {
			path := fmt.Sprintf("dir %d/%s", d, name)
			if w, ok := s.where("primary/media/" + path); ok && w.Current != nil {
				out[path] = w.Current.Version
			}
		}
	}
	return out
}

// agentBus reports whether an agent says that it hears the bus.
func (s *site) agentBus(name string) bool {
	var st struct {
		Session struct {
			Bus bool `json:"bus"`
		} `json:"session"`
	}
	return s.nodes[name].op.Get(s.t.Context(), "/v1/status", nil, &st) == nil && st.Session.Bus
}

// Nothing rests on NATS: with none at all, everything is done, a takeover and deletes too.
func TestWithoutNATS(t *testing.T) {
	t.Parallel()
	sp := slowly()
	sp.links[0].more = "delete: {propagate: true, guard: {share: 100%}}"
	sp.nats = fmt.Sprintf("urls: [%q]", "nats://"+freeAddress(t))
	s := runs(t, sp, func(s *site) { s.fill("media", aLarge, "a", "b", "c") })
	victim, acked := s.underWay(largeObject, largeSize, largeSize/4)
	victim.agent.kill()
	s.takenOver(largeObject, victim, acked)
	s.settle("media-nas", "media-vault")
	s.startNodes(victim.name)
	for _, n := range s.order {
		assert.False(t, s.agentBus(n), n)
		require.NoError(t, os.RemoveAll(filepath.Join(s.root(n, "media"), "dir")))
	}
	s.fill("media", func(t *tree) { t.salt = "changed"; t.file("small", 5000); t.file("large", 20<<20) }, s.order...)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	s.subset(s.root("a", "media"), s.mirror("media-vault"), 1)
	for _, n := range s.order {
		assert.False(t, s.agentBus(n), n)
		s.nodes[n].agent.stop()
	}
	s.relay.stop()
}

// An existing NATS carries the hints. It may go and come back.
func TestNATSElsewhere(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	server := func() *embedded.Server {
		srv, err := embedded.Start(embedded.Config{Listen: address, Name: "elsewhere"}, zerolog.Nop())
		require.NoError(t, err)
		return srv
	}
	nats := server()
	t.Cleanup(func() { nats.Close() })
	sp := three("delete: {propagate: true}")
	sp.nats = fmt.Sprintf("urls: [%q]", "nats://"+address)
	s := runs(t, sp, func(s *site) { s.fill("media", load, "a", "b", "c") })
	heard := func(want bool) {
		s.until(fmt.Sprintf("all agents to hear the bus: %t", want), func() bool {
			for _, n := range s.order {
				if s.agentBus(n) != want {
					return false
				}
			}
			return true
		})
	}
	heard(true)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("a", "media"), "media-nas")
	nats.Close()
	heard(false)
	s.more(1)
	s.settle("media-nas", "media-vault")
	nats = server()
	heard(true)
	s.more(2)
	s.settle("media-nas", "media-vault")
	s.equal(s.root("b", "media"), "media-nas")
	s.equal(s.root("c", "media"), "media-vault")
}
