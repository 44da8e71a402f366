package flush_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush"
	"forebay/flush/target"
	"forebay/proto"
)

func TestAllKindsReachTheTargets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.link("a", "media"), w.link("b", "docs")
	w.put("media", folder("d"), file("d/x", "one"), file("d/empty", ""), symlink("d/s", "x"), hardlink("d/l", "d/x", "one"), folder("hollow"))
	w.put("docs", file("readme", "hello"))
	big := bytes.Repeat([]byte("0123456789abcdef"), 3*proto.BlockSize/16)
	copy(big[proto.BlockSize:2*proto.BlockSize], make([]byte, proto.BlockSize))
	w.large("media", "big", big, proto.BlockSize)
	hole := []proto.Extent{{Kind: proto.ExtentData, Length: proto.BlockSize}, {Kind: proto.ExtentHole, Offset: proto.BlockSize, Length: proto.BlockSize}, {Kind: proto.ExtentData, Offset: 2 * proto.BlockSize, Length: proto.BlockSize}}
	w.large("media", "sparse", big, proto.BlockSize, hole...)
	w.start()
	w.drained("a", "b")
	assert.Equal(t, map[string]string{
		"d": "dir", "d/x": "one", "d/empty": "", "d/s": "-> x", "d/l": "one", "hollow": "dir", "big": string(big), "sparse": string(big),
	}, tree(t, a))
	assert.Equal(t, map[string]string{"readme": "hello"}, tree(t, b))
	assert.Empty(t, stagedFiles(t, a))
	x, err := os.Stat(filepath.Join(a, "d/x"))
	require.NoError(t, err)
	l, err := os.Stat(filepath.Join(a, "d/l"))
	require.NoError(t, err)
	assert.True(t, os.SameFile(x, l), "hard links stay links")
	w.eventually(func() bool { return w.state("a").State == flush.StateIdle }, "idle")
}

func TestManySmallObjectsReadEachSegmentOnceAWorker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	want := map[string]string{}
	for s := range 4 {
		var objs []obj
		for i := range 250 {
			o := file(fmt.Sprintf("s%d-f%03d", s, i), fmt.Sprintf("content %d of %d", i, s))
			objs = append(objs, o)
			want[o.path] = string(o.content)
		}
		w.put("media", objs...)
	}
	w.start()
	w.drained("a")
	assert.Equal(t, want, tree(t, a))
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.LessOrEqual(t, w.reads, 4*4, "each of four workers reads each of four segments once at most")
}

func TestMetaAloneSendsNoBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	o := file("f", "content")
	w.put("media", o)
	w.start()
	w.drained("a")
	w.mu.Lock()
	w.reads = 0
	w.mu.Unlock()
	o.mode = 0o600
	w.meta("media", o)
	w.drained("a")
	st, err := os.Stat(filepath.Join(a, "f"))
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	w.mu.Lock()
	assert.Zero(t, w.reads)
	w.mu.Unlock()
	// What is gone at the target cannot be given metadata: the content is owed again, and asked for.
	require.NoError(t, os.Remove(filepath.Join(a, "f")))
	o.mode = 0o640
	w.meta("media", o)
	w.eventually(func() bool { return w.row("a").ReleasedObjects == 1 }, "the content is owed")
	w.eventually(func() bool { return w.happened(flush.ContentAsked) == 1 }, "told")
	w.refill("media", o)
	w.drained("a")
	assert.Equal(t, "content", tree(t, a)["f"])
}

func TestKindsReplaceEachOther(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media", "delete.propagate=true", "delete.guard.objects=off", "delete.guard.share=100%")
	w.put("media", file("x", "file"), folder("y"), file("y/in", "1"), folder("y/sub"), file("y/sub/deep", "2"), symlink("z", "x"))
	w.start()
	w.drained("a")
	w.put("media", folder("x"), file("x/in", "now inside"), deleted("y/in"), deleted("y/sub/deep"), deleted("y/sub"), file("y", "was a folder"), folder("z"))
	w.drained("a")
	assert.Equal(t, map[string]string{"x": "dir", "x/in": "now inside", "y": "was a folder", "z": "dir"}, tree(t, a))
	assert.Zero(t, w.row("a").ParkedObjects)
}

func TestFolderKeptByPolicyParksWhatReplacesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.put("media", folder("y"), file("y/in", "1"))
	w.start()
	w.drained("a")
	w.put("media", deleted("y/in"), file("y", "was a folder"), file("other", "goes on"))
	w.drained("a")
	assert.Equal(t, map[string]string{"y": "dir", "y/in": "1", "other": "goes on"}, tree(t, a))
	fs, err := w.engine.Failures("a", 10)
	require.NoError(t, err)
	require.Len(t, fs, 1)
	assert.Equal(t, "y", fs[0].Path)
	assert.Contains(t, fs[0].Reason, "delete.propagate")
}

func TestCoalesceSkipsAndOrderHolds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.link("a", "media"), w.link("b", "media", "coalesce=false")
	for i := range 5 {
		w.put("media", file("f", fmt.Sprintf("version %d", i)), file(fmt.Sprintf("other-%d", i), "x"))
	}
	w.start()
	w.drained("a", "b")
	assert.Equal(t, "version 4", tree(t, a)["f"])
	assert.Equal(t, "version 4", tree(t, b)["f"])
	assert.EqualValues(t, 6, w.row("a").ConfirmedObjects, "the last version of f and five others")
	assert.EqualValues(t, 10, w.row("b").ConfirmedObjects, "every version")
}

func TestParkedObjectDoesNotHoldUpOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.wrap = nameLimit("bad")
	w.put("media", file("bad-1", "1"), file("good-1", "2"))
	w.start()
	w.drained("a")
	w.put("media", file("bad-2", "3"), file("good-2", "4"))
	w.drained("a")
	assert.Equal(t, map[string]string{"good-1": "2", "good-2": "4"}, tree(t, a))
	assert.EqualValues(t, 2, w.row("a").ParkedObjects)
	w.eventually(func() bool { return w.happened(flush.ObjectParked) == 2 }, "told")
	fs, err := w.engine.Failures("a", 10)
	require.NoError(t, err)
	require.Len(t, fs, 2)
	assert.True(t, strings.HasPrefix(fs[0].Path, "bad-") && fs[0].Kind == proto.FailParked)
	w.eventually(func() bool { return len(stagedFiles(t, a)) == 0 }, "nothing stays staged")
	// A retry after the cause is gone brings them through.
	w.mu.Lock()
	w.wrap = nil
	w.mu.Unlock()
	w.reopen()
	w.retry("a")
	w.drained("a")
	assert.Len(t, tree(t, a), 4)
	assert.Zero(t, w.row("a").ParkedObjects)
}

// short is a target with names of up to 100 bytes that refuses whatever begins with "bad".
type short struct{ refusing }

func (s short) Probe(ctx context.Context) (target.Info, error) {
	i, err := s.Target.Probe(ctx)
	i.MaxName = 100
	return i, err
}

// What the target cannot hold is set aside; when it is gone at the source, there is nothing to be deleted, and nothing is left of it.
func TestDeleteOfWhatTheTargetCannotHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return short{refusing{t, "bad"}} }
	a := w.link("a", "media", "delete.propagate=true")
	long := "bad" + strings.Repeat("x", 98)
	w.put("media", file(long, "1"), file("good", "2"))
	w.start()
	w.drained("a")
	w.eventually(func() bool { return w.row("a").ParkedObjects == 1 }, "parked")
	w.put("media", deleted(long), deleted("good"))
	w.drained("a")
	assert.Empty(t, tree(t, a))
	assert.Zero(t, w.row("a").ParkedObjects)
}

// strict is a target with names of up to 100 bytes that notes which longer ones it is asked for all the same.
type strict struct {
	short
	asked *sync.Map
}

func (s strict) note(path string) {
	if len(path) > 100 {
		s.asked.Store(path, true)
	}
}

func (s strict) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	s.note(c.Path)
	return s.short.Stage(ctx, c)
}

func (s strict) Commit(ctx context.Context, changes []target.Change) []error {
	for _, c := range changes {
		s.note(c.Path)
	}
	return s.short.Commit(ctx, changes)
}

// What the target says that it cannot hold is set aside at once, however much of it there is: nothing of it is sent, and the link does
// not stall.
func TestTooLongNamesAreNotSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var asked sync.Map
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target {
		return strict{short{refusing{t, "bad"}}, &asked}
	}
	a := w.link("a", "media", "delete.propagate=true")
	long := strings.Repeat("x", 101)
	var objs []obj
	for i := range 20 {
		objs = append(objs, file(fmt.Sprintf("%s/%d", long, i), "1"))
	}
	w.put("media", append(objs, folder(long), symlink(long+"-s", "good"))...)
	w.start()
	w.eventually(func() bool { return w.row("a").ParkedObjects == 22 }, "parked")
	assert.Zero(t, w.happened(flush.LinkStalled))
	fs, err := w.engine.Failures("a", 1)
	require.NoError(t, err)
	require.Len(t, fs, 1)
	assert.Contains(t, fs[0].Reason, "longer than 100 bytes")
	w.put("media", file("good", "2"))
	w.drained("a")
	assert.Equal(t, map[string]string{"good": "2"}, tree(t, a))
	asked.Range(func(path, _ any) bool { return assert.Fail(t, "the target was asked for it", path) })
}

func TestHardLinkWhoseLeaderMovedOnNeverShowsTheWrongContent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.link("a", "media")
	w.put("media", file("p", "old"), hardlink("l", "p", "old"))
	w.put("media", file("p", "new")) // replaced by rename at the source: l kept the old inode
	w.start()
	w.eventually(func() bool { return tree(t, a)["p"] == "new" }, "p")
	w.passing(w.cfg.BackoffMax+30e9, func() bool { return w.row("a").ParkedObjects == 1 }, "l is parked")
	told := func() int { w.mu.Lock(); defer w.mu.Unlock(); return w.loose["l"] }
	before := told()
	assert.NotZero(t, before, "holders are to be asked for it")
	w.passing(time.Minute, func() bool { return told() > before }, "they are asked when it is parked, too")
	assert.Equal(t, map[string]string{"p": "new"}, tree(t, a))
}

// once is a target that fails to stage a content once, when it is armed.
type once struct {
	target.Target
	armed *atomic.Bool
}

func (o once) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if o.armed.CompareAndSwap(true, false) {
		return nil, proto.Errorf(proto.ClassTransient, "stage %s: try again", c.ID)
	}
	return o.Target.Stage(ctx, c)
}

// A hard link comes with the content that its version has, not with the one that had its leader's name before, when the leader
// fails in the batch that brings both (I18).
func TestHardLinkWaitsForItsLeader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var armed atomic.Bool
	w.wrap = func(_ flush.LinkConfig, t target.Target) target.Target { return once{t, &armed} }
	a := w.link("a", "media")
	w.put("media", file("p", "old"))
	w.start()
	w.drained("a")
	armed.Store(true)
	w.put("media", file("p", "new"), hardlink("l", "p", "new"))
	wrong := false
	w.passing(time.Second, func() bool {
		wrong = wrong || tree(t, a)["l"] == "old"
		return wrong || w.owed("a") == 0
	}, "drained")
	assert.False(t, wrong, "it was made a link to what had its leader's name before")
	assert.False(t, armed.Load(), "it failed once")
	assert.Equal(t, map[string]string{"p": "new", "l": "new"}, tree(t, a))
	assert.Zero(t, w.row("a").ParkedObjects)
}
