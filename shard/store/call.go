package store

import (
	"context"
	"errors"
	"fmt"

	"forebay/proto"
)

// callKind says which of an instance's calls exclude each other.
type callKind uint8

const (
	anyCall callKind = iota
	reading
	staging
	writing
)

func (in *instance) places(kind callKind) chan struct{} {
	switch kind {
	case reading:
		return in.reading
	case staging:
		return in.staging
	case writing:
		return in.writing
	}
	return nil
}

// errDown marks the errors of a store that is not in use, or that died under the call.
var errDown = errors.New("store is down")

// errClosed is what calls get after Close.
var errClosed = errors.New("the stores are closed")

// serve runs fn against the open database, on a goroutine of its own. After an error that wraps errHung fn may still be
// running: memory it uses must not be used for anything else.
func (d *disk) serve(ctx context.Context, kind callKind, what string, fn func(*instance) error) error {
	in, err := d.enter()
	if err != nil {
		return err
	}
	if err := in.take(ctx, kind); err != nil {
		d.leave(in)
		return fmt.Errorf("%s on %s: %w", what, d.path, err)
	}
	err = await(start(func() error { return fn(in) }, func(err error) {
		if errors.Is(err, errEnded) || errors.Is(err, errPanicked) {
			d.fail(in, err) // locks are left behind in it
		}
		in.put(kind)
		d.leave(in)
	}), d.deadline)
	if err == nil {
		return nil
	}
	if errors.Is(err, errHung) {
		d.fail(in, err)
	}
	if errors.Is(err, errEnded) {
		d.mu.Lock()
		err = in.dead // says what pebble gave up for
		d.mu.Unlock()
	}
	return fmt.Errorf("%s on %s: %w", what, d.path, err)
}

// take waits for a place among the calls of a kind. It fails when the instance dies before there is one.
func (in *instance) take(ctx context.Context, kind callKind) error {
	places := in.places(kind)
	if places == nil {
		return nil
	}
	select {
	case places <- struct{}{}:
	case <-in.gone:
		return errDown
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-in.gone: // it died while we waited
		<-places
		return errDown
	default:
		return nil
	}
}

func (in *instance) put(kind callKind) {
	if places := in.places(kind); places != nil {
		<-places
	}
}

func (d *disk) enter() (*instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.current == nil {
		return nil, fmt.Errorf("%w: %s is %s: %w", errDown, d.path, d.state, d.err)
	}
	d.current.calls++
	return d.current, nil
}

func (d *disk) leave(in *instance) {
	d.mu.Lock()
	in.calls--
	d.mu.Unlock()
	d.idle.Broadcast()
}

// classify gives an error of a disk the class that the caller acts on: a full disk is overload, everything else may
// succeed later or on other stores.
func classify(err error) error {
	if noSpace(err) {
		return proto.Errorf(proto.ClassOverload, "disk full: %w", err)
	}
	return err
}
