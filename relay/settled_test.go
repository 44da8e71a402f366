package relay

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// A status that was written before a scan ended, or that names something unsent which the scan may have found, does not say that
// what the scan found is settled. Its delete waits for one that does (I13).
func TestScanIsSettledByAStatusOfItsOwn(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, b := g.agent("a"), g.agent("b")
	v := a.put("x")
	a.poll(proto.RootStatus{})
	b.poll(proto.RootStatus{})
	g.c.pass(time.Second)
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	g.c.pass(time.Second)
	scan := b.clock()
	require.NoError(t, reported(g.relay.Report(context.Background(), proto.Report{Session: b.s, Holder: b.holder, First: true, ScanDone: true, ScanNs: scan, ScanUp: g.relay.up()})))
	deleted := func(st proto.RootStatus) bool {
		g.c.pass(time.Second)
		a.poll(proto.RootStatus{})
		b.poll(st)
		g.round()
		return g.deleted("x")
	}
	hour := int64(time.Hour)
	for name, st := range map[string]proto.RootStatus{
		"from before the scan":         {LastScanNs: scan - hour},
		"from before any scan":         {},
		"of a later scan":              {LastScanNs: scan + hour},
		"something from before it":     {LastScanNs: scan, UnsentCount: 1, OldestUnsent: scan - hour},
		"something that it just found": {LastScanNs: scan, UnsentCount: 1, OldestUnsent: scan},
		"something from after it":      {LastScanNs: scan, UnsentCount: 1, OldestUnsent: scan + 1}, // by a clock that may have been set
		"something that it cannot see": {LastScanNs: scan, Unreadable: 1},
	} {
		require.False(t, deleted(st), name)
	}
	require.True(t, deleted(proto.RootStatus{LastScanNs: scan}), "nothing is unsent")
}

// A list of failures that an agent sends between two scans replaces the one before, and is no scan.
func TestListOfFailuresIsNoScan(t *testing.T) {
	t.Parallel()
	g := driven(t)
	a, b := g.agent("a"), g.agent("b")
	v := a.put("x")
	a.poll(proto.RootStatus{})
	b.poll(proto.RootStatus{})
	b.report(nil, nil)
	g.c.pass(time.Second)
	a.report(nil, []proto.GoneEntry{{Path: "x", Version: v}})
	deleted := func() bool {
		g.c.pass(time.Second)
		a.poll(proto.RootStatus{})
		b.poll(proto.RootStatus{})
		g.round()
		return g.deleted("x")
	}
	list := func(path string) {
		require.NoError(t, reported(g.relay.Report(context.Background(), proto.Report{Session: b.s, Holder: b.holder, First: true, Listed: true,
			Failed: []proto.Failure{{Path: path, Kind: proto.FailUnreadable, Reason: "input/output error"}}})))
	}
	unreadable := func() (out []string) {
		fs, err := g.relay.Failures("")
		require.NoError(t, err)
		for _, f := range fs {
			if f.Kind == proto.FailUnreadable {
				out = append(out, f.Path)
			}
		}
		return out
	}
	list("y")
	require.Equal(t, []string{"y"}, unreadable())
	list("z")
	require.Equal(t, []string{"z"}, unreadable(), "the newest list")
	require.False(t, deleted(), "b has not looked since")
	b.report(nil, nil)
	require.True(t, deleted())
}
