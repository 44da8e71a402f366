package show

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPlot(t *testing.T) {
	t.Parallel()
	bytes := func(v float64) string { return Bytes(int64(v)) }
	assert.Equal(t, strings.Join([]string{
		"8 B |  █▃",
		"    | ▁██",
		"0 B |▁███",
	}, "\n"), strings.Join(Plot([]float64{0.01, 3, 8, 6.4}, 10, 3, bytes), "\n"))
	assert.Equal(t, []string{"100 B |▁▄█"}, Plot([]float64{1, 0, 3, 50, 100, 2}, 3, 1, bytes), "the highest of each column")
	assert.Equal(t, []string{"0 B |", "0 B |"}, Plot([]float64{0, 0}, 10, 2, bytes))
	assert.Empty(t, Plot(nil, 10, 2, bytes))
}
