package restore_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/flush/journal"
	"forebay/flush/restore"
	"forebay/flush/target"
	"forebay/flush/target/faulty"
	"forebay/proto"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prefix string
		batch  int
	}{"no prefix": {}, "a prefix": {prefix: "links/media"}, "many batches": {batch: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, tgt, j, entries := backup(t, c.prefix)
			info, err := tgt.Probe(t.Context())
			require.NoError(t, err)
			requireSame(t, src, info.Where)
			require.Empty(t, differences(t, tgt, j, true))

			to := filepath.Join(folder(t), "new/restored")
			var last restore.Progress
			o := restore.Options{From: tgt, Journal: j, To: to, Progress: func(p restore.Progress) { last = p }}
			report, err := restore.Restore(t.Context(), o.InBatchesOf(c.batch), deps())
			require.NoError(t, err)
			require.True(t, report.Complete(), "%+v", report)
			assert.Equal(t, int64(len(entries)), report.Objects)
			assert.Equal(t, last.TotalObjects, last.Objects)
			requireSame(t, src, to)
			var st unix.Stat_t
			require.NoError(t, unix.Stat(filepath.Join(to, "sparse"), &st))
			assert.Less(t, st.Blocks*512, int64(1<<20), "holes are holes again")
			left, err := filepath.Glob(filepath.Join(to, ".forebay*"))
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}
}

// What nobody could read at the source is told, so that a backup that never had it does not pass for whole.
func TestTellsWhatTheBackupNeverHad(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "links/media")
	lacks := []journal.UnreadObject{{Path: []byte("dir/secret"), Node: "node-a", Reason: "permission denied", Since: "2026-01-02T03:04:05Z"}, {Path: []byte("z"), Node: "node-b", Since: "then", Reason: "no"}, {Path: []byte("z"), Node: "node-c", Since: "now", Reason: "never"}}
	require.NoError(t, journal.PutUnread(t.Context(), tgt.Records(), "links/media", journal.Unread{Objects: lacks}))
	o := restore.Options{From: tgt, Journal: j, Prefix: "links/media", To: filepath.Join(folder(t), "to")}
	report, err := restore.Restore(t.Context(), o, deps())
	require.NoError(t, err)
	require.False(t, report.Complete())
	require.Equal(t, int64(2), report.Incomplete())
	require.Equal(t, restore.Failure{Path: "dir/secret", Reason: "on node-a since 2026-01-02T03:04:05Z: permission denied"}, report.Unread[0])
	require.Equal(t, restore.Failure{Path: "z", Reason: "on node-b since then: no; on node-c since now: never"}, report.Unread[1])
	o.Path, o.DryRun = "z", true
	report, err = restore.Restore(t.Context(), o, deps())
	require.ErrorContains(t, err, "not empty")
	o.To += "2"
	report, err = restore.Restore(t.Context(), o, deps())
	require.NoError(t, err)
	require.Len(t, report.Unread, 1)
}

// A restore of a part tells of a directory above it that could not be read: what was in there, and in the part, may not be in the backup.
func TestTellsWhatCouldNotBeReadAboveThePart(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "")
	var lacks []journal.UnreadObject
	for _, path := range []string{"ro", "ro/deep", "ro/deep/in/none", "ro/de", "ro/deeper", "z"} {
		lacks = append(lacks, journal.UnreadObject{Path: []byte(path), Node: "node-a", Reason: "no", Since: "then"})
	}
	require.NoError(t, journal.PutUnread(t.Context(), tgt.Records(), "", journal.Unread{Objects: lacks}))
	o := restore.Options{From: tgt, Journal: j, Path: "ro/deep", To: filepath.Join(folder(t), "to")}
	report, err := restore.Restore(t.Context(), o, deps())
	require.NoError(t, err)
	require.False(t, report.Complete())
	why := "on node-a since then: no"
	require.Equal(t, []restore.Failure{{Path: "ro", Reason: why}, {Path: "ro/deep", Reason: why}, {Path: "ro/deep/in/none", Reason: why}}, report.Unread)
}

func TestRefusesWhatIsNotEmpty(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "")
	to := folder(t)
	require.NoError(t, os.WriteFile(filepath.Join(to, "mine"), []byte("mine"), 0o600))
	_, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to}, deps())
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	entries, err := os.ReadDir(to)
	require.NoError(t, err)
	require.Len(t, entries, 1, "nothing was touched")
}

func TestGoesOnWhereItWasInterrupted(t *testing.T) {
	t.Parallel()
	src, tgt, j, _ := backup(t, "")
	to := folder(t)
	require.NoError(t, os.WriteFile(filepath.Join(to, "mine"), []byte("mine"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(to, ".forebay-restore-dead"), 0o700))
	ctx, stop := context.WithCancel(t.Context())
	broken := faulty.Wrap(tgt, faulty.Config{Seed: 3, Rules: []faulty.Rule{{Call: faulty.CallRead, Fault: faulty.Fail, Class: proto.ClassPermanent, Share: 0.5}}})
	report, err := restore.Restore(ctx, restore.Options{From: broken, Journal: j, To: to, IntoExisting: true, Workers: 1}, deps())
	require.NoError(t, err)
	require.NotZero(t, report.FailedN)
	stop()
	_, err = restore.Restore(ctx, restore.Options{From: tgt, Journal: j, To: to, IntoExisting: true}, deps())
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, os.WriteFile(filepath.Join(to, "empty"), []byte("changed meanwhile"), 0o600))
	report, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, IntoExisting: true}, deps())
	require.NoError(t, err)
	require.True(t, report.Complete(), "%+v", report)
	require.NotZero(t, report.Equal)
	require.NoError(t, os.Remove(filepath.Join(to, "mine")), "what the backup does not have stays")
	requireSame(t, src, to)
	report, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, IntoExisting: true}, deps())
	require.NoError(t, err)
	assert.Zero(t, report.Bytes, "everything was equal")
}

func TestPartOfATree(t *testing.T) {
	t.Parallel()
	src, tgt, j, _ := backup(t, "")
	to := folder(t)
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, Path: "ro"}, deps())
	require.NoError(t, err)
	require.True(t, report.Complete(), "%+v", report)
	requireEqualFile(t, src, to, "ro/f three") // its leader is outside
	_, err = os.Lstat(filepath.Join(to, "a"))
	require.ErrorIs(t, err, os.ErrNotExist)

	to = folder(t)
	_, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, Path: "ro/deep/in"}, deps())
	require.NoError(t, err)
	requireEqualFile(t, src, to, "ro/deep/in")
	st, err := os.Stat(filepath.Join(to, "ro"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o555), st.Mode().Perm(), "what lies above is no more open than it was")

	_, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: folder(t), Path: "a/none"}, deps())
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	for _, bad := range []string{"../x", "/a", "a//b", ".forebay"} {
		_, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: folder(t), Path: bad}, deps())
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), bad)
	}
}

func requireEqualFile(t *testing.T, a, b, name string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(a, name))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(b, name))
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func TestDamagedObjectsAreListedAndTheRestComes(t *testing.T) {
	t.Parallel()
	_, tgt, j, entries := backup(t, "")
	info, err := tgt.Probe(t.Context())
	require.NoError(t, err)
	f, err := os.OpenFile(filepath.Join(info.Where, "big"), os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("rot"), 2<<20)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Remove(filepath.Join(info.Where, "empty")))
	to := folder(t)
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to}, deps())
	require.NoError(t, err)
	require.False(t, report.Complete())
	require.Equal(t, int64(2), report.FailedN)
	assert.Equal(t, "big", report.Failed[0].Path)
	assert.Equal(t, "empty", report.Failed[1].Path)
	assert.Equal(t, int64(len(entries)-2), report.Objects)
	_, err = os.Lstat(filepath.Join(to, "big"))
	assert.ErrorIs(t, err, os.ErrNotExist, "wrong bytes are not restored")
}

func TestLeaderOfHardLinksFailed(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "")
	info, err := tgt.Probe(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(info.Where, "a/f")))
	to := folder(t)
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to}, deps())
	require.NoError(t, err)
	require.Equal(t, int64(1), report.FailedN)
	a, err := os.Stat(filepath.Join(to, "z/f too"))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(to, "ro/f three"))
	require.NoError(t, err)
	assert.True(t, os.SameFile(a, b), "the others still share")
}

// A hard link whose leader was replaced has the content from before, of the same size here: it is restored with that one, not
// made a link to what its leader is by now (I3).
func TestHardLinkWhoseLeaderMovedOn(t *testing.T) {
	t.Parallel()
	src, tgt, j, entries := backup(t, "")
	old, err := os.ReadFile(filepath.Join(src, "a/f"))
	require.NoError(t, err)
	fresh := bytes.Repeat([]byte("n"), len(old))
	require.NotEqual(t, old, fresh)
	require.NoError(t, os.Remove(filepath.Join(src, "a/f")))
	require.NoError(t, os.WriteFile(filepath.Join(src, "a/f"), fresh, 0o644))
	now := scan(t, src)
	now = slices.DeleteFunc(now, func(e journal.Entry) bool { return e.Path != "a/f" })
	require.Len(t, now, 1)
	now[0].Version = proto.VersionID(len(entries) + 1)
	require.NoError(t, (&flusher{src: src, tgt: tgt, jrn: j, size: 4}).run(t.Context(), now))

	to := folder(t)
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to}, deps())
	require.NoError(t, err)
	require.Zero(t, report.FailedN, "%+v", report.Failed)
	for name, want := range map[string][]byte{"a/f": fresh, "z/f too": old, "ro/f three": old} {
		got, err := os.ReadFile(filepath.Join(to, name))
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got), name)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	t.Parallel()
	_, tgt, j, entries := backup(t, "")
	to := filepath.Join(folder(t), "not/there")
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, DryRun: true}, deps())
	require.NoError(t, err)
	assert.Equal(t, int64(len(entries)), report.TotalObjects)
	_, err = os.Lstat(filepath.Dir(to))
	assert.ErrorIs(t, err, os.ErrNotExist)
	report, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, DryRun: true, IntoExisting: true}, deps())
	require.NoError(t, err)
	assert.Zero(t, report.Objects)
}

func TestKeptParkedAndDeleted(t *testing.T) {
	t.Parallel()
	_, tgt, j, entries := backup(t, "")
	next := proto.VersionID(len(entries))
	outcome := []journal.Entry{
		{Path: "a-b", Version: next + 1, State: journal.StateKept, Desc: proto.Desc{Kind: proto.KindTombstone}},
		{Path: "big", Version: next + 2, State: journal.StateParked},
		{Path: "empty", Version: next + 3, State: journal.StateDeleted},
		{Path: "never", Version: next + 4, State: journal.StateParked},
	}
	b, err := j.Begin(t.Context(), outcome)
	require.NoError(t, err)
	require.NoError(t, tgt.Commit(t.Context(), []target.Change{{Op: target.OpDelete, Path: "empty"}})[0])
	require.NoError(t, b.Done(t.Context(), outcome))
	require.Empty(t, differences(t, tgt, j, true), "kept deletes are no difference")
	to := folder(t)
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to}, deps())
	require.NoError(t, err)
	assert.Equal(t, int64(1), report.KeptOut)
	assert.Equal(t, []string{"big"}, report.Older)
	assert.Equal(t, []string{"never"}, report.Missing)
	assert.False(t, report.Complete())
	assert.Zero(t, report.FailedN)
	for name, want := range map[string]bool{"a-b": false, "big": true, "empty": false} {
		_, err := os.Lstat(filepath.Join(to, name))
		assert.Equal(t, want, err == nil, name)
	}
	for _, o := range []restore.Options{{Path: "a-b"}, {Kept: true}} {
		o.From, o.Journal, o.To = tgt, j, folder(t)
		_, err = restore.Restore(t.Context(), o, deps())
		require.NoError(t, err)
		require.FileExists(t, filepath.Join(o.To, "a-b"))
	}
}

func TestHostileTargetCannotReachOut(t *testing.T) {
	t.Parallel()
	_, tgt, j, entries := backup(t, "")
	outside, to := folder(t), folder(t)
	require.NoError(t, os.Symlink(outside, filepath.Join(to, "z"))) // lies in the way of a directory
	require.NoError(t, os.Symlink(filepath.Join(outside, "x"), filepath.Join(to, "empty")))
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to, IntoExisting: true}, deps())
	require.NoError(t, err)
	require.True(t, report.Complete(), "%+v", report)
	assert.Equal(t, int64(len(entries)), report.Objects)
	left, err := os.ReadDir(outside)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestTwoRestoresIntoOnePlace(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "")
	to := folder(t)
	f, err := os.Open(to)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	_, err = restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: to}, deps())
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
}

// TestCrashAtEachStepOfABatch ends the flush at each step of each batch in turn; a new process does the same again. In
// between, a restore gives every object as it was before or as it is after; at the end all is as if nothing had happened.
func TestCrashAtEachStepOfABatch(t *testing.T) {
	t.Parallel()
	src := folder(t)
	plant(t, src)
	entries := scan(t, src)
	var seen []string
	count := &flusher{src: src, size: 5, step: func(s string) error { seen = append(seen, s); return nil }}
	count.tgt = openTarget(t, folder(t), "p")
	count.jrn = openJournal(t, count.tgt, "p")
	require.NoError(t, count.run(t.Context(), entries))
	for cut := range seen {
		t.Run(fmt.Sprintf("%03d %s", cut, seen[cut]), func(t *testing.T) {
			t.Parallel()
			crashAt(t, src, entries, cut)
		})
	}
}

func crashAt(t *testing.T, src string, entries []journal.Entry, cut int) {
	path := folder(t)
	left := cut
	f := &flusher{src: src, size: 5, step: func(string) error {
		if left--; left < 0 {
			return errCrash
		}
		return nil
	}}
	f.tgt = openTarget(t, path, "p")
	f.jrn = openJournal(t, f.tgt, "p")
	require.ErrorIs(t, f.run(t.Context(), entries), errCrash)

	tgt := openTarget(t, path, "p")
	j := openJournal(t, tgt, "p")
	require.Emptyf(t, differences(t, tgt, j, true), "after the crash")
	report, err := restore.Restore(t.Context(), restore.Options{From: tgt, Journal: j, To: folder(t)}, deps())
	require.NoError(t, err)
	require.Zerof(t, report.FailedN, "after the crash: %v", report.Failed)

	require.NoError(t, (&flusher{src: src, tgt: tgt, jrn: j, size: 3}).run(t.Context(), entries))
	require.NoError(t, j.CompactAll(t.Context(), 0))
	require.NoError(t, tgt.Unstage(t.Context(), func(target.StageID) bool { return false }))
	requireSame(t, src, filepath.Join(path, "p"))
	require.Emptyf(t, differences(t, tgt, j, true), "at the end")
	stage, err := os.ReadDir(filepath.Join(path, ".forebay/stage", target.PrefixKey("p")))
	require.NoError(t, err)
	for _, e := range stage {
		require.True(t, strings.HasPrefix(e.Name(), ".boot"), "left over: %s", e.Name())
	}
	records, err := tgt.Records().List(t.Context(), target.JournalDir+"/"+target.PrefixKey("p"))
	require.NoError(t, err)
	require.Len(t, records, 1, "all intents are settled")
}

// TestFlushThroughAFaultyTarget repeats a flush through errors, short writes and unknown outcomes until it is done.
func TestFlushThroughAFaultyTarget(t *testing.T) {
	t.Parallel()
	src := folder(t)
	plant(t, src)
	entries := scan(t, src)
	for range 4 {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		path := folder(t)
		tgt := openTarget(t, path, "")
		bad := faulty.Wrap(tgt, faulty.Config{Seed: seed, Rules: []faulty.Rule{
			{Fault: faulty.Fail, Share: 0.01}, {Fault: faulty.Unknown, Share: 0.02},
			{Call: faulty.CallWrite, Fault: faulty.Short, Share: 0.05},
			{Call: faulty.CallRecord, Fault: faulty.Unknown, Class: proto.ClassOverload, Share: 0.05},
		}})
		f := &flusher{src: src, tgt: bad, jrn: openJournal(t, tgt, ""), size: 5}
		for chunk := range slices.Chunk(entries, f.size) {
			tries := 0
			for ; tries < 300 && f.batch(t.Context(), chunk) != nil; tries++ {
				if j, err := journal.Open(t.Context(), bad.Records(), target.PrefixKey("")); err == nil {
					f.jrn = j // as if the relay had started again
				}
			}
			require.Less(t, tries, 300, "seed %d", seed)
		}
		require.Positive(t, bad.Hits())
		bad.Heal()
		requireSame(t, src, path)
		require.Empty(t, differences(t, tgt, openJournal(t, tgt, ""), true), "seed %d", seed)
	}
}
