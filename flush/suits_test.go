package flush_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/proto"
)

// plainTarget acknowledges at most, and keeps nothing.
type plainTarget struct {
	forgetful
	probes *atomic.Int64
}

func (p plainTarget) Probe(ctx context.Context) (target.Info, error) {
	i, err := p.forgetful.Probe(ctx)
	p.probes.Add(1)
	i.Confirm = target.ConfirmAck
	return i, err
}

// A link whose policy asks for what its target cannot do is stalled for that, once and for as long as it is so, and leaves no mark there.
func TestPolicyThatTheTargetCannotKeepTo(t *testing.T) {
	t.Parallel()
	for setting, x := range map[string]struct{ says, mended string }{
		"confirm=reread":   {"confirm class reread", "confirm=ack"},
		"history.keep=30d": {"can keep nothing", "history.keep=none"},
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var probes atomic.Int64
			w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return plainTarget{forgetful{t}, &probes} }
			a := w.link("a", "media", setting)
			w.put("media", file("f", "1"))
			w.start()
			w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
			assert.Contains(t, w.state("a").Reason, x.says)
			before := probes.Load()
			w.passing(time.Second, func() bool {
				assert.Equal(t, flush.StateStalled, w.state("a").State)
				return probes.Load() > before+20
			}, "it is looked at again and again")
			assert.Equal(t, 1, w.happened(flush.LinkStalled))
			assert.Zero(t, w.happened(flush.LinkRecovered))
			_, err := os.Stat(filepath.Join(a, proto.ReservedName))
			require.ErrorIs(t, err, os.ErrNotExist)
			w.set("a", x.mended)
			w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "it goes on")
			assert.Equal(t, map[string]string{"f": "1"}, tree(t, a))
			assert.Equal(t, 1, w.happened(flush.LinkRecovered))
		})
	}
}
