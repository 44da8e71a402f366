package journal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/target/dir"
	"forebay/proto"
)

func TestUnread(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	tgt, err := dir.Open(dir.Config{Path: root, Prefix: "p"}, dir.Deps{})
	require.NoError(t, err)
	read := func() (Unread, error) { return ReadUnread(t.Context(), tgt.Records(), "p") }
	u, err := read()
	require.NoError(t, err)
	require.Empty(t, u.Objects)
	want := []UnreadObject{{Path: []byte("a\xff\n"), Node: "n", Reason: "no", Since: "2026-01-02T03:04:05Z"}}
	require.NoError(t, PutUnread(t.Context(), tgt.Records(), "p", Unread{More: 2, Objects: want}))
	u, err = read()
	require.NoError(t, err)
	require.Equal(t, want, u.Objects)
	require.Equal(t, int64(2), u.More)
	other, err := ReadUnread(t.Context(), tgt.Records(), "other")
	require.NoError(t, err)
	require.Empty(t, other.Objects)

	files, err := filepath.Glob(filepath.Join(root, ".forebay/unread/*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	for text, class := range map[string]proto.Class{"{": proto.ClassCorrupt, `{"format": 99}`: proto.ClassPermanent} {
		require.NoError(t, os.WriteFile(files[0], []byte(text), 0o600))
		_, err = read()
		require.Equal(t, class, proto.ClassOf(err), "%v", err)
	}
	require.NoError(t, PutUnread(t.Context(), tgt.Records(), "p", Unread{}))
	require.NoFileExists(t, files[0])
}
