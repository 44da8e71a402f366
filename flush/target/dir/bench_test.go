package dir

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
)

// BenchmarkSmallFiles takes batches of a thousand objects of 2 KB all the way.
func BenchmarkSmallFiles(b *testing.B) {
	d, err := Open(Config{Path: b.TempDir()}, Deps{})
	require.NoError(b, err)
	defer func() { _ = d.Close() }()
	require.NoError(b, d.Records().Put(b.Context(), target.MarkDir+"/root", []byte("mine")))
	content := string(make([]byte, 2000))
	const n = 1000
	batch := 0
	for b.Loop() {
		batch++
		var changes []target.Change
		var ids []target.StageID
		for i := range n {
			id := target.StageID(fmt.Sprintf("s-%d-%d", batch, i))
			s, err := d.Stage(b.Context(), target.Content{ID: id, Size: int64(len(content))})
			require.NoError(b, err)
			_, err = s.Write([]byte(content))
			require.NoError(b, err)
			require.NoError(b, s.Close())
			ids = append(ids, id)
			changes = append(changes, target.Change{Op: target.OpPut, Path: fmt.Sprintf("d%d/e%d/f%d", batch, i%20, i), Stage: id, Desc: desc(content)})
		}
		require.NoError(b, d.Barrier(b.Context(), ids))
		for _, err := range d.Commit(b.Context(), changes) {
			require.NoError(b, err)
		}
	}
	b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "objects/s")
}
