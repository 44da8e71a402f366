package scan

import (
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// Forebay's own directories in a root are listed and left out; the rest is scanned. Hints from within them change nothing.
func TestWhatIsForebaysOwnIsNoObject(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s, err := New(Config{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Root: r.dir}, Deps{Index: r.ix, Now: r.scan.now})
	require.NoError(t, err)
	r.scan = s
	r.write("a/file", "x")
	r.write("a/cache/store", "FBST\x00\x01and so on")
	r.write("a/cache/db/000001.sst", "shards")
	r.write("var/lock", "forebay relay\n")
	r.write("var/ledger/000001.log", "rows")
	r.write("nas/.forebay/target/root", `{"link": "media-nas", "dataset": {"cluster": "primary", "name": "media"}}`)
	r.write("nas/file", "the backup of a backup")
	r.write("other/.forebay/target/root", `{"link": "docs-nas", "dataset": {"cluster": "primary", "name": "docs"}}`)
	r.write("other/file", "another dataset's backup may be backed up")
	r.write("shop/store", "a file of that name")
	res := r.full()
	require.Equal(t, int64(3), res.Skipped)
	for _, f := range res.Failures {
		require.Equal(t, proto.FailSkipped, f.Kind)
		require.Contains(t, f.Reason, proto.SkippedOwn, f.Path)
	}
	for _, path := range []string{"a/file", "other/file", "shop/store"} {
		require.Equal(t, proto.KindFile, r.get(path).Kind)
	}
	none := []string{"a/cache/store", "a/cache/db", "var/lock", "var/ledger", "nas/file"}
	for _, path := range none {
		r.none(path)
	}
	r.write("a/cache/db/000002.sst", "more")
	_, err = r.scan.ScanPaths(context.Background(), []string{"a/cache/db", "a/cache", "nas"}, nil)
	require.NoError(t, err)
	for _, path := range append(none, "a/cache/db/000002.sst") {
		r.none(path)
	}
}

// A target that was an ordinary directory when it was scanned first is left out from its first mark on.
func TestATargetInARootIsFoundOut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	s, err := New(Config{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Root: r.dir}, Deps{Index: r.ix, Now: r.scan.now})
	require.NoError(t, err)
	r.scan = s
	r.write("file", "x")
	require.NoError(t, os.MkdirAll(r.path("nas"), 0o755))
	r.full()
	r.settle()
	r.write("nas/.forebay/target/root", `{"link": "media-nas", "dataset": {"cluster": "primary", "name": "media"}}`)
	r.write("nas/file", "x")
	_, err = r.scan.ScanPaths(context.Background(), []string{"nas"}, nil)
	require.NoError(t, err)
	r.none("nas/file")
	require.Equal(t, int64(1), r.full().Skipped)
	r.none("nas/file")
}

func TestARootThatIsForebaysOwnIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("file", "x")
	r.full()
	r.write("store", "FBST\x00\x01")
	r.refused(RootOwn)
}
