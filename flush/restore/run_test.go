package restore

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is being committed counts once it is, and not at all when it could not be made durable.
func TestBatchThatCannotBeCommittedCountsForNothing(t *testing.T) {
	t.Parallel()
	full := errors.New("full")
	for _, failed := range []error{nil, full} {
		r := &run{}
		b := &batch{r: r, landing: &landing{[]*work{{item: item{path: "a"}, wrote: 7}}, make(chan error, 1)}}
		b.landing.done <- failed
		require.ErrorIs(t, b.end(t.Context(), nil), failed)
		require.Nil(t, b.landing)
		if failed == nil {
			require.EqualValues(t, 7, r.report.Bytes)
			require.EqualValues(t, 1, r.report.Objects)
		} else {
			require.Zero(t, r.report.Objects)
		}
	}
	other := errors.New("what was fetched beside it")
	b := &batch{r: &run{}, landing: &landing{nil, make(chan error, 1)}}
	b.landing.done <- full
	err := b.end(t.Context(), other)
	require.ErrorIs(t, err, full)
	require.ErrorIs(t, err, other)
}
