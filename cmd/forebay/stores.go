package main

import (
	"context"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/internal/operator"
	"forebay/internal/show"
	"forebay/proto"
)

func newStores(c *cli) *cobra.Command {
	var f relayFlags
	cmd := c.verb("stores", "The stores of the relay's cache", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		return ask(ctx, c, &f, part("cache.stores"), func(stores []proto.StoreStatus) error {
			var rows [][]string
			for _, s := range stores {
				rows = append(rows, []string{show.Name(s.Path), storeState(s), show.Bytes(s.UsedBytes), known(s.FreeBytes), show.Count(s.Segments), s.LastError})
			}
			c.table([]string{"store", "state", ">used", ">free", ">segments", "last error"}, rows)
			return nil
		})
	})
	cmd.AddCommand(newStoresAdd(c), newStoresDrain(c), newStoresReplace(c))
	return f.add(cmd, true)
}

func storeState(s proto.StoreStatus) string {
	words := []string{s.State}
	if s.Role != "" && s.Role != s.State {
		words = append(words, s.Role)
	}
	if s.Unconfigured {
		words = append(words, "not configured")
	}
	return strings.Join(words, ", ")
}

func newStoresAdd(c *cli) *cobra.Command {
	var f relayFlags
	return f.add(c.verb("add PATH", "Take a directory into use as a store, or a drained one back into use", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		return c.changeStore(ctx, &f, "add", args[0], nil)
	}), true)
}

func newStoresDrain(c *cli) *cobra.Command {
	var f relayFlags
	var lost, yes, dryRun, wait bool
	cmd := c.verb("drain PATH", "Move everything off a store, so that it can be taken away", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		q := url.Values{}
		if lost {
			q.Set("lost", "1")
		}
		if lost && !dryRun {
			if err := c.confirmLoss(ctx, &f, "drain", args[0], q, yes, "Give up the store at %s, with all that it holds?"); err != nil {
				return err
			}
		}
		if dryRun {
			return c.foreseeStore(ctx, &f, "drain", args[0], q)
		}
		if err := c.changeStore(ctx, &f, "drain", args[0], q); err != nil || !wait || lost {
			return err
		}
		return c.awaitDrain(ctx, &f, args[0])
	})
	cmd.Flags().BoolVar(&lost, "lost", false, "the store is gone for good: give it up with all that it holds")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would become of its segments")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until it is empty")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return f.add(cmd, true)
}

func newStoresReplace(c *cli) *cobra.Command {
	var f relayFlags
	var yes, dryRun bool
	cmd := c.verb("replace PATH", "Make a new store in the empty directory of one that is gone for good", cobra.ExactArgs(1), func(ctx context.Context, args []string) error {
		if dryRun {
			return c.foreseeStore(ctx, &f, "replace", args[0], nil)
		}
		if err := c.confirmLoss(ctx, &f, "replace", args[0], nil, yes, "Make a new store at %s and give up the one that was there, with all that it holds?"); err != nil {
			return err
		}
		return c.changeStore(ctx, &f, "replace", args[0], nil)
	})
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would become of its segments")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return f.add(cmd, true)
}

// storeCall makes a call about the store at path.
func storeCall(do, path string, q url.Values, dry bool) (caller, error) {
	if !filepath.IsAbs(path) {
		return nil, usagef("%q: want an absolute path, as cache.stores has it", path)
	}
	all := url.Values{"path": {filepath.Clean(path)}}
	for k, v := range q {
		all[k] = v
	}
	if dry {
		all.Set("dry_run", "1")
	}
	return post("/v1/stores/"+do, all, nil), nil
}

func (c *cli) changeStore(ctx context.Context, f *relayFlags, do, path string, q url.Values) error {
	call, err := storeCall(do, path, q, false)
	if err != nil {
		return err
	}
	return ask(ctx, c, f, call, func(s proto.StoreChange) error {
		c.printf("store %s: %s\n", show.Name(path), storeState(s.Store))
		if s.Segments > 0 {
			c.printf("%s with a shard in it; forebay status says how far coding them anew is\n", show.Things(s.Segments, "segment"))
		}
		c.printLoss(s)
		if s.Configure != "" {
			c.printf("put into relay.yaml: %s\n", s.Configure)
		}
		return nil
	})
}

func (c *cli) printLoss(s proto.StoreChange) {
	if s.Lost > 0 {
		c.printf("%s cannot be read without it: what they held is asked for again from holders\n", show.Things(s.Lost, "segment"))
	}
}

// foreseeStore says what a change would bring about.
func (c *cli) foreseeStore(ctx context.Context, f *relayFlags, do, path string, q url.Values) error {
	call, err := storeCall(do, path, q, true)
	if err != nil {
		return err
	}
	return ask(ctx, c, f, call, func(s proto.StoreChange) error {
		c.printf("store %s: %s, %s with a shard in it\n", show.Name(path), s.Store.State, show.Things(s.Segments, "segment"))
		c.printLoss(s)
		return nil
	})
}

// confirmLoss asks before a store is given up, with what is known of the consequences.
func (c *cli) confirmLoss(ctx context.Context, f *relayFlags, do, path string, q url.Values, yes bool, question string) error {
	if !yes {
		quiet := *f
		quiet.json = false
		if err := c.foreseeStore(ctx, &quiet, do, path, q); err != nil {
			return err
		}
	}
	return c.confirm(yes, question, show.Name(path))
}

// awaitDrain waits until a store is drained.
func (c *cli) awaitDrain(ctx context.Context, f *relayFlags, path string) error {
	cl, err := f.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	p := c.progress()
	defer p.Close()
	bar := p.Start("moved", show.InObjects)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	total := int64(0)
	for {
		s, found, err := storeNow(ctx, cl, filepath.Clean(path))
		if err != nil {
			return err
		}
		if !found || s.Role == "drained" {
			bar.Finish()
			return nil
		}
		if s.Role != "draining" {
			return partly("store %s is used again", show.Name(path))
		}
		total = max(total, s.Segments)
		bar.Set(total-s.Segments, total)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func storeNow(ctx context.Context, cl *operator.Client, path string) (s proto.StoreStatus, found bool, err error) {
	var st proto.Status
	if err := cl.Get(ctx, "/v1/status", nil, &st); err != nil {
		return s, false, err
	}
	for _, s := range st.Cache.Stores {
		if s.Path == path {
			return s, true, nil
		}
	}
	return s, false, nil
}

// known prints a size, "-" for one that is not known.
func known(n int64) string {
	if n < 0 {
		return "-"
	}
	return show.Bytes(n)
}
