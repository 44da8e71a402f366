package sftp

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkg/sftp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// What a server cannot hold for the length of its path fails for good, alone in its commit, and its delete has nothing to do; whether the server
// tells how long names can be or not.
func TestNamesThatTheServerCannotHold(t *testing.T) {
	t.Parallel()
	for says, denied := range map[string][]string{"tells": nil, "does not tell": {"statvfs"}} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, denied...)
			cfg := p.config(t, filepath.Join(t.TempDir(), strings.Repeat("r", 200)))
			require.NoError(t, os.Mkdir(cfg.Path, 0o700))
			d := p.open(t, cfg)
			info, err := d.Probe(t.Context())
			require.NoError(t, err)
			if denied == nil {
				require.Equal(t, 255, info.MaxName)
			} else {
				require.Zero(t, info.MaxName)
			}
			cannotHold(t, d, strings.Repeat(strings.Repeat("n", 250)+"/", 15)+strings.Repeat("n", 250))
			cannotHold(t, d, strings.Repeat(strings.Repeat("n", 250)+"/", 16)+"n")
			// Names that come here have at most 255 bytes, which this server can hold; others hold less.
			c, err := d.use(t.Context())
			require.NoError(t, err)
			long := d.full(strings.Repeat("n", 256))
			_, err = c.lstat(long)
			require.Contains(t, d.tooLong(c, err, long), "a name of 256 bytes")
		})
	}
}

func cannotHold(t *testing.T, d *SFTP, path string) {
	ctx := t.Context()
	meta := proto.Meta{Mode: 0o700, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()), MtimeNs: 1e18}
	file := proto.Desc{Kind: proto.KindFile, Size: 1, Digest: proto.ContentDigest([]byte("x")), Meta: meta}
	for _, id := range []target.StageID{"long", "good"} {
		w, err := d.Stage(ctx, target.Content{ID: id, Size: 1})
		require.NoError(t, err)
		_, err = w.Write([]byte("x")[w.Offset():])
		require.NoError(t, err)
		require.NoError(t, w.Close())
	}
	good := target.Change{Op: target.OpPut, Path: "good", Stage: "good", Desc: file}
	errs := d.Commit(ctx, []target.Change{good,
		{Op: target.OpPut, Path: path, Stage: "long", Desc: file},
		{Op: target.OpMkdir, Path: path, Desc: proto.Desc{Kind: proto.KindDir, Meta: meta}},
		{Op: target.OpSymlink, Path: path, Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: "x", Meta: meta}},
		{Op: target.OpLink, Path: path, Desc: proto.Desc{Kind: proto.KindHardlink, LinkTo: good.Path, Size: 1, Digest: file.Digest, Meta: meta}},
		{Op: target.OpMeta, Path: path, Desc: file},
		{Op: target.OpDelete, Path: path},
	})
	require.NoError(t, errs[0])
	for _, err := range errs[1:6] {
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "cannot hold it")
	}
	require.NoError(t, errs[6])
	_, err := d.Stat(ctx, path)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = d.Open(ctx, path)
	require.ErrorIs(t, err, os.ErrNotExist)
	kept := d.History().Keep(ctx, []target.Keep{{Path: path, Name: target.NameKept(path, file.Digest), Size: 1, Digest: file.Digest}})
	require.ErrorIs(t, kept[0], target.ErrNotThere)
}

// The text of a symbolic link can be too long, too.
func TestTextThatTheServerCannotHold(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	cfg := p.config(t, t.TempDir())
	d := p.open(t, cfg)
	link := func(name, text string) target.Change {
		return target.Change{Op: target.OpSymlink, Path: name, Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: text}}
	}
	errs := d.Commit(t.Context(), []target.Change{link("l", strings.Repeat("long/", 900)), link("s", "text")})
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(errs[0]), "%v", errs[0])
	require.ErrorContains(t, errs[0], "its text of 4500 bytes")
	require.NoError(t, errs[1])
}

// The words that a server has for names that are too long are not taken for that where the name is none: it is tried again.
func TestOtherRefusalsAreNotTheNames(t *testing.T) {
	t.Parallel()
	for says, denied := range map[string][]string{"tells": nil, "does not tell": {"statvfs"}} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, denied...)
			d := p.open(t, p.config(t, t.TempDir()))
			c, err := d.use(t.Context())
			require.NoError(t, err)
			for _, code := range []uint32{statusFailure, statusBadMessage} {
				for _, path := range []string{"a", strings.Repeat("n", 255), strings.Repeat(strings.Repeat("n", 99)+"/", 39) + "x"} {
					assert.Empty(t, d.tooLong(c, &sftp.StatusError{Code: code}, d.full(path)), len(path))
				}
			}
			assert.Empty(t, d.tooLong(c, os.ErrPermission, d.full(strings.Repeat("n", 300))))
		})
	}
}
