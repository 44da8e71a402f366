package restore_test

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/restore"
)

// interrupt restores until so many bytes of a file have been read, and returns the file with what is left of it, and its bytes.
func interrupt(t *testing.T, o restore.Options, from *shaky, path string, after int64) (left string, n int64) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var read atomic.Int64
	from.body = func(p string, body io.ReadCloser) io.ReadCloser {
		if p != path {
			return body
		}
		return stopping{&cut{body, after, &read}, stop}
	}
	report, err := restore.Restore(ctx, o, deps())
	require.Error(t, err)
	from.body = nil
	require.DirExists(t, report.Left)
	require.Positive(t, report.LeftBytes)
	require.NoError(t, filepath.WalkDir(report.Left, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == ".boot" {
			return err
		}
		require.True(t, strings.HasPrefix(e.Name(), "l-"), "%s: small contents are not left", path)
		if p, err := os.ReadFile(path); err == nil && !bytes.Equal(p[:8], make([]byte, 8)) { // the other large file begins with a hole
			left, n = path, int64(len(p))
		}
		return err
	}))
	require.Positive(t, n)
	require.Zero(t, n%(1<<20), "whole blocks")
	return left, n
}

// stopping ends the restore where its body ends.
type stopping struct {
	*cut
	stop func()
}

func (s stopping) Read(p []byte) (int, error) {
	n, err := s.cut.Read(p)
	if err != nil {
		s.stop()
	}
	return n, err
}

// A large content whose restore ended amid it goes on in the next one, at the block where it stood: what is there is not read from the
// source again, and never believed without its digest. What is of no use goes.
func TestLargeContentGoesOnInTheNextRestore(t *testing.T) {
	t.Parallel()
	write := func(t *testing.T, left string, at int64, p []byte) {
		f, err := os.OpenFile(left, os.O_WRONLY, 0)
		require.NoError(t, err)
		_, err = f.WriteAt(p, at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, left string, n int64, content []byte)
		read   func(size, n int64) int64 // from the source in the second restore
	}{
		"as it was left": {func(*testing.T, string, int64, []byte) {}, func(size, n int64) int64 { return size - n }},
		"with a part of a block": {func(t *testing.T, left string, n int64, content []byte) { write(t, left, n, content[n:n+4097]) },
			func(size, n int64) int64 { return size - n }},
		"whole": {func(t *testing.T, left string, _ int64, content []byte) { write(t, left, 0, content) }, func(int64, int64) int64 { return 0 }},
		"longer than it is": {func(t *testing.T, left string, _ int64, content []byte) {
			write(t, left, int64(len(content)), []byte("more"))
		},
			func(size, _ int64) int64 { return size }},
		"with a wrong part of a block": {func(t *testing.T, left string, n int64, _ []byte) { write(t, left, n, []byte("wrong")) },
			func(size, n int64) int64 { return size - n + size }},
		"with a wrong block": {func(t *testing.T, left string, n int64, content []byte) {
			write(t, left, n-5, []byte{content[n-5] ^ 1})
		},
			func(size, n int64) int64 { return size - n + size }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src, tgt, j, entries := backup(t, "")
			s := shake(tgt)
			o := restore.Options{From: s, Journal: j, To: filepath.Join(folder(t), "to [x]*")}.FromBytes(1 << 20)
			left, n := interrupt(t, o, s, "big", 2<<20+1<<19)
			content, err := os.ReadFile(filepath.Join(src, "big"))
			require.NoError(t, err)
			c.change(t, left, n, content)
			var read atomic.Int64
			s.body = func(path string, from io.ReadCloser) io.ReadCloser {
				if path != "big" {
					return from
				}
				return seekable{&cut{from, 1 << 40, &read}}
			}
			o.IntoExisting = true
			report, err := restore.Restore(t.Context(), o, deps())
			require.NoError(t, err)
			require.True(t, report.Complete(), "%+v", report)
			require.EqualValues(t, len(entries), report.Objects)
			requireSame(t, src, o.To)
			size := int64(len(content))
			require.LessOrEqual(t, read.Load(), c.read(size, n))
			if name != "with a wrong part of a block" { // that is seen amid what is read
				require.Equal(t, c.read(size, n), read.Load())
			}
			require.Empty(t, workFolders(t, o.To))
		})
	}
}

func workFolders(t *testing.T, to string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(to)
	require.NoError(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".forebay-restore-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// What is left of a content outlives restores that do not come to it, and goes with the one that has no use for it.
func TestWhatIsLeftOfALargeContent(t *testing.T) {
	t.Parallel()
	_, tgt, j, _ := backup(t, "")
	s := shake(tgt)
	o := restore.Options{From: s, Journal: j, To: filepath.Join(folder(t), "to")}.FromBytes(1 << 20)
	o.IntoExisting = true
	left, _ := interrupt(t, o, s, "big", 2<<20+1<<19)

	gone, stop := context.WithCancel(t.Context())
	stop()
	_, err := restore.Restore(gone, o, deps())
	require.ErrorIs(t, err, context.Canceled)
	require.FileExists(t, left)
	s.fails = func(string) error { return context.DeadlineExceeded }
	away, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err = restore.Restore(away, o, deps())
	require.Error(t, err)
	require.FileExists(t, left)
	s.fails = nil

	dry := o
	dry.DryRun = true
	_, err = restore.Restore(t.Context(), dry, deps())
	require.NoError(t, err)
	require.FileExists(t, left)

	part := o
	part.Path = "empty"
	report, err := restore.Restore(t.Context(), part, deps())
	require.NoError(t, err)
	require.True(t, report.Complete())
	require.FileExists(t, left)
	require.NotEmpty(t, report.Left)
	part.Path = "big"
	report, err = restore.Restore(t.Context(), part, deps())
	require.NoError(t, err)
	require.NoFileExists(t, left)
	require.Less(t, report.Bytes, int64(3<<20), "it went on")
	report, err = restore.Restore(t.Context(), o, deps())
	require.NoError(t, err)
	require.True(t, report.Complete())
	require.Empty(t, workFolders(t, o.To))
}

// A part of a backup is restored without the file that one of its hard links shares: the link comes with the content, and goes on with what was
// left of it like any other.
func TestLargeHardLinkGoesOnWithoutItsLeader(t *testing.T) {
	t.Parallel()
	src := folder(t)
	plant(t, src)
	require.NoError(t, os.Mkdir(filepath.Join(src, "part"), 0o755))
	require.NoError(t, os.Link(filepath.Join(src, "big"), filepath.Join(src, "part", "big too")))
	tgt := openTarget(t, folder(t), "")
	j := openJournal(t, tgt, "")
	require.NoError(t, (&flusher{src: src, tgt: tgt, jrn: j, size: 4}).run(t.Context(), scan(t, src)))
	s := shake(tgt)
	o := restore.Options{From: s, Journal: j, To: filepath.Join(folder(t), "to"), Path: "part", IntoExisting: true}.FromBytes(1 << 20)
	interrupt(t, o, s, "part/big too", 2<<20+1<<19)
	report, err := restore.Restore(t.Context(), o, deps())
	require.NoError(t, err)
	require.True(t, report.Complete(), "%+v", report)
	require.Less(t, report.Bytes, int64(3<<20), "it went on")
	want, err := os.ReadFile(filepath.Join(src, "big"))
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(o.To, "part", "big too"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}
