package relayd

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target/dir"
	"forebay/ledger"
	"forebay/proto"
)

// A link begins anew where the target is there without its mark, and not by an operator's word alone.
func TestOnlyAWipedTargetIsFilledAnew(t *testing.T) {
	t.Parallel()
	top, nas := t.TempDir(), t.TempDir()
	text := fmt.Sprintf("name: r\ndata: %q\nlisten: 127.0.0.1:0\nnats: {listen: \"127.0.0.1:0\"}\ncache: {stores: [%q], ballast: 1MiB, capacity: 1GiB}\n"+
		"targets:\n  nas: {type: dir, path: %q}\nlinks:\n  - {name: l, from: primary/media, to: nas, prefix: media}\n",
		filepath.Join(top, "data"), filepath.Join(top, "store"), nas)
	cfg, err := config.ParseRelay([]byte(text), "relay.yaml")
	require.NoError(t, err)
	d, err := New(cfg, Deps{Log: zerolog.Nop(), Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.close()) })
	row := func() ledger.LinkRow {
		rows, err := ledger.Links(d.relay.Ledger())
		require.NoError(t, err)
		require.Len(t, rows, 1)
		return rows[0]
	}
	paused := true
	require.NoError(t, d.relay.Ledger().Update(&ledger.TuneLink{Link: row().ID, Paused: &paused, Set: map[string]ledger.Override{"flush.age": {Value: "5m"}}}))
	before := row()
	tgt, err := dir.Open(dir.Config{Path: nas, Prefix: "media"}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tgt.Close()) })
	_, err = journal.Mark(t.Context(), tgt.Records(), journal.Owner{Relay: "r-1", Link: "l", Dataset: before.From, Prefix: []byte("media"), MadeAt: time.Now()})
	require.NoError(t, err)
	err = flusher{d}.BeginAnew(t.Context(), "l")
	require.ErrorContains(t, err, "was not wiped")
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	require.Equal(t, before, row())

	require.NoError(t, os.RemoveAll(filepath.Join(nas, proto.ReservedName)))
	require.NoError(t, os.Rename(nas, nas+".away"))
	require.ErrorContains(t, flusher{d}.BeginAnew(t.Context(), "l"), "cannot be filled now")
	require.Equal(t, before, row())
	require.NoError(t, os.Rename(nas+".away", nas))
	require.NoError(t, flusher{d}.BeginAnew(t.Context(), "l"))
	after := row()
	require.NotEqual(t, before.ID, after.ID)
	require.True(t, after.Paused, "what was set by hand stays")
	require.Equal(t, before.Overrides, after.Overrides)
	require.ErrorContains(t, flusher{d}.BeginAnew(t.Context(), "m"), `there is no link "m"`)
}
