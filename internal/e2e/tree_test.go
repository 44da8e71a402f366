package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tree makes objects below a root, the same in every replica: contents and times follow from path and salt alone.
type tree struct {
	t    testing.TB
	root string
	salt string
	// skew makes replicas as an application would, which writes the same content at its own time and under its own user.
	skew     time.Duration
	uid, gid int // of what is made; -1 leaves it
	made     []string
}

// newTree makes objects in the root of a dataset on a node, for the daemons to read.
func (s *site) newTree(root string) *tree {
	t := &tree{t: s.t, root: root, uid: -1, gid: -1}
	if s.as != nil {
		t.uid, t.gid = int(s.as.Uid), int(s.as.Gid)
	}
	return t
}

// fill makes the same objects in the dataset's first root on each of the nodes.
func (s *site) fill(dataset string, make func(*tree), nodes ...string) {
	s.t.Helper()
	for _, n := range nodes {
		t := s.newTree(s.root(n, dataset))
		make(t)
		t.finish()
	}
}

func (t *tree) full(path string) string { return filepath.Join(t.root, path) }

// note remembers a path for its time and gives it its owner.
func (t *tree) note(path string) {
	t.t.Helper()
	if t.uid >= 0 {
		require.NoError(t.t, os.Lchown(t.full(path), t.uid, t.gid))
	}
	t.made = append(t.made, path)
}

// source is the content of a path, without an end.
func (t *tree) source(path string) io.Reader {
	var key [32]byte
	copy(key[:], t.salt)
	binary.LittleEndian.PutUint64(key[24:], hash(path))
	return rand.NewChaCha8(key)
}

func hash(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}

// when is the mtime of a path: any nanosecond of some years.
func (t *tree) when(path string) time.Time {
	h := hash(path + t.salt)
	return time.Unix(1_600_000_000+int64(h%100_000_000), int64(h>>20%1_000_000_000)).Add(t.skew)
}

func (t *tree) dir(path string, mode os.FileMode) {
	t.t.Helper()
	require.NoError(t.t, os.Mkdir(t.full(path), 0o755))
	t.note(path)
	t.chmod(path, mode)
}

// chmod sets a mode with the bits of chmod(2) that os.FileMode has elsewhere.
func (t *tree) chmod(path string, mode os.FileMode) {
	t.t.Helper()
	require.NoError(t.t, unix.Chmod(t.full(path), uint32(mode)))
}

// file makes a file of random content.
func (t *tree) file(path string, size int64) {
	t.t.Helper()
	f, err := os.OpenFile(t.full(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	require.NoError(t.t, err)
	_, err = io.CopyN(f, t.source(path), size)
	require.NoError(t.t, errors.Join(err, f.Close()))
	t.note(path)
}

// text makes a file of a given content.
func (t *tree) text(path, content string) {
	t.t.Helper()
	require.NoError(t.t, os.WriteFile(t.full(path), []byte(content), 0o644))
	t.note(path)
}

// sparse makes a file with data at some offsets only.
func (t *tree) sparse(path string, size int64, at ...int64) {
	t.t.Helper()
	f, err := os.OpenFile(t.full(path), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	require.NoError(t.t, err)
	require.NoError(t.t, f.Truncate(size))
	in := t.source(path)
	for _, off := range at {
		b := make([]byte, 5000)
		_, _ = io.ReadFull(in, b)
		_, err := f.WriteAt(b, off)
		require.NoError(t.t, err)
	}
	require.NoError(t.t, f.Close())
	t.note(path)
}

func (t *tree) symlink(path, to string) {
	t.t.Helper()
	require.NoError(t.t, os.Symlink(to, t.full(path)))
	t.note(path)
}

func (t *tree) hardlink(path, to string) {
	t.t.Helper()
	require.NoError(t.t, os.Link(t.full(to), t.full(path)))
}

// xattr sets an attribute; file systems without any are left alone.
func (t *tree) xattr(path, name string, value []byte) {
	t.t.Helper()
	err := unix.Lsetxattr(t.full(path), name, value, 0)
	if errors.Is(err, unix.ENOTSUP) {
		t.t.Logf("this file system has no attribute %s: %q goes without", name, path)
		return
	}
	require.NoError(t.t, err)
}

// finish sets the times, those of directories after what is in them.
func (t *tree) finish() {
	t.t.Helper()
	for _, path := range slices.Backward(t.made) {
		t.stamp(path, t.when(path))
	}
	t.made = nil
}

func (t *tree) stamp(path string, when time.Time) {
	t.t.Helper()
	ts, err := unix.TimeToTimespec(when)
	require.NoError(t.t, err)
	require.NoError(t.t, unix.UtimesNanoAt(unix.AT_FDCWD, t.full(path), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// acl is the raw form of a POSIX ACL: owner, one named user, group, mask, other.
func acl(user uint32, owner, named, group, mask, other uint16) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag, perm uint16, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, perm)
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	const none = 0xffffffff
	add(0x01, owner, none)
	add(0x02, named, user)
	add(0x04, group, none)
	add(0x10, mask, none)
	add(0x20, other, none)
	return b
}

// everything makes an object of each kind and trait that Forebay keeps.
func everything(t *tree) {
	t.t.Helper()
	kinds(t)
	names(t)
	t.dir("small", 0o755)
	for i := range 400 {
		if i%100 == 0 {
			t.dir(fmt.Sprintf("small/%d", i/100), 0o755)
		}
		t.file(fmt.Sprintf("small/%d/file %03d", i/100, i), int64(i*i%9001))
	}
}

// kinds makes all kinds of objects.
func kinds(t *tree) {
	t.t.Helper()
	t.dir("empty", 0o755)
	t.dir("empty/deep", 0o700)
	t.dir("empty/deep/deeper", 0o2775)
	t.dir("sticky", 0o1777)
	const mib = 1 << 20
	t.dir("sizes", 0o755)
	for _, size := range []int64{0, 1, 4095, 4096, mib - 1, mib, mib + 1, 8 * mib, 8*mib + 1, 20*mib + 12345} {
		t.file(fmt.Sprintf("sizes/%d", size), size)
	}
	t.dir("links", 0o755)
	t.symlink("links/relative", "../sizes/4096")
	t.symlink("links/absolute", "/etc/hostname")
	t.symlink("links/dangling", "no\xffwhere\n")
	t.symlink("links/up", "../../../../..")
	t.symlink("links/dir", "../empty")
	t.file("links/one", 70_000)
	t.hardlink("links/two", "links/one")
	t.hardlink("empty/three", "links/one")
	t.hardlink("links/large", "sizes/20983865")
	t.dir("sparse", 0o755)
	t.sparse("sparse/islands", 64*mib, 0, 3*mib+777, 40*mib)
	t.sparse("sparse/end", 5*mib, 5*mib-5000)
	t.sparse("sparse/nothing", 30*mib)
	t.sparse("sparse/small", 200_000, 100_000)
	attributes(t)
	t.file("times", 10)
	t.dir("readonly", 0o755)
	t.file("readonly/file", 100)
	t.chmod("readonly/file", 0o400)
	t.chmod("readonly", 0o555)
}

// attributes makes objects with modes and attributes.
func attributes(t *tree) {
	t.t.Helper()
	t.dir("attributes", 0o755)
	for _, mode := range []os.FileMode{0o600, 0o644, 0o755, 0o4755, 0o2755, 0o6711, 0o400} {
		path := fmt.Sprintf("attributes/mode %o", mode)
		t.file(path, 10)
		t.chmod(path, mode)
	}
	t.file("attributes/user", 300)
	t.xattr("attributes/user", "user.plain", []byte("value"))
	t.xattr("attributes/user", "user.binary", []byte{0, 1, 0xff, '\n'})
	t.xattr("attributes/user", "user.empty", nil)
	t.xattr("attributes/user", "user.long", []byte(strings.Repeat("x", 1500)))
	t.file("attributes/acl", 300)
	t.xattr("attributes/acl", "system.posix_acl_access", acl(12345, 6, 4, 4, 4, 0))
	t.dir("attributes/dir", 0o750)
	t.xattr("attributes/dir", "user.of a directory", []byte("yes"))
	t.xattr("attributes/dir", "system.posix_acl_default", acl(54321, 7, 5, 5, 5, 0))
	if os.Geteuid() == 0 {
		t.file("attributes/owned", 50)
		require.NoError(t.t, os.Lchown(t.full("attributes/owned"), 12345, 54321))
		t.symlink("attributes/owned link", "owned")
		require.NoError(t.t, os.Lchown(t.full("attributes/owned link"), 12345, 54321))
	}
}

// names makes objects with names that tempt.
func names(t *tree) {
	t.t.Helper()
	t.dir("names", 0o755)
	for i, name := range []string{
		"new\nline", "\xff\xfe not UTF-8", strings.Repeat("n", 255), strings.Repeat("é", 127), " ", "trailing ", "-rf", "...", "..x",
		"back\\slash", "con\x01trol", "%2e%2e", "a%2Fb", "*?[]{}", "'\"`$(x)", "🌊", "Twin", "twin", "TWIN", "forebay", ".forebay2", ".hidden", "tab\t",
	} {
		if i%3 == 2 {
			t.dir("names/"+name, 0o755)
			t.file("names/"+name+"/"+name, int64(i))
			continue
		}
		t.file("names/"+name, int64(100*i))
	}
	long := "names"
	for i := range 6 { // a path of over 1,500 bytes
		long += "/" + strings.Repeat(fmt.Sprint(i), 255)
		t.dir(long, 0o755)
	}
	t.file(long+"/end", 77)
}

// total is the content of all regular files of a tree, hard links counted once, in bytes.
func total(t testing.TB, root string) (bytes int64) {
	t.Helper()
	seen := map[uint64]bool{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			bytes += st.Size
		}
		return nil
	}))
	return bytes
}
