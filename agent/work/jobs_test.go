package work

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/agent/upload"
)

// held is a root that does not open before it is released.
type held struct {
	alone
	release chan struct{}
	closed  int
}

func (h *held) Open() (upload.Tree, func(), error) {
	<-h.release
	tree, done, err := h.alone.Open()
	return tree, func() { h.closed++; done() }, err
}

// A root whose disk opens it after its uploader was given up is closed again, and by nobody else.
func TestRootThatOpensTooLateIsClosed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		root := &held{alone: alone{dir: dir}, release: make(chan struct{})}
		w := New(Deps{Log: zerolog.Nop(), Session: root, Root: root, Reads: upload.NewReads(time.Now), Shared: Shared{Now: time.Now}})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		time.AfterFunc(2*time.Second, func() { close(root.release) }) // not by who called uploader: a race would be none
		u, done, ok := w.uploader(ctx, []upload.Job{{}})
		require.False(t, ok)
		require.Nil(t, u)
		require.Nil(t, done)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 1, root.closed)
	})
}
