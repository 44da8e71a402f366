package relayd

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/config"
	"forebay/ledger"
)

// fileOf is the configuration of a relay with a link l, whose prefix is media, to a directory.
func fileOf(t *testing.T, nas string) string {
	t.Helper()
	dir := t.TempDir()
	return fmt.Sprintf("name: r\ndata: %q\nlisten: 127.0.0.1:0\nnats: {listen: \"127.0.0.1:0\"}\ncache: {stores: [%q], ballast: 1MiB, capacity: 1GiB}\n"+
		"targets:\n  nas: {type: dir, path: %q}\nlinks:\n  - {name: l, from: primary/media, to: nas, prefix: media}\n",
		filepath.Join(dir, "data"), filepath.Join(dir, "store"), nas)
}

// A changed file that cannot be taken, or only by a restart, is a problem until it is put right (I17).
func TestReloadShowsWhatItDidNotTake(t *testing.T) {
	t.Parallel()
	text := fileOf(t, t.TempDir())
	parse := func(text string) (*config.Relay, error) { return config.ParseRelay([]byte(text), "relay.yaml") }
	started, err := parse(text)
	require.NoError(t, err)
	var next *config.Relay
	var bad error
	d, err := New(started, Deps{Log: zerolog.Nop(), Now: time.Now, Load: func() (*config.Relay, error) { return next, bad }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.close()) })
	problems := func() (codes []string) {
		s, err := d.relay.Status(t.Context())
		require.NoError(t, err)
		for _, p := range s.Problems {
			if p.Code == "config" || p.Code == "restart-needed" {
				codes = append(codes, p.Code)
			}
		}
		return codes
	}
	require.Empty(t, problems())
	bad = errors.New("relay.yaml:3:1: no such key")
	d.Reload()
	require.Equal(t, []string{"config"}, problems())
	bad = nil
	next, err = parse(text + "# nothing else\n")
	require.NoError(t, err)
	next.Data += "-elsewhere"
	d.Reload()
	require.Equal(t, []string{"restart-needed"}, problems())
	next = started
	d.Reload()
	require.Empty(t, problems())
}

// What was set by hand for a link is what the relay goes by, too, not only the flush.
func TestTheRelayGoesByWhatWasSetByHand(t *testing.T) {
	t.Parallel()
	cfg, err := config.ParseRelay([]byte(fileOf(t, t.TempDir())), "relay.yaml")
	require.NoError(t, err)
	byFile := relayLinks(cfg, nil)[0]
	byHand := relayLinks(cfg, []ledger.LinkRow{{Name: "l", Overrides: map[string]ledger.Override{
		"delete.grace": {Value: "30d"}, "share": {Value: "25%"}, "when_full": {Value: "hold"}, "coalesce": {Value: "false"},
	}}})[0]
	require.Equal(t, 24*time.Hour, byFile.Grace)
	require.True(t, byFile.Coalesce)
	want := byFile
	want.Grace, want.Share, want.Hold, want.Coalesce = 30*24*time.Hour, 0.25, true, false
	require.Equal(t, want, byHand)
}
