package flush_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/proto"
)

// oracle is what a dataset has, as the tests know it.
type oracle struct {
	w     *world
	rng   *rand.Rand
	tree  map[string]obj
	count int
}

func (o *oracle) name() string {
	dirs := []string{"", "a/", "b/", "a/c/"}
	return dirs[o.rng.IntN(len(dirs))] + string(rune('p'+o.rng.IntN(4)))
}

func (o *oracle) put(x obj) {
	o.w.put("media", x)
	if x.kind == proto.KindTombstone {
		delete(o.tree, x.path)
		return
	}
	o.tree[x.path] = x
}

// parents makes the directories above a path.
func (o *oracle) parents(path string) {
	for i := range path {
		if path[i] == '/' && o.tree[path[:i]].kind != proto.KindDir {
			o.put(folder(path[:i]))
		}
	}
}

func (o *oracle) below(dir string) (paths []string) {
	for p := range o.tree {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}

// leads reports whether a hard link shares a path's file: its metadata would change with it.
func (o *oracle) leads(path string) bool {
	for _, x := range o.tree {
		if x.kind == proto.KindHardlink && x.linkTo == path {
			return true
		}
	}
	return false
}

// change makes one change of any kind.
func (o *oracle) change() {
	o.count++
	path, content := o.name(), fmt.Sprintf("content %d", o.count)
	switch was, there := o.tree[path]; o.rng.IntN(8) {
	case 0: // gone
		if there {
			o.put(deleted(path))
		}
	case 1: // other metadata
		if there && was.kind == proto.KindFile && !o.leads(path) {
			was.mode = 0o600 + (was.mode+1)%64
			o.w.meta("media", was)
			o.tree[path] = was
		}
	case 2:
		o.parents(path)
		o.put(symlink(path, content))
	case 3: // a second name of a file
		for p, x := range o.tree {
			if x.kind == proto.KindFile && p != path && string(was.content) != string(x.content) {
				o.parents(path)
				l := hardlink(path, p, string(x.content))
				l.mode = x.mode // of one inode
				o.put(l)
				break
			}
		}
	case 4: // a directory gets another name
		from, to := []string{"a", "b", "a/c"}[o.rng.IntN(3)], fmt.Sprintf("r%d", o.rng.IntN(3))
		paths := o.below(from)
		if len(paths) == 0 || len(o.below(to)) > 0 {
			return
		}
		for _, p := range paths {
			x := o.tree[p]
			x.path = to + strings.TrimPrefix(p, from)
			if x.kind == proto.KindHardlink { // its leader may go first
				x.kind, x.linkTo = proto.KindFile, ""
			}
			o.put(x)
		}
		for _, p := range slices.Backward(paths) {
			o.put(deleted(p))
		}
	default:
		o.parents(path)
		o.put(file(path, content))
	}
	// A link whose leader is another content by now is a file of its own, as holders then tell.
	for _, p := range slices.Sorted(maps.Keys(o.tree)) {
		x := o.tree[p]
		if x.kind != proto.KindHardlink {
			continue
		}
		if l := o.tree[x.linkTo]; l.kind != proto.KindFile || string(l.content) != string(x.content) {
			o.put(file(p, string(x.content)))
		}
	}
}

// shape is the tree as the helper tree shows it, with the modes of files.
func (o *oracle) shape() map[string]string {
	out := map[string]string{}
	for p, x := range o.tree {
		switch x.kind {
		case proto.KindDir:
			out[p] = "dir"
		case proto.KindSymlink:
			out[p] = "-> " + x.linkTo
		default:
			out[p] = string(x.content)
		}
	}
	return out
}

func (o *oracle) modes() map[string]os.FileMode {
	out := map[string]os.FileMode{}
	for p, x := range o.tree {
		if x.kind == proto.KindFile && x.mode != 0 {
			out[p] = os.FileMode(x.mode)
		}
	}
	return out
}

// Whatever is changed, and wherever the engine is killed meanwhile: the tree of each moment at which all of it had reached the target
// comes back as it was then.
func TestTreeOfEachMoment(t *testing.T) {
	t.Parallel()
	for range 6 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			treeOfEachMoment(t, seed)
		})
	}
}

func treeOfEachMoment(t *testing.T, seed uint64) {
	w := newWorld(t)
	w.cfg.Workers = 1
	root := w.keepingLink("30d")
	w.start()
	w.put("media", folder("a"))
	w.drained("a")
	o := &oracle{w: w, rng: rand.New(rand.NewPCG(seed, 1)), tree: map[string]obj{"a": folder("a")}}
	type moment struct {
		at    time.Time
		shape map[string]string
		modes map[string]os.FileMode
	}
	var moments []moment
	note := func() {
		w.drained("a")
		moments = append(moments, moment{w.moment(), o.shape(), o.modes()})
	}
	note()
	for round := range 14 {
		w.clock.advance(time.Second)
		w.kill()
		b := &bomb{left: 1 + o.rng.IntN(30), after: o.rng.IntN(2) == 0, blown: make(chan struct{})}
		for range 1 + o.rng.IntN(8) {
			o.change()
		}
		if round%2 == 1 {
			w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return fused{t, b} }
			w.door = func(l flush.Ledger) flush.Ledger { return fusedLedger{l, b} }
			w.start()
			w.eventually(func() bool {
				select {
				case <-b.blown:
					return true
				default:
					return w.owed("a") == 0 && w.state("a").State == flush.StateIdle
				}
			}, "round %d: killed, or done", round)
			w.kill()
			w.wrap, w.door = nil, nil
		}
		if round%3 == 2 { // superseded before it was done
			for range 3 {
				o.change()
			}
		}
		w.start()
		note()
	}
	w.verified("a")
	w.kill()
	require.Equal(t, o.shape(), tree(t, root), "now")
	for i, m := range moments {
		to, report, err := w.restoreAt(root, m.at)
		require.NoError(t, err)
		require.True(t, report.Complete(), "moment %d: %+v", i, report)
		require.Equal(t, m.shape, tree(t, to), "moment %d", i)
		for p, mode := range m.modes {
			st, err := os.Stat(filepath.Join(to, p))
			require.NoError(t, err)
			require.Equal(t, mode, st.Mode().Perm(), "mode of %s at moment %d", p, i)
		}
	}
}
