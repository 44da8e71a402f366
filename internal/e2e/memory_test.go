package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// group is a control group whose processes may use so much memory: of the kernel's first kind or of its second.
type group struct{ dir string }

// limited makes a group, or skips where none can be made. Make it before the site, whose processes are to end before it.
func limited(t *testing.T, bytes int64) group {
	t.Helper()
	name := fmt.Sprintf("forebay-%s-%d", t.Name(), os.Getpid())
	why := "no control group for memory here"
	for _, at := range [...]struct{ dir, limit string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		g := group{filepath.Join(at.dir, name)}
		if _, err := os.Stat(filepath.Join(at.dir, "cgroup.procs")); err != nil {
			continue
		}
		err := os.Mkdir(g.dir, 0o755)
		if err == nil {
			t.Cleanup(func() { require.NoError(t, os.Remove(g.dir)) })
			err = os.WriteFile(filepath.Join(g.dir, at.limit), []byte(fmt.Sprint(bytes)), 0o644)
		}
		if err == nil {
			return g
		}
		why = err.Error()
	}
	t.Skip(why)
	return group{}
}

// killed says how many processes of the group the kernel has ended for want of memory.
func (g group) killed(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"memory.oom_control", "memory.events"} {
		b, err := os.ReadFile(filepath.Join(g.dir, name))
		for line := range strings.Lines(string(b)) {
			if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
				return n
			}
		}
		require.True(t, err == nil || os.IsNotExist(err), "%v", err)
	}
	t.Fatal("the group does not say")
	return ""
}

// A relay whose unit or container limits its memory does all of its work within that, with more senders than it could hold segments of.
func TestLittleMemory(t *testing.T) {
	t.Parallel()
	g := limited(t, 192<<20)
	sp := spec{stores: 6, cache: "capacity: 8GiB\nscrub_rate: off"}
	for _, n := range []string{"a", "b", "c", "d"} {
		sp.nodes = append(sp.nodes, nodeSpec{name: n, datasets: []string{"data-" + n}})
		sp.links = append(sp.links, link{name: n, from: "primary/data-" + n, to: "nas-" + n})
	}
	s := newSite(t, sp)
	s.first(fmt.Sprintf("[ \"$1\" = relay ] && echo $$ >%q", filepath.Join(g.dir, "cgroup.procs")))
	for _, n := range s.order {
		s.fill("data-"+n, func(t *tree) {
			for i := range 4 {
				t.file(fmt.Sprint("large", i), 24<<20)
			}
			for i := range 300 {
				t.file(fmt.Sprint(i), int64(i)*50)
			}
		}, n)
	}
	s.startRelay()
	s.startNodes(s.order...)
	for _, n := range s.order {
		s.settle(n)
		s.equal(s.root(n, "data-"+n), n)
		s.does("verify", n, "--deep")
	}
	require.Equal(t, "0", g.killed(t))
}
