package dir

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// disk mounts an ext4 without a journal: nothing on it is durable but what was synced by name, directories too. With a
// journal, any sync would make every rename before it durable, and hide one that was forgotten.
func disk(t *testing.T) (image, at string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skipf("%v: install e2fsprogs", err)
	}
	image = filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 16<<20))
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", image).CombinedOutput()
	require.NoError(t, err, "%s", out)
	at = mountImage(t, image)
	return image, at
}

func mountImage(t *testing.T, image string) (at string) {
	t.Helper()
	at = t.TempDir()
	if out, err := exec.Command("mount", "-t", "ext4", "-o", "loop", image, at).CombinedOutput(); err != nil {
		t.Skipf("no file can be mounted here: %v: %s (needs loop devices)", err, out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", at).CombinedOutput()
		assert.NoError(t, err, "%s", out)
	})
	return at
}

// What a barrier made durable, and what a commit reported as done, is there after a power cut at that moment: contents, names
// and deletes (I10).
func TestWhatIsCommittedSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	for _, noSyncfs := range []bool{false, true} {
		t.Run(fmt.Sprintf("noSyncfs=%t", noSyncfs), func(t *testing.T) {
			t.Parallel()
			image, at := disk(t)
			d := open(t, Config{Path: at})
			d.noSyncfs = noSyncfs
			require.NoError(t, putIt(t, d, "s0", "d/gone", "to be deleted"))
			stageIt(t, d, "s1", "new")
			stageIt(t, d, "s2", "deep")
			stageIt(t, d, "s3", "top")
			staged := mountImage(t, copied(t, image))
			for id, want := range map[target.StageID]string{"s1": "new", "s2": "deep", "s3": "top"} {
				got, err := os.ReadFile(filepath.Join(staged, d.stageDir(), string(id)))
				assert.NoError(t, err)
				assert.Equal(t, want, string(got), "after the first barrier")
			}
			for i, err := range d.Commit(t.Context(), []target.Change{
				{Op: target.OpPut, Path: "d/f", Stage: "s1", Desc: desc("new")},
				{Op: target.OpPut, Path: "e/deep/f", Stage: "s2", Desc: desc("deep")},
				{Op: target.OpPut, Path: "top", Stage: "s3", Desc: desc("top")},
				{Op: target.OpDelete, Path: "d/gone"},
			}) {
				require.NoError(t, err, "change %d", i)
			}
			require.NoError(t, d.Records().Put(t.Context(), "journal/r", []byte("record")))

			after := mountImage(t, copied(t, image))
			for path, want := range map[string]string{"d/f": "new", "e/deep/f": "deep", "top": "top", ".forebay/journal/r": "record"} {
				got, err := os.ReadFile(filepath.Join(after, path))
				assert.NoError(t, err)
				assert.Equal(t, want, string(got), path)
			}
			assert.NoFileExists(t, filepath.Join(after, "d/gone"))
		})
	}
}

// Of the directories that are made because an object in them comes first, the one above them is synced too, by name, also where
// nothing else in it was changed (I1). A power cut does not show it here: ext4 syncs what is above a new directory of its own accord.
func TestDirectoryAboveThoseMadeIsSynced(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	d.noSyncfs = true
	require.NoError(t, putIt(t, d, "s0", "d/f", "there already"))
	stageIt(t, d, "s1", "new")
	put := target.Change{Op: target.OpPut, Path: "d/made/deep/f", Stage: "s1", Desc: desc("new")}
	c, err := d.begin(t.Context(), []target.Change{put})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.p.Close()) }()
	require.NoError(t, c.apply(put))
	require.Equal(t, map[string]bool{"d": true, "d/made": true, "d/made/deep": true}, c.sync)
	require.NoError(t, c.finish())
}

// copied is a disk as it is at this moment: what is in memory only is not in it.
func copied(t *testing.T, image string) string {
	t.Helper()
	from, err := os.Open(image)
	require.NoError(t, err)
	defer func() { _ = from.Close() }()
	to, err := os.Create(filepath.Join(t.TempDir(), "copy"))
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	return to.Name()
}

// What a stage says is durable is there after a power cut, and what was to come with it is cut off: the cache lets go of it on
// that word (I1).
func TestWhatAStageSaysIsDurableSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	image, at := disk(t)
	d := open(t, Config{Path: at})
	s, err := d.Stage(t.Context(), target.Content{ID: "s1", Size: 100})
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	sent := ""
	for _, part := range []string{"first ", "second ", "third"} {
		_, err = s.Write([]byte(part))
		require.NoError(t, err)
		sent += part
		n, err := s.Sync()
		require.NoError(t, err)
		require.EqualValues(t, len(sent), n)
		after := mountImage(t, copied(t, image))
		got, err := os.ReadFile(filepath.Join(after, d.stageDir(), "s1"))
		require.NoError(t, err)
		require.Equal(t, sent, string(got))
	}
}

// A hard link that becomes a copy, here because its file has as many as it can have, is like any other content: what a commit
// reported as done has its bytes after a power cut (I10).
func TestCopyInThePlaceOfAHardLinkSurvivesAPowerCut(t *testing.T) {
	t.Parallel()
	const most = 65000 // on ext4
	image, at := disk(t)
	d := open(t, Config{Path: at})
	d.noSyncfs = true // a sync of the file system would hide it
	require.NoError(t, putIt(t, d, "s0", "f", "shared"))
	crowd := filepath.Join(at, "crowd")
	require.NoError(t, os.Mkdir(crowd, 0o755))
	for i := range most - 1 {
		require.NoError(t, os.Link(filepath.Join(at, "f"), filepath.Join(crowd, fmt.Sprint(i))))
	}
	link := desc("shared")
	link.Kind, link.LinkTo = proto.KindHardlink, "f"
	require.NoError(t, d.Commit(t.Context(), []target.Change{{Op: target.OpLink, Path: "l", Desc: link}})[0])
	a, err := os.Stat(filepath.Join(at, "f"))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(at, "l"))
	require.NoError(t, err)
	require.False(t, os.SameFile(a, b), "it is a copy")

	got, err := os.ReadFile(filepath.Join(mountImage(t, copied(t, image)), "l"))
	require.NoError(t, err)
	require.Equal(t, "shared", string(got))
}
