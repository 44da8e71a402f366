package flush

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"forebay/ledger"
	"forebay/proto"
	"forebay/units"
)

// Engine runs the loops of all links.
type Engine struct {
	cfg     Config
	deps    Deps
	turns   *turns
	pool    *pool
	changed chan struct{} // of size 1: links came or went

	mu      sync.Mutex
	links   []*link          // as configured
	running map[string]*link // loops that have not ended, by the names of their links
}

// New makes an engine without links.
func New(cfg Config, deps Deps) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if err := deps.check(); err != nil {
		return nil, err
	}
	cfg, deps = cfg.withDefaults(), deps.withDefaults()
	return &Engine{
		cfg: cfg, deps: deps,
		turns:   newTurns(cfg.Reads, deps.Clock),
		pool:    newPool(deps.Clock),
		changed: make(chan struct{}, 1),
		running: map[string]*link{},
	}, nil
}

// SetLinks puts the links of the configuration in force: new ones start, those that are gone stop, the others go on under
// their new policy. It may be called at any time, before Run too.
func (e *Engine) SetLinks(cfgs []LinkConfig) {
	e.mu.Lock()
	var links []*link
	for _, c := range cfgs {
		i := slices.IndexFunc(e.links, func(l *link) bool { return l.id == c.ID })
		if i < 0 {
			links = append(links, newLink(e, c))
			continue
		}
		e.links[i].configure(c)
		links = append(links, e.links[i])
	}
	e.links = links
	e.mu.Unlock()
	signal(e.changed)
	for _, l := range links {
		l.poke()
	}
}

// SetBandwidth puts what all links together may send in force, at once. It may be called at any time, before Run too.
func (e *Engine) SetBandwidth(b Bandwidth) { e.pool.configure(b) }

// Bandwidth returns what SetBandwidth put in force, and the rate that it means now; 0 = unlimited.
func (e *Engine) Bandwidth() (Bandwidth, units.Rate) { return e.pool.inForce() }

// Run flushes until ctx ends. What is under way is given up where it is: the next run repeats it. A link whose target hangs
// is waited for no longer than Config.Grace and named in the error.
func (e *Engine) Run(ctx context.Context) error {
	ended := make(chan *link)
	for {
		e.reconcile(ctx, ended)
		select {
		case <-ctx.Done():
			return e.drain(ended)
		case <-e.changed:
		case l := <-ended:
			e.forget(l)
		}
	}
}

// Step does, in the calling goroutine, one step of each link that is due at now or was poked, in the order of the configuration:
// for a driver that owns the time. The steps are those of Run's loops, and a wait within one (a rate) is Config's clock's.
// It returns when to step again, zero for when somebody pokes. Never call it beside Run. With Config.Workers 1 what it does is
// the same each time.
func (e *Engine) Step(ctx context.Context) (next time.Time) {
	e.mu.Lock()
	links := slices.Clone(e.links)
	e.mu.Unlock()
	for _, l := range links {
		select {
		case <-l.wake:
			l.quiet = false
		default:
		}
		if now := l.now(); !l.quiet || !l.dueAt.IsZero() && !now.Before(l.dueAt) {
			var again bool
			if l.dueAt, again = l.step(ctx); again {
				l.dueAt = now
			}
			l.quiet = true
		}
		next = earliest(next, l.dueAt)
	}
	return next
}

// reconcile starts and stops loops. A link that came back, or has another's name, while the old loop has not ended starts when it has: what
// that one has under way must not come after what the new one does.
func (e *Engine) reconcile(ctx context.Context, ended chan<- *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.running {
		if !slices.Contains(e.links, l) {
			l.cancel()
		}
	}
	for _, l := range e.links {
		name := l.config().Name
		if e.running[name] != nil || ctx.Err() != nil {
			continue
		}
		e.running[name] = l
		own, cancel := context.WithCancel(ctx)
		l.cancel = cancel
		go func() { // ends when the link is taken out or Run's context ends
			defer cancel()
			l.run(own)
			ended <- l
		}()
	}
}

func (e *Engine) forget(l *link) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.running, l.config().Name)
}

func (e *Engine) drain(ended <-chan *link) error {
	fired, stop := e.deps.Clock.Timer(e.cfg.Grace)
	defer stop()
	for {
		e.mu.Lock()
		var names []string
		for _, l := range e.running {
			names = append(names, l.config().Name)
		}
		e.mu.Unlock()
		if names == nil {
			return nil
		}
		select {
		case l := <-ended:
			e.forget(l)
		case <-fired:
			go func() { // ends when the last of the targets that hang lets go
				for range names {
					<-ended
				}
			}()
			slices.Sort(names)
			return proto.Errorf(proto.ClassTransient, "flush: the targets of %s hang: gave them up after %s, the next start repeats what was under way", strings.Join(names, ", "), e.cfg.Grace)
		}
	}
}

// Wake tells a link that something it owes is new: versions sealed, content that came again, pause or policy changed. Calls
// are coalesced.
func (e *Engine) Wake(name string) {
	if l := e.find(name); l != nil {
		l.poke()
	}
}

func (e *Engine) find(name string) *link {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, l := range e.links {
		if l.config().Name == name {
			return l
		}
	}
	return nil
}

// known is find for the calls of operators.
func (e *Engine) known(name string) (*link, error) {
	if l := e.find(name); l != nil {
		return l, nil
	}
	if _, ok := e.orphan(name); ok {
		return nil, proto.Errorf(proto.ClassConflict, "link %s is orphaned: put it back into the configuration, or drop it", name)
	}
	return nil, proto.Errorf(proto.ClassPermanent, "there is no link %s", name)
}

// orphan describes a link that is in the ledger only.
func (e *Engine) orphan(name string) (State, bool) {
	rows, err := ledger.Links(e.deps.Ledger)
	if err != nil {
		return State{}, false
	}
	for _, r := range rows {
		if r.Name == name && name != "" && r.Orphaned {
			return State{Link: name, State: StateOrphaned, Reason: orphanReason(r)}, true
		}
	}
	return State{}, false
}

func orphanReason(r ledger.LinkRow) string {
	return fmt.Sprintf("not in the configuration any more; owes %d objects: put it back, or give them up with link drop", r.OwedObjects+r.ParkedObjects)
}

// signal fills a channel of size 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is filled
	}
}

func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}
