package work

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestTurns(t *testing.T) {
	t.Parallel()
	var turns turns
	assert.Zero(t, turns.past())
	a, b := turns.begin(), turns.begin()
	assert.Zero(t, turns.past())
	turns.end(b)
	assert.Zero(t, turns.past(), "the one before is still waited for")
	turns.end(a)
	assert.Equal(t, b, turns.past())
	c := turns.begin()
	assert.Greater(t, c, b)
	assert.Equal(t, b, turns.past())
}
