package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"forebay/agent/client"
	"forebay/cmd/forebay/bench/advice"
	"forebay/internal/show"
	"forebay/proto"
)

const (
	maxTrips = 1000
	// streams send at once, as an agent's segments do, one of a segment's size after the other.
	streams = 4
)

// network measures the way from this machine to a relay that runs: round trips, then bytes that the relay throws away. The relay's
// own work goes on meanwhile.
func (b *Bench) network(ctx context.Context, span time.Duration) error {
	c := client.New(b.o.Network, streams, nil)
	defer c.Close()
	out := &advice.Network{Relay: c.Base()}
	var took []float64
	for began := b.d.Now(); len(took) < maxTrips; {
		at := b.d.Now()
		if err := b.probe(ctx, c, nil); err != nil {
			return err
		}
		now := b.d.Now()
		if took = append(took, now.Sub(at).Seconds()); now.Sub(began) >= span/4 {
			break
		}
	}
	if len(took) > 1 {
		took = took[1:] // the first one had to connect
	}
	out.TripP50, out.TripP99 = percentiles(took)

	bar := b.d.Progress.Start("network", show.InBytes)
	defer bar.Stop()
	payload := noise(proto.SegmentTarget)
	began := b.d.Now()
	var sent atomic.Int64
	g, run := errgroup.WithContext(ctx)
	for range streams {
		g.Go(func() error { // ends with span or ctx
			for {
				if err := b.probe(run, c, payload); err != nil {
					return err
				}
				sent.Add(int64(len(payload)))
				bar.Add(int64(len(payload)))
				if b.d.Now().Sub(began) >= span*3/4 {
					return nil
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	out.Uploaded = sent.Load()
	out.Upload = float64(out.Uploaded) / max(b.d.Now().Sub(began), 1).Seconds()
	bar.Finish()
	b.out.Network = out
	return nil
}

func (b *Bench) probe(ctx context.Context, c *client.Client, payload []byte) error {
	_, err := c.Probe(ctx, payload)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w; is the relay at %s running, and of this release? name another with --relay URL", err, c.Base())
	}
	return err
}
