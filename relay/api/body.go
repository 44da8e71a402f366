package api

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// standstill is how long nothing of a segment may come before its place in memory goes to another. Sessions end sooner, by
// their silence; this is for a single connection that is dead while the session lives.
const standstill = 30 * time.Second

// body is a segment's body on its way. A sender that stands still, or is cut off, keeps its connection: without an end to
// the waiting, three of them would hold all places in memory, and nobody could upload any more.
type body struct {
	from  io.Reader
	conn  *http.ResponseController
	moved atomic.Bool // something came since the last look
	done  chan struct{}
	ended chan struct{}
}

// watchBody watches a body until it is stopped: reading fails once the session has ended, or nothing comes for standstill. came is called
// now and then while something does.
func watchBody(from io.Reader, conn *http.ResponseController, gone <-chan struct{}, came func()) *body {
	b := &body{from: from, conn: conn, done: make(chan struct{}), ended: make(chan struct{})}
	go func() { // ends with stop
		defer close(b.ended)
		look := time.NewTicker(standstill)
		defer look.Stop()
		for {
			select {
			case <-b.done:
				return
			case <-look.C:
				if b.moved.Swap(false) {
					came()
					continue
				}
			case <-gone:
			}
			_ = conn.SetReadDeadline(longAgo) // where the connection knows none, as in tests, the reading goes on
			<-b.done
			return
		}
	}()
	return b
}

// longAgo is a deadline that has passed.
var longAgo = time.Unix(1, 0)

func (b *body) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if n > 0 {
		b.moved.Store(true)
	}
	return n, err
}

// stop ends the watch. What was read in time is handled whatever becomes of the session meanwhile.
func (b *body) stop() {
	close(b.done)
	<-b.ended
	_ = b.conn.SetReadDeadline(time.Time{}) // the server reads on, to see the connection's end
}
