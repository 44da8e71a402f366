package main

import (
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/process/serve"
	"forebay/internal/servers"
	"forebay/proto"
)

// escaped is a name of 90 bytes that becomes one of 270.
var escaped = strings.Repeat("\xff", 90)

// What a remote cannot hold for its length fails for good, alone in its commit, and its delete has nothing to do; whether the remote says
// so or refuses it with other words.
func TestNamesThatTheRemoteCannotHold(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(strings.Repeat("n", 250)+"/", 16) + strings.Repeat("n", 75) // with any folder before it more than PATH_MAX
	t.Run("local", func(t *testing.T) {
		t.Parallel()
		p := at(":local:"+t.TempDir(), nil)
		cannotHold(t, p, escaped)
		cannotHold(t, p, escaped+"/x")
		cannotHold(t, p, deep)
	})
	t.Run("Apache", func(t *testing.T) {
		t.Parallel()
		s := servers.Apache(t)
		cannotHold(t, at(fmt.Sprintf(":webdav,url='http://%s',vendor=other:/%s", s.Addr, makeCollection(t, s.Addr, 1)), nil), escaped)
	})
	t.Run("Versitygw", func(t *testing.T) {
		t.Parallel()
		s := servers.Versitygw(t)
		p := at(fmt.Sprintf(":s3,provider=Other,endpoint='%s',access_key_id=%s,region=us-east-1:%s", s.Endpoint(), s.Access, makeBucket(t, s, 1)), map[string]string{"secret_access_key": s.Secret})
		cannotHold(t, p, escaped)
		cannotHold(t, p, deep)
	})
}

func cannotHold(t *testing.T, p place, path string) {
	t.Helper()
	require.NoError(t, proto.CheckPath(path))
	d, ctx, content := p.open(t), t.Context(), []byte("x")
	for _, id := range []target.StageID{"long", "good"} {
		w, err := d.Stage(ctx, target.Content{ID: id, Size: 1})
		require.NoError(t, err)
		_, err = w.Write(content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	dir := change(target.OpMkdir, path, "", nil)
	dir.Desc.Kind = proto.KindDir
	link := change(target.OpLink, path, "", content)
	link.Desc.Kind, link.Desc.LinkTo = proto.KindHardlink, "good"
	symlink := target.Change{Op: target.OpSymlink, Path: path, Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: "x"}}
	errs := d.Commit(ctx, []target.Change{change(target.OpPut, "good", "good", content), change(target.OpPut, path, "long", content),
		link, change(target.OpMeta, path, "", content), {Op: target.OpDelete, Path: path}, symlink})
	require.NoError(t, errs[0])
	for _, err := range errs[1:4] {
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "cannot hold it")
	}
	require.NoError(t, errs[4])
	require.NoError(t, errs[5], "it is in the journal only")
	if strings.HasPrefix(p.settings["remote"], ":local:") { // directories of buckets have no names of their own
		err := d.Commit(ctx, []target.Change{dir})[0]
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%v", err)
	}
	_, err := d.Stat(ctx, path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = d.Open(ctx, path)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, d.Close())
}

// What fails for another reason is not taken for too long, however long it is.
func TestOtherRefusalsAreNotTheNames(t *testing.T) {
	t.Parallel()
	r := inProcess(t, t.TempDir(), serve.Opening{})
	long := strings.Repeat("n", 250)
	for _, err := range []error{os.ErrPermission, os.ErrDeadlineExceeded, fmt.Errorf("400 Bad Request")} {
		require.False(t, r.tooLong(t.Context(), err, long))
		require.False(t, r.tooLong(t.Context(), err, long+"/"+long+"/"+long))
		require.True(t, r.tooLong(t.Context(), err, strings.Repeat("n", 300)))
	}
	require.False(t, r.tooLong(t.Context(), nil, strings.Repeat("n", 300)))
	require.NoError(t, os.RemoveAll(r.f.Root()))
}
