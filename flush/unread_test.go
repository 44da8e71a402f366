package flush_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/journal"
	"forebay/flush/target/dir"
)

// The target is told what nobody could read, and when that has changed; what a node that is away said last stands.
func TestTheTargetIsToldWhatNobodyCouldRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.link("a", "media")
	tgt, err := dir.Open(dir.Config{Path: root}, dir.Deps{})
	require.NoError(t, err)
	record := func() (paths []string) {
		u, err := journal.ReadUnread(t.Context(), tgt.Records(), "")
		require.NoError(t, err)
		for _, x := range u.Objects {
			paths = append(paths, string(x.Path))
		}
		return paths
	}
	say := func(u flush.Unread) {
		w.mu.Lock()
		w.unread = u
		w.mu.Unlock()
		w.wake()
	}
	object := func(node, path string) journal.UnreadObject {
		return journal.UnreadObject{Path: []byte(path), Node: node, Reason: "permission denied"}
	}
	both := []journal.UnreadObject{object("n1", "secret"), object("n2", "other\xff")}
	say(flush.Unread{Objects: both})
	w.start()
	w.wake()
	assert.Empty(t, record(), "a target that has nothing is told nothing")
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	assert.Empty(t, entries)

	w.put("media", file("f", "content"))
	w.drained("a")
	w.passing(6*time.Second, func() bool { return assert.ObjectsAreEqual([]string{"secret", "other\xff"}, record()) }, "the record is written")

	w.kill() // a restart: node n2 has not told yet
	say(flush.Unread{Objects: both[:1], Away: []string{"n2"}})
	w.start()
	file := filepath.Join(root, ".forebay/unread/root")
	before, err := os.Stat(file)
	require.NoError(t, err)
	say(flush.Unread{Away: []string{"n2"}})
	w.passing(6*time.Second, func() bool { return assert.ObjectsAreEqual([]string{"other\xff"}, record()) }, "what n1 can read now is gone")
	after, err := os.Stat(file)
	require.NoError(t, err)
	assert.NotEqual(t, before.Size(), after.Size())

	say(flush.Unread{})
	w.passing(6*time.Second, func() bool { _, err := os.Stat(file); return os.IsNotExist(err) }, "no record is left")
}
