package crash

import (
	"context"
	"io"
	"slices"

	"forebay/flush/target"
	"forebay/proto"
)

// gate is a target that a dead life no longer reaches.
type gate struct {
	target.Target
	l    *life
	name string
}

func (g gate) shut() error {
	if g.l.dead.Load() {
		return errCrash
	}
	if g.l.w.away && g.name == "off" {
		return proto.Errorf(proto.ClassTransient, "the target is away")
	}
	return nil
}

func (g gate) Probe(ctx context.Context) (target.Info, error) {
	if err := g.shut(); err != nil {
		return target.Info{}, err
	}
	return g.Target.Probe(ctx)
}

func (g gate) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if err := g.shut(); err != nil {
		return nil, err
	}
	s, err := g.Target.Stage(ctx, c)
	if err != nil {
		return nil, err
	}
	return gatedStage{s, g}, nil
}

func (g gate) Barrier(ctx context.Context, ids []target.StageID) error {
	if err := g.shut(); err != nil {
		return err
	}
	return g.Target.Barrier(ctx, ids)
}

func (g gate) Commit(ctx context.Context, changes []target.Change) []error {
	if err := g.shut(); err != nil {
		errs := make([]error, len(changes))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	return g.Target.Commit(ctx, changes)
}

func (g gate) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	if err := g.shut(); err != nil {
		return err
	}
	return g.Target.Unstage(ctx, keep)
}

func (g gate) Records() target.Records { return gatedRecords{g.Target.Records(), g} }

type gatedStage struct {
	target.Stage
	g gate
}

func (s gatedStage) Write(p []byte) (int, error) {
	if err := s.g.shut(); err != nil {
		return 0, err
	}
	return s.Stage.Write(p)
}

func (s gatedStage) Hole(n int64) error {
	if err := s.g.shut(); err != nil {
		return err
	}
	return s.Stage.Hole(n)
}

func (s gatedStage) Sync() (int64, error) {
	if err := s.g.shut(); err != nil {
		return 0, err
	}
	return s.Stage.Sync()
}

func (g gate) History() target.History { return gatedHistory{g.Target.History(), g} }

type gatedHistory struct {
	target.History
	g gate
}

func (h gatedHistory) Keep(ctx context.Context, keeps []target.Keep) []error {
	if err := h.g.shut(); err != nil {
		return slices.Repeat([]error{err}, len(keeps))
	}
	return h.History.Keep(ctx, keeps)
}

func (h gatedHistory) Remove(ctx context.Context, names []target.KeptName) []error {
	if err := h.g.shut(); err != nil {
		return slices.Repeat([]error{err}, len(names))
	}
	return h.History.Remove(ctx, names)
}

type gatedRecords struct {
	target.Records
	g gate
}

func (r gatedRecords) Put(ctx context.Context, name string, data []byte) error {
	if err := r.g.shut(); err != nil {
		return err
	}
	return r.Records.Put(ctx, name, data)
}

func (r gatedRecords) Remove(ctx context.Context, name string) error {
	if err := r.g.shut(); err != nil {
		return err
	}
	return r.Records.Remove(ctx, name)
}

func (r gatedRecords) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := r.g.shut(); err != nil {
		return nil, err
	}
	return r.Records.Open(ctx, name)
}
