package e2e

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/faultfs"
	"forebay/proto"
)

// eager is a site whose links copy each delete at once: what would be a wrong delete is one.
func eager() spec {
	sp := three("delete: {propagate: true, grace: 1s, guard: {share: 100%, objects: 1000000}}")
	sp.suspicion = "2s"
	for i := range sp.nodes {
		sp.nodes[i].scan = "1s"
	}
	return sp
}

// copyTree copies a tree with cp and some flags.
func copyTree(t *testing.T, flags, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", flags, from, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// empty removes what is in a directory.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
}

// nothingGone requires that no link has deleted anything, and that no version but those before is known.
func (s *site) nothingGone(before proto.Status) {
	s.t.Helper()
	after := s.status()
	for i, l := range after.Links {
		assert.Equal(s.t, before.Links[i].ConfirmedObjects, l.ConfirmedObjects, "link %s: nothing is flushed and nothing deleted", l.Name)
		assert.Zero(s.t, l.BacklogObjects, l.Name)
		assert.Zero(s.t, l.HeldDeletes, l.Name)
	}
	assert.Equal(s.t, before.Datasets[0].Head, after.Datasets[0].Head, "no version of anything")
	assert.Equal(s.t, before.Datasets[0].Objects, after.Datasets[0].Objects)
}

// One holder loses a directory, then all that it has, in each way in which disks go: nothing is deleted, the others have it,
// and it is a holder again once it has its content back.
func TestOneHolderLosesItsDisk(t *testing.T) {
	t.Parallel()
	needsDisks(t)
	s := newSite(t, eager())
	s.small(s.root("c", "media"), 200<<20, 0)
	s.fill("media", first, s.order...)
	s.startRelay()
	s.startNodes(s.order...)
	s.intact()
	root, aside := s.root("c", "media"), s.path("aside")
	before := s.status()

	require.NoError(t, os.RemoveAll(filepath.Join(root, "dir")))
	require.NoError(t, os.Remove(filepath.Join(root, "large")))
	s.until("what c has lost to be listed", func() bool { return s.dataset("primary/media").UnderHeld >= 62 })
	s.nothingGone(before)
	copyTree(t, "-a", s.root("a", "media")+"/.", root)
	s.until("c to have it again", func() bool { return s.dataset("primary/media").UnderHeld == 0 })
	s.settle("media-nas", "media-vault")
	s.nothingGone(before)

	// The disk is gone from under its mount point: an empty directory.
	copyTree(t, "-a", root, aside)
	require.NoError(t, s.disks().Unmount(root))
	s.awaitProblem("root", "primary/c")
	s.nodes["c"].agent.kill() // nor does an agent that starts without it think that all is gone
	s.startNodes("c")
	s.awaitProblem("root", "primary/c")
	s.nothingGone(before)

	// A new, empty disk is there instead, then one with something else on it.
	s.small(root, 200<<20, 0)
	s.awaitProblem("root", "primary/c")
	require.NoError(t, os.WriteFile(filepath.Join(root, "lost+found"), nil, 0o600))
	s.awaitProblem("root", "primary/c")
	s.nothingGone(before)
	// The others go on, and so does a delete that they agree on, but not before c has a say in it.
	s.fill("media", func(t *tree) { t.salt = "2"; t.text("counter", "version 2") }, "a", "b")
	s.until("version 2 to be at the target", func() bool {
		got, err := os.ReadFile(filepath.Join(s.mirror("media-nas"), "counter"))
		return err == nil && string(got) == "version 2"
	})
	for _, link := range []string{"media-nas", "media-vault"} {
		s.until("the link to be idle", func() bool { return s.link(link).BacklogObjects == 0 })
		s.sameContent(s.root("a", "media"), s.mirror(link))
	}
}

// A node is put back to what it was some days ago: its root and its agent's data, as a snapshot has them. What it has is
// old, and what was deleted since is not new.
func TestHolderRestoredFromASnapshot(t *testing.T) {
	t.Parallel()
	restoredFromASnapshot(t, "-a", true)
}

// The same with the root alone, copied without its times: everything on it seems newer than what the others have.
func TestHolderRestoredFromASnapshotWithNewTimes(t *testing.T) {
	t.Parallel()
	restoredFromASnapshot(t, "-r", false)
}

func restoredFromASnapshot(t *testing.T, flags string, index bool) {
	sp := eager()
	s := runs(t, sp, func(s *site) { s.fill("media", first, s.order...) })
	s.intact()
	n := s.nodes["c"]
	root, snapshot := s.root("c", "media"), s.path("snapshot")
	stop := func() {
		n.agent.stop()
		s.awaitState("away", "c")
	}
	stop()
	require.NoError(t, os.Mkdir(snapshot, 0o755))
	copyTree(t, "-a", root, snapshot+"/root")
	copyTree(t, "-a", n.data, snapshot+"/data")
	s.startNodes("c")
	for v := 2; v <= 3; v++ {
		history{s, s.order}.goesOn(v)
		s.intact()
	}
	before := s.status()

	stop()
	empty(t, root) // put back in place: the directory is the one that the index knows
	copyTree(t, flags, snapshot+"/root/.", root)
	if index {
		require.NoError(t, os.RemoveAll(n.data))
		copyTree(t, "-a", snapshot+"/data", n.data)
	}
	s.startNodes("c")
	s.until("what c has to be known as old", func() bool { return s.node("c").Lagging >= 22 })
	s.wait("media-nas", "confirm")
	s.wait("media-vault", "confirm")
	if index {
		s.nothingGone(before)
	}
	for _, link := range []string{"media-nas", "media-vault"} {
		s.sameContent(s.root("a", "media"), s.mirror(link)) // newer times of equal content are published
		assert.NoFileExists(t, filepath.Join(s.mirror(link), "deleted"), "nothing is resurrected")
		s.sound(link)
	}
}

// A node is put back to a copy from before some files came, with its agent's data, while the others delete them: its index can never
// report them gone. That it is older than what it had told is seen, and the deletes are carried out without an operator.
func TestDeletesOfWhatAPutBackHolderNeverKnew(t *testing.T) {
	t.Parallel()
	s := runs(t, eager(), func(s *site) { s.fill("media", first, s.order...) })
	s.intact()
	n := s.nodes["c"]
	root, copied := s.root("c", "media"), s.path("copy")
	stop := func() {
		n.agent.stop()
		s.awaitState("away", "c")
	}
	stop()
	require.NoError(t, os.Mkdir(copied, 0o755))
	copyTree(t, "-a", root, copied+"/root")
	copyTree(t, "-a", n.data, copied+"/data")
	s.startNodes("c")
	late := []string{"late", "dir/late"}
	s.fill("media", func(t *tree) {
		for _, p := range late {
			t.text(p, "late")
		}
	}, s.order...)
	s.settle("media-nas", "media-vault")

	stop()
	for _, name := range []string{"a", "b"} {
		for _, p := range late {
			require.NoError(t, os.Remove(filepath.Join(s.root(name, "media"), p)))
		}
	}
	empty(t, root)
	copyTree(t, "-a", copied+"/root/.", root)
	require.NoError(t, os.RemoveAll(n.data))
	copyTree(t, "-a", copied+"/data", n.data)
	s.startNodes("c")
	s.settle("media-nas", "media-vault")
	for _, link := range []string{"media-nas", "media-vault"} {
		for _, p := range late {
			assert.NoFileExists(t, filepath.Join(s.mirror(link), p))
		}
		s.sameContent(s.root("a", "media"), s.mirror(link))
		s.sound(link)
	}
	assert.Zero(t, s.dataset("primary/media").UnderHeld)
	assert.NotEmpty(t, s.events("index-put-back"), "it is told")
}

// A holder of a part, on which something can never be read and whose next scan is an hour away, holds no delete of what it never had up
// for long: after a minute it is asked to look. Nor does it after the relay was started anew.
func TestPartialHolderWithABadDiskIsAskedToLook(t *testing.T) {
	t.Parallel()
	needsFaults(t)
	sp := eager()
	sp.nodes[2].faulty, sp.nodes[2].scan = true, "1h"
	s := newSite(t, sp)
	s.fill("media", func(t *tree) {
		t.dir("dir", 0o755)
		for _, p := range []string{"bad", "gone", "dir/gone", "stays"} {
			t.file(p, 10_000)
		}
	}, "a", "b")
	s.fill("media", func(t *tree) { t.file("bad", 10_000) }, "c")
	s.nodes["c"].disk.Set(faultfs.Rule{Path: "bad", P: 1, Err: syscall.EIO})
	s.startRelay()
	s.startNodes(s.order...)
	s.until("what c cannot read to be listed", func() bool { return s.node("c").Unreadable == 1 })
	s.until("all to be confirmed", func() bool { l := s.link("media-nas"); return l.ConfirmedObjects >= 5 && l.BacklogObjects == 0 })
	s.relay.stop()
	s.startRelay()
	s.awaitState("alive", s.order...)
	for _, n := range []string{"a", "b"} {
		for _, p := range []string{"gone", "dir/gone"} {
			require.NoError(t, os.Remove(filepath.Join(s.root(n, "media"), p)))
		}
	}
	s.resting("the deletes to wait for c", func() bool { return s.dataset("primary/media").UnderHeld == 2 })
	s.resting("the deletes to be carried out", func() bool {
		_, err := os.Lstat(filepath.Join(s.mirror("media-nas"), "dir/gone"))
		return errors.Is(err, fs.ErrNotExist) && s.dataset("primary/media").UnderHeld == 0
	})
	assert.NoFileExists(t, filepath.Join(s.mirror("media-nas"), "gone"))
	assert.FileExists(t, filepath.Join(s.mirror("media-nas"), "stays"))
	assert.FileExists(t, filepath.Join(s.mirror("media-nas"), "bad"))
}

// The relay's data directory is put back from an old copy while its stores went on: it must not take what it does not know
// of for nothing, puts no target back to an older version, and says so.
func TestLedgerRestoredFromAnOldCopy(t *testing.T) {
	t.Parallel()
	s := runs(t, eager(), func(s *site) { s.fill("media", first, s.order...) })
	s.intact()
	s.does("pause", "media-nas")
	s.does("pause", "media-vault")
	history{s, s.order}.goesOn(1) // both links owe this in the copy
	s.acknowledged("media-vault")
	s.relay.stop()
	copyTree(t, "-a", s.path("relay"), s.path("old"))
	s.startRelay()
	s.awaitState("alive", s.order...)
	s.does("resume", "media-vault")
	history{s, s.order}.goesOn(2)
	s.settle("media-vault")
	s.equal(s.root("a", "media"), "media-vault")
	s.acknowledged("media-nas")
	s.relay.stop()
	require.NoError(t, os.RemoveAll(s.path("relay")))
	copyTree(t, "-a", s.path("old"), s.path("relay"))
	s.startRelay()
	p := s.awaitProblem("ledger-outdated", "")
	assert.Equal(t, proto.Red, p.Health)
	s.awaitState("alive", s.order...)
	s.does("resume", "media-vault")
	out, code := s.forebay("flush", "media-vault", "--ignore-window")
	assert.Equal(t, 1, code, out)
	assert.Contains(t, out, "ledger-outdated")
	s.until("the link to wait", func() bool {
		l := s.link("media-vault")
		return l.State == "waiting" && l.BacklogObjects > 0
	})
	s.equal(s.root("a", "media"), "media-vault")

	s.relay.stop()
	require.NoError(t, os.Rename(s.path("relay", "ledger"), s.path("moved")))
	s.does("relay", "--recover-ledger", "--config", s.path("relay.yaml"))
	s.startRelay()
	s.awaitState("alive", s.order...)
	for _, link := range []string{"media-nas", "media-vault"} {
		s.does("resume", link)
		s.settle(link)
		s.equal(s.root("b", "media"), link)
		s.sound(link)
	}
}
