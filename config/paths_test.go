package config

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/units"
)

func texts(found []Finding) (out []string) {
	for _, f := range found {
		line := f.Key + ": " + f.Text
		if f.Fatal {
			line = "fatal: " + line
		}
		out = append(out, line)
	}
	return out
}

func mkdir(t *testing.T, elements ...string) string {
	t.Helper()
	dir := filepath.Join(elements...)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	return dir
}

// A hard mount whose server is away answers nobody. A pipe without a writer does the same to whoever opens it.
func TestPathsThatDoNotAnswer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mute := filepath.Join(dir, "mute")
	require.NoError(t, unix.Mkfifo(mute, 0o600))
	t.Cleanup(func() { // lets go of those who wait
		f, err := os.OpenFile(mute, os.O_RDWR, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	})
	a := &Agent{Data: filepath.Join(dir, "data"), Datasets: []Dataset{{Name: "media", Paths: []string{mute, mute}}, {Name: "home"}}}
	want := []string{
		"datasets[0].paths[0]: has not answered for 10s: see to its disk, or to the server that it is mounted from",
		"datasets[0].paths[1]: has not answered for 10s: see to its disk, or to the server that it is mounted from",
	}
	for i := range 8 { // these answer at once, and are looked at once the time of the others is up
		a.Datasets[1].Paths = append(a.Datasets[1].Paths, filepath.Join(dir, fmt.Sprint("gone-", i)))
		want = append(want, fmt.Sprintf("datasets[1].paths[%d]: is not there: mount it or correct the path; until then the dataset is not backed up from here", i))
	}
	began := time.Now()
	require.Equal(t, want, texts(a.CheckPaths()))
	require.Less(t, time.Since(began), 2*patience, "they are waited for together")
}

func TestRelayPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	good := &Relay{
		Data: filepath.Join(dir, "data"), Cache: Cache{Stores: []string{mkdir(t, dir, "s1"), filepath.Join(dir, "s2")}},
		Targets: []Target{{Name: "nas", Type: TypeDir, Path: mkdir(t, dir, "nas")}},
	}
	require.Empty(t, good.CheckPaths(), "what is missing can be made")

	link := filepath.Join(dir, "link")
	require.NoError(t, os.Symlink(mkdir(t, dir, "s1", "in"), link))
	bad := &Relay{
		Data:    filepath.Join(dir, "no", "where"),
		Cache:   Cache{Stores: []string{filepath.Join(dir, "s1"), file, link}},
		Targets: []Target{{Name: "gone", Type: TypeDir, Path: filepath.Join(dir, "gone")}, {Name: "file", Type: TypeDir, Path: file + "2"}},
		NATS:    NATS{CredentialsFile: filepath.Join(dir, "creds")},
	}
	require.NoError(t, os.WriteFile(file+"2", nil, 0o644))
	require.Equal(t, []string{
		"fatal: data: is not there, and neither is " + filepath.Join(dir, "no") + " to make it in: mount the disk or make the directory",
		"fatal: cache.stores[1]: is not a directory: name another path",
		"fatal: nats.credentials_file: no such file or directory: let the user of the relay read it",
		"targets.gone.path: is not there: mount it; until then its links are stalled",
		"targets.file.path: is not a directory: name another path; until then its links are stalled",
		"fatal: cache.stores[2]: " + filepath.Join(dir, "s1", "in") + " lies in the store 1 (" + filepath.Join(dir, "s1") + "): each needs a directory of its own",
	}, texts(bad.CheckPaths()))
}

// A relay that has run does without a store whose disk is away; one that starts for the first time has a mistake in its file.
func TestAKnownStoreMayBeAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := &Relay{Data: mkdir(t, dir, "data"), Cache: Cache{Stores: []string{filepath.Join(dir, "disk", "store")}}}
	found := c.CheckPaths()
	require.Len(t, found, 1)
	require.True(t, found[0].Fatal, found[0])
	mkdir(t, c.Data, ledgerDir)
	found = c.CheckPaths()
	require.Len(t, found, 1)
	require.False(t, found[0].Fatal, found[0])
	require.Contains(t, found[0].Text, "until then the relay does without it")
}

func TestAgentPaths(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	a := &Agent{Data: filepath.Join(dir, "data"), Datasets: []Dataset{{Name: "d", Paths: []string{mkdir(t, dir, "d"), filepath.Join(dir, "gone")}}, {Name: "e", Paths: []string{file}}}}
	require.Equal(t, []string{
		"datasets[0].paths[1]: is not there: mount it or correct the path; until then the dataset is not backed up from here",
		"datasets[1].paths[0]: is not a directory: name the directory of the dataset",
	}, texts(a.CheckPaths()))
}

func TestUnreadablePaths(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read and write everything: run as an ordinary user")
	}
	dir := t.TempDir()
	closed := mkdir(t, dir, "closed")
	require.NoError(t, os.Chmod(closed, 0o000))
	t.Cleanup(func() { _ = os.Chmod(closed, 0o700) })
	a := &Agent{Data: closed, Datasets: []Dataset{{Name: "d", Paths: []string{closed + "/../closed"}}}}
	found := texts(a.CheckPaths())
	require.Contains(t, found, "fatal: data: cannot be written: give it to the user that the program runs as")
	require.Contains(t, found, "datasets[0].paths[0]: cannot be read: give the agent CAP_DAC_READ_SEARCH, or its user the right to read")
	r := &Relay{Data: filepath.Join(dir, "data"), Targets: []Target{{Name: "nas", Type: TypeDir, Path: closed}}}
	found = texts(r.CheckPaths())
	require.Contains(t, found, "targets.nas.path: cannot be written by this user: give the relay's user the right to; until then its links are stalled")
	require.Len(t, found, 1)
}

func TestTogether(t *testing.T) {
	t.Parallel()
	r := &Relay{Data: "/var/lib/forebay", Cache: Cache{Stores: []string{"/srv/media/cache"}}, Targets: []Target{{Name: "nas", Type: TypeDir, Path: "/mnt"}}}
	a := &Agent{
		Data: "/srv/agent", Relays: []string{"http://relay:1", "http://[::1]:7480"},
		Datasets: []Dataset{{Name: "media", Paths: []string{"/srv/media"}}, {Name: "x", Paths: []string{"/mnt/nas/x"}}, {Name: "ok", Paths: []string{"/home"}}},
	}
	require.Equal(t, []string{
		"fatal: datasets[0].paths[0]: /srv/media contains the store 1 of the relay (/srv/media/cache): each needs a directory of its own",
		"fatal: datasets[1].paths[0]: /mnt/nas/x lies in the target nas (/mnt): each needs a directory of its own",
	}, texts(CheckTogether(r, a)))
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	real := mkdir(t, dir, "real")
	require.NoError(t, os.Symlink(real, filepath.Join(dir, "link")))
	r.Targets[0].Path = filepath.Join(dir, "link", "not", "there", "yet")
	r.Cache.Stores, a.Datasets[1].Paths = nil, []string{real}
	require.Equal(t, []string{"fatal: datasets[1].paths[0]: " + real + " contains the target nas (" + real + "/not/there/yet): each needs a directory of its own"}, texts(CheckTogether(r, a)))
	r.Targets[0] = Target{Name: "nas", Type: TypeSFTP, Path: real}
	require.Empty(t, CheckTogether(r, a), "the path is on a server")
	r.Targets[0].Type = TypeDir
	a.Relays = []string{"http://relay:1"}
	require.Empty(t, CheckTogether(r, a), "paths of two machines cannot be compared")
}

func TestRestartKeys(t *testing.T) {
	t.Parallel()
	parse := func() *Relay {
		c, err := ParseRelay([]byte(fullRelay), "f")
		require.NoError(t, err)
		return c
	}
	old, new := parse(), parse()
	require.Empty(t, RestartKeys(old, new))
	new.Links, new.Targets, new.Cache.Capacity, new.Cache.HighWater, new.Log.Level = nil, nil, units.TiB, 9000, "info"
	require.Empty(t, RestartKeys(old, new), "these are live")
	new.Data, new.Listen, new.Cache.Stores = "/x", "127.0.0.1:1", append(new.Cache.Stores, "/x")
	require.Equal(t, []string{"data", "listen", "cache.stores"}, RestartKeys(old, new))

}

func TestAgentTakeOver(t *testing.T) {
	t.Parallel()
	a, err := ParseAgent([]byte(fullAgent), "f")
	require.NoError(t, err)
	b := *a
	b.Log.Level = "error"
	next, keys, changed := AgentTakeOver(a, &b)
	require.Empty(t, keys)
	require.False(t, changed, "the level is taken over as it runs")
	require.Equal(t, &b, next)

	b.Datasets, b.Limits.Upload, b.Data, b.Listen = b.Datasets[:1], 1, "/elsewhere", "127.0.0.1:1"
	next, keys, changed = AgentTakeOver(a, &b)
	require.Equal(t, []string{"data", "listen"}, keys)
	require.True(t, changed)
	require.Equal(t, []any{b.Datasets, b.Limits, a.Data, a.Listen}, []any{next.Datasets, next.Limits, next.Data, next.Listen})
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "relay.yaml")
	_, err := LoadRelay(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = LoadAgent(path)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(path, []byte("nam: r\n"), 0o644))
	_, err = LoadRelay(path)
	require.ErrorContains(t, err, path+":1:1: nam: unknown key, did you mean name?")
}
