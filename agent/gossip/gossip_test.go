package gossip

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"forebay/proto"
)

func TestTellerTellsTheNewestOnceInBoundedMessages(t *testing.T) {
	t.Parallel()
	g := New()
	assert.Empty(t, g.Take())
	g.Note("media", 1, proto.ProgressItem{Path: "a", Acked: 1})
	g.Note("media", 1, proto.ProgressItem{Path: "a", Acked: 2})
	g.Note("media", 2, proto.ProgressItem{Path: "a", Acked: 9})
	assert.ElementsMatch(t, []proto.Progress{
		{Dataset: "media", Holder: 1, Items: []proto.ProgressItem{{Path: "a", Acked: 2}}},
		{Dataset: "media", Holder: 2, Items: []proto.ProgressItem{{Path: "a", Acked: 9}}},
	}, g.Take())
	assert.Empty(t, g.Take())

	long := strings.Repeat("x", 4000)
	for i := range 2 * maxItems {
		g.Note("media", 1, proto.ProgressItem{Path: fmt.Sprintf("%s%d", long, i), Acked: 1 << 60, Size: 1 << 60})
	}
	n := 0
	for _, m := range g.Take() {
		n += len(m.Items)
		assert.LessOrEqual(t, len(proto.Marshal(m)), proto.MaxBusMessage)
	}
	assert.Equal(t, maxItems, n)
}
