package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/testfs"
)

// A node's disk is an XFS, whose statfs id is its device's number. A start of the machine that gives it another one changes nothing:
// what is new there comes, and what is gone everywhere goes. A new file system with some of a copy on it, which has the same inode at its
// root, is not taken for the dataset: nothing is deleted, until somebody does what the problem says, and then neither.
func TestDiskThatGetsAnotherNumber(t *testing.T) {
	t.Parallel()
	sp := eager()
	sp.nodes = sp.nodes[:2]
	s := newSite(t, sp)
	root := s.root("b", "media")
	disk := testfs.NewXFS(t, root)
	s.own(root)
	s.fill("media", first, s.order...)
	s.startRelay()
	s.startNodes(s.order...)
	s.intact()
	before := s.status()
	tells := func(what string) { // by b, since it was started
		s.until("b to tell "+what, func() bool {
			p := s.nodes["b"].agent
			text, err := os.ReadFile(p.log)
			require.NoError(t, err)
			return strings.Contains(string(text[p.from:]), what)
		})
	}

	s.nodes["b"].agent.stop()
	disk.Unmount()
	disk.Mount()
	s.startNodes("b")
	tells("another device number")
	tells(`"scanned"`)
	require.Nil(t, s.problem("root", ""))
	s.nothingGone(before)
	for _, n := range s.order {
		require.NoError(t, os.Remove(filepath.Join(s.root(n, "media"), "large")))
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, "new on b"), []byte("new"), 0o644))
	s.until("what is gone to be gone", func() bool {
		_, err := os.Lstat(filepath.Join(s.mirror("media-nas"), "large"))
		return os.IsNotExist(err)
	})
	s.until("what is new to come", func() bool {
		_, err := os.Lstat(filepath.Join(s.mirror("media-nas"), "new on b"))
		return err == nil
	})
	s.settle("media-nas", "media-vault")
	before = s.status()

	s.nodes["b"].agent.stop()
	disk.Unmount()
	disk.Remake()
	disk.Mount()
	copyTree(t, "-a", s.root("a", "media")+"/dir", root)
	s.startNodes("b")
	p := s.awaitProblem("root", "exchanged")
	assert.Contains(t, p.What, fmt.Sprintf("\"forebay agent --forget-index %s\"", root))
	s.nothingGone(before)

	s.nodes["b"].agent.stop()
	s.does("agent", "--forget-index", root, "--config", s.nodes["b"].config)
	s.startNodes("b")
	s.until("the problem to go", func() bool { return s.problem("root", "") == nil })
	s.settle("media-nas", "media-vault")
	s.nothingGone(before)
}
