package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/proto"
)

// pollEvery is how often a wait asks again.
const pollEvery = 500 * time.Millisecond

// patience is how long a wait bears a relay that does not answer, so that a restart of the relay does not end it.
const patience = time.Minute

// startPatience is how long it bears one that does not answer yet: a wait is often the command after the relay's start.
const startPatience = 10 * time.Second

// Until says what a wait waits for.
const (
	UntilAck     = "ack"     // all that the agents hold is acknowledged by the relay
	UntilConfirm = "confirm" // and confirmed on the link
)

// Wait asks the agents of a link's dataset for a fresh scan and then waits until all they hold is acknowledged or
// confirmed. It calls tell with each state it learns and returns the last one, which is Done or Partial unless there is an
// error: ctx's when it ended, the relay's when it refused, *UnreachableError when it was not there for some seconds at the
// start, or for a minute later. The last state is returned with the error.
func (c *Client) Wait(ctx context.Context, link, until string, tell func(proto.WaitState)) (last proto.WaitState, err error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	scan, err := c.firstScan(ctx, link, tick, tell)
	if err != nil {
		return last, err
	}
	for missed := time.Duration(0); ; {
		state, err := c.WaitState(ctx, link, scan.Token, until)
		switch {
		case err == nil:
			last, missed = state, 0
			tell(state)
			if state.Done || state.Partial {
				return last, nil
			}
		case proto.ClassOf(err) != proto.ClassTransient && proto.ClassOf(err) != proto.ClassOverload:
			return last, fmt.Errorf("wait for link %s: %w", link, err)
		case ctx.Err() == nil:
			if missed += pollEvery; missed > patience {
				return last, err
			}
		}
		select {
		case <-ctx.Done():
			return last, ctx.Err()
		case <-tick.C:
		}
	}
}

// firstScan asks for the scan. A relay that has just been started may take a moment to answer.
func (c *Client) firstScan(ctx context.Context, link string, tick *time.Ticker, tell func(proto.WaitState)) (scan proto.ScanRequest, err error) {
	for missed := time.Duration(0); ; missed += pollEvery {
		scan, err = c.Scan(ctx, link)
		var away *UnreachableError
		if !errors.As(err, &away) || missed >= startPatience {
			return scan, err
		}
		tell(proto.WaitState{WaitingFor: []string{"the relay at " + c.base + " to answer"}})
		select {
		case <-ctx.Done():
			return scan, err
		case <-tick.C:
		}
	}
}
