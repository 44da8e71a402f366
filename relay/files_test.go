package relay

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/internal/openfiles"
	"forebay/proto"
)

func TestFewFilesLeftIsAProblem(t *testing.T) { //nolint:paralleltest // it counts what is open, twice
	used, err := openfiles.Used()
	require.NoError(t, err)
	for limit, want := range map[int][]proto.Health{0: nil, used * 10: nil, used * 10 / 9: {proto.Yellow}, used: {proto.Red}} {
		var f finder
		f.files(limit)
		var got []proto.Health
		for _, p := range f.out {
			require.Equal(t, "open-files", p.Code)
			got = append(got, p.Health)
		}
		require.Equal(t, want, got, "%d of %d", used, limit)
	}
}

func TestFilesAreDivided(t *testing.T) {
	t.Parallel()
	six := Config{Stores: make([]string, 6)}
	for limit, want := range map[int]int{0: 256, 65536: 256, 1024: 109, 774: 74} {
		six.FileLimit = limit
		each, err := six.openFiles()
		require.NoError(t, err)
		require.Equal(t, want, each, limit)
	}
	six.FileLimit = 773
	_, err := six.openFiles()
	require.ErrorContains(t, err, "may have 773 files open and needs 774 at least")
}
