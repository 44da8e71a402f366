package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"forebay/cmd/forebay/bench/advice"
	"forebay/internal/show"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard"
)

// coding measures the code of the configuration, and digests, on one core and on all.
func (b *Bench) coding(ctx context.Context, span time.Duration) error {
	g := b.geometry()
	c := &advice.Coding{Coding: g.String(), Cores: cores()}
	bar := b.d.Progress.Start("coding "+g.String(), show.InBytes)
	defer bar.Stop()
	coder := &shard.Coder{}
	encode := func(raw []byte) error {
		e, err := coder.Encode(proto.SegmentID{Relay: 1, Seq: 1}, raw, g)
		if err == nil {
			e.Release()
		}
		return err
	}
	digest := func(raw []byte) error {
		proto.BlockDigests(nil, raw)
		return nil
	}
	var err error
	for _, m := range []struct {
		into  *float64
		cores int
		do    func([]byte) error
	}{{&c.EncodeCore, 1, encode}, {&c.EncodeAll, c.Cores, encode}, {&c.DigestCore, 1, digest}, {&c.DigestAll, c.Cores, digest}} {
		if *m.into, err = b.spin(ctx, m.cores, span/4, bar, m.do); err != nil {
			return err
		}
	}
	bar.Finish()
	b.out.Coding = c
	return nil
}

// spin does something with segments on some cores until span is over, and returns bytes a second.
func (b *Bench) spin(ctx context.Context, cores int, span time.Duration, bar *show.Bar, do func(raw []byte) error) (float64, error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	began := b.d.Now()
	for range cores {
		wg.Add(1)
		go func() { // ends with span or ctx
			defer wg.Done()
			raw := noise(segment.PreambleLen + proto.SegmentTarget)
			segment.Stamp(raw, proto.SegmentID{Relay: 1, Seq: 1})
			for ctx.Err() == nil {
				if err := do(raw); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(int64(len(raw)))
				bar.Add(int64(len(raw)))
				if b.d.Now().Sub(began) >= span {
					return
				}
			}
		}()
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / max(b.d.Now().Sub(began), 1).Seconds(), ctx.Err()
}
