package flush_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/ledger"
)

// stuck is a target whose commit answers when it is let go, whatever its context says.
type stuck struct {
	target.Target
	reached, free chan struct{}
}

func (s stuck) Commit(ctx context.Context, changes []target.Change) []error {
	s.reached <- struct{}{}
	<-s.free
	return s.Target.Commit(context.WithoutCancel(ctx), changes)
}

// What a link has under way at a place ends before the link that comes after it, under the same name, begins there (I18).
func TestALinkThatBeginsAnewWaitsForWhatWasUnderWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	at := w.link("a", "media")
	reached, free := make(chan struct{}, 1), make(chan struct{})
	let := sync.OnceFunc(func() { close(free) })
	t.Cleanup(let) // before the engine ends
	opened := make(chan ledger.LinkID, 10)
	w.wrap = func(l flush.LinkConfig, tgt target.Target) target.Target {
		opened <- l.ID
		if len(opened) > 1 {
			return tgt
		}
		return stuck{tgt, reached, free}
	}
	w.start()
	w.put("media", file("f", "one"))
	<-reached
	anew := &ledger.SetLink{Name: "a", From: w.row("a").From, Target: w.row("a").Target, Coalesce: true, Anew: true}
	w.apply(anew)
	w.links[0].ID = anew.Link.ID
	w.engine.SetLinks(w.links)
	w.put("media", file("f", "two"))
	w.link("b", "media") // it goes on meanwhile, beside the one that is stuck
	w.drained("b")
	require.Len(t, opened, 2, "the first one's and b's")
	let()
	w.drained("a")
	require.Equal(t, "two", tree(t, at)["f"])
}

// Who resumes a link and asks for a flush at once is not told that it is paused.
func TestFlushRightAfterAResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.link("a", "media")
	w.put("media", file("f", "one"))
	w.pause("a", true)
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StatePaused }, "paused")
	w.pause("a", false)
	require.Equal(t, flush.StatePaused, w.state("a").State)
	_, err := w.engine.FlushNow("a", false)
	require.NoError(t, err)
	require.NotEqual(t, flush.StatePaused, w.state("a").State)
	w.drained("a")
}
