package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
	"forebay/agent/index"
	"forebay/proto"
)

// A root is another directory from now on, with a part of what was there: that is refused until somebody says so, who says it of that
// root alone, and then what it lacks is not told as gone.
func TestIndexOfOneRootIsForgotten(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	one, two := filepath.Join(t.TempDir(), "one"), t.TempDir()
	require.NoError(t, os.Mkdir(one, 0o755))
	for _, name := range []string{"x", "y"} {
		write(t, filepath.Join(one, name), 100, 1)
		write(t, filepath.Join(two, name), 100, 1)
	}
	n := node(t, r, "a", nil, one, two)
	settled(t, r, one, n)
	ids := func() []string { return []string{n.roots[0].ix.ID(), n.roots[1].ix.ID()} }
	before := ids()
	require.Equal(t, proto.ClassConflict, proto.ClassOf(ForgetIndex(n.cfg, one)), "while it runs")
	n.stop()
	require.NoError(t, os.Rename(one, one+".aside"))
	require.NoError(t, os.Mkdir(one, 0o755))
	write(t, filepath.Join(one, "x"), 100, 1)
	n = n.again(t)
	eventually(t, func() bool { return n.roots[0].Problem() != "" }, "refused")
	assert.Contains(t, n.roots[0].Problem(), "forebay agent --forget-index "+one)
	assert.Equal(t, before, ids())
	n.stop()

	require.ErrorContains(t, ForgetIndex(n.cfg, two+"/other"), one)
	require.NoError(t, ForgetIndex(n.cfg, one+"/"))
	require.ErrorContains(t, ForgetIndex(n.cfg, one), "has nothing of")
	n = n.again(t)
	settled(t, r, two, n)
	assert.NotEqual(t, before[0], ids()[0])
	assert.Equal(t, before[1], ids()[1])
	assert.Empty(t, n.roots[0].Problem())
	gone, err := n.roots[0].ix.InState(index.StateGone, "", 0)
	require.NoError(t, err)
	assert.Empty(t, gone)
}

// Which relay an index belongs to is noted only once all is forgotten that another one knew: an agent that ends before that forgets it at
// its next start (I1).
func TestRelayIsNotedOnceTheOneBeforeIsForgotten(t *testing.T) {
	t.Parallel()
	r := (&agenttest.Relay{Wanted: true}).Start(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x"), 100, 1)
	n := node(t, r, "a", nil, dir)
	settled(t, r, dir, n)
	n.stop()
	ends, err := New(n.cfg, n.deps)
	require.NoError(t, err)
	require.NoError(t, ends.Close())
	require.Error(t, ends.belong(proto.RelayID(77), 0), "the index takes nothing any more")

	next, err := New(n.cfg, n.deps)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, next.Close()) })
	known, err := next.roots[0].ix.InState(index.StateSettled, "", 0)
	require.NoError(t, err)
	require.NotEmpty(t, known)
	require.NoError(t, next.belong(proto.RelayID(77), 0))
	known, err = next.roots[0].ix.InState(index.StateSettled, "", 0)
	require.NoError(t, err)
	assert.Empty(t, known)
}
