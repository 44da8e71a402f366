package agent

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/agent/agenttest"
	"forebay/agent/index"
	"forebay/proto"
	"forebay/proto/bus"
)

// ahead is a clock an hour ahead of the file system's, so that what a test writes has settled at once.
func ahead() time.Time { return time.Now().Add(time.Hour) }

// running is an agent under test.
type running struct {
	*Agent
	cfg  Config
	deps Deps
	stop func() // waits
}

// node starts an agent; roots are those of its one dataset "media".
func node(t *testing.T, r *agenttest.Relay, name string, with func(*Config, *Deps), roots ...string) *running {
	t.Helper()
	cfg := Config{
		Node: name, Cluster: "primary", Relays: []string{r.URL()}, DataDir: t.TempDir(), Software: "test",
		Datasets: []Dataset{{Name: "media", Paths: roots, Scan: time.Second}},
	}
	deps := Deps{Now: ahead, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel).With().Str("node", name).Logger()}
	if with != nil {
		with(&cfg, &deps)
	}
	return launch(t, cfg, deps, nil)
}

// launch runs an agent until the test ends or stop is called.
func launch(t *testing.T, cfg Config, deps Deps, prepare func(*Agent)) *running {
	t.Helper()
	a, err := New(cfg, deps)
	require.NoError(t, err)
	if prepare != nil {
		prepare(a)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }() // ends with stop
	stopped := false
	run := &running{Agent: a, cfg: cfg, deps: deps}
	run.stop = func() {
		cancel()
		if !stopped {
			stopped = true
			assert.NoError(t, <-done)
		}
	}
	t.Cleanup(run.stop)
	return run
}

// again starts the agent anew on the same data.
func (r *running) again(t *testing.T) *running {
	t.Helper()
	r.stop()
	return launch(t, r.cfg, r.deps, nil)
}

// eventually waits for a condition.
func eventually(t *testing.T, ok func() bool, what string, args ...any) {
	t.Helper()
	require.Eventually(t, ok, agenttest.Wait, 50*time.Millisecond, append([]any{what}, args...)...)
}

// settled waits until the agents have nothing left to do and the relay has everything that is in the tree.
func settled(t *testing.T, r *agenttest.Relay, tree string, nodes ...*running) {
	t.Helper()
	eventually(t, func() bool {
		for _, n := range nodes {
			for _, s := range n.Status().Roots {
				if s.LastScan.IsZero() || s.UnsentObjects != 0 {
					return false
				}
			}
		}
		return difference(r, tree) == ""
	}, "settled: %v", lazy(func() string {
		out := "relay: " + difference(r, tree)
		for _, n := range nodes {
			out += fmt.Sprintf("\n%s: %+v", n.cfg.Node, n.Status())
			for _, root := range n.roots {
				list, _ := root.ix.InState(index.StatePending, "", 5)
				out += fmt.Sprintf("\npending: %+v", list)
			}
		}
		return out
	}))
}

type lazy func() string

func (l lazy) String() string { return l() }

// difference compares what the relay has with a tree; "" when nothing differs. The relay goes on meanwhile.
func difference(r *agenttest.Relay, tree string) (diff string) {
	rows := map[string]agenttest.Row{}
	r.Look("media", func(d *agenttest.Dataset, _ *agenttest.Stats) {
		for p, row := range d.Rows {
			rows[p] = *row
		}
	})
	err := filepath.WalkDir(tree, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(tree, p)
		if err != nil || rel == "." {
			return err
		}
		row, ok := rows[rel]
		delete(rows, rel)
		diff = rel + ": the relay has nothing"
		if ok {
			diff = differs(row, p, rel, e)
		}
		if diff != "" {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil || diff != "" {
		return fmt.Sprint(diff, err)
	}
	for p, row := range rows {
		if row.Desc.Kind != proto.KindTombstone {
			return p + ": is gone from the tree, not from the relay"
		}
	}
	return ""
}

func differs(row agenttest.Row, path, rel string, e fs.DirEntry) string {
	switch {
	case e.IsDir():
		if row.Desc.Kind != proto.KindDir {
			return rel + ": want a directory"
		}
	case e.Type()&fs.ModeSymlink != 0:
		if text, _ := os.Readlink(path); row.Desc.Kind != proto.KindSymlink || row.Desc.LinkTo != text {
			return rel + ": want a symlink"
		}
	default:
		info, err := e.Info()
		if err != nil || !row.Desc.Kind.HasContent() || row.Desc.Size != info.Size() || row.Desc.Meta.Mode != uint32(info.Mode().Perm()) {
			return fmt.Sprintf("%s: %s of %d bytes, mode %o (%v)", rel, row.Desc.Kind, row.Desc.Size, row.Desc.Meta.Mode, err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return rel + ": " + err.Error()
		}
		if row.Desc.Kind == proto.KindFile && !bytes.Equal(row.Content, content) { // the relay has proved the digest
			return rel + ": other content"
		}
	}
	return ""
}

// write writes a file with bytes that depend on the seed.
func write(t *testing.T, path string, size int, seed uint64) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, content(size, seed), 0o644))
}

func content(size int, seed uint64) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// sample writes a tree with one of everything.
func sample(t *testing.T, dir string) {
	t.Helper()
	for i := range 40 {
		write(t, filepath.Join(dir, fmt.Sprintf("src/d%d/f%d.go", i%5, i)), 100+i*997, uint64(i))
	}
	write(t, filepath.Join(dir, "big"), 10<<20+12345, 1000)
	write(t, filepath.Join(dir, "whole"), proto.MaxPayload, 1001)
	write(t, filepath.Join(dir, "empty"), 0, 0)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "hollow/dir"), 0o755))
	require.NoError(t, os.Symlink("../nowhere", filepath.Join(dir, "src/link")))
	require.NoError(t, os.Link(filepath.Join(dir, "src/d1/f1.go"), filepath.Join(dir, "twin")))
	write(t, filepath.Join(dir, "odd\nname\xff"), 10, 3)
	f, err := os.Create(filepath.Join(dir, "sparse"))
	require.NoError(t, err)
	_, err = f.WriteAt(content(1<<20, 7), 9<<20)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(16<<20))
	require.NoError(t, f.Close())
}

// replica copies a tree as an application would: same content, other times.
func replica(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	links := map[uint64]string{}
	require.NoError(t, filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(from, p)
		if err != nil || rel == "." {
			return err
		}
		dst := filepath.Join(to, rel)
		switch {
		case e.IsDir():
			return os.Mkdir(dst, 0o755)
		case e.Type()&fs.ModeSymlink != 0:
			text, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return os.Symlink(text, dst)
		}
		var st unix.Stat_t
		if err := unix.Stat(p, &st); err != nil {
			return err
		}
		if first, ok := links[st.Ino]; ok && st.Nlink > 1 {
			return os.Link(first, dst)
		}
		links[st.Ino] = dst
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if err := os.WriteFile(dst, b, 0o644); err != nil {
			return err
		}
		return os.Chtimes(dst, time.Time{}, time.Unix(1e9+rand.Int64N(1e6), 0))
	}))
	return to
}

// busFor returns a bus for a node, as DialBus of Deps.
func busFor(m *bus.Memory) func([]string, string) (bus.Bus, error) {
	return func([]string, string) (bus.Bus, error) { return m.Peer(), nil }
}
