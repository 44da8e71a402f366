package heard

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestLogForgetsTheOldestAndWhatEnded(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	l := New(3)
	for i := range 4 {
		l.Note(fmt.Sprint(i), 5, at.Add(time.Duration(i)*time.Second))
	}
	assert.Equal(t, 3, l.Len())
	assert.False(t, l.Since("0", at), "the oldest makes room")
	assert.True(t, l.Since("1", at))
	assert.False(t, l.Since("1", at.Add(2*time.Second)), "heard longer ago than asked for")

	l.Note("1", 7, at.Add(10*time.Second)) // heard again: now the newest
	l.Note("x", 5, at)
	assert.True(t, l.Since("1", at.Add(10*time.Second)))

	l.Forget("1", 6)
	assert.True(t, l.Since("1", at), "the end of an earlier upload says nothing of a later one")
	l.Forget("1", 7)
	assert.False(t, l.Since("1", at))
}
