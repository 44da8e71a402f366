package serve

import (
	"context"
	"errors"
	"io"

	"forebay/flush/target"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// do carries out a call.
func (n *session) do(ctx context.Context, c wire.Call) (r wire.Result) {
	err := n.dispatch(ctx, c, &r)
	if err != nil {
		r = wire.Result{Fault: wire.NewFault(err)}
	}
	return r
}

func (n *session) dispatch(ctx context.Context, c wire.Call, r *wire.Result) (err error) {
	t := n.target
	switch c.Op {
	case wire.OpProbe:
		var info target.Info
		if info, err = t.Probe(ctx); err == nil {
			r.Info = wire.NewInfo(info)
		}
	case wire.OpStage:
		return n.stage(ctx, c, r)
	case wire.OpWrite, wire.OpHole, wire.OpSync:
		return n.with(ctx, c.Handle, func(h *handle) error { return h.write(c, r) })
	case wire.OpClose:
		var h *handle
		if h, err = n.take(c.Handle); err == nil {
			err = h.close(ctx)
		}
	case wire.OpBarrier:
		err = t.Barrier(ctx, c.IDs)
	case wire.OpReread:
		r.Handle, err = n.openBody(ctx, func(ctx context.Context) (io.ReadCloser, error) { return t.Reread(ctx, c.ID) })
	case wire.OpChange:
		return n.change(ctx, c, r)
	case wire.OpCommit:
		return n.commit(ctx, c, r)
	case wire.OpUnstage:
		drop := map[target.StageID]bool{}
		for _, id := range c.IDs {
			drop[id] = true
		}
		err = t.Unstage(ctx, func(id target.StageID) bool { return !drop[id] })
	case wire.OpOpen:
		r.Handle, err = n.openBody(ctx, func(ctx context.Context) (io.ReadCloser, error) { return t.Open(ctx, c.Path) })
	case wire.OpOpenRecord:
		r.Handle, err = n.openBody(ctx, func(ctx context.Context) (io.ReadCloser, error) { return t.Records().Open(ctx, c.Path) })
	case wire.OpRead:
		return n.with(ctx, c.Handle, func(h *handle) error { return h.read(int(min(c.Size, int64(n.chunk))), r) })
	case wire.OpStat:
		var e target.Entry
		if e, err = t.Stat(ctx, c.Path); err == nil {
			r.Entries = []wire.Entry{wire.NewEntry(e)}
		}
	case wire.OpStaged, wire.OpList, wire.OpListRecords:
		r.Handle, err = n.openList(ctx, c)
	case wire.OpNext:
		return n.with(ctx, c.Handle, func(h *handle) error { return h.next(ctx, n.chunk, r) })
	case wire.OpPutRecord:
		if err = target.CheckRecord(c.Path); err != nil {
			return proto.Errorf(proto.ClassPermanent, "%w", err)
		}
		r.Handle, err = n.open(ctx, func(_ context.Context, h *handle) error { h.record = &record{name: c.Path}; return nil })
	case wire.OpKeepRecord:
		return n.keepRecord(ctx, c)
	case wire.OpRemoveRecord:
		err = t.Records().Remove(ctx, c.Path)
	default:
		return proto.Errorf(proto.ClassPermanent, "call %d is not known: use a newer driver", c.Op)
	}
	return err
}

var errWrongHandle = errors.New("the handle is of another kind")

func wrongHandle(op wire.Op) error {
	return proto.Errorf(proto.ClassPermanent, "call %d: %w", op, errWrongHandle)
}

func (n *session) stage(ctx context.Context, c wire.Call, r *wire.Result) (err error) {
	k := target.Content{ID: c.ID, Size: c.Size, Path: c.Path}
	if c.Desc != nil {
		k.Desc = *c.Desc
	}
	r.Handle, err = n.open(ctx, func(ctx context.Context, h *handle) (err error) {
		if h.stage, err = n.target.Stage(ctx, k); err == nil {
			r.Offset, r.Proved, r.Unit = h.stage.Offset(), h.stage.Proved(), h.stage.Unit()
		}
		return err
	})
	return err
}

// write adds to a stage or record, or makes a stage durable.
func (h *handle) write(c wire.Call, r *wire.Result) (err error) {
	if h.record != nil && c.Op == wire.OpWrite {
		if h.record.data.Len()+len(c.Data) > maxRecord {
			return proto.Errorf(proto.ClassPermanent, "record %s: more than %d bytes", h.record.name, maxRecord)
		}
		h.record.data.Write(c.Data)
		r.Offset = int64(h.record.data.Len())
		return nil
	}
	if h.stage == nil {
		return wrongHandle(c.Op)
	}
	switch c.Op {
	case wire.OpWrite:
		_, err = h.stage.Write(c.Data)
	case wire.OpHole:
		err = h.stage.Hole(c.Size)
	default:
		r.Offset, err = h.stage.Sync()
		return err
	}
	r.Offset = h.stage.Offset()
	return err
}

func (n *session) openBody(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) (uint32, error) {
	return n.open(ctx, func(ctx context.Context, h *handle) (err error) {
		h.body, err = open(ctx)
		return err
	})
}

// read reads at least one byte, unless the end is there.
func (h *handle) read(size int, r *wire.Result) error {
	if h.body == nil || size <= 0 {
		return wrongHandle(wire.OpRead)
	}
	buf := make([]byte, size)
	n, err := io.ReadFull(target.Body(h.body), buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		r.Last, err = true, nil
	}
	r.Data = buf[:n]
	return err
}

func (n *session) openList(ctx context.Context, c wire.Call) (uint32, error) {
	return n.open(ctx, func(ctx context.Context, h *handle) error {
		h.list = list(ctx, func(put func(item) error) error {
			switch c.Op {
			case wire.OpList:
				return n.target.List(ctx, c.Path, func(e target.Entry) error {
					w := wire.NewEntry(e)
					return put(item{entry: &w})
				})
			case wire.OpListRecords:
				names, err := n.target.Records().List(ctx, c.Path)
				for i := 0; i < len(names) && err == nil; i++ {
					err = put(item{name: names[i]})
				}
				return err
			}
			var stop error // what is staged is told by asking which of it to keep, and keeping all
			err := n.target.Unstage(ctx, func(id target.StageID) bool {
				if stop == nil {
					stop = put(item{id: id})
				}
				return true
			})
			return errors.Join(stop, err)
		})
		return nil
	})
}

func (h *handle) next(ctx context.Context, room int, r *wire.Result) error {
	if h.list == nil {
		return wrongHandle(wire.OpNext)
	}
	items, last, err := h.list.read(ctx, room)
	r.Last = last
	for _, i := range items {
		switch {
		case i.entry != nil:
			r.Entries = append(r.Entries, *i.entry)
		case i.id != "":
			r.IDs = append(r.IDs, i.id)
		default:
			r.Names = append(r.Names, i.name)
		}
	}
	return err
}

func (n *session) change(ctx context.Context, c wire.Call, r *wire.Result) (err error) {
	if r.Handle = c.Handle; c.Handle == 0 {
		if r.Handle, err = n.open(ctx, func(_ context.Context, h *handle) error { h.changes = []target.Change{}; return nil }); err != nil {
			return err
		}
	}
	return n.with(ctx, r.Handle, func(h *handle) error {
		if h.changes == nil {
			return wrongHandle(c.Op)
		}
		if len(h.changes)+len(c.Changes) > wire.MaxChanges {
			return proto.Errorf(proto.ClassPermanent, "a commit of more than %d changes", wire.MaxChanges)
		}
		for _, ch := range c.Changes {
			h.changes = append(h.changes, ch.Target())
		}
		return nil
	})
}

func (n *session) commit(ctx context.Context, c wire.Call, r *wire.Result) error {
	h, err := n.take(c.Handle)
	if err != nil {
		return err
	}
	defer h.stop()
	if h.changes == nil {
		return wrongHandle(c.Op)
	}
	errs := n.target.Commit(ctx, h.changes)
	for i, err := range errs {
		if err != nil {
			r.Failed = append(r.Failed, wire.Failure{Index: i, Fault: *wire.NewFault(err)})
		}
	}
	return nil
}

func (n *session) keepRecord(ctx context.Context, c wire.Call) error {
	h, err := n.take(c.Handle)
	if err != nil {
		return err
	}
	defer h.stop()
	if h.record == nil {
		return wrongHandle(c.Op)
	}
	return n.target.Records().Put(ctx, h.record.name, h.record.data.Bytes())
}
