package agent

import (
	"context"
	"fmt"
	"time"

	"forebay/agent/scan"
	"forebay/agent/work"
)

// A disk that hangs, as that of a hard mount whose server is away does, keeps whoever asked it, and no system call on it can be taken back. What
// must go on without that root is left behind then: the agent's session with the relay, which is that of all roots, and its end.

const (
	// hungAfter is how long a disk may take for one answer to a scan before it is shown.
	hungAfter = 30 * time.Second
	// leaveAfter is how long the end of a session, or of the agent, waits for what a root's disk keeps.
	leaveAfter = 5 * time.Second
)

// hung says that the root's disk does not answer a scan; "" when it does.
func (r *root) hung() string {
	for _, s := range []*scan.Scanner{r.full, r.part} {
		if dir, since := s.Standing(); !since.IsZero() && r.now().Sub(since) >= hungAfter {
			return fmt.Sprintf("the disk has not answered since %s, when a scan asked for what is in %q: nothing new is found in this root until it does; "+
				"look at the disk, or at the server that it is mounted from", since.UTC().Format(time.RFC3339), "/"+dir)
		}
	}
	return ""
}

// leave runs fn, which ctx ends unless the root's disk keeps it: then it is left behind, and has ctx's error.
func (r *root) leave(ctx context.Context, what string, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }() // ends with ctx, once the disk answers
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(leaveAfter)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		r.log.Warn().Str("what", what).Msg("the root's disk does not answer: what waits for it is left behind")
		return ctx.Err()
	}
}

// work runs the worker of a session, once that of the session before, which the disk may have kept, has come back.
func (r *root) work(ctx context.Context, w *work.Worker) error {
	select {
	case r.desk <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	r.employ(w)
	err := r.leave(ctx, "sending", func() error {
		defer func() { <-r.desk }()
		return w.Run(ctx)
	})
	r.employ(nil)
	if ctx.Err() != nil && err == ctx.Err() { //nolint:errorlint // leave's own
		return nil
	}
	return err
}
