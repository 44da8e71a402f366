package heard

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"forebay/proto"
)

func TestLogForgetsTheOldestAndWhatEnded(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	l := New(3)
	none := proto.Epoch{} // as relays told before they told epochs
	for i := range 4 {
		l.Note(fmt.Sprint(i), 5, none, at.Add(time.Duration(i)*time.Second))
	}
	assert.Equal(t, 3, l.Len())
	assert.False(t, l.Since("0", at), "the oldest makes room")
	assert.True(t, l.Since("1", at))
	assert.False(t, l.Since("1", at.Add(2*time.Second)), "heard longer ago than asked for")

	l.Note("1", 7, none, at.Add(10*time.Second)) // heard again: now the newest
	l.Note("x", 5, none, at)
	assert.True(t, l.Since("1", at.Add(10*time.Second)))

	l.Forget("1", 6, none)
	assert.True(t, l.Since("1", at), "the end of an earlier upload says nothing of a later one")
	l.Forget("1", 7, none)
	assert.False(t, l.Since("1", at))
}

// A takeover keeps the upload: only the epoch tells the lost sender's last words from its successor's first.
func TestLateWordsOfALostSender(t *testing.T) {
	t.Parallel()
	at := time.Unix(1000, 0)
	epoch := func(n uint64) proto.Epoch { return proto.Epoch{Generation: 2, Counter: n} }
	l := New(3)
	l.Note("x", 7, epoch(5), at)
	l.Forget("x", 7, epoch(5))
	assert.False(t, l.Since("x", at))
	l.Note("x", 7, epoch(5), at.Add(time.Millisecond)) // it was on its way
	assert.False(t, l.Since("x", at), "nobody waits for a sender that is gone")
	l.Note("x", 7, epoch(6), at.Add(time.Second))
	assert.True(t, l.Since("x", at))
	l.Forget("x", 7, epoch(5)) // the poll tells again what the bus told
	assert.True(t, l.Since("x", at), "the successor is at it")
	l.Forget("x", 7, epoch(6))
	assert.False(t, l.Since("x", at))
	l.Forget("unheard", 8, epoch(9))
	l.Note("unheard", 8, epoch(9), at)
	assert.False(t, l.Since("unheard", at))
}
