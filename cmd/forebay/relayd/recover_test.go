package relayd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/ledger"
	"forebay/proto"
)

// Of a journal that is damaged, what can be read is told, and that it is not all: what was in the rest must not count as never having been
// there (I5).
func TestDamagedJournalIsNotReadWhole(t *testing.T) {
	t.Parallel()
	nas := t.TempDir()
	cfg, err := config.ParseRelay([]byte(fileOf(t, nas)), "relay.yaml")
	require.NoError(t, err)
	d := &Daemon{deps: Deps{Now: time.Now}, cfg: cfg}
	l, id := relayLinks(cfg, nil)[0], proto.RelayID(7)
	tgt, err := dir.Open(dir.Config{Path: nas, Prefix: "media"}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tgt.Close()) })
	_, err = journal.Mark(t.Context(), tgt.Records(), journal.Owner{Relay: id.String(), Link: "l", Dataset: l.From, Prefix: []byte("media"), MadeAt: time.Now()})
	require.NoError(t, err)
	j, err := journal.Open(t.Context(), tgt.Records(), target.PrefixKey("media"))
	require.NoError(t, err)
	for i, path := range []string{"a", "b"} {
		v := proto.VersionID(i + 1)
		entries := []journal.Entry{{Path: path, Version: v, State: journal.StatePresent, Desc: proto.Desc{Kind: proto.KindFile, Size: 1, Digest: proto.ContentDigest([]byte(path))}}}
		b, err := j.Begin(t.Context(), entries)
		require.NoError(t, err)
		require.NoError(t, b.Done(t.Context(), entries))
	}
	read := func() (paths []string, err error) {
		marked, err := d.readJournal(t.Context(), l, id, func(path string, _ ledger.OnTarget) error {
			paths = append(paths, path)
			return nil
		})
		require.True(t, marked)
		return paths, err
	}
	paths, err := read()
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, paths)

	runs, err := filepath.Glob(filepath.Join(nas, proto.ReservedName, target.JournalDir, target.PrefixKey("media"), "done-0000000000000001-*"))
	require.NoError(t, err)
	require.Len(t, runs, 1)
	require.NoError(t, os.Truncate(runs[0], 20))
	paths, err = read()
	require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err), "%v", err)
	require.Equal(t, []string{"b"}, paths)
}
