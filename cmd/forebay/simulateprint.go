package main

import (
	"fmt"
	"slices"
	"time"

	"forebay/flush/policy/simulate"
	"forebay/internal/show"
)

// lastWindows is how many windows are printed one by one.
const lastWindows = 10

// printSimulation prints figures side by side, a plot, and windows of what was tried.
func (c *cli) printSimulation(out *simulation, s simulate.Setup) {
	tried := out.Present
	if out.Candidate != nil {
		tried = out.Candidate
	}
	c.printf("link %s, %s of %s: %s in %s\n", out.Link, show.Things(int64(out.Days), "day"), show.Text(out.Inflow), show.Bytes(tried.InBytes), show.Things(tried.InObjects, "object"))
	c.printf("target at %s, cache for %s of contents up to high water\n\n", show.Rate(s.Rate), show.Bytes(s.HighWater))
	header, rows := []string{"", ">present"}, figures(out.Present)
	if out.Candidate != nil {
		header = append(header, ">candidate")
		for i, row := range figures(out.Candidate) {
			rows[i] = append(rows[i], row[1])
		}
	}
	c.table(header, rows)
	var lags, cached []float64
	for _, x := range tried.Samples {
		lags, cached = append(lags, x.LagSeconds), append(cached, float64(x.CacheBytes))
	}
	width := 66
	if c.width > 0 {
		width = max(20, min(c.width-14, 120))
	}
	from, to := tried.Start.Format("2006-01-02"), tried.Start.Add(tried.Length).Format("2006-01-02")
	c.printf("\nlag, %s to %s\n", from, to)
	c.printPlot(show.Plot(lags, width, 6, show.Seconds))
	c.printf("cache, %s to %s\n", from, to)
	c.printPlot(show.Plot(cached, width, 6, func(v float64) string { return show.Bytes(int64(v)) }))
	c.printWindows(tried.Windows)
	c.printf("\nnot known to a simulation:\n")
	for _, u := range out.Unknown {
		c.printf("  %s\n", u)
	}
}

func (c *cli) printPlot(lines []string) {
	for _, l := range lines {
		c.printf("  %s\n", l)
	}
}

// figures are the rows of a report.
func figures(r *simulate.Report) [][]string {
	sizes := make([]int64, len(r.Windows))
	for i, w := range r.Windows {
		sizes[i] = w.Bytes
	}
	slices.Sort(sizes)
	least, median, most := int64(0), int64(0), int64(0)
	if n := len(sizes); n > 0 {
		least, median, most = sizes[0], sizes[(n-1)/2], sizes[n-1]
	}
	full := "never"
	if r.BlockedSeconds > 0 {
		full = fmt.Sprintf("%s, %s waited", show.Seconds(r.BlockedSeconds), show.Bytes(r.BlockedBytes))
	}
	return [][]string{
		{"lag p50", show.Seconds(r.LagP50)},
		{"lag p95", show.Seconds(r.LagP95)},
		{"lag max", show.Seconds(r.LagMax)},
		{"cache peak", show.Bytes(r.PeakCacheBytes)},
		{"cache full", full},
		{"forced flushes", show.Count(r.ForcedFlushes)},
		{"forced bytes", show.Bytes(r.ForcedBytes)},
		{"sent", show.Bytes(r.SentBytes)},
		{"left at the end", show.Bytes(r.LeftBytes)},
		{"windows used", show.Count(int64(len(sizes)))},
		{"bytes a window, least", show.Bytes(least)},
		{"bytes a window, median", show.Bytes(median)},
		{"bytes a window, most", show.Bytes(most)},
	}
}

func (c *cli) printWindows(ws []simulate.Window) {
	if len(ws) == 0 {
		return
	}
	last := ws[max(len(ws)-lastWindows, 0):]
	c.printf("\nthe last %s:\n", show.Things(int64(len(last)), "window"))
	var rows [][]string
	for _, w := range last {
		rows = append(rows, []string{w.Opened.Format(time.RFC3339), show.Bytes(w.Bytes), show.Bytes(w.ForcedBytes)})
	}
	c.table([]string{"opened", ">bytes", ">forced"}, rows)
}
