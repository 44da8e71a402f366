package verify_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/verify"
	"forebay/proto"
)

// mirror is a target with a few objects and their journal.
func mirror(t *testing.T) (root string, tgt *dir.Dir, j *journal.Journal, entries []journal.Entry) {
	t.Helper()
	root = t.TempDir()
	tgt, err := dir.Open(dir.Config{Path: root}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = tgt.Close() })
	j, err = journal.Open(t.Context(), tgt.Records(), "root")
	require.NoError(t, err)
	meta := proto.Meta{Mode: 0o644, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), MtimeNs: 1_600_000_000_000_000_007}
	var changes []target.Change
	var ids []target.StageID
	add := func(path string, d proto.Desc, c target.Change) {
		d.Meta = meta
		if d.Kind == proto.KindDir {
			d.Meta.Mode = 0o755
		}
		c.Path, c.Desc = path, d
		changes = append(changes, c)
		entries = append(entries, journal.Entry{Path: path, Version: proto.VersionID(len(entries) + 1), State: journal.StatePresent, Desc: d})
	}
	file := func(path, content string) {
		id := target.StageID("s-" + strings.ReplaceAll(path, "/", "-"))
		s, err := tgt.Stage(t.Context(), target.Content{ID: id, Size: int64(len(content))})
		require.NoError(t, err)
		_, err = s.Write([]byte(content))
		require.NoError(t, err)
		require.NoError(t, s.Close())
		ids = append(ids, id)
		add(path, proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest([]byte(content))}, target.Change{Op: target.OpPut, Stage: id})
	}
	add("d", proto.Desc{Kind: proto.KindDir}, target.Change{Op: target.OpMkdir})
	file("d-x", "d-x")
	file("d/f", "content")
	file("e/deep/f", "deep") // directories e and e/deep have no entries yet
	add("l", proto.Desc{Kind: proto.KindSymlink, LinkTo: "d/f"}, target.Change{Op: target.OpSymlink})
	file("z", "z")
	b, err := j.Begin(t.Context(), entries)
	require.NoError(t, err)
	require.NoError(t, tgt.Barrier(t.Context(), ids))
	require.NoError(t, errors.Join(tgt.Commit(t.Context(), changes)...))
	require.NoError(t, b.Done(t.Context(), entries))
	return root, tgt, j, entries
}

func differences(t *testing.T, tgt target.Target, j *journal.Journal, o verify.Options) map[string]verify.Kind {
	t.Helper()
	got := map[string]verify.Kind{}
	r, err := verify.Verify(t.Context(), tgt, j, o, func(d verify.Difference) error {
		require.NotContains(t, got, d.Path, "told twice")
		require.NotEmpty(t, d.What)
		got[d.Path] = d.Kind
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, int64(len(got)), r.Differences)
	return got
}

func TestWhatIsEqualIsEqual(t *testing.T) {
	t.Parallel()
	_, tgt, j, entries := mirror(t)
	for _, o := range []verify.Options{{}, {Deep: true}, {Path: "d"}, {Path: "e/deep/f"}, {Path: "none"}} {
		assert.Empty(t, differences(t, tgt, j, o), "%+v", o)
	}
	r, err := verify.Verify(t.Context(), tgt, j, verify.Options{Deep: true}, nil)
	require.NoError(t, err)
	assert.Equal(t, int64(len(entries)), r.Objects)
	assert.Equal(t, int64(15), r.Bytes)
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	keepTime := func(t *testing.T, p string) {
		ts := unix.NsecToTimespec(1_600_000_000_000_000_007)
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, root string)
		path   string
		kind   verify.Kind
		deep   bool
	}{
		"missing":         {func(t *testing.T, r string) { require.NoError(t, os.Remove(r+"/z")) }, "z", verify.Missing, false},
		"last extra":      {func(t *testing.T, r string) { require.NoError(t, os.WriteFile(r+"/zz", nil, 0o600)) }, "zz", verify.Extra, false},
		"extra":           {func(t *testing.T, r string) { require.NoError(t, os.WriteFile(r+"/d-a", nil, 0o600)) }, "d-a", verify.Extra, false},
		"extra directory": {func(t *testing.T, r string) { require.NoError(t, os.Mkdir(r+"/f", 0o700)) }, "f", verify.Extra, false},
		"size":            {func(t *testing.T, r string) { require.NoError(t, os.WriteFile(r+"/z", []byte("longer"), 0o600)) }, "z", verify.Size, false},
		"mode":            {func(t *testing.T, r string) { require.NoError(t, os.Chmod(r+"/z", 0o600)) }, "z", verify.Metadata, false},
		"mtime":           {func(t *testing.T, r string) { require.NoError(t, os.WriteFile(r+"/z", []byte("y"), 0o600)) }, "z", verify.Metadata, false},
		"rot": {func(t *testing.T, r string) {
			require.NoError(t, os.WriteFile(r+"/z", []byte("y"), 0o600))
			keepTime(t, r+"/z")
		}, "z", verify.Content, true},
		"kind": {func(t *testing.T, r string) {
			require.NoError(t, os.Remove(r+"/z"))
			require.NoError(t, os.Mkdir(r+"/z", 0o644))
		}, "z", verify.Other, false},
		"link": {func(t *testing.T, r string) {
			require.NoError(t, os.Remove(r+"/l"))
			require.NoError(t, os.Symlink("elsewhere", r+"/l"))
		}, "l", verify.Link, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, tgt, j, _ := mirror(t)
			c.change(t, root)
			assert.Equal(t, map[string]verify.Kind{c.path: c.kind}, differences(t, tgt, j, verify.Options{Deep: c.deep}))
			if c.deep {
				assert.Empty(t, differences(t, tgt, j, verify.Options{}), "only a deep look finds it")
			}
		})
	}
}

// brief is a target whose listing says little of each object, as that of a bucket.
type brief struct{ target.Target }

func (b brief) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	return b.Target.List(ctx, prefix, func(e target.Entry) error {
		e.Brief, e.Desc.Meta = true, proto.Meta{}
		return fn(e)
	})
}

// Of what a brief listing has, a deep look asks for each object, and reads it.
func TestDeepLookBehindABriefListing(t *testing.T) {
	t.Parallel()
	root, tgt, j, _ := mirror(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "z"), []byte("y"), 0o600))
	require.NoError(t, os.Chtimes(filepath.Join(root, "z"), time.Time{}, time.Unix(0, 1_600_000_000_000_000_007)))
	require.NoError(t, os.Chmod(filepath.Join(root, "d-x"), 0o600))
	require.Empty(t, differences(t, brief{tgt}, j, verify.Options{}))
	require.Equal(t, map[string]verify.Kind{"z": verify.Content, "d-x": verify.Metadata}, differences(t, brief{tgt}, j, verify.Options{Deep: true}))
}

// plain is a target that holds neither links nor empty directories.
type plain struct{ target.Target }

func (p plain) Probe(ctx context.Context) (target.Info, error) {
	info, err := p.Target.Probe(ctx)
	info.Carries.Symlinks, info.Carries.EmptyDirs = false, false
	return info, err
}

// What a target cannot hold is in the journal only, and not missing; a file is.
func TestWhatATargetCannotHoldIsNotMissing(t *testing.T) {
	t.Parallel()
	root, tgt, j, _ := mirror(t)
	for _, p := range []string{"l", "d/f", "d"} {
		require.NoError(t, os.Remove(filepath.Join(root, p)))
	}
	require.Equal(t, map[string]verify.Kind{"l": verify.Missing, "d/f": verify.Missing, "d": verify.Missing}, differences(t, tgt, j, verify.Options{}))
	require.Equal(t, map[string]verify.Kind{"d/f": verify.Missing}, differences(t, plain{tgt}, j, verify.Options{}))
}

func TestAnInterruptedBatchMayHaveEither(t *testing.T) {
	t.Parallel()
	root, tgt, j, entries := mirror(t)
	newer := entries[len(entries)-1]
	newer.Version += 100
	newer.Desc.Size = 6
	b, err := j.Begin(t.Context(), []journal.Entry{newer, {Path: "d-x", Version: 200, Desc: proto.Desc{Kind: proto.KindTombstone}}})
	require.NoError(t, err)
	b.Abandon()
	assert.Empty(t, differences(t, tgt, j, verify.Options{}))
	require.NoError(t, os.Remove(filepath.Join(root, "d-x")))
	assert.Empty(t, differences(t, tgt, j, verify.Options{}))
	require.NoError(t, os.WriteFile(filepath.Join(root, "z"), []byte("neither"), 0o600))
	assert.Equal(t, map[string]verify.Kind{"z": verify.Size}, differences(t, tgt, j, verify.Options{}))
}

func TestDeletedAndKept(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := mirror(t)
	b, err := j.Begin(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, b.Done(t.Context(), []journal.Entry{{Path: "z", Version: 100, State: journal.StateDeleted}, {Path: "l", Version: 101, State: journal.StateKept}}))
	assert.Equal(t, map[string]verify.Kind{"z": verify.Extra}, differences(t, tgt, j, verify.Options{}))
}

func TestDamagedJournalIsADifference(t *testing.T) {
	t.Parallel()
	root, tgt, j, _ := mirror(t)
	files, err := filepath.Glob(filepath.Join(root, ".forebay/journal/root/done-*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	b, err := os.ReadFile(files[0])
	require.NoError(t, err)
	b[len(b)-1] ^= 1
	require.NoError(t, os.WriteFile(files[0], b, 0o600))
	assert.Equal(t, map[string]verify.Kind{filepath.Base(files[0]): verify.Journal}, differences(t, tgt, j, verify.Options{}))
}

// huge is a target whose contents are read as much more than they are.
type huge struct{ target.Target }

func (huge) Open(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(zeros{}, 200<<20)), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// One large object is read for minutes: how far it is is told meanwhile.
func TestProgressWithinALargeObject(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := mirror(t)
	var seen []int64
	_, err := verify.Verify(t.Context(), huge{tgt}, j, verify.Options{Deep: true, Path: "z", Progress: func(_, bytes int64) { seen = append(seen, bytes>>20) }},
		func(verify.Difference) error { return nil })
	require.NoError(t, err)
	require.Equal(t, []int64{64, 128, 192}, seen)
}

func TestItStops(t *testing.T) {
	t.Parallel()
	root, tgt, j, _ := mirror(t)
	require.NoError(t, os.Remove(filepath.Join(root, "z")))
	enough := errors.New("enough")
	_, err := verify.Verify(t.Context(), tgt, j, verify.Options{}, func(verify.Difference) error { return enough })
	require.ErrorIs(t, err, enough)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	_, err = verify.Verify(ctx, tgt, j, verify.Options{}, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = verify.Verify(t.Context(), tgt, j, verify.Options{Path: "../x"}, nil)
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
}

// shut is a target with a directory that may not be listed.
type shut struct {
	target.Target
	dir string
}

func (s shut) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	return s.Target.List(ctx, prefix, func(e target.Entry) error {
		if strings.HasPrefix(e.Path, s.dir+"/") {
			return nil
		}
		if e.Path == s.dir {
			e.Unlisted = "not allowed"
		}
		return fn(e)
	})
}

func TestADirectoryThatMayNotBeListedIsOneDifference(t *testing.T) {
	t.Parallel()
	root, tgt, j, _ := mirror(t)
	require.Equal(t, map[string]verify.Kind{"d": verify.Unreadable}, differences(t, shut{tgt, "d"}, j, verify.Options{}))
	require.NoError(t, os.Remove(filepath.Join(root, "z")))
	require.Equal(t, map[string]verify.Kind{"d": verify.Unreadable, "z": verify.Missing}, differences(t, shut{tgt, "d"}, j, verify.Options{}))
	if os.Geteuid() == 0 {
		t.Skip("root may list everything: run as an ordinary user for the rest")
	}
	require.NoError(t, os.Chmod(filepath.Join(root, "d"), 0))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "d"), 0o755) })
	var found []string
	_, err := verify.Verify(t.Context(), tgt, j, verify.Options{}, func(d verify.Difference) error {
		found = append(found, d.Path+" "+string(d.Kind))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"d unreadable", "d metadata", "z missing"}, found)
}
