package e2e

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/baddisk"
	"forebay/internal/operator"
	"forebay/internal/treecmp"
	"forebay/proto"
)

// chaos is a site under a schedule.
type chaos struct {
	*site
	t         *testing.T
	suspicion time.Duration
	relay     *supervisor
	agents    map[string]*supervisor
	writers   map[string]*sync.Mutex // held while a node's root is written, or is not there
	watches   []*poller

	mu    sync.Mutex
	busy  map[string]bool   // what is out of order
	count map[faultKind]int // faults that happened
	ops   int
	// unlinked are names of files with several that have a file of their own at a target.
	unlinked int
	// guarded is set in rounds with a grace that nodes outstay and a guard that holds deletes; held are those that were approved.
	guarded bool
	held    int64
}

// guardedDeletes is how many deletes a link of a guarded round carries out before somebody approves more.
const guardedDeletes = 15

// deleteRules are those of a round's links.
func deleteRules(guarded bool) string {
	if guarded {
		return fmt.Sprintf("delete: {propagate: true, grace: 5s, guard: {share: 50%%, objects: %d}}", guardedDeletes)
	}
	return "delete: {propagate: true, guard: {share: 100%, objects: 1000000}}"
}

// chaosKinds is what may happen here, without what needs disks that cannot be made.
func chaosKinds(t *testing.T) []faultKind {
	if why := baddisk.Check(); why != "" {
		t.Log("without full disks: " + why)
		return slices.DeleteFunc(slices.Clone(everyFault), faultKind.needsBadDisk)
	}
	return everyFault
}

// newChaos starts a site of three nodes and two links, of which the second is never disturbed.
func newChaos(t *testing.T, suspicion time.Duration, guarded bool) *chaos {
	t.Helper()
	sp := three(deleteRules(guarded))
	sp.suspicion, sp.proxied = suspicion.String(), true
	for i := range sp.nodes {
		sp.nodes[i].scan = "2s"
	}
	c := &chaos{site: newSite(t, sp), t: t, suspicion: suspicion, guarded: guarded, agents: map[string]*supervisor{}, writers: map[string]*sync.Mutex{},
		busy: map[string]bool{}, count: map[faultKind]int{}}
	if baddisk.Check() == "" {
		c.makeDirs("nas")
		c.small(c.path("nas"), 1<<30, 20_000)
		c.relocate("target-nas", c.path("nas", "mirror")) // can be renamed away
		c.small(c.path("store-1"), 512<<20, 0)
		c.small(c.path("store-2"), 512<<20, 0)
		c.small(c.path("relay"), 192<<20, 0)
		for _, n := range c.order {
			c.small(c.nodes[n].data, 64<<20, 0)
		}
	}
	c.fill("media", func(t *tree) {
		t.dir("calm", 0o755)
		for i := range 100 {
			t.file(fmt.Sprintf("calm/%d", i), int64(i*i))
		}
		t.file("calm/large", 20<<20)
	}, c.order...)
	c.differ = func(path string) {
		out, _ := c.forebay("where", "primary/media/"+path)
		c.t.Log(out)
		out, _ = c.forebay("verify", "media-vault")
		c.t.Log(out)
	}
	c.relay = c.superviseRelay()
	for i, v := range c.superviseNodes(c.order...) {
		c.agents[c.order[i]], c.writers[c.order[i]] = v, new(sync.Mutex)
	}
	c.intact()
	return c
}

// showSchedule prints the log of what was made to fail.
func (c *chaos) showSchedule() {
	if c.t.Failed() {
		c.t.Logf("what was made to fail:\n%s", tail(c.path("logs", "chaos.log"), 64<<10))
	}
}

// run does what a schedule says, waits until all faults are over, and requires that everything is as it should be.
func (c *chaos) run(s schedule, below string) {
	c.t.Helper()
	defer c.showSchedule()
	c.watches = nil
	for _, link := range []string{"media-nas", "media-vault"} {
		w := c.watch(link, c.root("a", "media"))
		w.keep = map[string]bool{}
		for path := range s.keep {
			w.keep[below+"/"+path] = true
		}
		c.watches = append(c.watches, w)
	}
	began := time.Now()
	var work sync.WaitGroup
	for _, n := range c.order {
		require.NoError(c.t, os.Mkdir(filepath.Join(c.root(n, "media"), below), 0o755))
		work.Go(func() { // ends with the schedule
			for _, o := range s.ops {
				lag := time.Duration(hash(fmt.Sprint(n, o.n))%300) * time.Millisecond // replicas do not change at once
				c.moment(began.Add(o.at + lag))
				c.apply(n, below, o)
			}
		})
	}
	for _, f := range s.faults {
		work.Go(func() { // ends with the fault
			c.moment(began.Add(f.at))
			c.happen(f)
		})
	}
	work.Wait()
	if c.t.Failed() {
		return
	}
	c.until("the relay to answer", func() bool { return c.op.Healthy(c.t.Context()) == nil })
	c.awaitState("alive", c.order...)
	c.heldStill()
	if c.guarded {
		c.approve("media-nas", c.watches[0])
		c.approve("media-vault", c.watches[1])
	}
	c.settle("media-nas", "media-vault")
	for _, link := range []string{"media-nas", "media-vault"} {
		c.sameBytes(c.root("a", "media"), c.mirror(link))
		c.sound(link)
	}
	for _, n := range c.order[1:] {
		c.sameContent(c.root("a", "media"), c.root(n, "media"))
	}
	for _, w := range c.watches {
		w.whole(10)
	}
	c.well()
}

// approve lets go what the guard of a link holds, as an operator who has looked: none of it may be anything that the source has, and no
// more than the guard allows was deleted without being asked.
func (c *chaos) approve(link string, w *poller) {
	c.t.Helper()
	c.t.Logf("%d files were deleted at %s by themselves", w.vanished(), link)
	assert.LessOrEqual(c.t, w.vanished(), guardedDeletes, "files that were deleted at %s before anybody approved it (I13)", link)
	c.until("the deletes of "+link+" to be approved and done", func() bool {
		l := c.link(link)
		if l.HeldDeletes == 0 {
			return l.BacklogObjects == 0
		}
		var h proto.HeldDeletes
		if err := c.op.Get(c.t.Context(), operator.LinkPath(link, "deletes"), nil, &h); err != nil {
			return false
		}
		for _, path := range h.Paths {
			_, err := os.Lstat(filepath.Join(c.root("a", "media"), path))
			assert.ErrorIs(c.t, err, fs.ErrNotExist, "%q is to be deleted at %s (I13)", path, link)
		}
		if err := c.op.Post(c.t.Context(), operator.LinkPath(link, "deletes/approve"), nil, nil, &h); err == nil {
			c.held += h.Held
		}
		return false
	})
}

// sameBytes is sameContent, except that two names of one file may be two files of the same content at the target: which
// name leads a file that has several differs from replica to replica, and after enough renames a link comes as a file (see
// Limits in docs/ARCHITECTURE.md). Those are counted.
func (c *chaos) sameBytes(want, got string) {
	c.t.Helper()
	c.compare(want, got, treecmp.Options{}, func(d treecmp.Difference) bool {
		if d.What == "hardlinks" {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.unlinked++
		}
		return d.What != "mtime" && d.What != "hardlinks"
	})
}

// heldStill waits until agents no longer list what the workload has just changed, and all holders have told what is gone: a
// wait would end in part, and list that.
func (c *chaos) heldStill() {
	c.t.Helper()
	c.until("all to hold still", func() bool {
		st, err := c.op.Status(c.t.Context())
		if err != nil {
			return false
		}
		left := int64(0)
		for _, n := range st.Nodes {
			left += n.Unsettled + n.Divergent + n.UnsentObjects
		}
		for _, d := range st.Datasets {
			left += d.UnderHeld
		}
		return left == 0
	})
}

// moment waits for a moment of the schedule.
func (c *chaos) moment(at time.Time) {
	select {
	case <-time.After(time.Until(at)):
	case <-c.t.Context().Done():
	}
}

// happen makes a fault, and puts it right when its time is over. What is out of order already is left alone.
func (c *chaos) happen(f fault) {
	what := string(f.kind) + " " + f.of
	switch f.kind { // of these one at a time
	case targetGone, targetFull, inodesGone:
		what = "nas"
	case noReplica:
		what = "root " + f.of
	case agentFull, wipeIndex, setBack:
		what = "data " + f.of
	default:
	}
	c.mu.Lock()
	if c.busy[what] {
		c.mu.Unlock()
		return
	}
	c.busy[what] = true
	c.count[f.kind]++
	c.mu.Unlock()
	c.log("%s %s for %s", f.kind, f.of, f.lasts)
	end := c.begin(f)
	c.moment(time.Now().Add(f.lasts))
	end()
	c.log("%s %s is over", f.kind, f.of)
	c.mu.Lock()
	delete(c.busy, what)
	c.mu.Unlock()
}

// log writes into the log of the schedule, which is shown when the campaign fails.
func (c *chaos) log(format string, args ...any) {
	f, err := os.OpenFile(c.path("logs", "chaos.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if assert.NoError(c.t, err) {
		_, err = fmt.Fprintf(f, time.Now().UTC().Format("15:04:05.000 ")+format+"\n", args...)
		assert.NoError(c.t, err)
		assert.NoError(c.t, f.Close())
	}
}

// begin makes a fault, and returns what puts it right.
func (c *chaos) begin(f fault) (end func()) {
	nothing := func() {}
	fine := func(err error) { assert.NoError(c.t, err, "%s %s", f.kind, f.of) }
	full := func(dir string) func() {
		fine(baddisk.Fill(dir))
		return func() { fine(baddisk.Free(dir)) }
	}
	away := func(dir string) func() {
		fine(os.Rename(dir, dir+"-aside"))
		return func() { fine(os.Rename(dir+"-aside", dir)) }
	}
	switch f.kind {
	case killRelay:
		return c.relay.gone()
	case stopRelay:
		c.relay.tell(syscall.SIGSTOP)
		return func() { c.relay.tell(syscall.SIGCONT) }
	case killAgent:
		return c.agents[f.of].gone()
	case stopAgent:
		c.agents[f.of].tell(syscall.SIGSTOP)
		return func() { c.agents[f.of].tell(syscall.SIGCONT) }
	case resetConns:
		c.nodes[f.of].proxy.reset(false)
	case cutOff:
		c.nodes[f.of].proxy.reset(true)
		return func() { c.nodes[f.of].proxy.reset(false) }
	case targetGone:
		return away(c.target(f.of))
	case storeGone:
		return away(c.path(f.of))
	case targetFull:
		return full(c.path(f.of))
	case inodesGone:
		fine(baddisk.FillInodes(c.path(f.of)))
		return func() { fine(baddisk.Free(c.path(f.of))) }
	case storeFull:
		return full(c.path(f.of))
	case ledgerFull:
		return full(c.path("relay"))
	case agentFull:
		return full(c.nodes[f.of].data)
	case pauseLink:
		c.post(f.of, "pause")
		return func() { c.post(f.of, "resume") }
	case noReplica:
		c.writers[f.of].Lock()
		root := c.root(f.of, "media")
		fine(os.Mkdir(root+"-aside", 0o755))
		fine(move(root, root+"-aside"))
		return func() {
			fine(move(root+"-aside", root))
			fine(os.Remove(root + "-aside"))
			c.writers[f.of].Unlock()
		}
	case wipeIndex:
		c.agents[f.of].down(func() { fine(clearDir(c.nodes[f.of].data)) })
	case setBack:
		data, copied := c.nodes[f.of].data, c.path("data-copy-"+f.of)
		c.agents[f.of].down(func() {
			if _, err := os.Stat(copied); err == nil {
				fine(clearDir(data))
				fine(os.CopyFS(data, os.DirFS(copied)))
				fine(os.RemoveAll(copied))
			} else {
				fine(os.CopyFS(copied, os.DirFS(data)))
			}
		})
	}
	return nothing
}

// post asks the relay to do something with a link, again and again while it is not there.
func (c *chaos) post(link, call string) {
	ok := c.poll(patience, func() bool {
		ctx, cancel := context.WithTimeout(c.t.Context(), time.Second)
		defer cancel()
		return c.op.Post(ctx, operator.LinkPath(link, call), nil, nil, nil) == nil
	})
	assert.True(c.t, ok, "%s %s", call, link)
}

// move moves what is in a directory.
func move(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// clearDir removes what is in a directory, but not what fills its disk.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), baddisk.Filler) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// apply does one change on a node's replica, below a directory.
func (c *chaos) apply(node, below string, o op) {
	c.writers[node].Lock()
	defer c.writers[node].Unlock()
	dir := filepath.Join(c.root(node, "media"), below)
	path, to := filepath.Join(dir, o.path), filepath.Join(dir, o.to)
	when := time.Unix(1_700_000_000+int64(o.n), int64(o.n))
	err := change(o, below, path, to, filepath.Join(filepath.Dir(c.root(node, "media")), "new-"+node), when)
	assert.NoError(c.t, err, "%+v on %s", o, node)
	if node != c.order[0] {
		return
	}
	c.mu.Lock()
	c.ops++
	c.mu.Unlock()
	if o.kind == opWrite || o.kind == opReplace || o.kind == opAppend {
		for _, w := range c.watches {
			w.note(path)
		}
	}
}

// change does one change.
func change(o op, salt, path, to, aside string, when time.Time) error {
	stamp := func(path string) error {
		ts := []unix.Timespec{unix.NsecToTimespec(when.UnixNano()), unix.NsecToTimespec(when.UnixNano())}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, 0)
	}
	write := func(path string, flags int) error {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|flags, 0o644)
		if err != nil {
			return err
		}
		t := tree{salt: fmt.Sprint(salt, " ", o.n)}
		if _, err := io.CopyN(f, t.source(o.path), o.size); err != nil {
			return err
		}
		return f.Close()
	}
	switch o.kind {
	case opWrite:
		if err := write(path, os.O_TRUNC); err != nil {
			return err
		}
		return stamp(path)
	case opReplace:
		if err := write(aside, os.O_TRUNC); err != nil {
			return err
		}
		if err := stamp(aside); err != nil {
			return err
		}
		return os.Rename(aside, path)
	case opAppend:
		if err := write(path, os.O_APPEND); err != nil {
			return err
		}
		return stamp(path)
	case opRename:
		return os.Rename(path, to)
	case opLink:
		return os.Link(path, to)
	case opChmod:
		return os.Chmod(path, []os.FileMode{0o600, 0o640, 0o644, 0o755}[o.n%4])
	case opRemove:
		return os.Remove(path)
	case opDir:
		return os.Mkdir(path, 0o755)
	case opRmDir:
		return os.RemoveAll(path)
	}
	return fmt.Errorf("no change is called %q", o.kind)
}

// told says what happened, for the log of a campaign.
func told(count map[faultKind]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(count)) {
		out = append(out, fmt.Sprintf("%d× %s", count[k], k))
	}
	return strings.Join(out, ", ")
}
