package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/shard/store"
)

// A folder in which a disk is measured keeps no directory from becoming a store, and a store in use can be looked at.
func TestLookDisturbsNoStore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	_, found, err := store.Look(dir)
	require.NoError(t, err)
	require.False(t, found)
	scratch := filepath.Join(dir, store.ScratchPrefix+"1")
	require.NoError(t, os.MkdirAll(scratch, 0o700))
	_, found, err = store.Look(dir)
	require.NoError(t, err)
	require.False(t, found)

	r := newRig(t, vfs.Default, 0, func(c *store.Config) { c.Paths = []string{dir} })
	it := item(t, 1, 5000)
	p := r.put(it)[0]
	id, found, err := store.Look(dir)
	require.NoError(t, err)
	require.True(t, found)
	assert.Equal(t, r.Identities()[0].ID, id.ID)
	r.wants(it, p)
	assert.DirExists(t, scratch)

	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "notes"), nil, 0o600))
	_, _, err = store.Look(other)
	assert.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	assert.ErrorContains(t, err, `holds "notes" but is no store`)
}
