package nearest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestName(t *testing.T) {
	t.Parallel()
	names := []string{"size", "age", "objects", "window", "timezone", "bandwidth", "batch_min", "batch_max", "capacity"}
	for in, want := range map[string]string{
		"szie": "size", "Age": "age", "adge": "age", "object": "objects", "windows": "window", "time_zone": "timezone",
		"batch-max": "batch_max", "bandwith": "bandwidth", "capcity": "capacity", "retention": "", "x": "", "": "",
	} {
		require.Equal(t, want, Name(in, names), in)
	}
	require.Equal(t, "media-nas", Name("media-nsa", []string{"media-dr", "media-nas"}))
	require.Empty(t, Name("anything", nil))
}
