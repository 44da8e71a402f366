// Package relayd puts a relay together from its configuration: ledger and stores, the bus, the flush, the HTTP face. It is the
// place where relay and flush meet, which never import each other.
package relayd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"forebay/config"
	"forebay/flush"
	"forebay/flush/policy"
	"forebay/internal/faultpoint"
	"forebay/internal/openfiles"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/bus/embedded"
	"forebay/relay"
	"forebay/relay/api"
	"forebay/shard"
)

// Deps are what the daemon is given to work with.
type Deps struct {
	Log      zerolog.Logger
	Now      func() time.Time
	Software string // version of this program
	Memory   int64  // relay.Config.Memory
	// Load reads the configuration file anew, for Reload.
	Load func() (*config.Relay, error)
	// Ready is called once agents and operators are served.
	Ready func()
	// Getenv reads a variable of the environment; nil for one that has none.
	Getenv func(string) string
	// Fault is told of the boundaries between durable steps; nil in the program that ships.
	Fault faultpoint.Hook
}

// Daemon is a relay that was put together.
type Daemon struct {
	deps    Deps
	started *config.Relay // what the process was started with: what only a restart changes is as it says
	mu      sync.Mutex    // guards cfg
	cfg     *config.Relay // the last one taken over
	relay   *relay.Relay
	engine  *flush.Engine
	nats    *embedded.Server
	api     *api.API
	http    *http.Server
	socket  net.Listener
	trying  sync.Mutex // held while a target is tried
}

// New opens everything and binds the ports; Run serves. Errors say what is in the way: a port in use, a data directory in use,
// stores that are not this relay's.
func New(cfg *config.Relay, deps Deps) (*Daemon, error) {
	d := &Daemon{deps: deps, started: cfg, cfg: cfg}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *Daemon) open() error {
	cfg := d.started
	socket, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w: is another relay running there? change listen: or stop it", cfg.Listen, err)
	}
	d.socket = socket
	token, err := d.openBus()
	if err != nil {
		return err
	}
	files, err := openfiles.Limit()
	if err != nil {
		return err
	}
	d.relay, err = relay.Open(d.relayConfig(cfg, files), relay.Deps{Log: d.deps.Log, Now: d.deps.Now, Bus: d.dialBus(token), BusURLs: d.busURLs, BusToken: token, Fault: d.deps.Fault})
	if err != nil {
		return err
	}
	d.engine, err = flush.New(flush.Config{Relay: d.relay.ID(), Workers: flushWorkers(d.deps.Memory, len(cfg.Links))}, flush.Deps{
		Ledger: d.relay.Ledger(), Cache: cache{d.relay}, Clock: flush.SystemClock(d.deps.Now), OpenTarget: d.openTarget,
		HighWater: d.relay.HighWater, LostSegment: d.relay.SuspectSegment, Loose: d.relay.NoteLoose, Unread: d.unread, Events: d.flushEvent, Fault: d.deps.Fault,
	})
	if err != nil {
		return err
	}
	d.relay.SetFlusher(flusher{d})
	if err := d.setLinks(cfg); err != nil {
		return err
	}
	d.api = api.New(d.relay)
	d.http = &http.Server{Handler: d.api.Handler(), ConnContext: d.api.ConnContext, ConnState: d.api.ConnState,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	return nil
}

func (d *Daemon) relayConfig(cfg *config.Relay, files int) relay.Config {
	return relay.Config{
		Name: cfg.Name, Data: cfg.Data, Stores: cfg.Cache.Stores, Coding: shard.Geometry{Data: cfg.Cache.Coding.Data, Parity: cfg.Cache.Coding.Parity},
		Capacity: int64(cfg.Cache.Capacity), High: fraction(int64(cfg.Cache.HighWater)), Low: fraction(int64(cfg.Cache.LowWater)), Ballast: int64(cfg.Cache.Ballast),
		Upkeep:    upkeep(cfg),
		Suspicion: cfg.Suspicion.Std(), Links: relayLinks(cfg, nil), Insecure: exposed(cfg), Software: d.deps.Software,
		FileLimit: files, Memory: d.deps.Memory,
	}
}

func upkeep(cfg *config.Relay) relay.Upkeep {
	k := cfg.Cache
	return relay.Upkeep{RebuildAfter: k.RebuildAfter.Std(), RebuildRate: float64(k.RebuildRate), Scrub: k.Scrub.Std(), ScrubRate: float64(k.ScrubRate)}
}

// exposed reports whether a port of the relay can be reached from other machines.
func exposed(cfg *config.Relay) bool {
	return !loopback(cfg.Listen) || cfg.NATS.Listen != "" && !loopback(cfg.NATS.Listen)
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// openBus starts the embedded bus, unless the configuration names another.
func (d *Daemon) openBus() (token string, err error) {
	if len(d.started.NATS.URLs) > 0 {
		return "", nil
	}
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("draw a token for the bus: %w", err)
	}
	token = hex.EncodeToString(b[:])
	d.nats, err = embedded.Start(embedded.Config{Listen: d.started.NATS.Listen, Token: token}, d.deps.Log)
	return token, err
}

func (d *Daemon) dialBus(token string) func() (bus.Bus, error) {
	return func() (bus.Bus, error) {
		c := bus.Config{URLs: d.started.NATS.URLs, CredentialsFile: d.started.NATS.CredentialsFile, Token: token, Name: "forebay relay " + d.started.Name}
		if d.nats != nil {
			c.URLs = []string{d.nats.URL()}
		}
		return bus.Dial(c, d.deps.Log)
	}
}

// busURLs tells an agent where the bus is: on the host under which it reached the relay, where the bus listens on all.
func (d *Daemon) busURLs(host string) []string {
	if d.nats == nil {
		return d.started.NATS.URLs
	}
	own, port, err := net.SplitHostPort(d.nats.Addr())
	if err != nil {
		return []string{d.nats.URL()}
	}
	if ip := net.ParseIP(own); ip != nil && ip.IsUnspecified() && host != "" {
		own = host
	}
	return []string{"nats://" + net.JoinHostPort(own, port)}
}

// Addr is where the relay listens, and BusAddr where its own bus does ("" when it uses another).
func (d *Daemon) Addr() string { return d.socket.Addr().String() }

// Run serves until ctx ends: then no new work is taken, commit groups are finished, flushes are not waited for.
func (d *Daemon) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error { // ends with Shutdown, below
		if err := d.http.Serve(d.socket); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	g.Go(func() error { return d.relay.Run(inner) })  // ends when inner does
	g.Go(func() error { return d.engine.Run(inner) }) // ends when inner does
	g.Go(func() error {                               // ends when ctx does
		<-ctx.Done()
		defer stopInner()
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		if err := d.http.Shutdown(late); err != nil {
			return errors.Join(d.http.Close(), fmt.Errorf("calls under way were cut off: %w", err))
		}
		return nil
	})
	if d.deps.Ready != nil {
		d.deps.Ready()
	}
	return errors.Join(g.Wait(), d.close())
}

func (d *Daemon) close() error {
	var errs []error
	if d.relay != nil {
		errs = append(errs, d.relay.Close())
		d.relay = nil
	}
	if d.nats != nil {
		d.nats.Close()
		d.nats = nil
	}
	if d.socket != nil {
		if err := d.socket.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
		d.socket = nil
	}
	return errors.Join(errs...)
}

// Reload takes a changed configuration over. A bad file leaves the one before in force and is a problem until a good one is
// read; what only a restart can change is said until the file agrees with what runs, or the relay was restarted.
func (d *Daemon) Reload() {
	d.mu.Lock()
	defer d.mu.Unlock()
	next, err := d.deps.Load()
	if err != nil {
		d.deps.Log.Error().Err(err).Msg("the configuration was not taken, the one before stays in force")
		d.relay.SetStanding([]proto.Problem{notTaken(err)})
		return
	}
	var standing []proto.Problem
	keys := config.RestartKeys(d.started, next)
	if slices.Equal(d.relay.StorePaths(), slices.Sorted(slices.Values(next.Cache.Stores))) { // as operators have changed them since
		keys = slices.DeleteFunc(keys, func(k string) bool { return k == "cache.stores" })
	}
	if len(keys) > 0 {
		d.deps.Log.Warn().Strs("keys", keys).Msg("these changes need a restart")
		standing = append(standing, proto.Problem{Code: "restart-needed", Health: proto.Yellow, What: "configuration: a restart is needed for " + strings.Join(keys, ", "), Do: "restart the relay when it suits"})
	}
	before := d.cfg
	d.cfg = next
	if err := d.setLinks(next); err != nil {
		d.cfg = before
		d.deps.Log.Error().Err(err).Msg("links were not brought in line with the configuration")
		d.relay.SetStanding([]proto.Problem{notTaken(err)})
		return
	}
	d.relay.Tune(next.Suspicion.Std(), int64(next.Cache.Capacity), fraction(int64(next.Cache.HighWater)), fraction(int64(next.Cache.LowWater)))
	d.relay.SetUpkeep(upkeep(next))
	d.relay.SetStanding(standing)
	d.relay.Event("reloaded", "the configuration was read anew", nil)
}

func notTaken(err error) proto.Problem {
	return proto.Problem{Code: "config", Health: proto.Yellow, What: "configuration: the changed file was not taken, the one before stays in force: " + err.Error(),
		Do: "mend the file (forebay configcheck) and reload again"}
}

// LogLevel is the level that the configuration in force asks for.
func (d *Daemon) LogLevel() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg.Log.Level
}

// setLinks tells relay and flush of the configured links; the ledger has their rows before the flush hears of them.
func (d *Daemon) setLinks(cfg *config.Relay) error {
	rows, err := ledger.Links(d.relay.Ledger())
	if err != nil {
		return err
	}
	if err := d.relay.SetLinks(relayLinks(cfg, rows)); err != nil { // with what was set by hand, in force meanwhile too
		return err
	}
	if rows, err = ledger.Links(d.relay.Ledger()); err != nil {
		return err
	}
	if err := d.relay.SetLinks(relayLinks(cfg, rows)); err != nil { // what was set by hand for a link at another target does not hold for the new one
		return err
	}
	var links []flush.LinkConfig
	for _, l := range cfg.Links {
		for _, row := range rows {
			if row.Name == l.Name {
				t, _ := cfg.Target(l.To)
				links = append(links, flush.LinkConfig{ID: row.ID, Name: l.Name, Target: l.To, Prefix: l.Prefix, Revision: t.Revision(), Policy: l.Policy})
			}
		}
	}
	d.engine.SetBandwidth(flush.Bandwidth{Table: cfg.Bandwidth, Zone: cfg.Zone})
	d.engine.SetLinks(links)
	return nil
}

// relayLinks is what the relay needs to know of the links, with what rows say was set by hand.
func relayLinks(cfg *config.Relay, rows []ledger.LinkRow) (out []relay.Link) {
	for _, l := range cfg.Links {
		t, _ := cfg.Target(l.To)
		p := l.Policy
		for _, row := range rows {
			if row.Name == l.Name {
				p = effective(l, row)
			}
		}
		out = append(out, relay.Link{Name: l.Name, From: l.From, Target: t.Identity(), To: l.To, Prefix: l.Prefix, Coalesce: p.Coalesce,
			Grace: p.Delete.Grace.Std(), Share: fraction(int64(p.Share)), Hold: p.WhenFull == policy.Hold})
	}
	return out
}
