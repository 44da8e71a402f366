package bench

import (
	"testing"
	"time"
	_ "time/tzdata" // links name zones

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/cmd/forebay/bench/advice"
	"forebay/config"
	"forebay/flush/target/trial"
	"forebay/shard"
)

func TestView(t *testing.T) {
	t.Parallel()
	cfg, err := config.ParseRelay([]byte(`
name: r
cache: {stores: [/d1/s, /d2/s, /d3/s]}
bandwidth: 40MiB/s
targets:
  nas: {type: dir, path: /mnt/nas}
links:
  - {name: any, from: p/a, to: nas, prefix: a}
  - {name: nights, from: p/b, to: nas, prefix: b, confirm: sync,
     flush: {window: "22:00-06:00", timezone: Europe/Berlin, bandwidth: "00:00,10M 12:00,20M", deadline: 2d, budget: 1GiB}}
  - {name: weekend, from: p/c, to: nas, prefix: c, flush: {window: "Sat-Sun 00:00-24:00"}}
`), "relay.yaml")
	require.NoError(t, err)
	agent, err := config.ParseAgent([]byte("node: n\ncluster: p\ndatasets: [{name: a, path: /srv}]\nlimits: {upload: 3MiB/s}\n"),
		"agent.yaml", func(string) error { return nil })
	require.NoError(t, err)
	const mib, hour = 1 << 20, 3600
	s := View(cfg, agent, 24*hour*mib)
	assert.Equal(t, &advice.Agent{Upload: 3 * mib}, s.Agent)
	links := s.Relay.Links
	s.Relay.Links = nil
	assert.Equal(t, &advice.Relay{Stores: 3, Coding: shard.Geometry{Data: 2, Parity: 1}, HighWater: 0.85, RebuildRate: 64 * mib,
		ScrubRate: 16 * mib,
		Scrub:     7 * 24 * hour, Suspicion: 3, Inflow: mib}, s.Relay)
	assert.Equal(t, []advice.Link{
		{Name: "any", Target: "nas", Window: "always", Open: 7 * 24 * hour, Windows: 7, Bandwidth: "off", Paced: 40 * mib},
		{Name: "nights", Target: "nas", Confirm: "sync", Window: "22:00-06:00", Open: 7 * 8 * hour, LongestClosed: 16 * hour, Windows: 7,
			Bandwidth: "00:00,10MiB/s 12:00,20MiB/s", Paced: 12.5 * mib, Peak: 20 * mib, Budget: 1 << 30, Deadline: 48 * hour},
		{Name: "weekend", Target: "nas", Window: "Sat,Sun 00:00-24:00", Open: 2 * 24 * hour, LongestClosed: 5 * 24 * hour, Windows: 1,
			Bandwidth: "off", Paced: 40 * mib},
	}, links)
	assert.Equal(t, advice.Setup{}, View(nil, nil, 0))
}

// A second trial is as large as the rest of the time allows, and left out where it would tell little more.
func TestLarger(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	first := trial.Options{Large: firstTrial, Small: firstSmall}
	for _, c := range []struct {
		write, read, small float64
		large              int64
		objects            int
		again              bool
	}{
		{20 * mib, 10 * mib, 50, 50 * mib, 250, true},
		{1000 * mib, 1000 * mib, 5000, 128 * mib, 1000, true},
		{mib, mib, 2, 5 * mib, 64, false},
	} {
		next, again := larger(first, trial.Report{Write: c.write, Read: c.read, Small: c.small}, 15*time.Second)
		assert.Equal(t, c.again, again)
		assert.Equal(t, c.large, next.Large)
		assert.Equal(t, c.objects, next.Small)
	}
}
