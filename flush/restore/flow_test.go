package restore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/flush/journal"
	"forebay/flush/restore"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/verify"
	"forebay/fsmeta"
	"forebay/internal/treecmp"
	"forebay/proto"
)

// plant makes a tree with every kind of object and all that one can carry.
func plant(t *testing.T, root string) {
	t.Helper()
	seed := rand.NewPCG(1, 2)
	big := make([]byte, 3<<20+17)
	for i := 0; i+8 <= len(big); i += 8 {
		binary.LittleEndian.PutUint64(big[i:], seed.Uint64())
	}
	write := func(name string, content []byte, mode os.FileMode) {
		p := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, content, 0o600))
		require.NoError(t, os.Chmod(p, mode))
	}
	write("big", big, 0o644)
	write("empty", nil, 0o600)
	write("a/f", []byte("f"), 0o444)
	write("a-b", []byte("a-b"), 0o755)
	write("a/odd\n\xff name", []byte("odd"), 0o640)
	write("ro/in", []byte("in"), 0o400)
	write("ro/deep/in", []byte("in deep"), 0o640)
	write("z/"+strings.Repeat("n", 255), []byte("long"), 0o644)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "void/void"), 0o700))
	require.NoError(t, os.Link(filepath.Join(root, "a/f"), filepath.Join(root, "z/f too")))
	require.NoError(t, os.Link(filepath.Join(root, "a/f"), filepath.Join(root, "ro/f three")))
	require.NoError(t, os.Symlink("../../etc/passwd", filepath.Join(root, "a/out")))
	require.NoError(t, os.Symlink("/dangling \xff", filepath.Join(root, "dangling")))
	sparse, err := os.Create(filepath.Join(root, "sparse"))
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(9<<20))
	_, err = sparse.WriteAt(big[:70_000], 4<<20)
	require.NoError(t, err)
	require.NoError(t, sparse.Close())
	require.NoError(t, os.Chmod(filepath.Join(root, "a/f"), 0o600)) // only who may write a file may set its attributes
	require.NoError(t, unix.Setxattr(filepath.Join(root, "a/f"), "user.forebay", []byte{0, 255}, 0))
	require.NoError(t, unix.Setxattr(filepath.Join(root, "void"), "user.forebay", []byte("dir"), 0))
	for name, attr := range map[string]string{"a/f": "system.posix_acl_access", "ro": "system.posix_acl_default"} {
		require.NoError(t, unix.Setxattr(filepath.Join(root, name), attr, acl(), 0))
	}
	require.NoError(t, os.Chmod(filepath.Join(root, "a/f"), 0o444))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Lchown(filepath.Join(root, "dangling"), 1234, 2345))
		require.NoError(t, os.Chown(filepath.Join(root, "a-b"), 1234, 2345))
		require.NoError(t, os.Chmod(filepath.Join(root, "a-b"), 0o755|fs.ModeSetuid))
	}
	var dirs []string
	require.NoError(t, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		dirs = append(dirs, p)
		return err
	}))
	for i, p := range slices.Backward(dirs) {
		ts := fsmeta.Timespec(int64(i)*1_000_000_007 - 3_000_000_001)
		require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	}
	for _, p := range []string{"ro/deep", "ro"} {
		require.NoError(t, os.Chmod(filepath.Join(root, p), 0o555))
	}
}

// acl encodes user::rw- user:1234:r-- group::r-- mask::r-- other::---.
func acl() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 6, ^uint32(0)}, {2, 4, 1234}, {4, 4, ^uint32(0)}, {16, 4, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// folder returns a temporary folder that an ordinary user can remove whatever modes are in it.
func folder(t *testing.T) string {
	t.Helper()
	d := t.TempDir()
	t.Cleanup(func() {
		_ = filepath.WalkDir(d, func(p string, e os.DirEntry, err error) error {
			if e != nil && e.IsDir() {
				_ = os.Chmod(p, 0o700)
			}
			return nil
		})
	})
	return d
}

// scan describes a tree as a dataset, in path order.
func scan(t *testing.T, root string) []journal.Entry {
	t.Helper()
	r, err := fsmeta.OpenRoot(root, fsmeta.NoXDev)
	require.NoError(t, err)
	defer func() { _ = r.Close() }()
	names := fsmeta.NewNames(10)
	var paths []string
	require.NoError(t, filepath.WalkDir(root, func(p string, _ os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, p); rel != "." {
			paths = append(paths, rel)
		}
		return err
	}))
	slices.Sort(paths)
	leaders := map[uint64]journal.Entry{}
	var out []journal.Entry
	for i, p := range paths {
		o, err := r.Read(p, names)
		require.NoError(t, err)
		e := journal.Entry{Path: p, Version: proto.VersionID(i + 1), State: journal.StatePresent, Desc: proto.Desc{Kind: o.Kind, LinkTo: o.LinkTo, Meta: o.Meta}}
		switch o.Kind {
		case proto.KindSymlink:
			e.Desc.Digest = proto.BlockDigest([]byte(o.LinkTo))
		case proto.KindFile:
			if l, ok := leaders[o.Stat.Ino]; ok && o.Stat.Nlink > 1 {
				e.Desc.Kind, e.Desc.LinkTo, e.Desc.Size, e.Desc.Digest = proto.KindHardlink, l.Path, l.Desc.Size, l.Desc.Digest
				break
			}
			b, err := os.ReadFile(filepath.Join(root, p))
			require.NoError(t, err)
			e.Desc.Size, e.Desc.Digest = int64(len(b)), proto.ContentDigest(b)
			f, err := os.Open(filepath.Join(root, p))
			require.NoError(t, err)
			e.Desc.Extents, err = fsmeta.Extents(f, e.Desc.Size)
			require.NoError(t, err)
			require.NoError(t, f.Close())
			leaders[o.Stat.Ino] = e
		}
		out = append(out, e)
	}
	return out
}

// flusher is the way of a flush, as short as it can be told: batches of a few objects, each with intent, stages, barrier,
// commit and done.
type flusher struct {
	src  string
	tgt  target.Target
	jrn  *journal.Journal
	step func(string) error // may end it anywhere
	size int
}

var errCrash = errors.New("crash")

func (f *flusher) run(ctx context.Context, entries []journal.Entry) error {
	for chunk := range slices.Chunk(entries, f.size) {
		if err := f.batch(ctx, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (f *flusher) at(s string) error {
	if f.step == nil {
		return nil
	}
	return f.step(s)
}

func (f *flusher) batch(ctx context.Context, entries []journal.Entry) error {
	b, err := f.jrn.Begin(ctx, entries)
	if err != nil {
		return err
	}
	defer b.Abandon()
	if err := f.at("intent"); err != nil {
		return err
	}
	var changes []target.Change
	var ids []target.StageID
	for _, e := range entries {
		c := target.Change{Path: e.Path, Desc: e.Desc}
		switch e.Desc.Kind {
		case proto.KindFile:
			c.Op, c.Stage = target.OpPut, target.StageID(fmt.Sprintf("v-%d", e.Version))
			ids = append(ids, c.Stage)
			if err := f.stage(ctx, c, e); err != nil {
				return err
			}
		case proto.KindDir:
			c.Op = target.OpMkdir
		case proto.KindSymlink:
			c.Op = target.OpSymlink
		case proto.KindHardlink:
			c.Op = target.OpLink
		case proto.KindNone:
			c.Op = target.OpDelete
		}
		changes = append(changes, c)
	}
	if err := f.tgt.Barrier(ctx, ids); err != nil {
		return err
	}
	if err := f.at("barrier"); err != nil {
		return err
	}
	if err := errors.Join(f.tgt.Commit(ctx, changes)...); err != nil {
		return err
	}
	if err := f.at("commit"); err != nil {
		return err
	}
	if err := b.Done(ctx, entries); err != nil {
		return err
	}
	if err := f.at("done"); err != nil {
		return err
	}
	return f.jrn.Compact(ctx, 0)
}

func (f *flusher) stage(ctx context.Context, c target.Change, e journal.Entry) (err error) {
	s, err := f.tgt.Stage(ctx, target.Content{ID: c.Stage, Size: e.Desc.Size})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := f.at("staging"); err != nil {
		return err
	}
	src, err := os.Open(filepath.Join(f.src, e.Path))
	if err != nil {
		return err
	}
	defer func() { _ = src.Close() }()
	extents := e.Desc.Extents
	if extents == nil {
		extents = []proto.Extent{{Kind: proto.ExtentData, Length: e.Desc.Size}}
	}
	for _, x := range extents {
		if skip := s.Offset() - x.Offset; skip > 0 {
			skip = min(skip, x.Length)
			x.Offset, x.Length = x.Offset+skip, x.Length-skip
		}
		if x.Kind == proto.ExtentHole {
			err = s.Hole(x.Length)
		} else {
			_, err = io.Copy(struct{ io.Writer }{s}, io.NewSectionReader(src, x.Offset, x.Length))
		}
		if err != nil {
			return err
		}
	}
	return f.at("staged")
}

func deps() restore.Deps { return restore.Deps{Now: time.Now} }

func openTarget(t *testing.T, path, prefix string) *dir.Dir {
	t.Helper()
	d, err := dir.Open(dir.Config{Path: path, Prefix: prefix}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func openJournal(t *testing.T, tgt target.Target, prefix string) *journal.Journal {
	t.Helper()
	j, err := journal.Open(t.Context(), tgt.Records(), target.PrefixKey(prefix))
	require.NoError(t, err)
	return j
}

// backup plants a tree and flushes it.
func backup(t *testing.T, prefix string) (src string, tgt *dir.Dir, j *journal.Journal, entries []journal.Entry) {
	t.Helper()
	src = folder(t)
	plant(t, src)
	entries = scan(t, src)
	tgt = openTarget(t, folder(t), prefix)
	j = openJournal(t, tgt, prefix)
	require.NoError(t, (&flusher{src: src, tgt: tgt, jrn: j, size: 4}).run(t.Context(), entries))
	return src, tgt, j, entries
}

func requireSame(t *testing.T, want, got string) {
	t.Helper()
	r, err := treecmp.Compare(t.Context(), want, got, treecmp.Options{Owner: os.Geteuid() == 0, Exclude: []string{proto.ReservedName}})
	require.NoError(t, err)
	require.True(t, r.Equal(), "%v", r.Listed)
	require.Greater(t, r.Objects, int64(15))
}

func differences(t *testing.T, tgt target.Target, j *journal.Journal, deep bool) (out []verify.Difference) {
	t.Helper()
	_, err := verify.Verify(t.Context(), tgt, j, verify.Options{Deep: deep}, func(d verify.Difference) error {
		out = append(out, d)
		return nil
	})
	require.NoError(t, err)
	return out
}
