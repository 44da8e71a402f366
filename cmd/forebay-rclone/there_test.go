package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/hash"
	"github.com/rclone/rclone/fs/object"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/process/serve"
	"forebay/internal/servers"
	"forebay/proto"
)

// inProcess opens a directory with the driver in this process.
func inProcess(t *testing.T, dir string, o serve.Opening) *remote {
	t.Helper()
	o.Settings = map[string]string{"remote": ":local:" + dir}
	d, err := open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d.(*remote)
}

func change(op target.Op, path string, id target.StageID, content []byte) target.Change {
	return target.Change{Op: op, Path: path, Stage: id, Desc: proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content),
		Meta: proto.Meta{Mode: 0o644, MtimeNs: 1_700_000_000_000_000_000}}}
}

// Contents over 4 MiB are put into the stage as they come, are whole or not there, and get their name on the server.
func TestLargeContents(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("a large content of a remote of rclone\n"), 160_000)
	large := func(t *testing.T, p place) {
		d := p.open(t)
		ctx := t.Context()
		w, err := d.Stage(ctx, target.Content{ID: "big", Size: int64(len(content))})
		require.NoError(t, err)
		_, err = w.Write(content[:len(content)/2])
		require.NoError(t, err)
		require.NoError(t, w.Close())
		// A server under load may keep half an object, late: in the stage, where it is not taken for whole.
		require.Error(t, d.Barrier(ctx, []target.StageID{"big"}), "half of it is nothing")
		w, err = d.Stage(ctx, target.Content{ID: "big", Size: int64(len(content))})
		require.NoError(t, err)
		require.Zero(t, w.Offset())
		_, err = w.Write(content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.NoError(t, d.Barrier(ctx, []target.StageID{"big"}))
		require.NoError(t, d.Close())

		d = p.open(t) // the driver was started again
		w, err = d.Stage(ctx, target.Content{ID: "big", Size: int64(len(content))})
		require.NoError(t, err)
		require.EqualValues(t, len(content), w.Offset())
		require.False(t, w.Proved())
		require.NoError(t, w.Close())
		r, err := d.Reread(ctx, "big")
		require.NoError(t, err)
		same(t, content, r)
		for range 2 {
			require.NoError(t, d.Commit(ctx, []target.Change{change(target.OpPut, "d/big", "big", content)})[0])
		}
		r, err = d.Open(ctx, "d/big")
		require.NoError(t, err)
		same(t, content, r)
		other := bytes.Clone(content)
		other[7]++
		newer := change(target.OpPut, "d/big", "lost", other)
		newer.Desc.Meta.MtimeNs += int64(time.Hour)
		require.ErrorContains(t, d.Commit(ctx, []target.Change{newer})[0], "stage it again", "of the same size, but not the same")
	}
	t.Run("Apache", func(t *testing.T) {
		t.Parallel()
		s := servers.Apache(t)
		large(t, at(fmt.Sprintf(":webdav,url='http://%s',vendor=other:/%s", s.Addr, makeCollection(t, s.Addr, 1)), nil))
	})
	t.Run("Samba", func(t *testing.T) {
		t.Parallel()
		s := servers.Samba(t)
		large(t, at(fmt.Sprintf(":smb,host='%s',port=%s,user='%s':%s", s.Host, s.Port, s.User, s.Share), map[string]string{"pass": s.Password}))
	})
	t.Run("versitygw", func(t *testing.T) {
		t.Parallel()
		s := servers.Versitygw(t)
		large(t, at(fmt.Sprintf(":s3,provider=Other,endpoint='%s',access_key_id=%s,region=us-east-1:%s", s.Endpoint(), s.Access, makeBucket(t, s, 1)), map[string]string{"secret_access_key": s.Secret}))
	})
}

func same(t *testing.T, want []byte, r io.ReadCloser) {
	t.Helper()
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.True(t, bytes.Equal(want, got), "%d bytes, %d wanted", len(got), len(want))
}

// What is wrong with a remote is said.
func TestBadRemotes(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for says, settings := range map[string]map[string]string{
		"the setting remote is missing":                         {},
		"the backends here are azureblob":                       {"remote": ":ftp:x"},
		"setting \"usre\" is no option of rclone's backend smb": {"remote": ":smb,host=h:x", "usre": "u"},
		"is a file: name a directory":                           {"remote": ":local:" + file},
	} {
		_, err := open(t.Context(), serve.Opening{Settings: settings})
		require.ErrorContains(t, err, says)
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	}
	_, err := inProcess(t, filepath.Join(t.TempDir(), "none"), serve.Opening{}).Probe(t.Context())
	require.ErrorContains(t, err, "is not there: make it, or correct the remote")
	_, err = inProcess(t, t.TempDir(), serve.Opening{Expect: true}).Probe(t.Context())
	require.ErrorContains(t, err, "is not the target it was: its owner mark .forebay/target/root is gone")

	s := servers.Samba(t)
	p := at(fmt.Sprintf(":smb,host='%s',port=%s,user='%s':%s", s.Host, s.Port, s.User, s.Share), map[string]string{"pass": "wrong"})
	_, err = p.open(t).Probe(t.Context())
	require.ErrorContains(t, err, "logon is invalid")
	require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
	require.NotContains(t, err.Error(), "wrong")
}

// A remote that can neither move nor put whole says so; the relay's half refuses it without allow_partial.
func TestRemoteThatCanDoNeither(t *testing.T) {
	t.Parallel()
	r := inProcess(t, t.TempDir(), serve.Opening{})
	r.can = &fs.Features{CanHaveEmptyDirectories: true}
	info, err := r.Probe(t.Context())
	require.NoError(t, err)
	require.False(t, info.Move || info.Atomic)
}

// short is a remote that keeps less, or other bytes, than it was sent.
type short struct {
	fs.Fs
	drop, change int
}

func (s *short) Put(ctx context.Context, in io.Reader, src fs.ObjectInfo, _ ...fs.OpenOption) (fs.Object, error) {
	b, err := io.ReadAll(in)
	if err != nil {
		return nil, err
	}
	b = b[:len(b)-s.drop]
	if s.change > 0 {
		b[s.change]++
	}
	return s.Fs.Put(ctx, bytes.NewReader(b), object.NewStaticObjectInfo(src.Remote(), src.ModTime(ctx), int64(len(b)), true, nil, s.Fs))
}

// What the remote has is compared with what was sent: its size, and its checksum where it has one. What differs does not stay.
func TestSentAndKeptAreCompared(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := inProcess(t, dir, serve.Opening{})
	r.can = &fs.Features{CanHaveEmptyDirectories: true}
	plain := r.f
	content := strings.Repeat("what is sent ", 100)
	for says, f := range map[string]fs.Fs{
		"1300 bytes were sent, the remote has 1299": &short{Fs: plain, drop: 1},
		"the remote has md5 ":                       &short{Fs: &hashed{plain}, change: 5},
	} {
		r.f = f
		_, err := r.put(t.Context(), "x", strings.NewReader(content), int64(len(content)), time.Unix(0, 0))
		require.ErrorContains(t, err, says)
		require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
		require.NoFileExists(t, filepath.Join(dir, "x"))
	}
	r.f = plain
	_, err := r.put(t.Context(), "x", strings.NewReader(content), int64(len(content)), time.Unix(0, 0))
	require.NoError(t, err)
}

// hashed is a remote that has MD5 only.
type hashed struct{ fs.Fs }

func (hashed) Hashes() hash.Set { return hash.NewHashSet(hash.MD5) }

// No secret is on the driver's command line, nor in its environment.
func TestSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	s := servers.Samba(t)
	p := at(fmt.Sprintf(":smb,host='%s',port=%s,user='%s':%s", s.Host, s.Port, s.User, s.Share), map[string]string{"pass": s.Password})
	_, err := p.open(t).Probe(t.Context())
	require.NoError(t, err)
	found := 0
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	require.NoError(t, err)
	for _, c := range children {
		pids, _ := os.ReadFile(c) // a thread may have ended
		for _, pid := range strings.Fields(string(pids)) {
			line, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if !strings.Contains(string(line), asDriver) {
				continue
			}
			found++
			env, _ := os.ReadFile("/proc/" + pid + "/environ")
			require.NotContains(t, string(line)+string(env), s.Password)
		}
	}
	require.Positive(t, found)
}
