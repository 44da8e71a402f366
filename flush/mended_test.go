package flush_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/verify"
	"forebay/proto"
)

// rot turns a bit in the middle of each file of the journal in a target whose name has a part.
func rot(t *testing.T, root, part string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, proto.ReservedName, "journal", "*", "*"+part+"*"))
	require.NoError(t, err)
	n := 0
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		if len(b) == 0 || strings.Contains(filepath.Base(f), "-0-last") {
			continue
		}
		b[len(b)/2] ^= 4
		require.NoError(t, os.WriteFile(f, b, 0o600))
		n++
	}
	require.NotZero(t, n, "no %s", part)
}

// A damaged file of the journal is written anew, and what it no longer names comes to the target again: when the link meets the damage,
// and when an operator has it looked for.
func TestDamagedJournalIsMended(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		keep, part string
		by         string // whom it is met by
	}{
		"where the past is kept": {keep: "1d", part: "done-", by: "a batch"},
		"of the past":            {keep: "1d", part: "past-", by: "who counts what is kept"},
		"all that there is":      {part: "done-", by: "an operator"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			settings := append([]string{}, keeping...)
			if c.keep != "" {
				settings = append(settings, "history.keep="+c.keep)
			}
			a := w.link("a", "media", settings...)
			w.keepsAll("media")
			w.put("media", file("f", "1"), file("g", "1"), file("d/h", "1"), file("gone", "1"))
			w.start()
			w.drained("a")
			w.put("media", file("f", "2"))
			w.put("media", deleted("gone"))
			w.drained("a")
			w.kill()
			rot(t, a, c.part)
			w.start()
			switch c.by {
			case "an operator":
				repairs := 0
				require.NoError(t, w.engine.Verify(t.Context(), "a", false, true, func(l proto.VerifyLine) error {
					if l.Problem == "journal" {
						repairs++
						assert.Contains(t, l.Repair, "writes it anew")
					}
					return nil
				}))
				assert.NotZero(t, repairs)
			case "a batch":
				w.put("media", file("f", "3"))
			}
			w.passing(time.Minute, func() bool { return w.happened(flush.JournalMended) > 0 }, "it is mended")
			w.passing(time.Minute, func() bool { return w.owed("a") == 0 }, "all is sent")
			want := map[string]string{"f": "2", "g": "1", "d": "dir", "d/h": "1"}
			if c.by == "a batch" {
				want["f"] = "3"
			}
			assert.Equal(t, want, tree(t, a))
			require.NoError(t, w.engine.Verify(t.Context(), "a", true, true, func(l proto.VerifyLine) error {
				assert.NotEqual(t, "journal", l.Problem, "%+v", l)
				return nil
			}))
			w.verified("a")
			w.put("media", file("after", "1"))
			w.drained("a")
			assert.Equal(t, 1, w.happened(flush.JournalMended))
		})
	}
}

// A kept content that only a damaged file of the journal may have named is no stray: it may be the only copy.
func TestWhatADamagedJournalMayNameIsNoStray(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.keepingLink("30d")
	w.put("media", file("f", "1"), file("g", "1"))
	w.start()
	w.drained("a")
	w.put("media", file("f", "2"), file("g", "2"))
	w.drained("a")
	w.kill()
	tgt, err := dir.Open(dir.Config{Path: root}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tgt.Close()) })
	kept := func() (found []verify.Kind) {
		key := target.PrefixKey("")
		j, err := journal.Open(t.Context(), tgt.Records(), key)
		require.NoError(t, err)
		report, err := verify.Kept(t.Context(), tgt, j, key, verify.Options{Deep: true}, func(d verify.Difference) error {
			found = append(found, d.Kind)
			return nil
		})
		require.NoError(t, err)
		require.EqualValues(t, 2, report.Objects)
		return found
	}
	require.Empty(t, kept())
	rot(t, root, "past-")
	require.Equal(t, []verify.Kind{verify.Journal}, kept())
}
