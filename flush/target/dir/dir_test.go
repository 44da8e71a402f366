package dir

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
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
				Reopen: func(t *testing.T, old target.Target) target.Target { return open(t, old.(*Dir).cfg) },
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
	}, conformance.Caps{Reopen: func(t *testing.T, old target.Target) target.Target {
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
	}, conformance.Caps{Reopen: func(t *testing.T, old target.Target) target.Target {
		d := open(t, old.(*Dir).cfg)
		d.noLinks = true
		return d
	}})
}
