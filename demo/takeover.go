package demo

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

const (
	lookEvery = 2 * time.Millisecond // while the upload is watched: what the takeover time is exact to
	// killFrom is the share of the large object that is acknowledged before its uploader is killed, in percent: enough that
	// starting anew would show.
	killFrom = 25
	// underWayTime is how long the demo waits for that before it gives up.
	underWayTime = 10 * time.Minute
	// successorTime is how long the demo waits for a successor before it gives up.
	successorTime = 2 * time.Minute
)

// Takeover is what happened when the uploader of the large object was killed.
type Takeover struct {
	Object     string  `json:"object"`
	Killed     string  `json:"killed"`
	KilledAt   int64   `json:"killed_at_bytes"` // acknowledged when it was killed
	Successor  string  `json:"successor"`
	FromByte   int64   `json:"from_byte"` // where the successor went on
	Cause      string  `json:"cause"`
	SeenAfter  float64 `json:"lease_seconds"`     // from SIGKILL to the relay's word that another has the upload
	FirstAfter float64 `json:"first_ack_seconds"` // from SIGKILL to the successor's first acknowledged byte
	Size       int64   `json:"size"`
}

// watcher follows one upload at the relay.
type watcher struct {
	relay  *operator.Client
	object string // CLUSTER/DATASET/PATH
	size   int64
	now    func() time.Time
}

// errTooFast says that there was nothing left to take over.
var errTooFast = errors.New("the large object was acknowledged before its uploader could be killed: choose a larger one with --large")

// untilUnderWay waits until the upload is far enough to matter and returns who sends it and how much is acknowledged.
func (w *watcher) untilUnderWay(ctx context.Context) (node string, acked int64, err error) {
	limited, cancel := context.WithTimeout(ctx, underWayTime)
	defer cancel()
	err = w.poll(limited, func(at proto.Where) (bool, error) {
		if at.Current != nil && at.Current.Size == w.size {
			return false, errTooFast
		}
		if up := at.Uploading; up != nil && up.Node != "" && up.Acked*100 >= w.size*killFrom {
			node, acked = up.Node, up.Acked
			return true, nil
		}
		return false, nil
	})
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("after %s the large object is still not under way", underWayTime)
	}
	return node, acked, err
}

// successor waits for the relay's word that another node has the upload, and for the first byte of it that is acknowledged.
// The event log was read up to after when killed was killed, at the instant at.
func (w *watcher) successor(ctx context.Context, killed string, at time.Time, after uint64) (t Takeover, err error) {
	limited, cancel := context.WithTimeout(ctx, successorTime)
	defer cancel()
	g, gctx := errgroup.WithContext(limited)
	var told Takeover
	g.Go(func() (err error) { // ends with the event, or with gctx
		told, err = w.event(gctx, killed, at, after)
		return err
	})
	var first time.Time
	g.Go(func() error { // ends with the first byte, or with gctx
		var node string
		var from int64
		return w.poll(gctx, func(x proto.Where) (bool, error) {
			up := x.Uploading
			switch {
			case up == nil && x.Current != nil && x.Current.Size == w.size:
			case up == nil || up.Node == "" || up.Node == killed:
				return false, nil
			case up.Node != node: // a lease begins with nothing of its own acknowledged
				node, from = up.Node, up.Acked
				return false, nil
			case up.Acked <= from:
				return false, nil
			}
			first = w.now()
			return true, nil
		})
	})
	if err := g.Wait(); err != nil {
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("nobody took over from %s within %s", killed, successorTime)
		}
		return t, err
	}
	told.FirstAfter = first.Sub(at).Seconds()
	return told, nil
}

// event waits for the takeover in the relay's event log.
func (w *watcher) event(ctx context.Context, killed string, at time.Time, after uint64) (t Takeover, err error) {
	for {
		events, err := w.relay.Events(ctx, after, 100, true)
		if err != nil {
			return t, err
		}
		for _, e := range events {
			after = max(after, e.Seq)
			if e.Kind != "takeover" || !strings.HasSuffix(w.object, e.Fields["object"]) || e.Fields["from"] != killed {
				continue
			}
			from, err := strconv.ParseInt(e.Fields["offset"], 10, 64)
			if err != nil {
				return t, fmt.Errorf("takeover event %d: offset: %w", e.Seq, err)
			}
			return Takeover{Object: w.object, Killed: killed, Successor: e.Fields["to"], FromByte: from, Cause: e.Fields["cause"],
				SeenAfter: w.now().Sub(at).Seconds(), Size: w.size}, nil
		}
	}
}

// poll asks where the object is until look is satisfied. A relay that does not know it yet is asked again.
func (w *watcher) poll(ctx context.Context, look func(proto.Where) (bool, error)) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		at, err := w.relay.Where(ctx, w.object)
		if err == nil {
			done, err := look(at)
			if done || err != nil {
				return err
			}
		}
		var gone *operator.UnreachableError
		if errors.As(err, &gone) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// lastEvent returns the number of the newest event.
func lastEvent(ctx context.Context, relay *operator.Client) (after uint64, err error) {
	for {
		events, err := relay.Events(ctx, after, 1000, false)
		if err != nil {
			return 0, err
		}
		if len(events) == 0 {
			return after, nil
		}
		for _, e := range events {
			after = max(after, e.Seq)
		}
	}
}

// String tells the takeover on one line.
func (t Takeover) String() string {
	return fmt.Sprintf("%s took over from %s at byte %s of %s (%s)", t.Successor, t.Killed, show.Count(t.FromByte), show.Count(t.Size), t.Cause)
}
