package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/proto"
	"forebay/units"
)

// relayFlags are the flags of verbs that ask a relay.
type relayFlags struct {
	relay string
	json  bool
}

// add gives cmd --relay, and --json when it prints.
func (f *relayFlags) add(cmd *cobra.Command, prints bool) *cobra.Command {
	cmd.Flags().StringVar(&f.relay, "relay", proto.DefaultRelay, "URL of the relay")
	if prints {
		cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	}
	return cmd
}

// client returns a client of the relay that the flags name.
func (f *relayFlags) client() (*operator.Client, error) {
	cl, err := operator.New(f.relay)
	if err != nil {
		return nil, usagef("--relay: %w", err)
	}
	return cl, nil
}

// durationFlag is a flag with days and weeks.
type durationFlag time.Duration

// String prints the value.
func (d *durationFlag) String() string { return units.Duration(*d).String() }

// Set reads the value.
func (d *durationFlag) Set(s string) error {
	v, err := units.ParseDuration(s)
	*d = durationFlag(v)
	return err
}

// Type names the value in help texts.
func (d *durationFlag) Type() string { return "duration" }

// caller makes a call and leaves the answer in raw.
type caller func(ctx context.Context, cl *operator.Client, raw *json.RawMessage) error

// ask gets path and hands the answer to print, or prints it as it is when --json is given.
func ask[T any](ctx context.Context, c *cli, f *relayFlags, call caller, print func(T) error) error {
	cl, err := f.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	var raw json.RawMessage
	if err := call(ctx, cl, &raw); err != nil {
		return err
	}
	if f.json {
		return c.printJSON(raw)
	}
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("answer of the relay at %s: %w", cl.URL(), err)
	}
	return print(v)
}

// foreseen looks at what a verb would do, and asks whether to do it. show tells whether there is anything to do; where there is not, nobody
// is asked.
func foreseen[T any](ctx context.Context, c *cli, f *relayFlags, look caller, show func(T) bool, question string, args ...any) (todo bool, err error) {
	text := relayFlags{relay: f.relay} // what was done is printed as JSON, not this
	err = ask(ctx, c, &text, look, func(v T) error {
		todo = show(v)
		return nil
	})
	if err != nil || !todo {
		return false, err
	}
	err = c.confirm(false, question, args...)
	return err == nil, err
}

// get is the call of ask for a plain path.
func get(path string, query url.Values) caller {
	return func(ctx context.Context, cl *operator.Client, raw *json.RawMessage) error {
		return cl.Get(ctx, path, query, raw)
	}
}

// post is the call of ask for a change.
func post(path string, query url.Values, body any) caller {
	return func(ctx context.Context, cl *operator.Client, raw *json.RawMessage) error {
		return cl.Post(ctx, path, query, body, raw)
	}
}
