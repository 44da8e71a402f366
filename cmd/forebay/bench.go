package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/bench"
	"forebay/cmd/forebay/bench/advice"
	"forebay/config"
	"forebay/units"
)

const (
	benchTime     = time.Minute
	leastTime     = time.Second
	benchPatience = 10 * time.Second
	mostTime      = time.Hour
	benchSize     = units.GiB
	leastSize     = 16 * units.MiB
)

// benchFlags are the flags of bench.
type benchFlags struct {
	relayFlags
	config string
	time   durationFlag
	size   sizeFlag
	inflow string
}

// benchResult is what --json prints.
type benchResult struct {
	Schema  int     `json:"schema"`
	At      string  `json:"at"`
	Version string  `json:"version"`
	Seconds float64 `json:"seconds"`
	advice.Measured
	Skipped []bench.Skipped `json:"not_measured"`
	Advice  advice.Advice   `json:"advice"`
}

func newBench(c *cli) *cobra.Command {
	f := benchFlags{time: durationFlag(benchTime), size: sizeFlag(benchSize)}
	cmd := &cobra.Command{
		Use: "bench [disks] [coding] [ingest] [network] [target NAME]…", Short: "Measure disks, coding, ingest, network and targets, and " +
			"say what to set",
		Long: "Measures what a relay rests on, in about a minute, and says what to set. Without arguments: all that the configuration " +
			"allows; with an\n" +
			"agent.yaml as --config the way to its relay. It may run beside a relay: it writes in folders of its own, which it removes.\n\n" +
			"  disks        each store's disk and the ledger's: writing with fsync, reading, fsync latency\n" +
			"  coding       Reed-Solomon with the configured coding, and digests\n" +
			"  ingest       a relay of its own on these disks acknowledges large and small objects\n" +
			"  network      round trip and throughput from this machine to --relay\n" +
			"  target NAME  write, read and small objects, as targets check does with more data",
		Args: usageArgs(cobra.ArbitraryArgs), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			// Unlike other verbs it keeps the signals while it cleans up: an impatient second one would leave files. A disk that hangs
			// keeps it from that; then another one ends it.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			defer context.AfterFunc(ctx, func() { time.AfterFunc(benchPatience, stop) })()
			return c.bench(ctx, &f, args, cmd.Flags().Changed)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.config, "config", defaultConfig, "the relay.yaml whose disks and targets are measured, or an agent.yaml")
	fl.Var(&f.time, "time", "for all parts together, about")
	fl.Var(&f.size, "size", "bytes that are kept on each disk at most")
	fl.StringVar(&f.inflow, "inflow", "", "what comes in, such as 200GiB/day: targets, windows and capacity are judged by it")
	return f.add(cmd, true)
}

func (c *cli) bench(ctx context.Context, f *benchFlags, args []string, changed func(string) bool) error {
	cl, err := f.client()
	if err != nil {
		return err
	}
	o := bench.Options{Time: time.Duration(f.time), Size: int64(f.size), Network: cl.URL(), Software: build().Version}
	if o.Time < leastTime || o.Time > mostTime {
		return usagef("--time %s: want %s to %s", f.time.String(), units.Duration(leastTime), units.Duration(mostTime))
	}
	if units.Size(f.size) < leastSize {
		return usagef("--size %s: what is smaller than %s tells nothing of a disk", units.Size(f.size), leastSize)
	}
	inflow := int64(0)
	if f.inflow != "" {
		if inflow, err = parseInflow(f.inflow); err != nil {
			return err
		}
	}
	if err := chooseParts(&o, args); err != nil {
		return err
	}
	agent, err := loadBench(&o, f.config, changed("config"))
	if err != nil {
		return err
	}
	if agent != nil && !changed("relay") && len(agent.Relays) > 0 {
		o.Network = agent.Relays[0]
	}
	if err := allowed(&o, agent, f.config); err != nil {
		return err
	}
	p := c.progress()
	defer p.Close()
	began := c.now()
	r, err := bench.New(o, bench.Deps{Now: c.now, Getenv: os.Getenv, Progress: p}).Run(ctx)
	p.Close()
	if err != nil {
		return err
	}
	out := benchResult{Schema: 1, At: began.UTC().Format(time.RFC3339), Version: o.Software, Seconds: c.now().Sub(began).Seconds(),
		Measured: r.Measured, Skipped: r.Skipped, Advice: advice.Give(r.Measured, bench.View(o.Relay, agent, inflow))}
	if f.json {
		err = c.encodeJSON(out)
	} else {
		c.printBench(&out)
	}
	switch {
	case err != nil || len(r.Skipped) == 0:
		return err
	case nothing(r.Measured):
		return quietly(exitFailed)
	}
	return quietly(exitPart)
}

func nothing(m advice.Measured) bool {
	return len(m.Disks) == 0 && m.Coding == nil && m.Ingest == nil && m.Network == nil && len(m.Targets) == 0
}

// parseInflow reads SIZE/day.
func parseInflow(text string) (int64, error) {
	number, ok := strings.CutSuffix(text, "/day")
	size, err := units.ParseSize(number)
	if err != nil || !ok || size <= 0 {
		return 0, usagef("--inflow %q: want SIZE/day, such as 200GiB/day", text)
	}
	return int64(size), nil
}

// chooseParts reads what is to be measured; nothing for all that is allowed.
func chooseParts(o *bench.Options, args []string) error {
	for i := 0; i < len(args); i++ {
		switch what := args[i]; what {
		case bench.Disks, bench.Coding, bench.Ingest, bench.InNetwork, bench.Targets:
			o.Parts = append(o.Parts, what)
		case "target":
			if i++; i == len(args) {
				return usagef("target needs the NAME of one: forebay bench target NAME")
			}
			o.Parts, o.Targets = append(o.Parts, bench.Targets), append(o.Targets, args[i])
		default:
			return usagef("%q cannot be measured: want disks, coding, ingest, network or target NAME", what)
		}
	}
	return nil
}

// loadBench reads the configuration. Who measures what needs none may have none, unless one is named.
func loadBench(o *bench.Options, file string, named bool) (agent *config.Agent, err error) {
	o.Relay, agent, err = parseEither(file)
	switch {
	case err == nil:
		return agent, nil
	case !named && errors.Is(err, fs.ErrNotExist) && len(o.Parts) > 0 && !needsRelay(o.Parts):
		return nil, nil
	case !named && errors.Is(err, fs.ErrNotExist):
		return nil, usagef("there is no %s: name the relay's configuration with --config; bench coding and bench network --relay URL do "+
			"without", file)
	}
	return nil, &codeError{exitUsage, err}
}

func needsRelay(parts []string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return p != bench.Coding && p != bench.InNetwork })
}

// allowed fills in what is measured without a choice, and refuses what the configuration does not allow.
func allowed(o *bench.Options, agent *config.Agent, file string) error {
	switch {
	case len(o.Parts) > 0:
	case agent != nil:
		o.Parts = []string{bench.InNetwork}
	default:
		o.Parts = []string{bench.Disks, bench.Coding, bench.Ingest}
		if len(o.Relay.Targets) > 0 {
			o.Parts = append(o.Parts, bench.Targets)
		}
	}
	if o.Relay == nil && needsRelay(o.Parts) {
		return usagef("%s is an agent's configuration: disks, ingest and targets are a relay's; name its relay.yaml with --config", file)
	}
	for _, name := range o.Targets {
		if _, ok := o.Relay.Target(name); !ok {
			return usagef("%s has no target %q (it has %s)", file, name, orDash(strings.Join(o.Relay.TargetNames(), ", ")))
		}
	}
	return nil
}
