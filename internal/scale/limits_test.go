package scale

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/internal/figures"
)

// found are the figures of the campaigns before this one.
type found struct {
	t       *testing.T
	reports []figures.Report
}

// value is the number that a figure begins with, of the figure whose name ends so.
func (f found) value(layer, name string) (v float64) {
	for _, r := range f.reports {
		for _, g := range r.Figures {
			if r.Layer == layer && strings.HasSuffix(g.Name, name) {
				first, _, _ := strings.Cut(g.Value, " ")
				_, err := fmt.Sscan(first, &v)
				require.NoError(f.t, err, "%s: %q", g.Name, g.Value)
				return v
			}
		}
	}
	f.t.Fatalf("report %s has no figure %q: run it first", layer, name)
	return 0
}

func (f found) object(size int, name string) float64 {
	return f.value("objects", fmt.Sprintf("%d objects: %s", size, name))
}

func (f found) node(name string) float64 {
	return f.value("nodes", fmt.Sprintf("%d nodes: %s", *flagNodes, name))
}

// TestScaleLimits says where one relay ends: arithmetic on what the other campaigns found, which have to run before it.
func TestScaleLimits(t *testing.T) {
	add, save := campaign(t, "limits")
	reports, err := figures.Load(*flagReport)
	require.NoError(t, err)
	f := found{t, reports}
	const (
		goal        = 1e8
		line        = 1.25e9
		handlersSum = "CPU of the relay, µs an object"
	)
	http, bus := f.value("transport", "A poll over HTTP, µs of CPU"), f.value("transport", "A message on the bus, µs of CPU for each delivery")

	requests := replicas * f.object(*flagSize, "Requests for 1,000 objects and holder") / 1000
	messages := replicas * f.object(*flagSize, "Messages on the bus for 1,000 objects and holder") / 1000
	handlers, confirm := f.object(*flagSize, handlersSum), f.object(*flagSize, "CPU of confirming and freeing, µs an object")
	carried := requests*http + messages*replicas*bus
	all := handlers + confirm + carried
	add("CPU for a new object, all in all", fmt.Sprintf("%.0f µs", all), fmt.Sprintf("%.0f in handlers, %.0f to confirm it, %.1f for %.3f requests of %.0f µs and %.3f messages, each delivered %d times for %.1f µs; agents bear a part of the latter",
		handlers, confirm, carried, requests, http, messages, replicas, bus))
	add("New objects a second, for each core of the relay", fmt.Sprintf("%.0f", 1e6/all), "the ledger's entries are applied one after the other: cores beyond a few bring little")
	add("100 million new objects", fmt.Sprintf("%.1f h of one core", goal*all/1e6/3600), fmt.Sprintf("taken from %d objects, of which each costs %.0f µs in handlers; with a tenth of them it was %.0f, with a hundredth %.0f",
		*flagSize, handlers, f.object(*flagSize/10, handlersSum), f.object(*flagSize/100, handlersSum)))
	add("Mean size above which a line of 10 Gbit/s is full before one core is", fmt.Sprintf("%.0f KiB", line*all/1e6/1024), "what the payload's bytes cost (digests, coding, copies: benchmarks.md) comes on top")
	idle, polls, beats := f.node("CPU of 20 idle seconds, per cent of a core"), f.node("Requests a second, idle"), f.node("Messages on the bus a second, idle")
	add(fmt.Sprintf("%d idle agents with three roots each", *flagNodes), fmt.Sprintf("%.0f %% of a core", idle+polls*http/1e4+beats*bus/1e4),
		fmt.Sprintf("%.1f %% in handlers and the relay's own looks, the rest for %.0f polls over HTTP and %.0f beats a second. The latter two go by the suspicion time: with 10 s instead of 3 s there is a third of them", idle, polls, beats))
	change := f.value("cluster", "Changes, 11.6 a second: CPU of the relay") + 7*http + 6*bus // seconds for a million are µs for one
	add("1 % of 100 million objects changed a day", fmt.Sprintf("%.1f %% of a core", goal/100/86400*change/1e4), fmt.Sprintf("11.6 a second, each by itself: a claim, a segment, two reports, three looks into the feed, two messages on the bus: %.1f ms in all", change/1e3))
	add("Ledger of 100 million objects", fmt.Sprintf("%.0f GB", goal*f.object(*flagSize, "Ledger on disk with all confirmed, bytes an object")/1e9),
		fmt.Sprintf("with all confirmed, and %.0f GB while one link owes all. Beyond the machine's memory every claim reads from the disk: an SSD of its own", goal*f.object(*flagSize, "Ledger on disk with all owed, bytes an object")/1e9))
	add("Messages on the bus at the rate of one core", fmt.Sprintf("%.0f a second", 1e6/all*messages*replicas+beats), fmt.Sprintf("delivered, beats too. One core carries %.0f: it does not come first", 1e6/bus))
	add("Memory for leases", fmt.Sprintf("%.1f GiB at most", float64(*flagNodes)*8192*f.value("memory", "A lease")/(1<<30)),
		fmt.Sprintf("%d agents with as many as one may have, 8,192. The first fill of cluster had %.0f at once", *flagNodes, f.value("cluster", ": leases at once")))
	save("how far the handlers of one relay run side by side on many cores")
}
