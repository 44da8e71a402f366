package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"forebay/cmd/forebay/bench/advice"
	"forebay/cmd/forebay/relayd"
	"forebay/config"
	"forebay/flush/policy"
	"forebay/internal/show"
	"forebay/proto"
	"forebay/units"
)

// smallSize is what a small object has.
const smallSize = 4096

// ingest lets a relay of its own, with ledger and stores in the bench's folders, acknowledge what a sender on this machine sends.
func (b *Bench) ingest(ctx context.Context, span time.Duration) error {
	cfg, room, err := b.relay()
	if err != nil {
		return err
	}
	for _, t := range cfg.Targets { // nothing is ever put there: its link waits for years
		if err := os.Mkdir(t.Path, 0o700); err != nil {
			return err
		}
	}
	d, err := relayd.New(cfg, relayd.Deps{Log: zerolog.Nop(), Now: b.d.Now, Software: b.o.Software, Load: func() (*config.Relay,
		error) {
		return cfg, nil
	}})
	if err != nil {
		return fmt.Errorf("start a relay to measure: %w", err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx)) // it ends in good order, also when the bench is cut short
	relay := make(chan error, 1)
	go func() { relay <- d.Run(serving) }() // ends at stop
	in, err := b.send(ctx, "http://"+d.Addr(), span, room)
	stop()
	if err := errors.Join(err, <-relay); err != nil {
		return err
	}
	in.Coding = b.geometry().String()
	b.out.Ingest = in
	return b.cleared()
}

// relay is the configuration of the relay that is measured, and how many bytes of content its stores have room for.
func (b *Bench) relay() (*config.Relay, int64, error) {
	if b.o.Relay == nil {
		return nil, 0, errors.New("the ingest is measured on the disks of a relay: name its configuration with --config")
	}
	cfg := *b.o.Relay
	cfg.Name, cfg.Data, cfg.Listen, cfg.Insecure = "bench", "", "127.0.0.1:0", false
	cfg.NATS = config.NATS{Listen: "127.0.0.1:0"}
	cfg.Suspicion = units.Duration(time.Minute) // a busy machine is no dead sender
	cfg.Cache.Stores, cfg.Cache.Capacity, cfg.Cache.Ballast, cfg.Cache.Scrub = nil, units.TiB, 0, 0
	least := b.o.Size
	for _, s := range b.spots {
		n, err := s.room(b.o.Size)
		if err != nil {
			return nil, 0, err
		}
		if s.role == advice.RoleLedger {
			cfg.Data = filepath.Join(s.scratch, "data")
			cfg.Targets = []config.Target{{Name: "nowhere", Type: config.TypeDir, Path: filepath.Join(s.scratch, "target")}}
			continue
		}
		least = min(least, n)
		cfg.Cache.Stores = append(cfg.Cache.Stores, filepath.Join(s.scratch, "store"))
	}
	if missing := len(b.o.Relay.Cache.Stores) - len(cfg.Cache.Stores); missing > 0 || cfg.Data == "" {
		return nil, 0, errors.New("it needs all of the relay's directories, and not all can be used")
	}
	p := policy.Default()
	p.Age = 3650 * units.Day
	cfg.Links = []config.Link{{Name: "bench", From: dataset, To: "nowhere", Policy: p}}
	g := b.geometry()
	return &cfg, least * int64(len(cfg.Cache.Stores)) * int64(g.Data) / int64(g.Shards()), nil
}

// cleared removes what the relay has written, so that later parts have room.
func (b *Bench) cleared() error {
	var errs []error
	for _, s := range b.spots {
		for _, name := range []string{"data", "store", "target"} {
			errs = append(errs, os.RemoveAll(filepath.Join(s.scratch, name)))
		}
	}
	return errors.Join(errs...)
}

// send is the sender: large objects for one half of the time, small ones for the other. room is for how many bytes.
func (b *Bench) send(ctx context.Context, url string, span time.Duration, room int64) (*advice.Ingest, error) {
	c, err := hail(ctx, url, b.d.Now)
	if err != nil {
		return nil, err
	}
	in := &advice.Ingest{SmallSize: smallSize}
	run, stop := context.WithCancel(ctx)
	g, run := errgroup.WithContext(run)
	g.Go(func() error { return c.session.Run(run) }) // ends at stop, or with the session
	g.Go(func() error {                              // ends with the time, the room, or ctx
		defer stop()
		bar := b.d.Progress.Start("ingest, large", show.InBytes)
		defer bar.Stop()
		busy, began := cpuSeconds(), b.d.Now()
		n, err := c.large(run, began.Add(span/2), room*3/4, bar)
		if err != nil {
			return err
		}
		took := max(b.d.Now().Sub(began), 1).Seconds()
		in.LargeBytes, in.Large, in.Busy = n, float64(n)/took, min((cpuSeconds()-busy)/took/float64(cores()), 1)
		bar.Finish()

		bar = b.d.Progress.Start("ingest, small", show.InObjects)
		defer bar.Stop()
		began = b.d.Now()
		if in.SmallObjects, err = c.small(run, began.Add(span/2), room/8/smallSize, bar); err != nil {
			return err
		}
		in.Small = float64(in.SmallObjects) / max(b.d.Now().Sub(began), 1).Seconds()
		bar.Finish()
		return nil
	})
	err = g.Wait()
	stop()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return in, err
}

// cpuSeconds is what this process has used of its cores.
func cpuSeconds() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// dataset is what the sender sends.
var dataset = proto.Dataset{Cluster: "bench", Name: "bench"}
