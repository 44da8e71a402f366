package main

import (
	"fmt"

	"forebay/cmd/forebay/bench/advice"
	"forebay/internal/show"
)

// printBench prints figures, then what to set.
func (c *cli) printBench(r *benchResult) {
	c.printDisks(r.Disks)
	c.printRates(&r.Measured)
	c.printBenchTargets(r.Targets)
	c.printCodings(r.Advice.Codings)
	if r.Advice.Acknowledged > 0 {
		c.printf("acknowledged, large objects: %s to be expected, bounded by %s\n", show.Rate(r.Advice.Acknowledged), r.Advice.Bottleneck)
		for _, b := range r.Advice.Bounds {
			c.printf("  %-20s %s\n", b.Part, show.Rate(b.Rate))
		}
		c.printf("\n")
	}
	if len(r.Skipped) > 0 {
		c.printf("not measured:\n")
		for _, s := range r.Skipped {
			c.printf("  %s: %s\n", show.Text(s.What), show.Text(s.Why))
		}
		c.printf("\n")
	}
	c.printAdvice(r.Advice.Items, len(r.Skipped) == 0)
}

func (c *cli) printDisks(disks []advice.Disk) {
	if len(disks) == 0 {
		return
	}
	var rows [][]string
	for _, d := range disks {
		together := "-"
		if d.Together > 0 {
			together = show.Rate(d.Together)
		}
		rows = append(rows, []string{d.Role, d.Path, d.Device, d.FileSystem, show.Bytes(d.FreeBytes), show.Rate(d.Write), together,
			show.Rate(d.Read), syncTime(d.SyncP50), syncTime(d.SyncP99)})
	}
	c.table([]string{"disk", "path", "device", "file system", ">free", ">write", ">together", ">read", ">fsync p50", ">p99"}, rows)
	c.printf("written in files of %s, each fsynced; fsync: of 4 KiB appended\n\n", show.Bytes(disks[0].TableBytes))
}

func syncTime(seconds float64) string { return fmt.Sprintf("%.2f ms", 1000*seconds) }

func (c *cli) printRates(m *advice.Measured) {
	if k := m.Coding; k != nil {
		c.table([]string{"cpu", ">one core", fmt.Sprintf(">all %d", k.Cores)}, [][]string{
			{"coding " + k.Coding, show.Rate(k.EncodeCore), show.Rate(k.EncodeAll)}, {"digests (BLAKE3)", show.Rate(k.DigestCore),
				show.Rate(k.DigestAll)}})
		c.printf("\n")
	}
	if in := m.Ingest; in != nil {
		c.printf("ingest, coding %s: %s acknowledged of large objects (%s, cores %.0f %% busy), %s objects/s of %s (%s)\n\n", in.Coding,
			show.Rate(in.Large), show.Bytes(in.LargeBytes), 100*in.Busy, show.Count(int64(in.Small)), show.Bytes(in.SmallSize),
			show.Things(in.SmallObjects, "object"))
	}
	if n := m.Network; n != nil {
		c.printf("network to %s: round trip p50 %s, p99 %s; %s sent (%s)\n\n", show.Text(n.Relay), syncTime(n.TripP50), syncTime(n.TripP99),
			show.Rate(n.Upload), show.Bytes(n.Uploaded))
	}
}

func (c *cli) printBenchTargets(targets []advice.Target) {
	if len(targets) == 0 {
		return
	}
	var rows [][]string
	for _, t := range targets {
		rows = append(rows, []string{t.Name, t.Type, t.Where, orDash(t.Device), orDash(t.Confirm), show.Rate(t.Write), show.Rate(t.Read),
			show.Count(int64(t.Small)), show.Bytes(t.Bytes)})
	}
	c.table([]string{"target", "type", "where", "device", "confirm", ">write", ">read", ">small/s", ">tried with"}, rows)
	c.printf("\n")
}

func (c *cli) printCodings(codings []advice.Option) {
	if len(codings) == 0 {
		return
	}
	var rows [][]string
	for _, o := range codings {
		mark, rate := "", "-"
		if o.Chosen {
			mark = "in force"
		}
		if o.Rate > 0 {
			rate = show.Rate(o.Rate)
		}
		rows = append(rows, []string{o.Coding, fmt.Sprint(o.Disks), fmt.Sprintf("%.0f %%", 100*o.Usable), rate, mark})
	}
	c.table([]string{"coding", ">disks it may lose", ">content", ">stores take", ""}, rows)
	c.printf("\n")
}

// printAdvice prints what to set; all says that nothing is missing from what was measured.
func (c *cli) printAdvice(items []advice.Item, all bool) {
	if len(items) == 0 && !all {
		return
	}
	c.printf("what to set:\n\n")
	if len(items) == 0 {
		c.printf("nothing: what was measured fits what is set\n")
		return
	}
	var rows [][]string
	for _, level := range []advice.Level{advice.Warn, advice.Set, advice.Note} {
		for _, i := range items {
			if i.Level != level {
				continue
			}
			head := i.Key
			if i.Value != "" {
				head += ": " + i.Value
			}
			rows = append(rows, []string{string(level), orDash(head), i.Text})
		}
	}
	c.table([]string{"", "key", "why"}, rows)
}
