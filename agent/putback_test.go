package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/agent/agenttest"
)

// An agent whose data is put back to an older copy settles all that it has with the relay again, whatever it had told since, and once.
func TestDataThatIsPutBackIsSettledAgain(t *testing.T) {
	t.Parallel()
	for since, do := range map[string]func(dir string){
		"something is found":  func(dir string) { write(t, filepath.Join(dir, "y"), 100, 3) },
		"something changes":   func(dir string) { write(t, filepath.Join(dir, "w"), 200, 4) },
		"something goes away": func(dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "w"))) },
	} {
		t.Run(since, func(t *testing.T) {
			t.Parallel()
			r := (&agenttest.Relay{Wanted: true}).Start(t)
			count := func() (back, renewed int) {
				r.Look("media", func(_ *agenttest.Dataset, s *agenttest.Stats) { back, renewed = s.PutBack, s.Renewed["x"] })
				return back, renewed
			}
			dir := t.TempDir()
			write(t, filepath.Join(dir, "x"), 100, 1)
			write(t, filepath.Join(dir, "w"), 100, 2)
			n := node(t, r, "a", nil, dir)
			settled(t, r, dir, n)
			n.stop()
			old := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(old, os.DirFS(n.cfg.DataDir)))

			n = n.again(t)
			do(dir)
			settled(t, r, dir, n)
			n = n.again(t)
			settled(t, r, dir, n)
			back, renewed := count()
			require.Zero(t, back, "a restart is nothing of that kind")
			require.Zero(t, renewed)

			n.stop()
			n.cfg.DataDir = old
			n = n.again(t)
			eventually(t, func() bool { _, renewed = count(); return renewed > 0 }, "x is told again, although nothing happened to it")
			settled(t, r, dir, n)
			n = n.again(t)
			settled(t, r, dir, n)
			back, renewed = count()
			assert.Equal(t, 1, back)
			assert.Equal(t, 1, renewed)
		})
	}
}
