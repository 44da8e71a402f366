package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/proto"
)

// mainEnv makes the test binary the command itself, for tests of signals.
const mainEnv = "TEST_FOREBAY_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

const goodRelay = `name: r
cache: {stores: [/d1/forebay]}
targets: {nas: {type: dir, path: /mnt/nas}}
links: [{name: l, from: primary/media, to: nas}]
`

const goodAgent = `node: n
cluster: primary
datasets: [{name: media, path: /srv/media}]
`

func TestConfigcheck(t *testing.T) {
	t.Parallel()
	relay, agent := file(t, "a.yaml", goodRelay), file(t, "b.yaml", goodAgent)
	got := command(t, nil, "configcheck", relay, agent)
	assert.Equal(t, result{}, got, "silent and 0")

	bad := file(t, "bad.yaml", strings.Replace(goodAgent, "cluster", "clutser", 1))
	got = command(t, nil, "configcheck", relay, bad)
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, bad+":2:1: clutser")
	assert.NotContains(t, got.errs, relay)

	inside := file(t, "inside.yaml", strings.Replace(goodAgent, "/srv/media", "/mnt", 1))
	got = command(t, nil, "configcheck", relay, inside)
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "/mnt")

	got = command(t, nil, "configcheck", relay, "--paths")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "/d1/forebay")

	assert.Equal(t, exitFailed, command(t, nil, "configcheck", "/no/such.yaml").code)
	assert.Equal(t, exitFailed, command(t, nil, "configcheck", file(t, "c", "\t")).code)
	assert.Equal(t, exitUsage, command(t, nil, "configcheck").code)
}

func TestDaemonsRefuseABadConfiguration(t *testing.T) {
	t.Parallel()
	got := command(t, nil, "agent", "--config", file(t, "a.yaml", "node: n\ncluster: c\nbogus: 1\n"))
	assert.Equal(t, exitUsage, got.code)
	assert.Contains(t, got.errs, "a.yaml:3:1: bogus")
	assert.Equal(t, exitFailed, codeOf(os.ErrNotExist))
	got = command(t, map[string]string{"FOREBAY_CONFIG": file(t, "a.yaml", strings.Replace(goodAgent, "cluster", "data: /no/such/place\ncluster", 1))}, "agent")
	assert.Equal(t, exitUsage, got.code)
	assert.Contains(t, got.errs, "/no/such/place")
}

// backup makes a target with two files, one of them with an odd name, below a prefix.
func backup(t *testing.T, root, prefix string) {
	t.Helper()
	d, err := dir.Open(dir.Config{Path: root, Prefix: prefix}, dir.Deps{})
	require.NoError(t, err)
	backupTo(t, d, prefix)
}

// backupTo does so in a target, and closes it.
func backupTo(t *testing.T, d target.Target, prefix string) {
	t.Helper()
	ctx := t.Context()
	defer func() { require.NoError(t, d.Close()) }()
	owner := journal.Owner{Format: journal.Format, Relay: proto.RelayID(7).String(), Link: "l" + strings.ReplaceAll(prefix, "/", "-"), Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Prefix: []byte(prefix), MadeAt: time.Unix(1, 0)}
	_, err := journal.Mark(ctx, d.Records(), owner)
	require.NoError(t, err)
	j, err := journal.Open(ctx, d.Records(), target.PrefixKey(prefix))
	require.NoError(t, err)
	var changes []target.Change
	var entries []journal.Entry
	var stages []target.StageID
	for i, path := range []string{"one", "sub\n/two"} {
		content := []byte("content of " + path)
		id := target.StageID(fmt.Sprintf("s%d", i))
		w, err := d.Stage(ctx, target.Content{ID: id, Size: int64(len(content))})
		require.NoError(t, err)
		_, err = w.Write(content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		desc := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o640, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1_600_000_000_000_000_001}}
		stages = append(stages, id)
		changes = append(changes, target.Change{Op: target.OpPut, Path: path, Stage: id, Desc: desc})
		entries = append(entries, journal.Entry{Path: path, Version: proto.VersionID(i + 1), Holds: proto.VersionID(i + 1), State: journal.StatePresent, Desc: desc})
	}
	b, err := j.Begin(ctx, entries)
	require.NoError(t, err)
	require.NoError(t, d.Barrier(ctx, stages))
	for _, err := range d.Commit(ctx, changes) {
		require.NoError(t, err)
	}
	require.NoError(t, b.Done(ctx, entries))
}

func TestListAndRestoreFromTheTargetAlone(t *testing.T) {
	t.Parallel()
	nas := t.TempDir()
	backup(t, nas, "")

	got := command(t, nil, "list", "--from", nas)
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Equal(t, "0640       14 B  2020-09-13T12:26:40Z  one\n0640       19 B  2020-09-13T12:26:40Z  \"sub\\n/two\"\n", got.out)

	got = command(t, nil, "list", "--from", nas, "--json", "--path", "one")
	var l listed
	require.NoError(t, json.Unmarshal([]byte(got.out), &l))
	assert.Equal(t, "2020-09-13T12:26:40.000000001Z", l.Mtime)
	assert.Equal(t, "640", l.Mode)

	to := filepath.Join(t.TempDir(), "back")
	got = command(t, nil, "restore", "--from", nas, "--to", to, "--dry-run")
	require.Equal(t, exitDone, got.code, got.errs)
	assert.Contains(t, got.out, "would restore 2 objects")
	assert.NoDirExists(t, to)

	got = command(t, nil, "restore", "--from", nas, "--to", to)
	require.Equal(t, exitDone, got.code, got.errs)
	content, err := os.ReadFile(filepath.Join(to, "sub\n", "two"))
	require.NoError(t, err)
	assert.Equal(t, "content of sub\n/two", string(content))

	got = command(t, nil, "restore", "--from", nas, "--to", to)
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "--into-existing")

	config := file(t, "relay.yaml", strings.Replace(goodRelay, "/mnt/nas", nas, 1))
	got = command(t, nil, "restore", "--from", "nas", "--config", config, "--to", to, "--into-existing")
	assert.Equal(t, exitDone, got.code, got.errs)

	require.NoError(t, os.WriteFile(filepath.Join(nas, "one"), []byte("content of oNe"), 0o644))
	got = command(t, nil, "restore", "--from", nas, "--to", filepath.Join(t.TempDir(), "x"))
	assert.Equal(t, exitPart, got.code, "%s %s", got.out, got.errs)
	assert.Contains(t, got.out, "failed   one")
}

func TestWaitingForTheSource(t *testing.T) {
	t.Parallel()
	assert.Equal(t, `waiting for the source: open "a": reset\x1b`, sourceSays(errors.New("open \"a\": reset\x1b")))
	assert.Equal(t, "the source answers again", sourceSays(nil))
}

func TestWhichBackup(t *testing.T) {
	t.Parallel()
	nas := t.TempDir()
	backup(t, nas, "a")
	backup(t, nas, "b/c")
	assert.Equal(t, exitDone, command(t, nil, "list", "--from", nas+"/b/c").code)
	for from, says := range map[string]string{
		nas:            "holds several backups: name one of " + nas + "/a",
		nas + "/b":     "is not where a backup begins",
		t.TempDir():    "is no backup of Forebay",
		"s3://x/y":     "a name has 3 to 63",
		"ftp://x/y":    "this release knows s3://",
		"s3://xyz?a=b": "endpoint, region, style are",
		"":             "--from",
		"/no/such/it":  "no such file",
		"unknown":      "read the configuration",
	} {
		got := command(t, nil, "list", "--from", from, "--config", "/no/such")
		assert.NotEqual(t, exitDone, got.code, from)
		assert.Contains(t, got.errs, says, from)
	}
	config := file(t, "relay.yaml", strings.Replace(goodRelay, "/mnt/nas", nas, 1))
	got := command(t, nil, "list", "--from", "nsa", "--config", config)
	assert.Contains(t, got.errs, `no target "nsa" (it has nas)`)
	got = command(t, nil, "list", "--from", "nas", "--config", config)
	assert.Contains(t, got.errs, "holds several backups: name one of la (primary/media), lb-c (primary/media)")
	assert.Equal(t, exitUsage, command(t, nil, "restore", "--from", nas).code)
	assert.Equal(t, exitUsage, command(t, nil, "list", "--from", nas, "--at", "noon").code)
}

func TestDemoSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	got := command(t, nil, "demo", "--source", "/no/such/tree")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "--source")
	got = command(t, nil, "demo", "--source", t.TempDir(), "--dir", t.TempDir(), "--large", "1000TiB")
	assert.Equal(t, exitFailed, got.code)
	assert.Contains(t, got.errs, "are free")
	assert.Equal(t, exitUsage, command(t, nil, "demo", "--large", "much").code)
	assert.Equal(t, exitUsage, command(t, nil, "demo", "--large", "1MiB").code)
	assert.Equal(t, []string{"PATH=/bin"}, childEnviron([]string{"FOREBAY_RELAY=x", "PATH=/bin", "NOTIFY_SOCKET=/x"}))
}

func TestAgentTellsSystemdAndEndsInGoodOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = socket.Close() }()
	said := make(chan string, 16)
	go func() { // ends when the socket is closed
		defer close(said)
		buf := make([]byte, 4096)
		for {
			n, err := socket.Read(buf)
			if err != nil {
				return
			}
			said <- string(buf[:n])
		}
	}()
	require.NoError(t, os.Mkdir(dir+"/root", 0o755))
	config := dir + "/agent.yaml"
	text := fmt.Sprintf("node: n\ncluster: c\nrelays: [http://127.0.0.1:1]\ndata: %s/data\nlimits: {nice: 0, io: none}\ndatasets: [{name: d, path: %s/root}]\n", dir, dir)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o644))

	cmd := exec.Command(os.Args[0], "agent", "--config", config)
	cmd.Env = append(os.Environ(), mainEnv+"=1", "NOTIFY_SOCKET="+dir+"/notify")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := make(chan string, 100)
	go func() { // ends with the process
		defer close(lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			lines <- s.Text()
		}
	}()
	logged := func(part string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			select {
			case line, ok := <-lines:
				require.True(t, ok, "ended before it said %q", part)
				require.True(t, json.Valid([]byte(line)), "no terminal, so JSON: %s", line)
				if strings.Contains(line, part) {
					return
				}
			case <-deadline:
				t.Fatalf("never said %q", part)
			}
		}
	}
	notified := func(want string) {
		t.Helper()
		select {
		case got := <-said:
			assert.True(t, strings.HasPrefix(got, want), got)
		case <-time.After(20 * time.Second):
			t.Fatalf("systemd was not told %s", want)
		}
	}
	notified("READY=1")
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	notified("RELOADING=1\nMONOTONIC_USEC=")
	notified("READY=1")
	logged("configuration reloaded")

	require.NoError(t, os.WriteFile(config, []byte(text+"bogus: 1\n"), 0o644))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	logged("the one before stays in force")
	require.NoError(t, os.WriteFile(config, []byte(strings.Replace(text, "/data\n", "/data2\n", 1)), 0o644))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	logged("a restart is needed for data")
	require.NoError(t, os.WriteFile(config, []byte(strings.Replace(text, "node: n", "node: m", 1)), 0o644))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	logged("the agent goes on with it")

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	logged("agent has ended")
	for range lines { // until the process has closed it
		continue
	}
	require.NoError(t, cmd.Wait(), "exit 0")
}
