package scan

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/agent/index"
	"forebay/proto"
)

func TestRules(t *testing.T) {
	t.Parallel()
	type want map[string]bool // a path ending in / is a directory
	for _, c := range []struct {
		include, exclude []string
		want             want
	}{
		{nil, nil, want{"a": true, "a/": true, ".forebay/": false, "a/.forebay/x": false, ".forebayx": true}},
		{nil, []string{"*.tmp"}, want{"x.tmp": false, "a/x.tmp": false, "a/x.tmp/y": false, "x.tmp2": true, ".tmp": false}},
		{nil, []string{"cache/"}, want{"cache": true, "cache/": false, "a/cache/": false, "a/cache/x": false, "a/cache": true}},
		{nil, []string{"/build"}, want{"build": false, "build/x": false, "a/build": true}},
		{nil, []string{"a/*.o"}, want{"a/x.o": false, "a/b/x.o": true, "b/a/x.o": true}},
		{nil, []string{"a/**"}, want{"a/": true, "a": true, "a/b": false, "a/b/c/": false, "ab": true}},
		{nil, []string{"**/b/c"}, want{"b/c": false, "x/b/c": false, "x/y/b/c/d": false, "bb/c": true}},
		{nil, []string{"a/**/b"}, want{"a/b": false, "a/x/b": false, "a/x/y/b": false, "a/x/y": true}},
		{nil, []string{"**"}, want{"a": false, "a/b/": false}},
		{nil, []string{`\*`}, want{"*": false, "x": true}},
		{nil, []string{"[a-c]?"}, want{"b\xff": false, "d1": true, "b": true, "\xff": true}},
		{[]string{"*.jpg"}, nil, want{"a.jpg": true, "a/b.jpg": true, "a/b.txt": false, "a/": true}},
		{[]string{"photos/**"}, nil, want{"photos/": true, "photos": false, "photos/x": true, "photos/a/b": true, "other/": false, "other/x": false}},
		{[]string{"/photos"}, nil, want{"photos/": true, "photos": true, "photos/x": true, "a/photos/": false, "a/": false}},
		{[]string{"a/b/c"}, nil, want{"a/": true, "a/b/": true, "a/b/c": true, "a/b/c/d": true, "a/x/": false, "a/b/x": false, "b/": false}},
		{[]string{"*.jpg"}, []string{"cache/"}, want{"cache/a.jpg": false, "cache/": false, "x/a.jpg": true}},
		{[]string{"keep/"}, nil, want{"keep/": true, "keep": false, "a/keep/x": true, "a/x": false}},
	} {
		r, err := NewRules(c.include, c.exclude)
		require.NoError(t, err)
		for p, w := range c.want {
			isDir := p[len(p)-1] == '/'
			path := p
			if isDir {
				path = p[:len(p)-1]
			}
			require.Equal(t, w, r.Wanted(path, isDir), "include %q exclude %q: %q", c.include, c.exclude, p)
		}
	}
	for _, bad := range []string{"", "/", "a//b", "..", "a/../b", "./a", "a**", "[", "a\\", "a\x00", "[]a]"} {
		_, err := NewRules([]string{bad}, nil)
		require.ErrorContains(t, err, "include pattern", "%q", bad)
		_, err = NewRules(nil, []string{bad})
		require.ErrorContains(t, err, "exclude pattern", "%q", bad)
	}
}

func FuzzRules(f *testing.F) {
	f.Add("a/**/b*", "a/x/b1", true)
	f.Add("*.tmp/", "x.tmp", false)
	f.Fuzz(func(t *testing.T, glob, path string, isDir bool) {
		in, err := NewRules([]string{glob}, nil)
		if err != nil || proto.CheckPath(path) != nil {
			return
		}
		ex, err := NewRules(nil, []string{glob})
		require.NoError(t, err)
		if !in.Wanted(path, isDir) { // what is not included cannot be excluded by the same pattern
			require.True(t, ex.Wanted(path, isDir))
		}
		if in.Wanted(path, isDir) { // what is wanted keeps its parents
			for p := parent(path); p != ""; p = parent(p) {
				require.True(t, in.Wanted(p, true), "%q above %q", p, path)
			}
		}
		if !ex.Wanted(path, isDir) && isDir {
			require.False(t, ex.Wanted(path+"/x", false), "what is below the excluded is excluded")
		}
	})
}

func TestDecideQueue(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	ns := func(d time.Duration) int64 { return now.Add(d).UnixNano() }
	old := index.Stat{Size: 1, MtimeNs: 1, CtimeNs: 1, Ino: 1, Mode: 0o100644}
	find := func(ctime int64) finding {
		st := old
		st.Size, st.CtimeNs = 2, ctime
		return finding{path: "f", kind: proto.KindFile, stat: st}
	}
	entry := func(s index.State, due, first int64) index.Entry {
		return index.Entry{Path: "f", Kind: proto.KindFile, State: s, Stat: old, Version: 4, Heard: 5, MetaSum: [4]uint64{1}, HasDigest: true,
			Due: due, FirstSeen: first, Waited: true, Attempts: 3, Reason: "r"}
	}
	for _, c := range []struct {
		name       string
		cur        index.Entry
		ctime      int64
		state      index.State
		due, first int64
		attempts   int
	}{
		{"long still", entry(index.StateSettled, 0, 0), 1, index.StatePending, ns(0), ns(0), 0},
		{"fresh", entry(index.StateSettled, 0, 0), ns(-time.Second), index.StatePending, ns(time.Second), ns(0), 0},
		{"clock set", entry(index.StateSettled, 0, 0), ns(time.Hour), index.StatePending, ns(proto.SettleTime), ns(0), 0},
		{"lagging", entry(index.StateLagging, 0, 0), 1, index.StatePending, ns(0), ns(0), 0},
		{"pending again", entry(index.StatePending, ns(time.Second), ns(-time.Second)), ns(0), index.StatePending, ns(proto.SettleTime), ns(-time.Second), 3},
		{"pending for ever", entry(index.StatePending, ns(time.Second), ns(-time.Hour)), ns(0), index.StatePending, ns(time.Second), ns(-time.Hour), 3},
		{"unreadable", entry(index.StateUnreadable, ns(time.Hour), 7), 1, index.StatePending, ns(0), 7, 0},
		{"unsettled", entry(index.StateUnsettled, ns(10*time.Second), 7), ns(0), index.StateUnsettled, ns(10 * time.Second), 7, 3},
		{"unsettled for long", entry(index.StateUnsettled, ns(time.Hour), 7), ns(0), index.StateUnsettled, ns(patience), 7, 3},
		{"gone", entry(index.StateGone, ns(0), 7), 1, index.StatePending, ns(0), ns(0), 0},
	} {
		next, changed := decide(c.cur, true, find(c.ctime), now)
		require.True(t, changed, c.name)
		require.Equal(t, c.state, next.State, c.name)
		require.Equal(t, c.due, next.Due, c.name)
		require.Equal(t, c.first, next.FirstSeen, c.name)
		require.Equal(t, c.attempts, next.Attempts, c.name)
		require.False(t, next.HasDigest, c.name)
		require.Equal(t, c.cur.Version, next.Version)
		require.Equal(t, c.cur.Heard, next.Heard)
		require.Equal(t, c.cur.MetaSum, next.MetaSum)
		require.Equal(t, c.cur.State.Queued() && c.state != index.StateUnsettled && c.cur.State != index.StateGone || c.state == index.StateUnsettled, next.Waited, c.name)
	}
	// Only the device number changed: written down, but no news.
	cur := entry(index.StateSettled, 0, 0)
	st := old
	st.Dev = 9
	next, changed := decide(cur, true, finding{path: "f", kind: proto.KindFile, stat: st}, now)
	require.False(t, changed)
	require.Equal(t, uint64(9), next.Stat.Dev)
	require.True(t, next.HasDigest)
}

func TestPacer(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	var slept, busy time.Duration
	p := NewPacer(0.01, 0, func() time.Time { return at }, func(_ context.Context, d time.Duration) error {
		slept += d
		at = at.Add(d + time.Millisecond) // timers are late
		return nil
	})
	p.start()
	for range 1000 {
		at = at.Add(100 * time.Microsecond)
		busy += 100 * time.Microsecond
		require.NoError(t, p.Pace(context.Background()))
	}
	share := float64(busy) / float64(at.Sub(time.Unix(0, 0)))
	require.InDelta(t, 0.01, share, 0.0005)
	require.Equal(t, busy, p.Busy())
	require.NoError(t, (*Pacer)(nil).Pace(context.Background()))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, (*Pacer)(nil).Pace(ctx), context.Canceled)
}

// A scan that the disk keeps waiting does not pay for that with a hundred times as much; one that has more to do than was thought, as a
// tree that grew, gets more of a core with each interval that passes, and ends.
func TestPacerOfASlowScan(t *testing.T) {
	t.Parallel()
	at := time.Unix(0, 0)
	sleep := func(_ context.Context, d time.Duration) error { at = at.Add(d); return nil }
	for within, most := range map[time.Duration]time.Duration{0: 99 * time.Second, 2 * time.Second: time.Second} {
		at = time.Unix(0, 0)
		p := NewPacer(0.01, within, func() time.Time { return at }, sleep)
		p.start()
		at = at.Add(10 * time.Second)
		require.NoError(t, p.Pace(context.Background()))
		require.LessOrEqual(t, at.Sub(time.Unix(10, 0)), most)
		require.Equal(t, time.Second, p.Busy())
		at = at.Add(time.Millisecond)
		require.NoError(t, p.Pace(context.Background()))
		require.LessOrEqual(t, at.Sub(time.Unix(10, 0)), most+100*time.Millisecond, "what is forgiven is not owed")
	}

	at = time.Unix(0, 0)
	p := NewPacer(0.01, time.Minute, func() time.Time { return at }, sleep)
	p.start()
	for range 60_000 { // a minute of work, instead of the 0.3 s that it would take half a minute for
		at = at.Add(time.Millisecond)
		require.NoError(t, p.Pace(context.Background()))
	}
	require.Equal(t, time.Minute, p.Busy())
	require.Less(t, at.Sub(time.Unix(0, 0)), 8*time.Minute)
	require.Greater(t, at.Sub(time.Unix(0, 0)), 5*time.Minute)
}
