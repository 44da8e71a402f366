package rebuild_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/ledger/rebuild"
	"forebay/proto"
)

// A target that was read and does not know a path never had it, and is owed no delete. Of one that could not be read nobody knows:
// it is owed the delete, else what was deleted would stay there for ever (I5, I13).
func TestDeleteIsOwedToATargetThatCouldNotBeRead(t *testing.T) {
	t.Parallel()
	all := told(object(0, 1, "one", 0o644), remove(5))
	r := rebuild.Conclude("x", all, []rebuild.Link{{ID: 1}, {ID: 2, Unread: true}})
	require.Equal(t, proto.KindTombstone, r.Desc.Kind)
	require.Empty(t, r.Have)
	require.Equal(t, []ledger.RecoveredDebt{{Link: 2}}, r.Owe)
}

// A batch that was cut short may have brought a path that the target never had before: it is owed the delete of it (I5).
func TestDeleteIsOwedToATargetOnWhichABatchHadBegun(t *testing.T) {
	t.Parallel()
	begun := ledger.Evidence{Path: "x", N: 1000, Target: &ledger.OnTarget{Link: 1, Begun: 5, NextDesc: *desc("one", 0o644)}}
	r := conclude(t, append(told(object(0, 1, "one", 0o644), remove(5)), begun))
	require.Equal(t, proto.KindTombstone, r.Desc.Kind)
	require.Empty(t, r.Have)
	require.Equal(t, []ledger.RecoveredDebt{{Link: 1}}, r.Owe)
}
