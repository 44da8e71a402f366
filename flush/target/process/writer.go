package process

import (
	"context"
	"fmt"
	"io"
	"time"

	"forebay/flush/target"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// Stage opens a content for writing at the driver.
func (p *Process) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if err := target.CheckStageID(c.ID); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "stage: %w", err)
	}
	desc := c.Desc
	desc.Extents = nil
	s, r, err := p.ask(ctx, wire.Call{Op: wire.OpStage, ID: c.ID, Size: c.Size, Path: c.Path, Desc: &desc})
	if err != nil {
		return nil, err
	}
	g := &stage{p: p, s: s, ctx: ctx, handle: r.Handle, size: c.Size, off: r.Offset, proved: r.Proved, unit: r.Unit}
	if r.Handle == 0 || r.Offset < 0 || r.Offset > c.Size || r.Unit < 1 {
		_ = g.Close() // the error that counts is the other
		return nil, s.lies("of %d bytes of staged content %s it has %d, durable in steps of %d", c.Size, c.ID, r.Offset, r.Unit)
	}
	return g, nil
}

// stage is a content that is being written. It belongs to its session: a driver that was started again knows nothing of it.
type stage struct {
	p      *Process
	s      *session
	ctx    context.Context // what the content was opened under; writing goes on under it, as with every driver
	handle uint32
	size   int64
	off    int64
	safe   int64
	unit   int64
	proved bool
}

func (g *stage) Offset() int64 { return g.off }
func (g *stage) Proved() bool  { return g.proved }
func (g *stage) Unit() int64   { return g.unit }

func (g *stage) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		part := b[done:min(len(b), done+g.s.welcome.Chunk)]
		if err := g.add(wire.Call{Op: wire.OpWrite, Handle: g.handle, Data: part}, int64(len(part))); err != nil {
			return done, err
		}
		done += len(part)
	}
	return done, nil
}

func (g *stage) Hole(n int64) error {
	return g.add(wire.Call{Op: wire.OpHole, Handle: g.handle, Size: n}, n)
}

// add carries out a call that makes the content n bytes longer.
func (g *stage) add(c wire.Call, n int64) error {
	r, err := g.p.call(g.ctx, g.s, c, 0)
	if err != nil {
		return err
	}
	if g.off += n; r.Offset != g.off {
		return g.s.lies("of a staged content it has %d bytes, %d were written", r.Offset, g.off)
	}
	return nil
}

func (g *stage) Sync() (int64, error) {
	r, err := g.p.call(g.ctx, g.s, wire.Call{Op: wire.OpSync, Handle: g.handle}, allowance(0, g.off-g.safe))
	if err != nil {
		return g.safe, err
	}
	if r.Offset < g.safe || r.Offset > g.off {
		return g.safe, g.s.lies("of %d bytes %d are durable, %d were before", g.off, r.Offset, g.safe)
	}
	g.safe = r.Offset
	return g.safe, nil
}

// Close ends the writing, even where its context has ended.
func (g *stage) Close() error {
	_, err := g.p.call(context.WithoutCancel(g.ctx), g.s, wire.Call{Op: wire.OpClose, Handle: g.handle}, allowance(0, g.off-g.safe))
	return err
}

// allowance is what a request may take besides the usual time.
func allowance(changes int, bytes int64) time.Duration {
	return time.Duration(changes)*time.Second + time.Duration(bytes>>20)*time.Second
}

// Barrier asks in parts that fit into a message.
func (p *Process) Barrier(ctx context.Context, ids []target.StageID) error {
	for _, id := range ids {
		if err := target.CheckStageID(id); err != nil {
			return proto.Errorf(proto.ClassPermanent, "barrier: %w", err)
		}
	}
	s, err := p.use(ctx)
	for len(ids) > 0 && err == nil {
		n := min(len(ids), p.most(wire.MaxIDs))
		_, err = p.call(ctx, s, wire.Call{Op: wire.OpBarrier, IDs: ids[:n]}, allowance(n, 0))
		ids = ids[n:]
	}
	return err
}

// most is how many ids go into one message: on a line fewer do.
func (p *Process) most(n int) int {
	if p.cfg.Line {
		return n / 10
	}
	return n
}

// Reread opens a staged content for reading.
func (p *Process) Reread(ctx context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := target.CheckStageID(id); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "reread: %w", err)
	}
	return p.openBody(ctx, wire.Call{Op: wire.OpReread, ID: id})
}

// Commit hands changes over in parts, each of which is a commit of its own at the driver.
func (p *Process) Commit(ctx context.Context, changes []target.Change) []error {
	errs := make([]error, len(changes))
	s, err := p.use(ctx)
	for from := 0; from < len(changes); {
		to := min(len(changes), from+wire.MaxChanges)
		if err == nil {
			err = p.commit(ctx, s, changes[from:to], errs[from:to])
		}
		if err != nil { // nothing is known of this part, and nothing was begun of those after it
			for i := from; i < to; i++ {
				errs[i] = err
			}
		}
		from = to
	}
	return errs
}

// commit carries out one part. Its own error is about all of it.
func (p *Process) commit(ctx context.Context, s *session, changes []target.Change, errs []error) error {
	var handle uint32
	var sent []int // indices of the changes that the driver has
	var bytes int64
	send := func(part []wire.Change) error {
		r, err := p.call(ctx, s, wire.Call{Op: wire.OpChange, Handle: handle, Changes: part}, 0)
		if err == nil && (r.Handle == 0 || handle != 0 && r.Handle != handle) {
			err = s.lies("a commit is handle %d, then %d", handle, r.Handle)
		}
		if err == nil {
			handle = r.Handle
		}
		return err
	}
	var part []wire.Change
	room := s.limit / 4
	used := 0
	for i, ch := range changes {
		w := wire.NewChange(ch)
		n := changeSize(w)
		if errs[i] = checkChange(s, ch.Path, n); errs[i] != nil {
			continue
		}
		if used+n > room && len(part) > 0 {
			if err := send(part); err != nil {
				return err
			}
			part, used = nil, 0
		}
		part, used, sent, bytes = append(part, w), used+n, append(sent, i), bytes+ch.Desc.Size
	}
	if len(sent) == 0 {
		return nil
	}
	if err := send(part); err != nil {
		return err
	}
	r, err := p.call(ctx, s, wire.Call{Op: wire.OpCommit, Handle: handle}, allowance(len(sent), bytes))
	if err != nil {
		return err
	}
	for _, f := range r.Failed {
		if f.Index < 0 || f.Index >= len(sent) || errs[sent[f.Index]] != nil {
			return s.lies("change %d of %d failed", f.Index, len(sent))
		}
		errs[sent[f.Index]] = f.Fault.Err()
	}
	return nil
}

// checkChange looks at what no driver has to be asked for, of a change of so many bytes on the wire.
func checkChange(s *session, path string, n int) error {
	if err := proto.CheckPath(path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "commit: %w", err)
	}
	if n > s.limit-1024 {
		return proto.Errorf(proto.ClassPermanent, "commit %q: its metadata have %d bytes: too large for %s", path, n, s.name())
	}
	return nil
}

// changeSize is at least how long a change is on the wire.
func changeSize(c wire.Change) int {
	n := 256 + len(c.Path) + len(c.Stage) + len(c.Desc.LinkTo) + len(c.Desc.Meta.User) + len(c.Desc.Meta.Group)
	for _, x := range c.Desc.Meta.Xattrs {
		n += len(x.Name) + len(x.Value) + 16
	}
	return n
}

// Unstage asks the driver what is staged, and tells it what to remove.
func (p *Process) Unstage(ctx context.Context, keep func(target.StageID) bool) error {
	s, err := p.use(ctx)
	if err != nil {
		return err
	}
	var drop []target.StageID
	err = p.each(ctx, s, wire.Call{Op: wire.OpStaged}, func(r wire.Result) error {
		for _, id := range r.IDs {
			if err := target.CheckStageID(id); err != nil {
				return s.lies("%w", err)
			}
			if !keep(id) {
				drop = append(drop, id)
			}
			if len(drop) > maxListed {
				return s.lies("it lists more than %d staged contents that nobody staged", maxListed)
			}
		}
		return nil
	})
	for len(drop) > 0 && err == nil {
		n := min(len(drop), p.most(wire.MaxIDs))
		_, err = p.call(ctx, s, wire.Call{Op: wire.OpUnstage, IDs: drop[:n]}, allowance(n, 0))
		drop = drop[n:]
	}
	return err
}

// each opens a listing and calls fn with each of its answers.
func (p *Process) each(ctx context.Context, s *session, c wire.Call, fn func(wire.Result) error) error {
	r, err := p.call(ctx, s, c, 0)
	if err != nil {
		return err
	}
	handle := r.Handle
	for last := false; !last && err == nil; {
		if r, err = p.call(ctx, s, wire.Call{Op: wire.OpNext, Handle: handle}, 0); err != nil {
			break
		}
		last = r.Last
		if !last && len(r.Entries)+len(r.Names)+len(r.IDs) == 0 {
			err = s.lies("a listing goes on with nothing")
			break
		}
		err = fn(r)
	}
	_, cerr := p.call(context.WithoutCancel(ctx), s, wire.Call{Op: wire.OpClose, Handle: handle}, 0)
	if err == nil && cerr != nil {
		err = fmt.Errorf("end a listing: %w", cerr)
	}
	return err
}
