package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/proto"
)

func TestMomentsAreRead(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	want := now.Add(-2 * time.Hour)
	for _, text := range []string{"2026-11-26T10:00:00Z", "2026-11-26T11:00:00+01:00", "2026-11-26 11:00 Europe/Berlin", "2026-11-26 11:00:00 +0100",
		"2026-11-26T10:00 UTC", "2026-11-26 15:30:00.000 Asia/Kolkata", "2h", "1h60m", " 2h "} {
		at, err := parseAt(text, now)
		require.NoError(t, err, text)
		assert.True(t, at.Equal(want), "%s is %s", text, at)
	}
	for _, text := range []string{"", "noon", "2026-11-26 11:00", "2026-11-26 11:00 Local", "2026-11-26 11:00 Nowhere/Town", "2026-13-26T10:00:00Z", "-2h", "2026-11-26T12:00:01Z", "2027-01-01 00:00 UTC"} {
		_, err := parseAt(text, now)
		assert.Equal(t, exitUsage, codeOf(err), text)
	}
}

// keptBackup is backup with a history: since 100 s after 1970, at 200 s "one" was replaced and "sub\n/two" deleted.
func keptBackup(t *testing.T, root string) {
	t.Helper()
	backup(t, root, "")
	ctx := t.Context()
	d, err := dir.Open(dir.Config{Path: root}, dir.Deps{})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	j, err := journal.Open(ctx, d.Records(), "root")
	require.NoError(t, err)
	require.NoError(t, j.SetHistory(ctx, journal.History{On: true, Reach: time.Unix(100, 0), Keep: time.Hour}))
	found, err := j.Lookup(ctx, []string{"one", "sub\n/two"})
	require.NoError(t, err)
	var keeps []target.Keep
	var past, now []journal.Entry
	var changes []target.Change
	at := time.Unix(200, 0).UnixNano()
	for i, path := range []string{"one", "sub\n/two"} {
		f := found[path]
		keeps = append(keeps, target.Keep{Path: path, Name: target.NameKept(path, f.Desc.Digest), Size: f.Desc.Size, Digest: f.Desc.Digest})
		e := f.End(proto.VersionID(i+3), at, 1)
		e.Ended.Stored = true
		past = append(past, e)
	}
	id := target.StageID("new")
	w, err := d.Stage(ctx, target.Content{ID: id, Size: 3})
	require.NoError(t, err)
	_, err = w.Write([]byte("new"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, d.Barrier(ctx, []target.StageID{id}))
	desc := found["one"].Desc
	desc.Size, desc.Digest = 3, proto.ContentDigest([]byte("new"))
	changes = append(changes, target.Change{Op: target.OpPut, Path: "one", Stage: id, Desc: desc}, target.Change{Op: target.OpDelete, Path: "sub\n/two", Desc: proto.Desc{Kind: proto.KindTombstone}})
	now = append(now, journal.Entry{Path: "one", Version: 3, State: journal.StatePresent, Desc: desc, AckedNs: at}, journal.Entry{Path: "sub\n/two", Version: 4, State: journal.StateDeleted, AckedNs: at})
	b, err := j.Begin(ctx, now)
	require.NoError(t, err)
	for _, err := range append(d.History().Keep(ctx, keeps), d.Commit(ctx, changes)...) {
		require.NoError(t, err)
	}
	require.NoError(t, b.Past(ctx, past))
	require.NoError(t, b.Done(ctx, now))
}

func TestTheTreeAsItWasFromTheTargetAlone(t *testing.T) {
	t.Parallel()
	nas := t.TempDir()
	keptBackup(t, nas)
	got := command(t, nil, "list", "--from", nas)
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Equal(t, "0640        3 B  2020-09-13T12:26:40Z  one\n", got.out)
	got = command(t, nil, "list", "--from", nas, "--at", "1970-01-01T00:03:19Z")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Equal(t, "0640       14 B  2020-09-13T12:26:40Z  one\n0640       19 B  2020-09-13T12:26:40Z  \"sub\\n/two\"\n", got.out)
	got = command(t, nil, "list", "--from", nas, "--at", "1970-01-01T00:01:39Z")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "reaches back to 1970-01-01T00:01:40Z")

	to := filepath.Join(t.TempDir(), "back")
	got = command(t, nil, "restore", "--from", nas, "--to", to, "--at", "1970-01-01T00:03:19Z")
	require.Equal(t, exitDone, got.code, got.errs)
	for _, path := range []string{"one", "sub\n/two"} {
		content, err := os.ReadFile(filepath.Join(to, path))
		require.NoError(t, err)
		assert.Equal(t, "content of "+path, string(content))
	}
	got = command(t, nil, "restore", "--from", nas, "--to", filepath.Join(t.TempDir(), "then"), "--at", "1970-01-01T00:03:20Z")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "restored 1 of 1 object")
	got = command(t, nil, "restore", "--from", nas, "--to", filepath.Join(t.TempDir(), "part"), "--at", "1970-01-01T00:03:20Z", "--path", "sub\n/two")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "had nothing at")

	got = command(t, nil, "versions", "--from", nas, "one", "--json")
	require.Equal(t, exitDone, got.code, got.errs)
	var v proto.PathVersions
	require.NoError(t, json.Unmarshal([]byte(got.out), &v))
	require.Len(t, v.Versions, 2)
	assert.Equal(t, []any{proto.VersionID(3), "present", proto.VersionID(1), "past", "1970-01-01T00:03:20Z"},
		[]any{v.Versions[0].Version, v.Versions[0].State, v.Versions[1].Version, v.Versions[1].State, v.Versions[1].EndedAt})
	got = command(t, nil, "versions", "--from", nas, `"sub\n/two"`)
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "past")
	assert.Equal(t, exitFailed, command(t, nil, "versions", "--from", nas, "none").code)
	assert.Equal(t, exitUsage, command(t, nil, "versions", "--from", nas, "a", "b").code)
	assert.Equal(t, exitUsage, command(t, nil, "versions", "a").code)
}

func TestPruneShowsWhatGoesBeforeItAsks(t *testing.T) {
	t.Parallel()
	h := proto.HistoryReport{Link: "l", On: true, Keep: "30d", PolicyKeep: "1d", Reaches: "2026-11-01T00:00:00Z", Versions: 9, Bytes: 90, Held: "history.keep was shortened",
		DueVersions: 4, DueBytes: 40, DuePaths: []string{"a/b", "c"}}
	r := newFakeRelay(t, map[string]any{"GET /v1/links/l/history": h, "POST /v1/links/l/history/prune": h,
		"GET /v1/links/l/versions": proto.PathVersions{Path: "a/b", Versions: []proto.KeptVersion{{Version: 7, State: "present", Kind: "file"}}}})
	got := r.command("history", "l")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "9 versions")
	assert.Contains(t, got.out, "shortened")
	got = r.command("history", "prune", "l", "--dry-run")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "4 versions, 40 B would go")
	assert.Contains(t, got.out, "a/b")
	got = r.command("history", "prune", "l")
	assert.Equal(t, exitUsage, got.code, "there is nobody to ask")
	assert.NotContains(t, r.calls(), "POST /v1/links/l/history/prune")
	got = r.command("history", "prune", "l", "--yes")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, r.calls(), "POST /v1/links/l/history/prune")
	got = r.command("versions", "l", "a/b")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "present")
	assert.Contains(t, r.calls(), "GET /v1/links/l/versions?path=a%2Fb")
}
