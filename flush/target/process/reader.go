package process

import (
	"context"
	"io"
	"strings"

	"forebay/flush/target"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// Open opens a file of the mirror.
func (p *Process) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	if err := proto.CheckPath(path); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "open: %w", err)
	}
	return p.openBody(ctx, wire.Call{Op: wire.OpOpen, Path: path})
}

func (p *Process) openBody(ctx context.Context, c wire.Call) (io.ReadCloser, error) {
	s, r, err := p.ask(ctx, c)
	if err != nil {
		return nil, err
	}
	return &body{p: p, s: s, ctx: ctx, handle: r.Handle}, nil
}

// body is something that is read from the driver, a piece at a time.
type body struct {
	p      *Process
	s      *session
	ctx    context.Context // what it was opened under
	handle uint32
	piece  []byte // not yet handed on
	last   bool   // piece is the last
}

func (b *body) Read(to []byte) (int, error) {
	if len(to) == 0 {
		return 0, nil
	}
	if len(b.piece) == 0 && !b.last {
		want := b.s.welcome.Chunk
		r, err := b.p.call(b.ctx, b.s, wire.Call{Op: wire.OpRead, Handle: b.handle, Size: int64(want)}, 0)
		if err != nil {
			return 0, err
		}
		if len(r.Data) > want || len(r.Data) == 0 && !r.Last {
			return 0, b.s.lies("of %d bytes asked for it sent %d, and it is not the end", want, len(r.Data))
		}
		b.piece, b.last = r.Data, r.Last
	}
	if len(b.piece) == 0 {
		return 0, io.EOF
	}
	n := copy(to, b.piece)
	b.piece = b.piece[n:]
	return n, nil
}

func (b *body) Close() error {
	_, err := b.p.call(context.WithoutCancel(b.ctx), b.s, wire.Call{Op: wire.OpClose, Handle: b.handle}, 0)
	return err
}

// Stat describes what is at a path.
func (p *Process) Stat(ctx context.Context, path string) (target.Entry, error) {
	if err := proto.CheckPath(path); err != nil {
		return target.Entry{}, proto.Errorf(proto.ClassPermanent, "stat: %w", err)
	}
	s, r, err := p.ask(ctx, wire.Call{Op: wire.OpStat, Path: path})
	if err != nil {
		return target.Entry{}, err
	}
	if len(r.Entries) != 1 || r.Entries[0].Path != path {
		return target.Entry{}, s.lies("asked for %q it describes %d other objects", path, len(r.Entries))
	}
	return r.Entries[0].Target(), nil
}

// List lists the mirror. The order is what readers rest on: it is checked.
func (p *Process) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	if prefix != "" {
		if err := proto.CheckPath(prefix); err != nil {
			return proto.Errorf(proto.ClassPermanent, "list: %w", err)
		}
	}
	s, err := p.use(ctx)
	if err != nil {
		return err
	}
	before := ""
	return p.each(ctx, s, wire.Call{Op: wire.OpList, Path: prefix}, func(r wire.Result) error {
		for _, w := range r.Entries {
			e := w.Target()
			if err := proto.CheckPath(e.Path); err != nil {
				return s.lies("its listing has what is no path: %w", err)
			}
			if prefix != "" && e.Path != prefix && !strings.HasPrefix(e.Path, prefix+"/") {
				return s.lies("its listing of %q has %q", prefix, e.Path)
			}
			if e.Path <= before {
				return s.lies("its listing has %q after %q, it has to be in the order of the bytes", e.Path, before)
			}
			before = e.Path
			if err := fn(e); err != nil {
				return err
			}
		}
		return nil
	})
}

// Records returns the records of the target.
func (p *Process) Records() target.Records { return records{p} }

// History returns nil: the protocol has nothing yet for what is kept of the past.
func (p *Process) History() target.History { return nil }

type records struct{ p *Process }

// maxListed bounds what is taken of a listing that is held in memory.
const maxListed = 1 << 20

func checkRecord(name string) error {
	if err := target.CheckRecord(name); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return nil
}

// Put sends a record and has it kept.
func (r records) Put(ctx context.Context, name string, data []byte) error {
	if err := checkRecord(name); err != nil {
		return err
	}
	s, res, err := r.p.ask(ctx, wire.Call{Op: wire.OpPutRecord, Path: name})
	if err != nil {
		return err
	}
	handle := res.Handle
	for sent := 0; sent < len(data); {
		part := data[sent:min(len(data), sent+s.welcome.Chunk)]
		res, err = r.p.call(ctx, s, wire.Call{Op: wire.OpWrite, Handle: handle, Data: part}, 0)
		if sent += len(part); err == nil && res.Offset != int64(sent) {
			err = s.lies("of record %s it has %d bytes, %d were sent", name, res.Offset, sent)
		}
		if err != nil {
			_, _ = r.p.call(context.WithoutCancel(ctx), s, wire.Call{Op: wire.OpClose, Handle: handle}, 0) // the error that counts is the other
			return err
		}
	}
	_, err = r.p.call(ctx, s, wire.Call{Op: wire.OpKeepRecord, Handle: handle}, allowance(1, int64(len(data))))
	return err
}

// Open opens a record.
func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	if err := checkRecord(name); err != nil {
		return nil, err
	}
	return r.p.openBody(ctx, wire.Call{Op: wire.OpOpenRecord, Path: name})
}

// List lists the records in a folder.
func (r records) List(ctx context.Context, dir string) (names []string, err error) {
	if err := checkRecord(dir); err != nil {
		return nil, err
	}
	s, err := r.p.use(ctx)
	if err != nil {
		return nil, err
	}
	err = r.p.each(ctx, s, wire.Call{Op: wire.OpListRecords, Path: dir}, func(res wire.Result) error {
		for _, n := range res.Names {
			if target.CheckRecord(dir+"/"+n) != nil || strings.ContainsRune(n, '/') {
				return s.lies("folder %s of its records has %q, which cannot be one", dir, n)
			}
			if len(names) > 0 && n <= names[len(names)-1] {
				return s.lies("folder %s of its records has %q after %q", dir, n, names[len(names)-1])
			}
			if names = append(names, n); len(names) > maxListed {
				return s.lies("folder %s of its records has more than %d", dir, maxListed)
			}
		}
		return nil
	})
	return names, err
}

// Remove removes a record.
func (r records) Remove(ctx context.Context, name string) error {
	if err := checkRecord(name); err != nil {
		return err
	}
	_, _, err := r.p.ask(ctx, wire.Call{Op: wire.OpRemoveRecord, Path: name})
	return err
}
