package serve

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"forebay/flush/target"
	"forebay/flush/target/process/wire"
	"forebay/proto"
)

// handle is something that a relay has open. One call uses it at a time. It has one of the fields below.
type handle struct {
	stop func() // ends the context that it was opened under

	mu      sync.Mutex
	stage   target.Stage
	body    io.ReadCloser
	list    *listing
	changes []target.Change
	record  *record
}

// record is a record that is being written.
type record struct {
	name string
	data bytes.Buffer
}

// maxRecord bounds what is kept in memory of a record that is being written.
const maxRecord = 64 << 20

// close gives up what is open. A stage is closed before its context ends: it may have something to finish, for as long as ctx lasts.
func (h *handle) close(ctx context.Context) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.stop()
	defer context.AfterFunc(ctx, h.stop)()
	switch {
	case h.stage != nil:
		err = h.stage.Close()
	case h.body != nil:
		err = h.body.Close()
	case h.list != nil:
		h.stop()
		h.list.wait()
	}
	return err
}

// open makes a handle of what fn opens. What lives as long as the handle has the session's context, not the call's; as long as the
// call runs, giving up the call gives up both.
func (n *session) open(ctx context.Context, fn func(ctx context.Context, h *handle) error) (uint32, error) {
	n.mu.Lock()
	full := len(n.handles) >= wire.MaxHandles
	n.mu.Unlock()
	if full {
		return 0, proto.Errorf(proto.ClassOverload, "%d handles are open, that is all there are", wire.MaxHandles)
	}
	life, stop := context.WithCancel(n.ctx)
	h := &handle{stop: stop}
	unhook := context.AfterFunc(ctx, stop)
	err := fn(life, h)
	unhook()
	if err != nil {
		stop()
		return 0, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for n.last++; n.last == 0 || n.handles[n.last] != nil; n.last++ { // after four thousand million it begins anew
	}
	n.handles[n.last] = h
	return n.last, nil
}

var errNoHandle = errors.New("there is no such handle")

func (n *session) handle(id uint32) (*handle, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.handles[id]; h != nil {
		return h, nil
	}
	return nil, proto.Errorf(proto.ClassPermanent, "%w: %d", errNoHandle, id)
}

// take is handle for a call that ends it.
func (n *session) take(id uint32) (*handle, error) {
	h, err := n.handle(id)
	if err == nil {
		n.mu.Lock()
		delete(n.handles, id)
		n.mu.Unlock()
	}
	return h, err
}

// with calls fn with a handle to itself. Giving up the call gives up the handle: it may be waiting for its target.
func (n *session) with(ctx context.Context, id uint32, fn func(h *handle) error) error {
	h, err := n.handle(id)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, h.stop)()
	return fn(h)
}

// listing is a listing under way. Its items are read by one call at a time.
type listing struct {
	items chan item
	done  chan struct{}
	err   error // once items is closed
	next  *item // was taken, and did not fit
}

// item is one item of any listing.
type item struct {
	entry *wire.Entry
	name  string
	id    target.StageID
}

// size is about how long it is on the wire.
func (i item) size() int {
	const most = 256 // of what has a fixed size
	if i.entry == nil {
		return len(i.name) + len(i.id) + 16
	}
	n := most + len(i.entry.Path) + len(i.entry.Desc.LinkTo) + len(i.entry.Unlisted)
	for _, x := range i.entry.Desc.Meta.Xattrs {
		n += len(x.Name) + len(x.Value) + 16
	}
	return n
}

// ahead is how many items a listing may be ahead of who reads it.
const ahead = 256

// list starts a listing; fill calls put for each item and ends when put fails or ctx does.
func list(ctx context.Context, fill func(put func(item) error) error) *listing {
	l := &listing{items: make(chan item, ahead), done: make(chan struct{})}
	go func() { // ends with fill, which ends with ctx
		defer close(l.done)
		defer close(l.items)
		l.err = fill(func(i item) error {
			select {
			case l.items <- i:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return l
}

func (l *listing) wait() { <-l.done }

// read returns the next items, of at most room bytes but one at least, waiting for the first of them alone.
func (l *listing) read(ctx context.Context, room int) (items []item, last bool, err error) {
	for used := 0; ; {
		i := l.next
		l.next = nil
		if i == nil {
			var open bool
			if i, open, err = l.take(ctx, len(items) == 0); err != nil || !open {
				return items, !open, err
			}
			if i == nil {
				return items, false, nil
			}
		}
		if used += i.size(); used > room && len(items) > 0 {
			l.next = i
			return items, false, nil
		}
		items = append(items, *i)
	}
}

// take takes one item; none is there when it is nil and the listing open.
func (l *listing) take(ctx context.Context, wait bool) (i *item, open bool, err error) {
	if !wait {
		select {
		case got, ok := <-l.items:
			return &got, ok, l.failed(ok)
		default:
			return nil, true, nil
		}
	}
	select {
	case got, ok := <-l.items:
		return &got, ok, l.failed(ok)
	case <-ctx.Done():
		return nil, true, ctx.Err()
	}
}

func (l *listing) failed(open bool) error {
	if open {
		return nil
	}
	return l.err
}
