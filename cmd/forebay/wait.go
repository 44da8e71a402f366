package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
	"forebay/units"
)

func newWait(c *cli) *cobra.Command {
	var f relayFlags
	until := operator.UntilConfirm
	timeout := durationFlag(10 * time.Minute)
	cmd := c.verb("wait LINK [--for ack|confirm] [--timeout D]", "Ask for a fresh scan, then wait until all is acknowledged or confirmed", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		if until != operator.UntilAck && until != operator.UntilConfirm {
			return usagef("--for %q: want ack or confirm", until)
		}
		cl, err := f.client()
		if err != nil {
			return err
		}
		defer cl.Close()
		return c.wait(ctx, cl, args[0], until, time.Duration(timeout), f.json)
	})
	cmd.Flags().StringVar(&until, "for", until, "what to wait for: `ack` or confirm")
	cmd.Flags().Var(&timeout, "timeout", "give up after `D`")
	return f.add(cmd, true)
}

// listedByWait bounds what a wait lists for people: a delete that is held may be one of a hundred thousand.
const listedByWait = 20

func (c *cli) wait(ctx context.Context, cl *operator.Client, link, until string, timeout time.Duration, asJSON bool) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	p := c.progress()
	view := waitView{p: p, name: map[string]string{operator.UntilAck: "acknowledged", operator.UntilConfirm: "confirmed"}[until]}
	state, err := cl.Wait(limited, link, until, view.tell)
	view.end(err == nil)
	p.Close()
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("link %s: not done after %s, still waiting: %s (%s, %s to come); forebay status says more", link, units.Duration(timeout),
			orDash(strings.Join(state.WaitingFor, ", ")), show.Things(state.Objects, "object"), show.Bytes(state.Bytes))
	}
	if err != nil {
		return err
	}
	var failures []proto.FailureInfo
	if state.Partial || state.Failures > 0 {
		if failures, err = cl.Failures(ctx, link); err != nil {
			return err
		}
	}
	if asJSON {
		answer := struct {
			proto.WaitState
			Listed []proto.FailureInfo `json:"listed,omitempty"`
		}{state, failures}
		if err := c.encodeJSON(answer); err != nil {
			return err
		}
	} else {
		c.printFailures(failures[:min(len(failures), listedByWait)])
	}
	if !state.Partial && state.Failures == 0 {
		return nil
	}
	listed := "listed above"
	if len(failures) > listedByWait && !asJSON {
		listed = fmt.Sprintf("the first %d are listed above; with --json, all are", listedByWait)
	}
	return partly("link %s: all but %s, %s", link, show.Things(max(state.Failures, int64(len(failures))), "object"), listed)
}

// waitView shows a wait: a line whenever what it waits for changes, and a bar while bytes are to come.
type waitView struct {
	p     *show.Progress
	name  string
	said  string
	bar   *show.Bar
	total int64
}

func (v *waitView) tell(s proto.WaitState) {
	if s.Bytes > 0 && v.bar == nil {
		v.bar = v.p.Start(v.name, show.InBytes)
	}
	if v.bar != nil {
		v.total = max(v.total, s.Bytes)
		v.bar.Set(v.total-s.Bytes, v.total)
	}
	if what := strings.Join(slices.Sorted(slices.Values(s.WaitingFor)), ", "); what != v.said {
		v.said = what
		if what != "" {
			v.p.Say("waiting: %s", show.Text(what))
		}
	}
}

func (v *waitView) end(done bool) {
	if v.bar != nil && done {
		v.bar.Finish()
	}
}

func (c *cli) printFailures(failures []proto.FailureInfo) {
	if len(failures) == 0 {
		return
	}
	var rows [][]string
	for _, x := range failures {
		rows = append(rows, []string{string(x.Kind), orDash(x.Node), show.Name(x.Path), x.Reason})
	}
	c.table([]string{"kind", "node", "object", "reason"}, rows)
}
