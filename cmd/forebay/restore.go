package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"forebay/flush/restore"
	"forebay/fsmeta"
	"forebay/internal/show"
)

func newRestore(c *cli) *cobra.Command {
	var f sourceFlags
	var o restore.Options
	cmd := f.add(c.verb("restore --from F --to DIR [--path PREFIX] [--at TIME]", "Bring a backup back, from the target alone", cobra.NoArgs, func(ctx context.Context, _ []string) error {
		if o.To == "" {
			return usagef("name where to: --to DIR")
		}
		s, err := f.open(ctx, c)
		if err != nil {
			return err
		}
		o.From, o.Journal, o.Prefix, o.Path, o.At = s.target, s.journal, string(s.owner.Prefix), f.path, s.at
		err = c.restore(ctx, o, f.json)
		return errors.Join(err, s.target.Close())
	}))
	cmd.Flags().StringVar(&o.To, "to", "", "directory `DIR` to restore into, made when missing")
	cmd.Flags().BoolVar(&o.IntoExisting, "into-existing", false, "DIR may have something in it; what the backup has replaces it")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "only find out what there is to do")
	cmd.Flags().BoolVar(&o.Kept, "kept", false, "also what was deleted at the source and kept at the target")
	return cmd
}

func (c *cli) restore(ctx context.Context, o restore.Options, asJSON bool) error {
	p := c.progress()
	defer p.Close()
	bar := p.Start("restoring", show.InBytes)
	o.Progress = func(x restore.Progress) { bar.Set(x.Bytes, x.TotalBytes) }
	o.Waiting = func(why error) { p.Say("%s", sourceSays(why)) }
	report, err := restore.Restore(ctx, o, restore.Deps{Names: fsmeta.NewNames(rememberedNames), Now: c.now})
	if err == nil && !o.DryRun {
		bar.Finish()
	}
	p.Close()
	if err != nil && report.TotalObjects == 0 {
		return err // it did not come as far as having something to report
	}
	if asJSON {
		if e := c.encodeJSON(report); err == nil {
			err = e
		}
	} else {
		c.printReport(report, o.DryRun)
	}
	switch {
	case err != nil && ctx.Err() == nil && report.Objects > 0:
		return fmt.Errorf("%w; what was restored is whole: go on with --into-existing", err)
	case err != nil && ctx.Err() == nil && report.Left != "":
		return fmt.Errorf("%w; run it again to go on", err)
	case err != nil:
		return err
	case !report.Complete():
		return partly("%s not restored as they should be, listed above", show.Things(report.Incomplete(), "object"))
	}
	return nil
}

// sourceSays says that a restore's source fails with why, or does no more.
func sourceSays(why error) string {
	if why == nil {
		return "the source answers again"
	}
	return "waiting for the source: " + show.Text(why.Error())
}

func (c *cli) printReport(r restore.Report, dry bool) {
	for _, f := range r.Failed {
		c.printf("failed   %s: %s\n", show.Name(f.Path), show.Text(f.Reason))
	}
	if more := r.FailedN - int64(len(r.Failed)); more > 0 {
		c.printf("failed   %s more\n", show.Count(more))
	}
	for _, path := range r.Older {
		c.printf("older    %s: its newest version never reached the target\n", show.Name(path))
	}
	for _, path := range r.Missing {
		c.printf("missing  %s: it never reached the target\n", show.Name(path))
	}
	for _, f := range r.Unread {
		c.printf("unread   %s: nobody could read it at the source, %s\n", show.Name(f.Path), show.Text(f.Reason))
	}
	if r.UnreadMore > 0 {
		c.printf("unread   %s more\n", show.Count(r.UnreadMore))
	}
	for _, d := range r.Damaged {
		c.printf("damaged  %s\n", show.Text(d))
	}
	for _, n := range r.Notes {
		c.printf("note     %s\n", show.Text(n))
	}
	if r.KeptOut > 0 {
		c.printf("%s deleted at the source and kept at the target: left out, --kept brings them too\n", show.Things(r.KeptOut, "object"))
	}
	if r.Left != "" {
		c.printf("left     %s of large objects that are not whole yet in %s: the next restore goes on with them\n", show.Bytes(r.LeftBytes), show.Name(r.Left))
	}
	if dry {
		c.printf("would restore %s, %s\n", show.Things(r.TotalObjects, "object"), show.Bytes(r.TotalBytes))
		return
	}
	c.printf("restored %s of %s, %s written, %s equal already\n", show.Count(r.Objects), show.Things(r.TotalObjects, "object"), show.Bytes(r.Bytes), show.Count(r.Equal))
}
