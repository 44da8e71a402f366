package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"forebay/internal/show"
	"forebay/proto"
)

// cli is what verbs have of the world around the process. Tests hand in another.
type cli struct {
	in                                   io.Reader
	out, errs                            io.Writer
	inTerminal, outTerminal, errTerminal bool
	width                                int // columns of out, 0 = not a terminal
	lookupEnv                            func(string) (string, bool)
	now                                  func() time.Time
	memory                               int64 // bytes that the process keeps within, 0 = as many as there are
}

// run parses args, runs the verb and returns the exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := newRoot(c)
	root.SetArgs(args)
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.errs)
	err := root.ExecuteContext(ctx)
	code := codeOf(err)
	switch {
	case code == exitInterrupted:
		_, _ = fmt.Fprintln(c.errs, "forebay: interrupted")
	case err != nil && err.Error() != "":
		for _, line := range strings.Split(errorText(err), "\n") { // one, but for files with several mistakes and ends of logs
			_, _ = fmt.Fprintln(c.errs, show.Text(line))
		}
	}
	return code
}

// newRoot builds all verbs anew: no state outlives a run.
func newRoot(c *cli) *cobra.Command {
	root := &cobra.Command{
		Use:   "forebay",
		Short: "A disk-backed basin between replicated storage and its backups",
		Long: "Forebay takes what the nodes of a primary cluster hold, keeps it durable and coded in a relay's cache, and lets\n" +
			"it through to backups when the operator's conditions say so.\n\n" +
			"Flags can also be given as FOREBAY_<FLAG> in the environment, such as FOREBAY_RELAY.\n" +
			"Exit codes: 0 done, 1 failed, 2 usage, 3 done in part (listed), 130 interrupted.",
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2,
		Args:                       cobra.ArbitraryArgs,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return c.fromEnvironment(cmd.Flags())
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newRelay(c), newAgent(c), newConfigcheck(c), newDemo(c),
		newStatus(c), newBacklog(c), newNodes(c), newStores(c), newEvents(c), newVersion(c), newTargets(c),
		newWhere(c), newPlan(c), newWait(c), newFlush(c), newPause(c), newResume(c), newPolicy(c), newDeletes(c),
		newVerify(c), newList(c), newRestore(c), newVersions(c), newHistory(c), newRetry(c), newLink(c), newScrub(c), newBench(c),
	)
	for _, use := range []string{"conflicts", "rebuild", "token", "audit"} {
		root.AddCommand(later(use))
	}
	return root
}

// fromEnvironment gives the flags that the command line leaves out their values from FOREBAY_<FLAG>.
func (c *cli) fromEnvironment(flags *pflag.FlagSet) (err error) {
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || err != nil {
			return
		}
		name := "FOREBAY_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, ok := c.lookupEnv(name); ok {
			if e := flags.Set(f.Name, v); e != nil {
				err = usagef("%s=%q in the environment: %w", name, v, e)
			}
		}
	})
	return err
}

// verb makes a command. run's context ends with SIGINT, SIGTERM and SIGHUP; a second signal then ends the process.
func (c *cli) verb(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: usageArgs(args), DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			defer context.AfterFunc(ctx, stop)()
			return run(ctx, args)
		},
	}
}

// group makes a command that only has others below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return usagef("%s needs a verb; see %s --help", cmd.CommandPath(), cmd.CommandPath())
		},
	}
	cmd.AddCommand(below...)
	return cmd
}

func unknownVerb(cmd *cobra.Command, arg string) error {
	msg := fmt.Sprintf("unknown verb %q", arg)
	if near := cmd.SuggestionsFor(arg); len(near) > 0 {
		msg += fmt.Sprintf(", did you mean %q?", near[0])
	}
	return usagef("%s; see %s --help", msg, cmd.CommandPath())
}

// later is a verb that the contract names and this release does not have.
func later(use string) *cobra.Command {
	return &cobra.Command{
		Use: use, Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("%s comes with a later release", strings.TrimPrefix(cmd.CommandPath(), "forebay "))
		},
	}
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usagef("%w; usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

// printf prints to standard output. A reader that is gone is no error of the verb: its own SIGPIPE ends it.
func (c *cli) printf(format string, args ...any) { _, _ = fmt.Fprintf(c.out, format, args...) }

// printJSON prints what a relay answered, with its unknown fields, indented.
func (c *cli) printJSON(raw json.RawMessage) error {
	var v any
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return fmt.Errorf("answer of the relay: %w", err)
	}
	return c.encodeJSON(v)
}

// encodeJSON prints v as JSON, indented.
func (c *cli) encodeJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// progress shows long work on standard error, so that standard output stays for results.
func (c *cli) progress() *show.Progress { return show.NewProgress(c.errs, c.errTerminal, c.now) }

// confirm asks before something that cannot be undone, unless yes. Without a terminal to ask on it refuses.
func (c *cli) confirm(yes bool, format string, args ...any) error {
	if yes {
		return nil
	}
	if !c.inTerminal || !c.errTerminal {
		return usagef("there is no terminal to ask on: add --yes to do it")
	}
	_, _ = fmt.Fprintf(c.errs, format+" [y/N] ", args...)
	line, err := bufio.NewReader(c.in).ReadString('\n')
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
		return fmt.Errorf("not done")
	}
	return nil
}

// health is the exit code of a health: 0 ok, 3 degraded, 1 red.
func health(h proto.Health) int {
	switch h {
	case proto.Green:
		return exitDone
	case proto.Yellow:
		return exitPart
	}
	return exitFailed
}
