package relayd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// A link begins anew where the target is there without its mark, and not by an operator's word alone.
func TestOnlyAWipedTargetIsFilledAnew(t *testing.T) {
	t.Parallel()
	nas := t.TempDir()
	cfg, err := config.ParseRelay([]byte(fileOf(t, nas)), "relay.yaml")
	require.NoError(t, err)
	var d *Daemon
	var meanwhile []bool // whether the link coalesces, as long as the old one is given up
	d, err = New(cfg, Deps{Log: zerolog.Nop(), Now: time.Now, Fault: func(p faultpoint.Point) {
		if p == faultpoint.RelayLinkDropping {
			rows, err := ledger.Links(d.relay.Ledger())
			assert.NoError(t, err)
			for _, r := range rows {
				if r.Name == "l" {
					meanwhile = append(meanwhile, r.Coalesce)
				}
			}
		}
	}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.close()) })
	row := func() ledger.LinkRow {
		rows, err := ledger.Links(d.relay.Ledger())
		require.NoError(t, err)
		require.Len(t, rows, 1)
		return rows[0]
	}
	paused := true
	require.NoError(t, d.relay.Ledger().Update(&ledger.TuneLink{Link: row().ID, Paused: &paused, Set: map[string]ledger.Override{"coalesce": {Value: "false"}}}))
	require.NoError(t, d.setLinks(cfg))
	before := row()
	require.NoError(t, d.relay.Ledger().Update(&ledger.RecoverBudget{Link: before.ID, Windows: []ledger.BudgetWindow{{OpenedNs: 1, LastNs: 2, Bytes: 3}}}))
	tgt, err := dir.Open(dir.Config{Path: nas, Prefix: "media"}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tgt.Close()) })
	_, err = journal.Mark(t.Context(), tgt.Records(), journal.Owner{Relay: "r-1", Link: "l", Dataset: before.From, Prefix: []byte("media"), MadeAt: time.Now()})
	require.NoError(t, err)
	err = flusher{d}.BeginAnew(t.Context(), "l")
	require.ErrorContains(t, err, "was not wiped")
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	require.Equal(t, before, row())

	mark := filepath.Join(nas, proto.ReservedName, target.MarkDir)
	require.NoError(t, os.Rename(mark, mark+".away"))
	left := filepath.Join(nas, proto.ReservedName, target.JournalDir, target.PrefixKey("media"))
	require.NoError(t, os.MkdirAll(left, 0o700))
	begins, goesOn := filepath.Join(left, "done-0000000000000001-0000000000000003-00000-1-last"), filepath.Join(left, "done-0000000000000004-0000000000000004-00000-1-last")
	for name, why := range map[string]string{begins: "its journal is there", filepath.Join(left, "of-another-release"): "a name that this program does not know"} {
		for _, file := range []string{name, goesOn} {
			require.NoError(t, os.WriteFile(file, nil, 0o600))
		}
		err := flusher{d}.BeginAnew(t.Context(), "l")
		require.ErrorContains(t, err, why)
		require.Equal(t, before, row())
		require.FileExists(t, name)
		require.FileExists(t, goesOn)
		require.NoError(t, os.Remove(name))
	}

	require.NoError(t, os.Rename(nas, nas+".away"))
	require.ErrorContains(t, flusher{d}.BeginAnew(t.Context(), "l"), "cannot be filled now")
	require.Equal(t, before, row())
	require.NoError(t, os.Rename(nas+".away", nas))
	require.NoError(t, flusher{d}.BeginAnew(t.Context(), "l"), "it was wiped amid batches: the first ones are gone")
	require.NoFileExists(t, goesOn, "the new link knows nothing of it")
	after := row()
	require.NotEqual(t, before.ID, after.ID)
	require.True(t, after.Paused, "what was set by hand stays")
	require.Equal(t, before.Overrides, after.Overrides)
	require.Equal(t, []bool{false}, meanwhile, "what was set by hand is in force all the time")
	spent, err := ledger.Budget(d.relay.Ledger(), after.ID)
	require.NoError(t, err)
	require.Equal(t, []ledger.BudgetWindow{{OpenedNs: 1, LastNs: 2, Bytes: 3}}, spent.Windows, "what was sent counts (I14)")
	require.ErrorContains(t, flusher{d}.BeginAnew(t.Context(), "m"), `there is no link "m"`)
}

// A mount that hangs holds up nobody but who asked (I15).
func TestATargetThatHangsHoldsUpNothingElse(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a file system that nobody serves")
	}
	nas := t.TempDir()
	device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	if err := unix.Mount("hangs", nas, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", device)); err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, errors.Join(unix.Close(device), unix.Unmount(nas, unix.MNT_DETACH))) })
	cfg, err := config.ParseRelay([]byte(fileOf(t, nas)), "relay.yaml")
	require.NoError(t, err)
	d, err := New(cfg, Deps{Log: zerolog.Nop(), Now: time.Now})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.close()) })
	answered := make(chan error, 1)
	go func() { answered <- flusher{d}.BeginAnew(t.Context(), "l") }() // ends with its patience
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-answered:
			require.ErrorContains(t, err, "does not answer")
			return
		case <-tick.C:
			require.Equal(t, "info", d.LogLevel()) // others go on
		}
	}
}
