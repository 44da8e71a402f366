package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"forebay/agent/client"
	"forebay/agent/session"
	"forebay/agent/work"
	"forebay/proto"
)

// The pauses between two rounds of asking the relays.
const (
	helloMin = 200 * time.Millisecond
	helloMax = 5 * time.Second
)

// sessions keeps the agent in a session until ctx ends. It fails only with the index or the data folder.
func (a *Agent) sessions(ctx context.Context) error {
	back := helloMin
	for ctx.Err() == nil {
		s, err := a.hello(ctx)
		if err == nil {
			began := a.deps.Now()
			if err = a.inSession(ctx, s); err != nil {
				return err
			}
			if a.deps.Now().Sub(began) > helloMax {
				back = helloMin
			}
		}
		if err := rest(ctx, back/2+rand.N(back/2+1)); err != nil {
			return nil
		}
		back = min(2*back, helloMax)
	}
	return nil
}

// hello opens a session with the first relay that takes the agent.
func (a *Agent) hello(ctx context.Context) (*session.Session, error) {
	clients := make([]*client.Client, len(a.cfg.Relays))
	for i, url := range a.cfg.Relays {
		clients[i] = client.New(url, maxConns, a.upload)
	}
	h := proto.Hello{
		Coding:  proto.Coding,
		Version: proto.Version, Software: a.cfg.Software, Cluster: a.cfg.Cluster, Node: a.cfg.Node,
		Instance: a.instance, Boot: a.boot, ClockNs: a.deps.Now().UnixNano(),
	}
	for _, r := range a.roots {
		h.Roots = append(h.Roots, proto.Root{Dataset: r.dataset.Name, Path: r.path, Index: r.ix.ID(), Told: r.ix.Counts().Told})
	}
	s, err := session.Open(ctx, clients, h, session.Deps{Now: a.deps.Now, Roots: a.rootStatus, Notice: a.standing, Polled: a.polled})
	if err == nil {
		return s, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	a.troubled(trouble(a.cfg, err))
	return nil, err
}

// trouble says what keeps the agent from its relay, and what to do.
func trouble(cfg Config, err error) string {
	switch proto.ClassOf(err) {
	case proto.ClassConflict:
		return fmt.Sprintf("another live agent has the node name %s: stop it, or give this one another name (%v)", cfg.Node, err)
	case proto.ClassPermanent:
		return fmt.Sprintf("the relay refuses this agent: %v", err)
	}
	return fmt.Sprintf("no relay answers, everything waits: %v", err)
}

// troubled notes why there is no session. It is logged once for each reason.
func (a *Agent) troubled(why string) {
	a.mu.Lock()
	was := a.trouble
	a.trouble = why
	a.mu.Unlock()
	if why != "" && why != was {
		a.deps.Log.Error().Msg(why)
	}
}

func (a *Agent) rootStatus() []proto.RootStatus {
	out := make([]proto.RootStatus, len(a.roots))
	for i, r := range a.roots {
		out[i] = r.status()
	}
	return out
}

// relayRun is one run of a relay: from its start to its end.
type relayRun struct {
	relay      proto.RelayID
	generation uint32
}

// inSession runs the workers until the session or ctx ends.
func (a *Agent) inSession(ctx context.Context, s *session.Session) error {
	err := a.belong(s.Hello.Relay, s.Hello.Rebuilt)
	if err == nil {
		err = a.wasPutBack(s.Hello.PutBack)
	}
	if err != nil {
		s.Client.Close()
		return err
	}
	h := s.Hello
	log := a.deps.Log.With().Str("relay", h.RelayName).Logger()
	log.Info().Str("address", s.Client.Base()).Uint64("session", uint64(h.Session)).Msg("known to the relay")
	a.enter(s)
	defer a.leave()
	if at := (relayRun{h.Relay, h.Generation}); at != a.run {
		a.run = at
		for _, r := range a.roots {
			r.heardUp(0)
		}
	}
	group, run := errgroup.WithContext(ctx)
	lost := errors.New("session over") // ends the others without being an error of the agent
	for i, r := range a.roots {
		w := work.New(work.Deps{
			Shared: a.shared, Log: log, Relay: s.Client, Session: s, SessionID: h.Session, Dataset: r.dataset, Holder: h.Holders[i],
			Index: r.ix, Root: r, Heard: r.heard, Reads: r.reads,
			Tell: func(item proto.ProgressItem) { a.gossip.Note(r.dataset.Name, h.Holders[i], item) },
		})
		group.Go(func() error { return r.work(run, w) }) // ends with run
	}
	group.Go(func() error { return a.hints(run, s) }) // ends with run
	group.Go(func() error {                           // ends with the session, or with run
		err := s.Run(run)
		if err != nil {
			a.troubled("lost the relay, saying hello again: " + err.Error())
		}
		return errors.Join(lost, err)
	})
	if err := group.Wait(); err != nil && !errors.Is(err, lost) && ctx.Err() == nil {
		return err
	}
	return nil
}

func (a *Agent) enter(s *session.Session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session, a.since, a.trouble = s, a.deps.Now(), ""
}

func (a *Agent) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session = nil
}

// belong makes the indexes those of a relay. What another relay knew is nothing to this one: its versions are numbers of
// another ledger, and taking them for its own would leave objects unsent for ever. A relay that rebuilt its ledger still
// knows what the numbers meant, but not who has what, nor what it had let go: everything is settled with it once more.
func (a *Agent) belong(relay proto.RelayID, rebuilt uint32) error {
	file := filepath.Join(a.cfg.DataDir, "relay")
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read which relay the index belongs to: %w", err)
	}
	was, is := strings.TrimSpace(string(b)), relay.String()
	if rebuilt != 0 {
		is += fmt.Sprintf(" %d", rebuilt)
	}
	if was == is {
		return nil
	}
	same, _, _ := strings.Cut(was, " ")
	for _, r := range a.roots {
		if same == relay.String() {
			r.log.Warn().Str("was", was).Str("is", is).Msg("the relay's ledger was rebuilt: everything is settled with it again")
			err = r.renew()
		} else {
			if was != "" {
				r.log.Warn().Str("was", was).Str("is", is).Msg("another relay than before: everything is settled with it anew")
			}
			err = r.forget()
		}
		if err != nil {
			return err
		}
		if err := r.ix.Sync(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(file, []byte(is+"\n"), 0o600); err != nil {
		return fmt.Errorf("note which relay the index belongs to: %w", err)
	}
	return nil
}

// wasPutBack settles again what is in indexes that the relay has seen further on than they are. A session that ends before that is
// done, and durable, is followed by one in which the relay says so again.
func (a *Agent) wasPutBack(told []uint64) error {
	for i, r := range a.roots {
		if i >= len(told) || told[i] == 0 {
			continue
		}
		r.log.Warn().Msg("the agent's data was put back to an older copy: everything is settled with the relay again")
		if err := work.PutBack(r.ix, told[i], r.now()); err != nil {
			return err
		}
	}
	return nil
}

// polled passes on what a poll told.
func (a *Agent) polled(p proto.PollReply) {
	if p.UpNs != 0 {
		for _, r := range a.roots {
			r.heardUp(p.UpNs)
		}
	}
	for _, d := range p.Datasets {
		for _, r := range a.roots {
			if r.dataset.Name != d.Dataset {
				continue
			}
			r.want(d.ScanToken)
			if w := r.current(); w != nil && d.Head != r.ix.Counts().Cursor {
				w.News()
			}
		}
	}
	for _, e := range p.Ended {
		a.ended(e)
	}
	a.look(p.Look, p.UpNs)
}

// look passes on what the relay asks roots to look for, at its running time up.
func (a *Agent) look(asked []proto.Look, up int64) {
	by := map[proto.HolderID][]proto.Look{}
	for _, l := range asked {
		by[l.Holder] = append(by[l.Holder], l)
	}
	for _, r := range a.roots {
		w := r.current()
		if w == nil || len(by[w.Holder]) == 0 {
			continue
		}
		list := by[w.Holder]
		if list[0].Path == "" {
			r.proveSoon()
			list = list[1:]
		}
		w.Look(list, up)
	}
}

// ended passes on that a lease ended.
func (a *Agent) ended(e proto.LeaseEnded) {
	for _, r := range a.roots {
		if r.dataset.Name != e.Dataset {
			continue
		}
		if w := r.current(); w != nil {
			if err := w.Ended(e); err != nil {
				r.log.Error().Err(err).Msg("cannot note the end of a lease in the index")
			}
		}
	}
}
