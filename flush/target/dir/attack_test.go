package dir

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/internal/testfs"
	"forebay/proto"
)

func desc(content string) proto.Desc {
	return proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest([]byte(content)),
		Meta: proto.Meta{Mode: 0o640, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), MtimeNs: 1_600_000_000_000_000_001}}
}

// stageIt stages content under id, durable.
func stageIt(t *testing.T, d *Dir, id target.StageID, content string) {
	t.Helper()
	s, err := d.Stage(t.Context(), target.Content{ID: id, Size: int64(len(content))})
	require.NoError(t, err)
	_, err = s.Write([]byte(content)[s.Offset():])
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, d.Barrier(t.Context(), []target.StageID{id}))
}

func putIt(t *testing.T, d *Dir, id target.StageID, path, content string) error {
	t.Helper()
	stageIt(t, d, id, content)
	return d.Commit(t.Context(), []target.Change{{Op: target.OpPut, Path: path, Stage: id, Desc: desc(content)}})[0]
}

func mkdirOp(path string) target.Change {
	m := desc("").Meta
	m.Mode = 0o755
	return target.Change{Op: target.OpMkdir, Path: path, Desc: proto.Desc{Kind: proto.KindDir, Meta: m}}
}

// prison is a target beside a folder that nothing may reach.
func prison(t *testing.T) (d *Dir, root, outside string) {
	t.Helper()
	top := t.TempDir()
	root, outside = filepath.Join(top, "root"), filepath.Join(top, "outside")
	require.NoError(t, os.Mkdir(root, 0o755))
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	return open(t, Config{Path: root, Prefix: "mirror"}), root, outside
}

func requireUntouched(t *testing.T, outside string) {
	t.Helper()
	entries, err := os.ReadDir(outside)
	require.NoError(t, err)
	require.Len(t, entries, 1, "something was written outside")
	b, err := os.ReadFile(filepath.Join(outside, "secret"))
	require.NoError(t, err)
	require.Equal(t, "secret", string(b))
	st, err := os.Stat(filepath.Join(outside, "secret"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
}

// everything does one of each to a path and to what is below it; errors are allowed, reaching out is not.
func everything(t *testing.T, d *Dir, path string) {
	t.Helper()
	ctx := t.Context()
	link := desc("secret")
	link.Kind, link.LinkTo = proto.KindHardlink, path+"/secret"
	for _, p := range []string{path + "/secret", path + "/new", path + "/sub/new"} {
		_ = d.Commit(ctx, []target.Change{
			{Op: target.OpPut, Path: p, Stage: "none", Desc: desc("x")}, mkdirOp(p + "d"),
			{Op: target.OpSymlink, Path: p + "l", Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: "x"}},
			{Op: target.OpMeta, Path: p, Desc: desc("secret")}, {Op: target.OpDelete, Path: p}, {Op: target.OpLink, Path: "got", Desc: link},
		})
		if s, err := d.Stage(ctx, target.Content{ID: "s", Size: 1}); err == nil {
			_, _ = s.Write([]byte("x"))
			_ = s.Close()
			_ = d.Barrier(ctx, []target.StageID{"s"})
			assert.Error(t, d.Commit(ctx, []target.Change{{Op: target.OpPut, Path: p, Stage: "s", Desc: desc("x")}})[0])
		}
		_, err := d.Open(ctx, p)
		assert.Error(t, err)
		_, err = d.Stat(ctx, p)
		assert.Error(t, err)
	}
	_ = d.Commit(ctx, []target.Change{{Op: target.OpMeta, Path: path, Desc: desc("secret")}})
	_, err := d.Open(ctx, path)
	assert.Error(t, err)
	_, err = d.Open(ctx, "got")
	assert.Error(t, err, "what lies outside was linked into the mirror")
	assert.NoError(t, d.List(ctx, path, func(e target.Entry) error {
		assert.Equal(t, path, e.Path, "a link was followed")
		return nil
	}))
}

func TestLinksInTheMirrorLeadNowhere(t *testing.T) {
	t.Parallel()
	for name, to := range map[string]func(outside string) string{
		"absolute": func(o string) string { return o },
		"upwards":  func(string) string { return "../../outside" },
		"a file":   func(o string) string { return filepath.Join(o, "secret") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, root, outside := prison(t)
			require.NoError(t, putIt(t, d, "a", "here", "here"))
			require.NoError(t, os.Symlink(to(outside), filepath.Join(root, "mirror/evil")))
			everything(t, d, "evil")
			requireUntouched(t, outside)
			require.NoError(t, putIt(t, d, "b", "evil", "a file in the place of the link"))
			requireUntouched(t, outside)
		})
	}
}

func TestLinksInThePlaceOfOurOwnFolders(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{".forebay", ".forebay/stage", ".forebay/stage/" + target.PrefixKey("mirror"), ".forebay/target", ".forebay/journal", "mirror", "mirror/dir"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			d, root, outside := prison(t)
			require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, victim)), 0o755))
			require.NoError(t, os.Symlink(outside, filepath.Join(root, victim)))
			ctx := t.Context()
			for _, fresh := range []*Dir{d, open(t, d.cfg)} {
				if s, err := fresh.Stage(ctx, target.Content{ID: "s", Size: 1}); err == nil {
					_, _ = s.Write([]byte("x"))
					_, _ = s.Sync()
					_ = s.Close()
				}
				_ = fresh.Barrier(ctx, []target.StageID{"s"})
				_ = fresh.Commit(ctx, []target.Change{{Op: target.OpPut, Path: "dir/f", Stage: "s", Desc: desc("x")}, {Op: target.OpDelete, Path: "dir/secret"}, mkdirOp("dir/d")})
				for _, rec := range []string{"journal/root/x", "target/x", "secret"} {
					_ = fresh.Records().Put(ctx, rec, []byte("x"))
					_ = fresh.Records().Remove(ctx, rec)
					_, err := fresh.Records().Open(ctx, rec)
					assert.Error(t, err)
				}
				_ = fresh.Unstage(ctx, func(target.StageID) bool { return false })
				_, err := fresh.Reread(ctx, "secret")
				assert.Error(t, err)
				_, _ = fresh.Probe(ctx)
			}
			requireUntouched(t, outside)
		})
	}
}

func TestStagedContentExchangedForALink(t *testing.T) {
	t.Parallel()
	d, root, outside := prison(t)
	stageIt(t, d, "s", "secret")
	at := filepath.Join(root, ".forebay/stage", d.key, "s")
	require.NoError(t, os.Remove(at))
	require.NoError(t, os.Symlink(filepath.Join(outside, "secret"), at))
	assert.Error(t, d.Commit(t.Context(), []target.Change{{Op: target.OpPut, Path: "p", Stage: "s", Desc: desc("secret")}})[0])
	_, err := d.Stage(t.Context(), target.Content{ID: "s", Size: 6})
	assert.Error(t, err)
	_, err = d.Reread(t.Context(), "s")
	assert.Error(t, err)
	requireUntouched(t, outside)
}

// TestParentsExchangedDuringCommits lets somebody exchange a directory of the mirror for a link to the outside, again and
// again, while commits, deletes and reads go on in it.
func TestParentsExchangedDuringCommits(t *testing.T) {
	t.Parallel()
	d, root, outside := prison(t)
	require.NoError(t, d.Commit(t.Context(), []target.Change{mkdirOp("d"), mkdirOp("d/e")})[1])
	real, aside := filepath.Join(root, "mirror/d"), filepath.Join(root, "mirror/aside")
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // ends when the commits below are over
		for {
			select {
			case <-done:
				return
			default:
			}
			if os.Rename(real, aside) == nil {
				_ = os.Symlink(outside, real)
				_ = os.Remove(real)
				_ = os.Rename(aside, real)
			}
		}
	})
	for i := range 60 {
		stageIt(t, d, "s", "x")
		link := desc("secret")
		link.Kind, link.LinkTo = proto.KindHardlink, "d/secret"
		_ = d.Commit(t.Context(), []target.Change{
			{Op: target.OpPut, Path: "d/f", Stage: "s", Desc: desc("x")}, {Op: target.OpDelete, Path: "d/secret"}, mkdirOp("d/e/g"),
			{Op: target.OpMeta, Path: "d/secret", Desc: desc("secret")}, {Op: target.OpLink, Path: "d/e/l", Desc: link},
			{Op: target.OpSymlink, Path: "d/l", Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: "x"}}, {Op: target.OpDelete, Path: "d/e/g"},
		})
		if i%10 == 0 {
			r, err := d.Open(t.Context(), "d/secret")
			if err == nil {
				_ = r.Close()
			}
			assert.Error(t, err)
		}
	}
	close(done)
	wg.Wait()
	requireUntouched(t, outside)
}

func TestOtherFileSystemsAreNotEntered(t *testing.T) {
	t.Parallel()
	d, root, _ := prison(t)
	mnt := filepath.Join(root, "mirror/mnt")
	require.NoError(t, os.MkdirAll(mnt, 0o755))
	testfs.Tmpfs(t, mnt, "1m")
	err := putIt(t, d, "s", "mnt/f", "f")
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%v", err)
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(d.Commit(t.Context(), []target.Change{{Op: target.OpDelete, Path: "mnt"}})[0]))
	assert.Error(t, putIt(t, d, "s", "mnt", "f"))
	entries, err := os.ReadDir(mnt)
	require.NoError(t, err)
	assert.Empty(t, entries)
	e, err := d.Stat(t.Context(), "mnt")
	require.NoError(t, err)
	assert.Equal(t, proto.KindNone, e.Desc.Kind)
}
