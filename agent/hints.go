package agent

import (
	"context"
	"errors"
	"time"

	"forebay/agent/session"
	"forebay/proto"
	"forebay/proto/bus"
)

// hints joins the bus for the time of a session: it beats, tells the progress of uploads, and listens to the relay's nudges
// and to other holders. All of it may fail: the polls and the feed bring the same, later (I4).
func (a *Agent) hints(ctx context.Context, s *session.Session) error {
	b := a.joinBus(ctx, s)
	if b == nil {
		return nil
	}
	defer a.leaveBus(b)
	if err := a.subscribe(b, s); err != nil {
		a.deps.Log.Warn().Err(err).Msg("cannot listen to the bus; polls do its work")
	}
	tell := time.NewTicker(proto.GossipInterval)
	defer tell.Stop()
	beat := time.NewTicker(s.Suspicion() / 3)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-beat.C:
			_ = b.Publish(bus.SubjectBeat(s.Hello.Relay), proto.Marshal(proto.Beat{Session: s.Hello.Session, ClockNs: a.deps.Now().UnixNano()}))
		case <-tell.C:
			for _, p := range a.gossip.Take() {
				d := proto.Dataset{Cluster: a.cfg.Cluster, Name: p.Dataset}
				data := proto.Marshal(p)
				if s.Coding(p.Dataset) >= proto.CodingZstd {
					data, _ = proto.Pack(data)
				}
				_ = b.Publish(bus.SubjectProgress(s.Hello.Relay, d), data)
			}
		}
	}
}

// redial is how long a bus that could not be joined is left alone.
const redial = 5 * time.Second

// joinBus connects to the bus; nil when there is none before ctx ends.
func (a *Agent) joinBus(ctx context.Context, s *session.Session) bus.Bus {
	if a.deps.DialBus == nil || len(s.Hello.BusURLs) == 0 {
		return nil
	}
	for said := false; ctx.Err() == nil; {
		b, err := a.deps.DialBus(s.Hello.BusURLs, s.Hello.BusToken)
		if err == nil {
			a.mu.Lock()
			a.bus = b
			a.mu.Unlock()
			return b
		}
		if !said {
			a.deps.Log.Warn().Err(err).Msg("no bus; polls do its work")
			said = true
		}
		_ = rest(ctx, redial)
	}
	return nil
}

func (a *Agent) leaveBus(b bus.Bus) {
	a.mu.Lock()
	a.bus = nil
	a.mu.Unlock()
	b.Close()
}

// subscribe listens for each dataset. Closing the bus ends the subscriptions.
func (a *Agent) subscribe(b bus.Bus, s *session.Session) error {
	var errs []error
	seen := map[proto.Dataset]bool{}
	for _, r := range a.roots {
		if seen[r.dataset] {
			continue
		}
		seen[r.dataset] = true
		_, err := b.Subscribe(bus.SubjectNudge(s.Hello.Relay, r.dataset), func(data []byte) { a.nudged(s, r.dataset, data) })
		errs = append(errs, err)
		_, err = b.Subscribe(bus.SubjectProgress(s.Hello.Relay, r.dataset), func(data []byte) { a.overheard(s, data) })
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// nudged follows a word of the relay. Anybody may have said it: it makes the agent ask, and what counts is the answer.
func (a *Agent) nudged(s *session.Session, d proto.Dataset, data []byte) {
	var n proto.Nudge
	if proto.Unmarshal(data, &n) != nil {
		return
	}
	if n.ScanToken != 0 || n.Members != 0 {
		s.Kick()
	}
	for _, r := range a.roots {
		if r.dataset != d {
			continue
		}
		if w := r.current(); w != nil && n.Head > r.ix.Counts().Cursor {
			w.Heads(n.Head)
		}
	}
	for _, e := range n.Ended {
		if e.Dataset == d.Name {
			a.ended(e)
		}
	}
}

// overheard notes what another holder said to be uploading.
func (a *Agent) overheard(s *session.Session, data []byte) {
	var p proto.Progress
	data, err := proto.UnpackHint(data)
	if err != nil || proto.Unmarshal(data, &p) != nil {
		return
	}
	now := a.deps.Now()
	for i, r := range a.roots {
		if r.dataset.Name != p.Dataset || s.Hello.Holders[i] == p.Holder {
			continue
		}
		for _, item := range p.Items {
			r.heard.Note(item.Path, item.Upload, item.Epoch, now)
		}
	}
}
