package ledger

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// What is read of a link without decoding it is what decoding it gives, with names and numbers of all lengths.
func TestLinkDatasetIsThatOfTheRow(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 23, 24, 255, 256, 70000} {
		for _, ds := range []proto.DatasetID{0, 1, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1} {
			row := LinkRow{ID: LinkID(ds), Name: strings.Repeat("n", n), Dataset: ds, Coalesce: true, OwedObjects: 5, Deletes: map[int64]int64{1: 2}}
			got, ok := linkDataset(proto.Marshal(row))
			require.True(t, ok)
			require.Equal(t, ds, got)
		}
	}
	for _, b := range [][]byte{nil, {0xa1}, {0xa1, 1}, {0xa3, 1, 1, 2, 0x78}, {0xa3, 1, 1, 2, 0x63, 'a'}, {0xa3, 1, 1, 2, 0x5f}, {0xa2, 1, 1, 3, 1}, {0xa1, 0x1b, 0}, {0x83, 1, 2, 3}} {
		_, ok := linkDataset(b)
		require.False(t, ok, "%x", b)
	}
}

func FuzzLinkDataset(f *testing.F) {
	f.Add(proto.Marshal(LinkRow{ID: 7, Name: "media-nas", Dataset: 300}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var row LinkRow
		if ds, ok := linkDataset(b); ok && proto.Unmarshal(b, &row) == nil {
			require.Equal(t, row.Dataset, ds)
		}
	})
}
