package index

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// An index that was forgotten leaves nothing to the one that is made anew in its place, under its number.
func TestDroppedRootLeavesNothing(t *testing.T) {
	t.Parallel()
	d, err := OpenFS("index", vfs.NewMem())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	r, err := d.Root("one")
	require.NoError(t, err)
	before := r.num
	e := file("a", StatePending)
	e.Due, e.FirstSeen = 5, 5
	put(t, r, e)
	require.NoError(t, r.Edit(func(tx *Tx) error {
		tx.Suspect("a")
		return tx.SetLeader(1, 2, "a")
	}))

	require.NoError(t, d.Drop("one"))
	r, err = d.Root("one")
	require.NoError(t, err)
	require.Equal(t, before, r.num)
	for what, there := range map[string]func() (bool, error){
		"entry":  func() (bool, error) { _, ok, err := r.Get("a"); return ok, err },
		"state":  func() (bool, error) { es, err := r.InState(StatePending, "", 0); return len(es) > 0, err },
		"queue":  func() (bool, error) { _, ok, err := r.NextDue(); return ok, err },
		"age":    func() (bool, error) { _, ok, err := r.OldestUnsent(); return ok, err },
		"leader": func() (bool, error) { _, ok, err := r.Leader(1, 2); return ok, err },
		"suspect": func() (bool, error) {
			s, err := r.Suspects("", 0)
			return len(s) > 0, err
		},
	} {
		ok, err := there()
		require.NoError(t, err)
		require.False(t, ok, what)
	}
}
