package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/flush/policy"
	"forebay/flush/policy/simulate"
	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
	"forebay/units"
)

// simulateFlags are the flags of policy simulate.
type simulateFlags struct {
	relayFlags
	days      int
	trace     string
	inflow    string
	capacity  string
	rate      string
	perObject time.Duration
	save      string
}

func newPolicySimulate(c *cli) *cobra.Command {
	var f simulateFlags
	cmd := c.verb("simulate LINK [KEY=VALUE…]", "Try a policy on the recorded inflow, beside the present one", cobra.MinimumNArgs(1), func(ctx context.Context, args []string) error {
		return c.simulate(ctx, &f, args[0], args[1:])
	})
	fl := cmd.Flags()
	fl.IntVar(&f.days, "days", 30, "how many days")
	fl.StringVar(&f.trace, "trace", "", "`FILE` with an inflow, instead of the recorded one")
	fl.StringVar(&f.inflow, "inflow", "", "a steady inflow, such as 200GiB/day, instead of the recorded one")
	fl.StringVar(&f.capacity, "capacity", "", "raw `SIZE` of the cache, instead of the relay's")
	fl.StringVar(&f.rate, "rate", "", "how fast the target takes bytes, such as 100MiB/s; default: as measured now, or with the last batch of 8 MiB or more")
	fl.DurationVar(&f.perObject, "per-object", 0, "what each object takes at the target on top of its bytes, such as 5ms")
	fl.StringVar(&f.save, "save", "", "write the inflow that is used to `FILE`, for --trace, and end")
	return f.add(cmd, true)
}

func (c *cli) simulate(ctx context.Context, f *simulateFlags, link string, changes []string) error {
	if f.trace != "" && f.inflow != "" {
		return usagef("--trace and --inflow are two inflows: give one of them")
	}
	if f.days < 1 || f.days > 366 {
		return usagef("--days %d: want 1 to 366", f.days)
	}
	cl, err := f.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	trace, what, err := c.inflowOf(ctx, cl, f, link)
	if err != nil {
		return err
	}
	if f.save != "" {
		return c.saveTrace(f.save, trace)
	}
	present, err := presentPolicy(ctx, cl, link)
	if err != nil {
		return err
	}
	candidate := present
	for _, kv := range changes {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || key == "" {
			return usagef("%q: want KEY=VALUE, such as age=5m; forebay policy show %s lists the keys", kv, link)
		}
		if err := policy.Set(&candidate, key, value); err != nil {
			return fmt.Errorf("%s: %w", kv, err)
		}
	}
	if err := policy.Validate(&candidate); err != nil {
		return fmt.Errorf("the policy would not hold together: %w", err)
	}
	setup, err := c.setupOf(ctx, cl, f, link)
	if err != nil {
		return err
	}
	setup.Length = time.Duration(f.days) * 24 * time.Hour
	var period time.Duration
	if setup.Trace, period = trace.Cover(setup.Length); period > 0 {
		what += fmt.Sprintf(", repeated every %s", units.Duration(period))
	}
	return c.runSimulation(f, link, what, setup, present, candidate, len(changes) > 0)
}

// simulation is what --json prints.
type simulation struct {
	Schema    int              `json:"schema"`
	Link      string           `json:"link"`
	Inflow    string           `json:"inflow"`
	Days      int              `json:"days"`
	Rate      float64          `json:"rate_bytes_per_second"`
	Present   *simulate.Report `json:"present"`
	Candidate *simulate.Report `json:"candidate,omitempty"`
	Unknown   []string         `json:"unknown"`
}

func (c *cli) runSimulation(f *simulateFlags, link, what string, s simulate.Setup, present, candidate policy.Policy, changed bool) error {
	out := simulation{Schema: 1, Link: link, Inflow: what, Days: f.days, Rate: s.Rate, Unknown: simulate.Unknown()}
	s.Policy = present
	var err error
	if out.Present, err = simulate.Run(s); err != nil {
		return err
	}
	if changed {
		s.Policy = candidate
		if out.Candidate, err = simulate.Run(s); err != nil {
			return err
		}
	}
	if f.json {
		return c.encodeJSON(out)
	}
	c.printSimulation(&out, s)
	return nil
}

// inflowOf is the inflow to try, and what it is.
func (c *cli) inflowOf(ctx context.Context, cl *operator.Client, f *simulateFlags, link string) (t simulate.Trace, what string, err error) {
	switch {
	case f.trace != "":
		in, err := os.Open(f.trace)
		if err != nil {
			return t, "", err
		}
		defer func() { _ = in.Close() }() // only read from
		t, err = simulate.ReadTrace(in)
		return t, "the inflow of " + f.trace, err
	case f.inflow != "":
		size, err := parseInflow(f.inflow)
		if err != nil {
			return t, "", err
		}
		// An object a MiB: of small ones, a trace tells how many there are.
		objects := max(size/int64(units.MiB), 1)
		return simulate.Steady(time.Now().UTC().Truncate(24*time.Hour), size, objects), "a steady inflow of " + f.inflow, nil
	}
	var in proto.Inflow
	if err := cl.Get(ctx, operator.LinkPath(link, "inflow"), nil, &in); err != nil {
		return t, "", err
	}
	if in.Schema > proto.InflowSchema {
		return t, "", fmt.Errorf("the relay's inflow has schema %d, this program knows %d: use a newer release", in.Schema, proto.InflowSchema)
	}
	if len(in.Slots) == 0 {
		return t, "", fmt.Errorf("the relay has recorded no inflow of %s yet: it does so every 5 minutes; until then give --trace or --inflow", in.Dataset)
	}
	t.Step = time.Duration(in.StepSeconds) * time.Second
	for _, s := range in.Slots {
		at, err := time.Parse(time.RFC3339, s.At)
		if err != nil {
			return t, "", fmt.Errorf("answer of the relay: %w", err)
		}
		t.Slots = append(t.Slots, simulate.Slot{At: at, Bytes: s.Bytes, Objects: s.Objects})
	}
	return t, fmt.Sprintf("the recorded inflow of %s of %s", show.Span(t.Span()), in.Dataset), nil
}

func (c *cli) saveTrace(path string, t simulate.Trace) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	err = simulate.WriteTrace(out, t)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		c.printf("%s in %s\n", show.Things(int64(len(t.Slots)), "slot"), path)
	}
	return err
}

// presentPolicy is the policy in force.
func presentPolicy(ctx context.Context, cl *operator.Client, link string) (policy.Policy, error) {
	p := policy.Default()
	var values []proto.PolicyValue
	if err := cl.Get(ctx, operator.LinkPath(link, "policy"), url.Values{}, &values); err != nil {
		return p, err
	}
	for _, v := range values {
		if err := policy.Set(&p, v.Key, v.Value); err != nil {
			return p, fmt.Errorf("policy of the relay: %w: is it of another release?", err)
		}
	}
	return p, nil
}

// setupOf gathers what the relay and the flags say of cache, target and line.
func (c *cli) setupOf(ctx context.Context, cl *operator.Client, f *simulateFlags, link string) (s simulate.Setup, err error) {
	st, err := cl.Status(ctx)
	if err != nil {
		return s, err
	}
	s.PerObject = f.perObject
	if i := slices.IndexFunc(st.Links, func(l proto.LinkStatus) bool { return l.Name == link }); i >= 0 {
		if s.Rate = st.Links[i].RateBytesPerSecond; s.Rate == 0 {
			s.Rate = float64(st.Links[i].LastBytesPerSecond)
		}
	}
	if f.rate != "" {
		rate, err := units.ParseRate(f.rate)
		if err != nil || rate <= 0 {
			return s, usagef("--rate %q: want a rate, such as 100MiB/s", f.rate)
		}
		s.Rate = float64(rate)
	}
	if s.Rate <= 0 {
		return s, usagef("how fast the target takes bytes is not known before the link has flushed some: give it with --rate, such as --rate 100MiB/s")
	}
	high, low := float64(st.Cache.HighWaterBytes), float64(st.Cache.LowWaterBytes)
	if f.capacity != "" {
		size, err := units.ParseSize(f.capacity)
		if err != nil || size <= 0 || st.Cache.CapacityBytes <= 0 {
			return s, usagef("--capacity %q: want a size, such as 200GiB", f.capacity)
		}
		scale := float64(size) / float64(st.Cache.CapacityBytes)
		high, low = high*scale, low*scale
	}
	data, parity := 1, 0
	if _, err := fmt.Sscanf(st.Cache.Coding, "%d+%d", &data, &parity); err == nil && data > 0 {
		part := float64(data) / float64(data+parity)
		high, low = high*part, low*part
	}
	s.HighWater, s.LowWater = int64(high), int64(low)
	if s.Bandwidth, err = policy.ParseTimetable(st.Bandwidth.Setting); err == nil {
		s.Zone, err = policy.ParseZone(st.Bandwidth.Timezone)
	}
	return s, err
}
