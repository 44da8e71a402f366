package flush_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"forebay/flush"
	"forebay/flush/target"
)

// probed calls a hook before each probe.
type probed struct {
	target.Target
	before func()
}

func (p probed) Probe(ctx context.Context) (target.Info, error) {
	p.before()
	return p.Target.Probe(ctx)
}

// A target that does not answer is not shown as one with which all is well.
func TestTargetThatDoesNotAnswerIsToldOf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := make(chan struct{})
	var once sync.Once
	answer := func() { once.Do(func() { close(answers) }) }
	t.Cleanup(answer)
	asked := make(chan struct{}, 100)
	w.wrap = func(_ flush.LinkConfig, tgt target.Target) target.Target {
		return probed{tgt, func() {
			select {
			case asked <- struct{}{}:
			default:
			}
			<-answers
		}}
	}
	w.link("a", "media")
	w.start()
	<-asked
	assert.Equal(t, flush.StateIdle, w.state("a").State)
	w.clock.advance(7 * time.Second)
	s := w.state("a")
	assert.Equal(t, flush.StateWaiting, s.State)
	assert.Equal(t, "the target has not answered for 7s", s.Reason)
	assert.Contains(t, s.Notes, s.Reason)
	w.clock.advance(70 * time.Second)
	s = w.state("a")
	assert.Equal(t, flush.StateStalled, s.State)
	assert.Contains(t, s.Reason, "the target has not answered since "+w.clock.Now().Add(-77*time.Second).UTC().Format(time.RFC3339))
	assert.Contains(t, s.Notes, "the target has not answered for 1m17s")
	answer()
	w.eventually(func() bool { s := w.state("a"); return s.State == flush.StateIdle && len(s.Notes) == 0 }, "it has answered")
}
