package flush_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/flush/target/faulty"
	"forebay/ledger"
	"forebay/proto"
)

// keeping are the settings of a link that keeps everything and holds nothing back.
var keeping = []string{"delete.propagate=true", "delete.guard.objects=off", "delete.guard.share=100%"}

func (w *world) keepingLink(keep string) string {
	return w.link("a", "media", append([]string{"history.keep=" + keep}, keeping...)...)
}

// keptFiles lists the contents that a target has kept.
func keptFiles(t *testing.T, root string) (out []string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(root, proto.ReservedName, target.HistoryDir), func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			b, rerr := os.ReadFile(p)
			if errors.Is(rerr, fs.ErrNotExist) {
				return nil // given up meanwhile
			}
			require.NoError(t, rerr)
			out = append(out, string(b))
		}
		return nil
	})
	slices.Sort(out)
	return out
}

// age lets running time and the clock's time pass.
func (w *world) age(d time.Duration) {
	w.t.Helper()
	m, err := ledger.ReadMeta(w.led)
	require.NoError(w.t, err)
	w.apply(&ledger.Tick{UpNs: m.UpNs + int64(d)})
	w.clock.advance(d)
	w.wake()
}

// A version is there for as long as it is to be kept, and soon after no more: neither its content nor its word in the journal. What is
// live is never touched.
func TestPruningIsExact(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(&ledger.Tick{UpNs: w.clock.Now().UnixNano()})
	root := w.keepingLink("1h")
	w.put("media", file("f", "1"), file("g", "same"), file("gone", "soon"), file("h", "old"), hardlink("l", "h", "old"))
	w.start()
	w.drained("a")
	before := w.moment()
	w.put("media", file("f", "2"), deleted("gone"), file("h", "new"))
	w.drained("a")
	assert.Equal(t, []string{"1", "old", "soon"}, keptFiles(t, root))
	w.age(30 * time.Minute)
	between := w.moment()
	w.put("media", file("f", "3"))
	w.drained("a")
	assert.Equal(t, []string{"1", "2", "old", "soon"}, keptFiles(t, root))
	w.age(29 * time.Minute)
	w.eventually(func() bool { return w.state("a").KeptVersions == 4 }, "counted: %+v", w.state("a"))
	w.age(59 * time.Second) // less than an hour since the first ones ended
	assert.Equal(t, map[string]string{"f": "1", "g": "same", "gone": "soon", "h": "old", "l": "old"}, w.restoredAt(root, before))
	w.age(4 * time.Minute)
	w.eventually(func() bool { return slices.Equal(keptFiles(t, root), []string{"2"}) }, "given up: %v", keptFiles(t, root))
	assert.Equal(t, map[string]string{"f": "3", "g": "same", "h": "new", "l": "old"}, tree(t, root), "the mirror is as it was")
	_, _, err := w.restoreAt(root, before)
	require.ErrorContains(t, err, "reaches back to")
	assert.Equal(t, map[string]string{"f": "2", "g": "same", "h": "new", "l": "old"}, w.restoredAt(root, between))
	v, err := w.engine.Versions(t.Context(), "a", "f")
	require.NoError(t, err)
	require.Len(t, v.Versions, 2)
	w.verified("a")
	w.age(time.Hour)
	w.eventually(func() bool { return len(keptFiles(t, root)) == 0 }, "all is given up")
	w.verified("a")
}

// A target without the ability is not used as if it had it.
func TestTargetThatCannotKeepIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return forgetful{t} }
	root := w.keepingLink("1h")
	w.put("media", file("f", "1"))
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
	assert.Contains(t, w.state("a").LastError, "history.keep")
	assert.Empty(t, tree(t, root))
	w.set("a", "history.keep=none")
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "it goes on without")
}

// forgetful is a target that keeps nothing of the past.
type forgetful struct{ target.Target }

func (f forgetful) Probe(ctx context.Context) (target.Info, error) {
	i, err := f.Target.Probe(ctx)
	i.Keeps = false
	return i, err
}

func (forgetful) History() target.History { return nil }

// Without a history nothing of one is at the target, and an older release takes it as it is.
func TestNoHistoryCostsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.keepingLink("none")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.put("media", file("f", "2"))
	w.drained("a")
	assert.Empty(t, keptFiles(t, root))
	names, err := os.ReadDir(filepath.Join(root, proto.ReservedName, target.JournalDir, "root"))
	require.NoError(t, err)
	for _, n := range names {
		assert.True(t, strings.HasPrefix(n.Name(), "done-"), n.Name())
	}
	_, err = w.engine.Versions(t.Context(), "a", "none")
	require.ErrorContains(t, err, "no version")
	_, _, err = w.restoreAt(root, w.clock.Now())
	require.ErrorContains(t, err, "no history.keep")
}

// A shorter history.keep lets nothing go before an operator says so, and then what it does not keep and no more; taken away and
// approved, it leaves nothing behind.
func TestShorteningWaitsForAnOperator(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(&ledger.Tick{UpNs: w.clock.Now().UnixNano()})
	root := w.keepingLink("10h")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	for i := range 3 {
		w.age(time.Hour)
		w.put("media", file("f", fmt.Sprint(i+2)))
		w.drained("a")
	}
	w.age(30 * time.Minute)
	w.set("a", "history.keep=1h")
	w.eventually(func() bool { return w.state("a").HistoryHeld != "" }, "held: %+v", w.state("a"))
	w.age(3 * time.Minute)
	assert.Equal(t, []string{"1", "2", "3"}, keptFiles(t, root))
	r, err := w.engine.History(t.Context(), "a")
	require.NoError(t, err)
	assert.Equal(t, []any{"10h", "1h", int64(3), int64(2), int64(2), []string{"f"}}, []any{r.Keep, r.PolicyKeep, r.Versions, r.DueVersions, r.DueBytes, r.DuePaths})
	assert.Equal(t, []string{"1", "2", "3"}, keptFiles(t, root), "a look removes nothing")
	_, err = w.engine.PruneHistory(t.Context(), "a")
	require.NoError(t, err)
	w.eventually(func() bool { return slices.Equal(keptFiles(t, root), []string{"3"}) }, "gone: %v", keptFiles(t, root))
	w.eventually(func() bool { return w.state("a").HistoryHeld == "" && w.state("a").KeptVersions == 1 }, "no longer held")
	w.verified("a")
	w.set("a", "history.keep=20h") // longer counts at once
	w.eventually(func() bool { r, err = w.engine.History(t.Context(), "a"); return err == nil && r.Keep == "20h" }, "longer")
	w.set("a", "history.keep=none")
	w.eventually(func() bool { return w.state("a").HistoryHeld != "" }, "held: %+v", w.state("a"))
	_, _, err = w.restoreAt(root, w.clock.Now())
	require.ErrorContains(t, err, "no longer keeps")
	w.put("media", file("f", "unkept"))
	w.drained("a")
	assert.Equal(t, []string{"3"}, keptFiles(t, root))
	_, err = w.engine.PruneHistory(t.Context(), "a")
	require.NoError(t, err)
	w.eventually(func() bool { return len(keptFiles(t, root)) == 0 }, "gone")
	w.eventually(func() bool { r, err = w.engine.History(t.Context(), "a"); return err == nil && r.Keep == "none" }, "nothing is left of it")
	assert.Equal(t, map[string]string{"f": "unkept"}, tree(t, root))
}

// The clock of the relay runs years ahead and comes back: no version goes before its time.
func TestClocksEndNoVersionEarly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(&ledger.Tick{UpNs: w.clock.Now().UnixNano()})
	root := w.keepingLink("1d")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.put("media", file("f", "2"))
	w.drained("a")
	const years = 5 * 365 * 24 * time.Hour
	for _, jump := range []time.Duration{years, -2 * years, years} {
		w.clock.advance(jump)
		w.wake()
		w.put("media", file("g", jump.String()))
		w.drained("a")
		w.age(time.Hour)
		w.put("media", file("g", jump.String()+" again"))
		w.drained("a")
		assert.Contains(t, keptFiles(t, root), "1")
	}
	w.age(22 * time.Hour)
	w.eventually(func() bool { return !slices.Contains(keptFiles(t, root), "1") }, "a day of running time has passed")
}

// What is kept is verified: what is missing, damaged or of no version is told, and a stray is removed.
func TestKeptVersionsAreVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.keepingLink("30d")
	w.put("media", file("a", "aa"), file("b", "bb"), file("c", "cc"))
	w.start()
	w.drained("a")
	at := w.moment()
	w.put("media", file("a", "xx"), file("b", "yyy"), deleted("c"))
	w.drained("a")
	w.verified("a")
	kept := func(path, content string) string {
		return filepath.Join(root, proto.ReservedName, target.KeptRecord("root", target.NameKept(path, proto.ContentDigest([]byte(content)))))
	}
	require.NoError(t, os.Remove(kept("a", "aa")))
	require.NoError(t, os.WriteFile(kept("b", "bb"), []byte("b?"), 0o600))
	require.NoError(t, os.WriteFile(kept("c", "cc"), []byte("c"), 0o600))
	stray := kept("c", "of no version")
	require.NoError(t, os.MkdirAll(filepath.Dir(stray), 0o700))
	require.NoError(t, os.WriteFile(stray, []byte("stray"), 0o600))
	problems := func(repair bool) map[string]string {
		out := map[string]string{}
		require.NoError(t, w.engine.Verify(t.Context(), "a", true, repair, func(l proto.VerifyLine) error {
			if l.Problem != "" {
				out[l.Problem] = l.Path
			}
			return nil
		}))
		return out
	}
	rel, err := filepath.Rel(root, stray)
	require.NoError(t, err)
	want := map[string]string{"kept-missing": "a", "kept-content": "b", "kept-size": "c", "stray": rel}
	assert.Equal(t, want, problems(false))
	assert.Equal(t, want, problems(true))
	delete(want, "stray")
	assert.Equal(t, want, problems(false))
	_, report, err := w.restoreAt(root, at)
	require.NoError(t, err)
	assert.EqualValues(t, 3, report.FailedN, "nothing wrong is restored: %+v", report)
}

// A content that somebody removed from the mirror before it was replaced is lost, and said to be; the new one comes all the same.
func TestContentThatWasGoneIsToldAsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.keepingLink("30d")
	w.put("media", file("f", "1"), file("g", "1"))
	w.start()
	w.drained("a")
	at := w.moment()
	require.NoError(t, os.Remove(filepath.Join(root, "f")))
	w.put("media", file("f", "2"), file("g", "2"))
	w.drained("a")
	assert.Equal(t, 1, w.happened(flush.VersionLost))
	v, err := w.engine.Versions(t.Context(), "a", "f")
	require.NoError(t, err)
	require.Len(t, v.Versions, 2)
	assert.Equal(t, "lost", v.Versions[1].State)
	w.verified("a")
	to, report, err := w.restoreAt(root, at)
	require.NoError(t, err)
	assert.EqualValues(t, 1, report.FailedN)
	assert.Equal(t, map[string]string{"g": "1"}, tree(t, to))
}

// A target that is full keeps the old version in its place rather than let it go unkept.
func TestWhatCannotBeKeptIsNotReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	root := w.keepingLink("30d")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.kill()
	at := w.moment()
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target {
		return faulty.Wrap(t, faulty.Config{Rules: []faulty.Rule{{Call: faulty.CallKeep, Fault: faulty.Fail, Class: proto.ClassOverload, Share: 1, Times: 5}}})
	}
	w.put("media", file("f", "2"))
	w.start()
	w.eventually(func() bool { return w.state("a").State == flush.StateStalled }, "stalled")
	assert.Equal(t, map[string]string{"f": "1"}, tree(t, root))
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "it goes on when there is room")
	assert.Equal(t, map[string]string{"f": "2"}, tree(t, root))
	assert.Equal(t, map[string]string{"f": "1"}, w.restoredAt(root, at))
}

// A target that does not let go of what is past its time is told of, and takes what is new all the same.
func TestPruningThatFailsStopsNoFlush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.apply(&ledger.Tick{UpNs: w.clock.Now().UnixNano()})
	root := w.keepingLink("1h")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.put("media", file("f", "2"))
	w.drained("a")
	w.kill()
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return clinging{t} }
	w.age(2 * time.Hour)
	w.start()
	w.eventually(func() bool { return len(w.state("a").Notes) > 0 }, "told")
	assert.Contains(t, w.state("a").Notes[0], "no right to delete")
	w.put("media", file("f", "3"))
	w.drained("a")
	assert.Equal(t, map[string]string{"f": "3"}, tree(t, root))
	w.eventually(func() bool { return w.state("a").State == flush.StateIdle }, "it is not stalled by that")
	assert.Equal(t, []string{"1", "2"}, keptFiles(t, root))
	w.kill()
	w.wrap = nil
	w.start()
	w.eventually(func() bool { return slices.Equal(keptFiles(t, root), []string{"2"}) && len(w.state("a").Notes) == 0 }, "it goes when it may")
	w.verified("a")
}

// clinging is a target that lets nothing go.
type clinging struct{ target.Target }

func (c clinging) History() target.History { return clingingHistory{c.Target.History()} }

type clingingHistory struct{ target.History }

func (clingingHistory) Remove(_ context.Context, names []target.KeptName) []error {
	return slices.Repeat([]error{proto.Errorf(proto.ClassPermanent, "no right to delete")}, len(names))
}

// replacedUnseen is a link without a history whose target has another content than the one that was confirmed: the batch that brought it came
// to no good end, as wrap has it.
func replacedUnseen(t *testing.T, wrap func(t target.Target) target.Target) (w *world, root string) {
	w = newWorld(t)
	root = w.keepingLink("none")
	w.put("media", file("f", "1"))
	w.start()
	w.drained("a")
	w.kill()
	w.put("media", file("f", "2")) // as long as the one before, with the same mtime
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return wrap(t) }
	w.start()
	w.eventually(func() bool { return tree(t, root)["f"] == "2" }, "replaced")
	return w, root
}

// firstIsLost requires that nothing is kept, and that the versions say so.
func (w *world) firstIsLost(root, why string) {
	w.t.Helper()
	assert.Empty(w.t, keptFiles(w.t, root), why)
	v, err := w.engine.Versions(w.t.Context(), "a", "f")
	require.NoError(w.t, err)
	require.Len(w.t, v.Versions, 2)
	assert.Equal(w.t, "lost", v.Versions[1].State)
	w.verified("a")
}

// A batch without a history was cut short after it had replaced a content; with one, that content is not taken for the older one.
func TestHistoryThatBeginsAfterACrash(t *testing.T) {
	t.Parallel()
	w, root := replacedUnseen(t, func(t target.Target) target.Target { return &cutShort{Target: t, done: make(chan struct{})} })
	w.kill()
	w.wrap = nil
	w.set("a", "history.keep=30d")
	w.put("media", file("f", "3"))
	w.start()
	w.drained("a")
	w.firstIsLost(root, "the first one is gone, and the second never was confirmed")
}

// A change that reported an error was made all the same; what it brought is not taken for the content before it when it is done again with
// a history.
func TestHistoryThatBeginsAfterAChangeInDoubt(t *testing.T) {
	t.Parallel()
	w, root := replacedUnseen(t, func(t target.Target) target.Target {
		return faulty.Wrap(t, faulty.Config{Rules: []faulty.Rule{{Call: faulty.CallCommit, Fault: faulty.Unknown, Share: 1, Times: 1}}})
	})
	w.set("a", "history.keep=30d")
	w.passing(time.Second, func() bool { return w.owed("a") == 0 }, "it is done again")
	w.firstIsLost(root, "the first one is gone")
}

// cutShort is a target whose records fail once something was committed: the batch never ends.
type cutShort struct {
	target.Target
	once sync.Once
	done chan struct{}
}

func (c *cutShort) Commit(ctx context.Context, changes []target.Change) []error {
	errs := c.Target.Commit(ctx, changes)
	c.once.Do(func() { close(c.done) })
	return errs
}

func (c *cutShort) Records() target.Records { return cutRecords{c.Target.Records(), c} }

type cutRecords struct {
	target.Records
	c *cutShort
}

func (r cutRecords) Put(ctx context.Context, name string, data []byte) error {
	select {
	case <-r.c.done:
		return errCrash
	default:
		return r.Records.Put(ctx, name, data)
	}
}
