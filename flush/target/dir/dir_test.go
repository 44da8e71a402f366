package dir

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/internal/testfs"
)

func open(t *testing.T, cfg Config) *Dir {
	t.Helper()
	d, err := Open(cfg, Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "some/pre fix"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			t.Parallel()
			conformance.Run(t, func(t *testing.T) target.Target { return open(t, Config{Path: t.TempDir(), Prefix: prefix}) }, conformance.Caps{
				Creates: true,
				Reopen:  func(t *testing.T, old target.Target) target.Target { return open(t, old.(*Dir).cfg) },
			})
		})
	}
}

// TestConformanceWithoutSyncfs runs the way of file systems on which syncfs proves nothing.
func TestConformanceWithoutSyncfs(t *testing.T) {
	t.Parallel()
	conformance.Run(t, func(t *testing.T) target.Target {
		d := open(t, Config{Path: t.TempDir()})
		d.noSyncfs = true
		return d
	}, conformance.Caps{Creates: true, Reopen: func(t *testing.T, old target.Target) target.Target {
		d := open(t, old.(*Dir).cfg)
		d.noSyncfs = true
		return d
	}})
}

// TestConformanceWithoutHardLinks runs the way of file systems on which what is kept has to be copied.
func TestConformanceWithoutHardLinks(t *testing.T) {
	t.Parallel()
	conformance.Run(t, func(t *testing.T) target.Target {
		d := open(t, Config{Path: t.TempDir()})
		d.noLinks = true
		return d
	}, conformance.Caps{Creates: true, Reopen: func(t *testing.T, old target.Target) target.Target {
		d := open(t, old.(*Dir).cfg)
		d.noLinks = true
		return d
	}})
}

// TestConformanceExFAT is for a real file system that can hold little, and puts one file in another's place in two steps.
func TestConformanceExFAT(t *testing.T) {
	t.Parallel()
	mnt := testfs.ExFAT(t, "256M")
	conformance.Run(t, func(t *testing.T) target.Target {
		dir, err := os.MkdirTemp(mnt, "t")
		require.NoError(t, err)
		d := open(t, Config{Path: dir})
		require.NoError(t, d.Records().Put(t.Context(), "first", nil)) // what it can hold is known from now on
		require.NoError(t, d.Records().Remove(t.Context(), "first"))
		return d
	}, conformance.Caps{Gap: true, Reopen: func(t *testing.T, old target.Target) target.Target { return open(t, old.(*Dir).cfg) }})
}
