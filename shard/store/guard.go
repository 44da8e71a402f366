package store

import (
	"errors"
	"fmt"
	"time"
)

// errHung is what a call that passed its deadline returns; the call itself may still be going on.
var errHung = errors.New("the disk does not answer")

// errPanicked marks the errors that panics were turned into.
var errPanicked = errors.New("pebble panicked")

// errEnded is what a call returns whose goroutine pebble ended (see logger).
var errEnded = errors.New("pebble gave up")

// start runs fn on a goroutine of its own, since fn may hang in the kernel, panic on damaged bytes, or be ended by pebble.
// The channel gets fn's error, errEnded or the panic as an error, after which nothing of fn runs any more; before that it
// calls done.
func start(fn func() error, done func(err error)) <-chan error {
	out := make(chan error, 1)
	// Ends when fn does. A call that hangs in the kernel keeps it; the store is then not used again before it has ended.
	go func() {
		err := errEnded
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("%w: %v", errPanicked, r)
			}
			done(err)
			out <- err
		}()
		err = fn()
	}()
	return out
}

// await waits for what start returned, at most for the deadline.
func await(result <-chan error, deadline time.Duration) error {
	timer := time.NewTimer(deadline)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-timer.C:
		return fmt.Errorf("%w within %s", errHung, deadline)
	}
}
