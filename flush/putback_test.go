package flush_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/proto"
)

// replace puts a copy of what is below from in the place of dir, at once, as a snapshot is rolled back.
func replace(t *testing.T, dir, from string) {
	t.Helper()
	at := t.TempDir()
	cp(t, from, at)
	require.NoError(t, os.Rename(dir, filepath.Join(t.TempDir(), "was")))
	require.NoError(t, os.Rename(at, dir))
}

// cp copies what is below a directory, times and all.
func cp(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-a", from+"/.", to).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// A target that was put back to an older copy of itself is brought to what the source has, whether the relay ran meanwhile or not, and
// whatever comes back after that copy was used.
func TestTargetPutBackToAnOlderCopy(t *testing.T) {
	t.Parallel()
	for name, running := range map[string]bool{"while the link has it open": true, "while the relay is down": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			a := w.link("a", "media", "delete.propagate=true")
			b := w.link("b", "media")
			w.keepsAll("media")
			w.put("media", file("changed", "1"), file("deleted", "1"), file("stays", "1"), file("mode", "1"))
			w.start()
			w.drained("a", "b")
			old, oldB, newest := t.TempDir(), t.TempDir(), t.TempDir()
			copied := func(from, to string) { // at rest: the journal is merged after what is confirmed
				w.kill()
				cp(t, from, to)
				w.start()
			}
			copied(a, old)
			copied(b, oldB)
			w.put("media", file("changed", "2"), file("new", "1"), file("a/deep", "1"), file("z", "1"))
			w.put("media", deleted("deleted"))
			w.meta("media", obj{path: "mode", kind: file("", "").kind, content: []byte("1"), mode: 0o600})
			w.drained("a", "b")
			for i := range 20 { // each a batch
				w.put("media", file("counter", fmt.Sprint(i)))
				w.drained("a", "b")
			}
			want, wantB := tree(t, a), tree(t, b)
			require.Contains(t, wantB, "deleted")
			copied(a, newest)

			putBack := func(dir, from string) {
				n := w.happened(flush.TargetPutBack)
				if !running {
					w.kill()
				}
				replace(t, dir, from)
				if !running {
					w.start()
				}
				w.passing(time.Minute, func() bool { return w.happened(flush.TargetPutBack) > n }, "it is noticed")
				w.passing(time.Minute, func() bool { return w.owed("a") == 0 && w.owed("b") == 0 }, "all is sent")
			}
			putBack(a, old)
			assert.Equal(t, want, tree(t, a))
			info, err := os.Stat(filepath.Join(a, "mode"))
			require.NoError(t, err)
			assert.EqualValues(t, 0o600, info.Mode().Perm())
			w.verified("a")
			putBack(b, oldB)
			assert.Equal(t, wantB, tree(t, b))

			// What the older copy got since then the newer one lacks.
			w.put("media", file("since", "1"))
			w.drained("a", "b")
			putBack(a, newest)
			want["since"] = "1"
			assert.Equal(t, want, tree(t, a))
			w.verified("a")
			// And that is all: nothing is noticed where nothing was put back.
			n := w.happened(flush.TargetPutBack)
			w.kill()
			w.start()
			w.put("media", file("last", "1"))
			w.drained("a", "b")
			assert.Equal(t, n, w.happened(flush.TargetPutBack))
		})
	}
}

// The same between two batches: the next one would hide it.
func TestTargetPutBackWhileItsLinkIsBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "delete.propagate=true")
	w.keepsAll("media")
	w.put("media", file("changed", "1"), file("stays", "1"), file("deleted", "1"))
	w.start()
	w.drained("a")
	w.kill()
	old := t.TempDir()
	cp(t, a, old)
	w.start()
	w.put("media", file("changed", "2"), file("new", "1"))
	w.put("media", deleted("deleted"))
	w.drained("a")
	want := tree(t, a)
	replace(t, a, old)
	w.put("media", file("busy", "1")) // no time passes, nothing is due to be looked at
	w.drained("a")
	w.eventually(func() bool { return w.happened(flush.TargetPutBack) == 1 && w.owed("a") == 0 }, "it is noticed")
	want["busy"] = "1"
	assert.Equal(t, want, tree(t, a))
	w.verified("a")
}

// A relay that goes on running beside the one that took its target over leaves the target alone.
func TestTargetThatWasTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	mark := filepath.Join(a, proto.ReservedName, target.MarkDir, target.PrefixKey(""))
	b, err := os.ReadFile(mark)
	require.NoError(t, err)
	var o journal.Owner
	require.NoError(t, json.Unmarshal(b, &o))
	o.Rebuilt = 5
	b, err = json.Marshal(o)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(mark, b, 0o600))
	w.put("media", file("f", "2"))
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
	assert.Contains(t, w.state("a").Reason, "taken over")
	assert.Equal(t, map[string]string{"f": "1"}, tree(t, a))
	w.passing(time.Minute, func() bool { return strings.Contains(w.state("a").Reason, "was rebuilt") }, "nor when it is made ready anew")
	assert.Equal(t, map[string]string{"f": "1"}, tree(t, a))
}
