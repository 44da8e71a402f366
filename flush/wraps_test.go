package flush_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// refill sends an object's content again, as a holder does that was asked.
func (w *world) refill(dataset string, o obj) {
	w.t.Helper()
	h := w.dataset(dataset)
	w.upload++
	p := segment.Piece{Kind: segment.PieceObject, Path: o.path, Upload: w.upload, Epoch: proto.Epoch{Generation: 1, Counter: uint64(w.upload)}, Parent: w.current(h.Dataset, o.path), Length: uint32(len(o.content)), Blocks: proto.BlockDigests(nil, o.content), Desc: o.desc()}
	w.store(h, h.ID, []segment.Piece{p}, o.content)
}

// reopen makes the links open their targets anew.
func (w *world) reopen() {
	for i := range w.links {
		w.links[i].Revision += "+"
	}
	w.engine.SetLinks(w.links)
}

func (w *world) retry(name string, paths ...string) {
	w.apply(&ledger.Retry{Link: w.row(name).ID, Paths: paths})
	w.wake()
}

// nameLimit wraps targets so that paths with a prefix are refused for good.
func nameLimit(prefix string) func(flush.LinkConfig, target.Target) target.Target {
	return func(_ flush.LinkConfig, t target.Target) target.Target { return refusing{t, prefix} }
}

type refusing struct {
	target.Target
	prefix string
}

func (r refusing) Commit(ctx context.Context, changes []target.Change) []error {
	errs := make([]error, len(changes))
	var pass []target.Change
	var at []int
	for i, c := range changes {
		if strings.HasPrefix(c.Path, r.prefix) {
			errs[i] = proto.Errorf(proto.ClassPermanent, "put %q: the target cannot hold such a name", c.Path)
			continue
		}
		pass, at = append(pass, c), append(at, i)
	}
	for k, err := range r.Target.Commit(ctx, pass) {
		errs[at[k]] = err
	}
	return errs
}

// gate blocks every call of a target for as long as it is shut, whatever the context says: a mount that hangs.
type gate struct {
	target.Target
	open chan struct{}
	in   atomic.Int32
}

func (g *gate) pass() { g.in.Add(1); <-g.open; g.in.Add(-1) }

func (g *gate) Probe(ctx context.Context) (target.Info, error) { g.pass(); return g.Target.Probe(ctx) }

// written is how many bytes of content were written to a link's target, over all engines.
func (w *world) written(name string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrote[name]
}

// counting counts the bytes that are written to a link's stage.
type counting struct {
	target.Target
	w    *world
	link string
}

func (c counting) Probe(ctx context.Context) (target.Info, error) {
	i, err := c.Target.Probe(ctx)
	i.Reuses = false // our stages do not
	if err == nil && i.Confirm == target.ConfirmAck {
		i.Confirm = target.ConfirmReread // TMPDIR is in memory; what is tested is what the flush does
		i.Notes = slices.DeleteFunc(i.Notes, func(n string) bool { return strings.Contains(n, "in memory") })
	}
	return i, err
}

func (c counting) Stage(ctx context.Context, x target.Content) (target.Stage, error) {
	s, err := c.Target.Stage(ctx, x)
	if err != nil {
		return nil, err
	}
	return countingStage{s, c}, nil
}

type countingStage struct {
	target.Stage
	c counting
}

func (s countingStage) Write(p []byte) (int, error) {
	s.c.w.mu.Lock()
	s.c.w.wrote[s.c.link] += int64(len(p))
	s.c.w.mu.Unlock()
	return s.Stage.Write(p)
}

func spoil(t *testing.T, root, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(content), 0o644))
}

func (w *world) recentDeletes(name string) int64 {
	r := w.row(name)
	m, err := ledger.ReadMeta(w.led)
	require.NoError(w.t, err)
	return r.RecentDeletes(m.UpNs)
}
