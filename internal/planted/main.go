// Command planted plants bugs: it mutates the shipped code in small, known ways, one at a time, and sees whether the tests
// notice. A harness that finds nothing proves nothing unless it finds these. Nobody imports it and it imports nothing of
// Forebay but internal/figures, for its report; the bugs are in bugs/, docs/planting.md says how to add one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"
)

// bugDir is where the bugs are, from the root of the module.
const bugDir = "internal/planted/bugs"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := command(ctx, os.Args[1:], os.Stdout)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
		os.Exit(1)
	}
}

// command is the program. Its error says, too, that a bug was not caught.
func command(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("planted", flag.ContinueOnError)
	only := flags.String("only", "", "run the bugs whose name this regular expression fits; default: all")
	list := flags.Bool("list", false, "list the bugs, run none")
	jobs := flags.Int("jobs", 1, "bugs at a time")
	report := flags.String("report", "", "directory for the report; with -only, what earlier runs found of the other bugs stays in it; default: none")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	all, err := ReadBugs(bugDir)
	if err != nil {
		return err
	}
	bugs := slices.DeleteFunc(slices.Clone(all), func(b Bug) bool { return !pattern.MatchString(b.Name) })
	if len(bugs) == 0 {
		return fmt.Errorf("no bug in %s is called %q", bugDir, *only)
	}
	if *list {
		_, err := io.WriteString(out, List(bugs))
		return err
	}
	r, err := newRunner(".", "go", os.Environ(), os.Getenv("GOFLAGS"), time.Now, out)
	if err != nil {
		return err
	}
	began := time.Now()
	results, err := r.run(ctx, bugs, *jobs)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(out, "\n"+Table(results)); err != nil {
		return err
	}
	if *report != "" {
		whole, err := complete(results, all, *report)
		if err != nil {
			return err
		}
		if err := Report(whole, len(results), began, time.Since(began)).Save(*report); err != nil {
			return err
		}
	}
	if caught, planted := score(results, anyBug); caught < planted {
		return fmt.Errorf("%d of %d bugs were not caught", planted-caught, planted)
	}
	return nil
}
