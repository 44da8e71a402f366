package dir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/internal/faultfs"
	"forebay/internal/faultpoint"
	"forebay/internal/testfs"
	"forebay/proto"
)

const markName = target.MarkDir + "/root"

// requireNotThere checks that every call says so and that nothing is made.
func requireNotThere(t *testing.T, d *Dir) {
	t.Helper()
	ctx := t.Context()
	_, err := d.Probe(ctx)
	_, serr := d.Stage(ctx, target.Content{ID: "s", Size: 1})
	cerr := d.Commit(ctx, []target.Change{mkdirOp("d")})[0]
	for _, err := range []error{err, serr, cerr, d.Records().Put(ctx, "x", nil), d.Barrier(ctx, []target.StageID{"s"})} {
		require.Error(t, err)
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
		require.ErrorContains(t, err, "not there (unmounted?)")
	}
	entries, err := os.ReadDir(d.cfg.Path)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
		require.Empty(t, entries)
	}
}

func TestPathThatDoesNotExist(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: filepath.Join(t.TempDir(), "none")})
	requireNotThere(t, d)
	require.NoError(t, os.Mkdir(d.cfg.Path, 0o755))
	require.NoError(t, putIt(t, d, "s", "f", "f"), "it came")
}

func TestUnmountedAndBack(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	d := open(t, Config{Path: filepath.Join(top, "mnt")})
	away := filepath.Join(top, "away")
	swap := func(from, to string) { require.NoError(t, os.Rename(filepath.Join(top, from), filepath.Join(top, to))) }
	require.NoError(t, os.Mkdir(d.cfg.Path, 0o755))
	_, err := d.Probe(t.Context())
	require.NoError(t, err)
	swap("mnt", "mountpoint") // only looked at so far: what is mounted now is the target
	require.NoError(t, os.Mkdir(d.cfg.Path, 0o755))
	require.NoError(t, d.Records().Put(t.Context(), markName, []byte("mine")))
	require.NoError(t, putIt(t, d, "s", "f", "f"))

	swap("mnt", "away")
	requireNotThere(t, d)
	swap("mountpoint", "mnt")
	requireNotThere(t, d)
	swap("mnt", "mountpoint")
	swap("away", "mnt")
	require.NoError(t, putIt(t, d, "s2", "g", "g"), "it is back")

	// The same disk as another device: it has our mark.
	require.NoError(t, exec.CommandContext(t.Context(), "cp", "-a", d.cfg.Path, away).Run())
	require.NoError(t, os.RemoveAll(d.cfg.Path))
	swap("away", "mnt")
	require.NoError(t, putIt(t, d, "s3", "h", "h"))

	// Somebody else's disk.
	require.NoError(t, exec.CommandContext(t.Context(), "cp", "-a", d.cfg.Path, away).Run())
	require.NoError(t, os.WriteFile(filepath.Join(away, ".forebay", markName), []byte("yours"), 0o600))
	swap("mnt", "old")
	swap("away", "mnt")
	require.ErrorContains(t, putItErr(t, d), "not there")
}

func putItErr(t *testing.T, d *Dir) error {
	t.Helper()
	_, err := d.Stage(t.Context(), target.Content{ID: "x", Size: 1})
	return err
}

func TestTargetThatWasEmptied(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	require.NoError(t, d.Records().Put(t.Context(), markName, []byte("mine")))
	require.NoError(t, os.RemoveAll(filepath.Join(d.cfg.Path, ".forebay")))
	requireNotThere(t, d)
}

func TestExpectedMarkIsNotThere(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir(), Expect: true})
	requireNotThere(t, d)
	other := open(t, Config{Path: d.cfg.Path})
	require.NoError(t, other.Records().Put(t.Context(), markName, []byte("mine")))
	require.NoError(t, putIt(t, d, "s", "f", "f"))
}

func TestNothingIsKeptOpen(t *testing.T) {
	t.Parallel()
	mnt := t.TempDir()
	unmount := testfs.Tmpfs(t, mnt, "1m")
	d := open(t, Config{Path: mnt})
	require.NoError(t, putIt(t, d, "s", "f", "f"))
	require.NoError(t, d.Records().Put(t.Context(), markName, []byte("mine")))
	unmount() // an idle target can be unmounted
	requireNotThere(t, d)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	mnt := t.TempDir()
	testfs.Tmpfs(t, mnt, "1m")
	d := open(t, Config{Path: mnt})
	big := strings.Repeat("x", 2<<20)
	s, err := d.Stage(t.Context(), target.Content{ID: "big", Size: int64(len(big))})
	require.NoError(t, err)
	_, err = s.Write([]byte(big))
	require.Equal(t, proto.ClassOverload, proto.ClassOf(err), "%v", err)
	require.NoError(t, s.Close())
	require.Equal(t, proto.ClassOverload, proto.ClassOf(d.Records().Put(t.Context(), "r", []byte("record"+big[:1<<16]))))
	require.NoError(t, d.Unstage(t.Context(), func(target.StageID) bool { return false }))
	require.NoError(t, putIt(t, d, "small", "f", "f"), "room again, work again")
}

func TestWhatAnotherBootStagedIsCutToWhatIsDurable(t *testing.T) {
	t.Parallel()
	cfg := Config{Path: t.TempDir()}
	d := open(t, cfg)
	half := func(d *Dir, id target.StageID, sync bool) {
		s, err := d.Stage(t.Context(), target.Content{ID: id, Size: 10})
		require.NoError(t, err)
		_, err = s.Write([]byte("1234"))
		require.NoError(t, err)
		if sync {
			n, err := s.Sync()
			require.NoError(t, err)
			require.Equal(t, int64(4), n)
		}
		require.NoError(t, s.Hole(4))
		require.NoError(t, s.Close())
	}
	half(d, "synced", true)
	half(d, "not", false)
	offset := func(d *Dir, id target.StageID) int64 {
		s, err := d.Stage(t.Context(), target.Content{ID: id, Size: 10})
		require.NoError(t, err)
		defer func() { require.NoError(t, s.Close()) }()
		return s.Offset()
	}
	d = open(t, cfg)
	assert.Equal(t, int64(8), offset(d, "synced"), "the same boot: the page cache has it")
	assert.Equal(t, int64(8), offset(d, "not"))
	boot := filepath.Join(cfg.Path, ".forebay/stage/root", bootFile)
	require.NoError(t, os.WriteFile(boot, []byte("another"), 0o600))
	d = open(t, cfg)
	assert.Equal(t, int64(4), offset(d, "synced"))
	assert.Equal(t, int64(0), offset(d, "not"))
}

func TestSpoiledContentIsStagedAgain(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	stageIt(t, d, "s", "content")
	d.taint([]target.StageID{"s"})
	put := []target.Change{{Op: target.OpPut, Path: "f", Stage: "s", Desc: desc("content")}}
	require.Error(t, d.Barrier(t.Context(), []target.StageID{"s"}))
	require.Equal(t, proto.ClassTransient, proto.ClassOf(d.Commit(t.Context(), put)[0]))
	s, err := d.Stage(t.Context(), target.Content{ID: "s", Size: 7})
	require.NoError(t, err)
	require.Zero(t, s.Offset())
	require.NoError(t, s.Close())
	stageIt(t, d, "s", "content")
	require.NoError(t, d.Commit(t.Context(), put)[0])
}

// What is staged while another batch is made durable is of the same sync. What was made durable by itself before, as a stream's is, is
// not in doubt: the cache may have let go of it.
func TestFailedSyncSpoilsWhatIsStagedBesideIt(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	d.syncfs = func(int) error { return nil }
	open := func(id target.StageID, want int64) target.Stage {
		s, err := d.Stage(t.Context(), target.Content{ID: id, Size: 7})
		require.NoError(t, err)
		require.Equal(t, want, s.Offset(), id)
		return s
	}
	write := func(s target.Stage, what string) {
		_, err := s.Write([]byte(what))
		require.NoError(t, err)
	}
	for _, id := range []target.StageID{"a", "b", "stream"} {
		s := open(id, 0)
		write(s, "cont")
		if id == "stream" {
			_, err := s.Sync()
			require.NoError(t, err)
		}
		write(s, "e")
		require.NoError(t, s.Close())
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.syncfs = func(int) error {
		cancel() // nor does it help that the caller has left
		return unix.EIO
	}
	require.ErrorIs(t, d.Barrier(ctx, []target.StageID{"a"}), unix.EIO)
	d.syncfs = func(int) error { return nil }
	for id, kept := range map[target.StageID]int64{"a": 0, "b": 0, "stream": 4} {
		require.ErrorContains(t, d.Barrier(t.Context(), []target.StageID{id}), "stage it again", id)
		s := open(id, kept)
		write(s, "content"[kept:])
		require.NoError(t, s.Close())
		require.NoError(t, d.Barrier(t.Context(), []target.StageID{id}))
	}
}

// A barrier that failed is not made good by one that succeeds: the kernel reports a failed write once.
func TestFailedBarrierSpoilsAllOfIt(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	stageIt(t, d, "s", "content")
	require.Error(t, d.Barrier(t.Context(), []target.StageID{"s", "never-staged"}))
	require.Error(t, d.Barrier(t.Context(), []target.StageID{"s"}), "the second sync would succeed, and prove nothing")
	put := []target.Change{{Op: target.OpPut, Path: "f", Stage: "s", Desc: desc("content")}}
	require.Error(t, d.Commit(t.Context(), put)[0])
	stageIt(t, d, "s", "content")
	require.NoError(t, d.Barrier(t.Context(), []target.StageID{"s"}))
	require.NoError(t, d.Commit(t.Context(), put)[0])
}

// A content whose stage is gone was put in place before, or is lost: an older one of the same size is not it.
func TestAnOlderContentIsNotWhatWasToCome(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	require.NoError(t, putIt(t, d, "s1", "f", "old"))
	newer := desc("new")
	newer.Meta.MtimeNs += int64(time.Hour)
	put := func(of proto.Desc) error {
		return d.Commit(t.Context(), []target.Change{{Op: target.OpPut, Path: "f", Stage: "gone", Desc: of}})[0]
	}
	require.Equal(t, proto.ClassTransient, proto.ClassOf(put(newer)), "it is to be staged again")
	require.NoError(t, put(desc("old")), "it was carried out before")
}

// TestCommitCutShort ends a commit at each of its steps. A new process commits something else in the same directory: the
// directory has its time and mode back all the same.
func TestCommitCutShort(t *testing.T) {
	t.Parallel()
	for _, step := range []faultpoint.Point{faultpoint.DirKept, faultpoint.DirDescribed, faultpoint.DirChanged, faultpoint.DirRestored} {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			cfg := Config{Path: t.TempDir()}
			d := open(t, cfg)
			dirs := mkdirOp("d")
			dirs.Desc.Meta.Mode = 0o510
			t.Cleanup(func() { _ = os.Chmod(filepath.Join(cfg.Path, "d"), 0o700) })
			require.NoError(t, d.Commit(t.Context(), []target.Change{dirs})[0])
			stageIt(t, d, "a", "a")
			d.fault = func(s faultpoint.Point) error {
				if s == step {
					return errors.New("cut")
				}
				return nil
			}
			put := func(id target.StageID, name string) []target.Change {
				return []target.Change{{Op: target.OpPut, Path: "d/" + name, Stage: id, Desc: desc(name)}}
			}
			require.Error(t, d.Commit(t.Context(), put("a", "a"))[0])
			d = open(t, cfg)
			stageIt(t, d, "b", "b")
			require.NoError(t, d.Commit(t.Context(), put("b", "b"))[0])
			require.NoError(t, d.Commit(t.Context(), put("a", "a"))[0], "the same again")
			e, err := d.Stat(t.Context(), "d")
			require.NoError(t, err)
			assert.Equal(t, dirs.Desc.Meta.MtimeNs, e.Desc.Meta.MtimeNs)
			assert.Equal(t, uint32(0o510), e.Desc.Meta.Mode)
			assert.NoFileExists(t, filepath.Join(cfg.Path, ".forebay/stage/root", dirsFile))
		})
	}
}

func TestWithoutTheRightToChown(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	d.rights = rights{}
	info, err := d.Probe(t.Context())
	require.NoError(t, err)
	assert.False(t, info.Carries.Owner)
	assert.Contains(t, strings.Join(info.Notes, " "), "no right to chown")
	if os.Geteuid() != 0 {
		assert.Equal(t, rights{}, ownRights())
	}
}

// A mirror is read again by the user who wrote it, whatever modes its objects should have.
func TestAMirrorStaysLegible(t *testing.T) {
	t.Parallel()
	for _, legible := range []bool{true, false} {
		d := open(t, Config{Path: t.TempDir(), Legible: legible})
		d.rights = rights{}
		m := mkdirOp("d")
		m.Desc.Meta.Mode = 0o020
		stageIt(t, d, "s", "secret")
		f := target.Change{Op: target.OpPut, Path: "d/f", Stage: "s", Desc: desc("secret")}
		f.Desc.Meta.Mode = 0
		require.NoError(t, errors.Join(d.Commit(t.Context(), []target.Change{m, f})...))
		info, err := d.Probe(t.Context())
		require.NoError(t, err)
		require.Equal(t, !legible, info.Carries.Shut)
		require.Equal(t, legible, strings.Contains(strings.Join(info.Notes, " "), "modes that keep their owner out"))
		full := filepath.Join(d.cfg.Path, "d")
		st, err := os.Stat(full)
		require.NoError(t, err)
		require.NoError(t, os.Chmod(full, 0o700)) // for the look into it, and for the removal
		inside, err := os.Stat(filepath.Join(full, "f"))
		require.NoError(t, err)
		want := []fs.FileMode{0o020, 0}
		if legible {
			want = []fs.FileMode{0o520, 0o400}
		}
		require.Equal(t, want, []fs.FileMode{st.Mode().Perm(), inside.Mode().Perm()})
	}
}

func TestCaseTwins(t *testing.T) {
	t.Parallel()
	for name, root := range map[string]func(*testing.T, string) string{"ext4 that folds": testfs.FoldingExt4, "exFAT": testfs.ExFAT} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := open(t, Config{Path: root(t, "64M")})
			require.NoError(t, putIt(t, d, "a", "Readme", "one"))
			info, err := d.Probe(t.Context())
			require.NoError(t, err)
			require.True(t, info.CaseFolds)
			err = putIt(t, d, "b", "README", "two")
			require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, `"Readme"`)
			require.NoError(t, d.Commit(t.Context(), []target.Change{{Op: target.OpDelete, Path: "readme"}})[0])
			b, err := os.ReadFile(filepath.Join(d.cfg.Path, "Readme"))
			require.NoError(t, err)
			assert.Equal(t, "one", string(b))
			require.NoError(t, putIt(t, d, "c", "Readme", "three"))
		})
	}
}

// What an exFAT disk behind FUSE cannot hold is known once something of ours is on it, told, and parked object by object.
func TestExFAT(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: testfs.ExFAT(t, "64M")})
	require.NoError(t, putIt(t, d, "a", "f", "one"))
	for _, again := range []*Dir{d, open(t, d.cfg)} {
		info, err := again.Probe(t.Context())
		require.NoError(t, err)
		assert.Equal(t, target.Carries{Mtime: true, EmptyDirs: true, Coarse: true, Shut: true}, info.Carries)
		assert.True(t, info.CaseFolds)
		assert.Contains(t, strings.Join(info.Notes, "\n"), "names that differ in case only are one name here")
	}
	for _, name := range []string{"a:b", "what?", "d/new\nline", "d:/f", "\xff", strings.Repeat("n", 256)} {
		err := putIt(t, d, "b", name, "two")
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%q: %v", name, err)
	}
	link := target.Change{Op: target.OpSymlink, Path: "l", Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: "f"}}
	err := d.Commit(t.Context(), []target.Change{link})[0]
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "no symlinks")
	require.NoError(t, putIt(t, d, "c", "g", "three"))
}

// On a POSIX file system that does not tell that it is one, the specimen shows it.
func TestSpecimenOfPOSIX(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir()})
	d.hidden = true
	require.NoError(t, putIt(t, d, "a", "f", "one"))
	require.NotNil(t, d.seen)
	require.Equal(t, traitsSeen{modes: true, raw: true, exact: true, symlinks: true, hardlinks: true}, *d.seen)
	again := open(t, d.cfg)
	again.hidden = true
	require.NoError(t, putIt(t, again, "b", "g", "two"))
	require.Equal(t, d.seen, again.seen)
	// Torn by a crash before it has its first name, it is made again.
	require.NoError(t, os.Remove(filepath.Join(d.cfg.Path, ".forebay", specimenDir, specimenName)))
	third := open(t, d.cfg)
	third.hidden = true
	require.NoError(t, putIt(t, third, "c", "h", "three"))
	require.Equal(t, d.seen, third.seen)
}

// Links to one new target make its specimen at the same time.
func TestSpecimenIsMadeByMany(t *testing.T) {
	t.Parallel()
	for range 20 {
		cfg := Config{Path: t.TempDir()}
		var all sync.WaitGroup
		for i := range 4 {
			d := open(t, Config{Path: cfg.Path, Prefix: "p" + strconv.Itoa(i)})
			d.hidden = true
			all.Go(func() {
				assert.NoError(t, d.Records().Put(t.Context(), "r"+strconv.Itoa(i), nil))
				assert.Equal(t, &traitsSeen{modes: true, raw: true, exact: true, symlinks: true, hardlinks: true}, d.seen)
			})
		}
		all.Wait()
		left, err := filepath.Glob(filepath.Join(cfg.Path, ".forebay", specimenDir, tempStart+"*"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, bad := range []Config{{}, {Path: "relative"}, {Path: "/x", Prefix: "../y"}, {Path: "/x", Prefix: ".forebay"}, {Path: "/x", Prefix: "a//b"}} {
		_, err := Open(bad, Deps{})
		assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%+v", bad)
	}
}

// A class is promised only where this machine's own fsync and disk keep it.
func TestWhatFsyncStandsFor(t *testing.T) {
	t.Parallel()
	for magic, want := range map[uint32]target.ConfirmClass{
		unix.EXT4_SUPER_MAGIC: target.ConfirmReread, unix.XFS_SUPER_MAGIC: target.ConfirmReread, unix.MSDOS_SUPER_MAGIC: target.ConfirmReread,
		unix.NFS_SUPER_MAGIC: target.ConfirmSync, 0xFF534D42: target.ConfirmSync, 0xFE534D42: target.ConfirmSync, unix.FUSE_SUPER_MAGIC: target.ConfirmSync,
		unix.TMPFS_MAGIC: target.ConfirmAck,
	} {
		class, word := syncReaches(int64(magic))
		assert.Equal(t, want, class, "%#x", magic)
		assert.Equal(t, want != target.ConfirmReread, word != "", "%#x", magic)
	}
	memory, err := os.MkdirTemp("/dev/shm", "forebay-test-")
	if err != nil {
		t.Skipf("no file system in memory: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(memory)) })
	info, err := open(t, Config{Path: memory}).Probe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, target.ConfirmAck, info.Confirm)
	assert.Contains(t, strings.Join(info.Notes, "\n"), "in memory")
}

// A mark that the relay itself withdraws is not missed: the target can be marked again.
func TestMarkThatIsWithdrawn(t *testing.T) {
	t.Parallel()
	d := open(t, Config{Path: t.TempDir(), Prefix: "p"})
	mark := target.MarkDir + "/" + target.PrefixKey("p")
	for range 2 {
		require.NoError(t, target.Create(t.Context(), d.Records(), mark, []byte("mark")))
		require.NoError(t, d.Records().Remove(t.Context(), mark))
		_, err := d.Probe(t.Context())
		require.NoError(t, err)
	}
}

// A delete that could not find out whether what is there is its object is not carried out, and says so.
func TestDeleteThatCannotLook(t *testing.T) {
	t.Parallel()
	if why := faultfs.Missing(); why != "" {
		t.Skip(why)
	}
	below, at := t.TempDir(), t.TempDir()
	disk := faultfs.Mount(t, below, at, 1)
	d := open(t, Config{Path: at})
	require.NoError(t, putIt(t, d, "a", "d/f", "one"))
	gone := []target.Change{{Op: target.OpDelete, Path: "d/f"}}
	disk.Set(faultfs.Rule{Path: "d", P: 1, Err: unix.EIO, Times: 1})
	require.ErrorIs(t, d.Commit(t.Context(), gone)[0], unix.EIO)
	require.FileExists(t, filepath.Join(below, "d", "f"))
	disk.Set()
	require.NoError(t, d.Commit(t.Context(), gone)[0])
	require.NoFileExists(t, filepath.Join(below, "d", "f"))
}
