// Package bench measures what a relay rests on, for its operator: the disks of the stores and the ledger, coding and digests, the whole
// way of a segment through a relay's ingest, the network to a relay, targets. What to make of the figures is package advice's.
//
// It may run beside a relay that works: it opens and locks neither its stores nor its ledger, and writes only in folders of its own beside
// their files, which it removes, and at targets below the prefix of their trials. It is used by cmd/forebay alone.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"forebay/cmd/forebay/bench/advice"
	"forebay/config"
	"forebay/internal/show"
	"forebay/shard"
)

// The parts.
const (
	Disks  = "disks"
	Coding = "coding"
	Ingest = "ingest"
	// Targets are all of the configuration that a run without a choice tries.
	Targets   = "targets"
	InNetwork = "network"
)

// Options say what is measured and how long.
type Options struct {
	Relay    *config.Relay // nil without a relay.yaml
	Parts    []string      // of the parts above, in any order
	Targets  []string      // names of those to try; none for all, when Parts has Targets
	Network  string        // URL of the relay to measure the network to
	Time     time.Duration // of all parts together
	Size     int64         // bytes that a part keeps on one disk at most
	Software string        // of this program, for drivers
}

// Deps are what a bench works with.
type Deps struct {
	Now      func() time.Time
	Getenv   func(string) string
	Progress *show.Progress
}

// Skipped is something that was asked for and could not be measured.
type Skipped struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Result is what was measured, and what was not.
type Result struct {
	advice.Measured
	Skipped []Skipped
}

// Bench is one run.
type Bench struct {
	o     Options
	d     Deps
	spots []*spot // where the stores are, then the ledger
	out   Result
}

// New returns a bench.
func New(o Options, d Deps) *Bench {
	o.Parts = slices.Compact(slices.Sorted(slices.Values(o.Parts)))
	return &Bench{o: o, d: d, out: Result{Measured: advice.Measured{Disks: []advice.Disk{}, Targets: []advice.Target{}}, Skipped: []Skipped{}}}
}

// weight is how the time is divided between the parts.
func weight(part string) int {
	switch part {
	case Disks, Ingest:
		return 4
	case Targets, InNetwork:
		return 3
	}
	return 1
}

// Run measures one part after the other. What cannot be measured is in Result.Skipped; the error is ctx's, once that has ended. Nothing
// that it wrote is left when it returns.
func (b *Bench) Run(ctx context.Context) (Result, error) {
	err := b.run(ctx)
	b.leave()
	return b.out, err
}

func (b *Bench) run(ctx context.Context) error {
	if b.has(Disks) || b.has(Ingest) {
		b.enter()
	}
	total := 0
	for _, p := range b.o.Parts {
		total += weight(p)
	}
	for _, p := range []string{Disks, Coding, Ingest, InNetwork, Targets} {
		if !b.has(p) {
			continue
		}
		if err := b.part(ctx, p, b.o.Time*time.Duration(weight(p))/time.Duration(total)); err != nil {
			b.skip(p, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

func (b *Bench) part(ctx context.Context, part string, span time.Duration) error {
	switch part {
	case Disks:
		return b.disks(ctx, span)
	case Coding:
		return b.coding(ctx, span)
	case Ingest:
		return b.ingest(ctx, span)
	case InNetwork:
		return b.network(ctx, span)
	}
	return b.targets(ctx, span)
}

func (b *Bench) has(part string) bool { return slices.Contains(b.o.Parts, part) }

func (b *Bench) skip(what string, err error) {
	b.out.Skipped = append(b.out.Skipped, Skipped{what, err.Error()})
}

// geometry is the coding that is measured.
func (b *Bench) geometry() shard.Geometry {
	if b.o.Relay == nil {
		return shard.Default(3)
	}
	return shard.Geometry{Data: b.o.Relay.Cache.Coding.Data, Parity: b.o.Relay.Cache.Coding.Parity}
}

// enter takes the places of stores and ledger into use. What is wrong with one of them is told, and it is left out.
func (b *Bench) enter() {
	if b.o.Relay == nil {
		return
	}
	began, err := b.began()
	if err != nil { // whether stores have to be there is not known
		b.skip("data "+b.o.Relay.Data, err)
		return
	}
	seen := newRelays()
	for _, path := range b.o.Relay.Cache.Stores {
		s, err := enterStore(path, began, seen)
		if err != nil {
			b.skip("store "+path, err)
			continue
		}
		b.spots = append(b.spots, s)
	}
	s, err := enterData(b.o.Relay.Data)
	if err != nil {
		b.skip("data "+b.o.Relay.Data, err)
	} else {
		b.spots = append(b.spots, s)
	}
	for _, s := range b.spots {
		for _, o := range b.spots {
			if o.device == s.device {
				s.sharers++
			}
		}
	}
}

// began reports whether the relay has run before: then its stores, and what its links have put at targets, have to be there.
func (b *Bench) began() (bool, error) {
	_, err := os.Stat(filepath.Join(b.o.Relay.Data, "ledger"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, denied(err)
}

// leave removes all that was made.
func (b *Bench) leave() {
	for _, s := range b.spots {
		if err := s.remove(); err != nil {
			b.skip("clean up", fmt.Errorf("%w: remove %s by hand", err, s.scratch))
		}
	}
	b.spots = nil
}

// cores is how many are used at once.
func cores() int { return runtime.GOMAXPROCS(0) }
