package crash

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"forebay/internal/crashfs"
	"forebay/internal/figures"
	"forebay/shard/store"
)

var (
	faultsFlag = flag.Int("faults", 8, "how many faults of disks are drawn; -1 for all")
	faultFlag  = flag.String("fault", "", "this fault only, as a failed test names it")
)

// operations are the kinds of what a disk can fail at.
var operations = map[errorfs.OpKind]string{
	errorfs.OpFileWrite: "write", errorfs.OpFileWriteAt: "write",
	errorfs.OpFileSync: "sync", errorfs.OpFileSyncData: "sync", errorfs.OpFileSyncTo: "sync",
	errorfs.OpCreate: "create", errorfs.OpReuseForWrite: "create", errorfs.OpMkdirAll: "create",
	errorfs.OpRename: "rename", errorfs.OpLink: "rename",
}

// fault is what goes wrong: the nth operation of a kind below a directory, and with lasting all of that kind after it.
type fault struct {
	on      string // ledger, or the number of a store
	kind    string
	nth     int
	lasting bool
	err     syscall.Errno
}

func (f fault) String() string {
	how := "once"
	if f.lasting {
		how = "on"
	}
	name := "EIO"
	if f.err == syscall.ENOSPC {
		name = "ENOSPC"
	}
	return fmt.Sprintf("%s_%s_%d_%s_%s", f.on, f.kind, f.nth, how, name)
}

// disks injects a fault, and counts. It outlives the relay, as disks do.
type disks struct {
	mu     sync.Mutex
	fault  fault
	seen   map[string]int // operations on the fault's place, by kind
	struck int
	sound  bool // the disk was replaced, or room was made
}

// MaybeError implements errorfs.Injector.
func (d *disks) MaybeError(op errorfs.Op) error {
	kind, ok := operations[op.Kind]
	at := "/stores/" + d.fault.on + "/"
	if d.fault.on == "ledger" {
		at = "/data/ledger/"
	}
	if !ok || !strings.Contains(op.Path+"/", at) {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seen[kind]++
	if d.sound || kind != d.fault.kind || d.seen[kind] < d.fault.nth || d.seen[kind] > d.fault.nth && !d.fault.lasting {
		return nil
	}
	d.struck++
	return &fs.PathError{Op: kind, Path: op.Path, Err: d.fault.err}
}

func (d *disks) String() string { return d.fault.String() }

// bad reports whether the fault has struck.
func (d *disks) bad() bool {
	if d == nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.struck > 0
}

// repair makes the disk sound.
func (d *disks) repair() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sound = true
}

// see is what the relay has its files on.
func (w *world) see(fs *crashfs.FS) vfs.FS {
	if w.disks == nil {
		return fs
	}
	return errorfs.Wrap(fs, w.disks)
}

// startFailed sees to a start that failed at the fault, which a store's must not do. The disk of the ledger is made sound
// after the second try.
func (l *life) startFailed(err error) {
	w := l.w
	if w.disks.fault.on != "ledger" {
		w.t.Fatalf("%s: %s: a store's fault keeps the relay from starting: %v", w, w.disks, err)
	}
	require.ErrorContains(w.t, err, "ledger", "%s: %s", w, w.disks)
	require.ErrorContains(w.t, err, w.disks.fault.err.Error(), "%s: %s: the error does not say why", w, w.disks)
	if w.starts++; w.starts == 2 {
		w.disks.repair()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	l.crash()
}

// ended sees to a relay whose ledger failed: its process ends with that error, and the power with it.
func (l *life) ended(err error) {
	w := l.w
	if w.disks.fault.on != "ledger" {
		w.t.Fatalf("%s: %s: a store's fault ended the relay: %v", w, w.disks, err)
	}
	require.ErrorContains(w.t, err, "ledger failed, restart the relay", "%s: %s", w, w.disks)
	require.ErrorContains(w.t, err, w.disks.fault.err.Error(), "%s: %s: the error does not say why", w, w.disks)
	w.ends++
	w.mu.Lock()
	defer w.mu.Unlock()
	if !l.dead.Load() {
		l.crash()
	}
}

// failing runs the workload on disks with a fault until what that led to has come to rest, the power is cut, and all has come
// to rest again. It returns the world and whether the fault struck.
func failing(t *testing.T, f fault) (*world, bool) {
	t.Helper()
	d := &disks{fault: f, seen: map[string]int{}}
	w := newFailing(t, seedOf(f.String()), d)
	for _, s := range workload {
		if s.name == "a power cut with a segment half taken in" {
			continue // it cuts the power itself
		}
		s.do(w, 0)
		if d.bad() {
			break
		}
		w.calm()
		if d.bad() {
			break
		}
	}
	if !d.bad() {
		w.judge()
		return w, false
	}
	for range 5 { // with the fault, whatever it does
		w.turn(true)
	}
	w.cut()
	for range 5 {
		w.turn(true)
	}
	d.repair()
	w.calm()
	w.until("every store is in use again", true, func() bool {
		st, err := w.life.relay.Status(context.Background())
		require.NoError(t, err)
		for _, s := range st.Cache.Stores {
			if s.State != string(store.OK) {
				return false
			}
		}
		return true
	})
	w.restart() // what a store that was down has too much goes with the next start
	w.judge()
	return w, true
}

// cut cuts the power.
func (w *world) cut() {
	w.mu.Lock()
	if !w.life.dead.Load() {
		w.life.crash()
	}
	w.mu.Unlock()
	w.died()
}

// TestFailingDisks has one operation after another fail, once or from then on, on a store or on the ledger: nothing that was
// acknowledged is gone after a power cut that follows, a store comes back by itself, and a ledger that failed ends the relay.
func TestFailingDisks(t *testing.T) {
	t.Parallel()
	if *pointFlag != "" {
		t.Skip("a crash is asked for")
	}
	var list []fault
	for _, on := range []string{"ledger", "1"} {
		w, _ := failing(t, fault{on: on}) // counts
		for _, kind := range []string{"write", "sync", "create", "rename"} {
			n := w.disks.seen[kind]
			require.Positive(t, n, "%s: no %s to fail", on, kind)
			for k := range n {
				for _, lasting := range []bool{false, true} {
					f := fault{on: on, kind: kind, nth: k + 1, lasting: lasting, err: syscall.EIO}
					if seedOf(f.String())%2 == 0 {
						f.err = syscall.ENOSPC
					}
					list = append(list, f)
				}
			}
		}
	}
	all, seed := len(list), *seedFlag
	if *faultFlag != "" {
		list = slices.DeleteFunc(list, func(f fault) bool { return f.String() != *faultFlag })
		require.NotEmpty(t, list, "-fault %s is none", *faultFlag)
	} else if *faultsFlag >= 0 && *faultsFlag < len(list) {
		if seed == 0 {
			seed = rand.Uint64()
		}
		t.Logf("faults drawn with -seed %d", seed)
		rng := rand.New(rand.NewPCG(seed, 3))
		rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		list = list[:*faultsFlag]
	}
	n := &failures{}
	t.Run("all", func(t *testing.T) {
		for _, f := range list {
			t.Run(f.String(), func(t *testing.T) {
				t.Parallel()
				defer func() {
					if t.Failed() {
						t.Logf("again: go test ./internal/crash -run TestFailingDisks -fault %s", f)
					}
				}()
				n.mu.Lock()
				n.run++
				n.mu.Unlock()
				w, struck := failing(t, f)
				n.count(w, struck, !t.Failed())
			})
		}
	})
	t.Logf("%d schedules, %d passed, %d where nothing was struck, %d operations failed, the relay ended %d times and failed to start %d times, %d bytes acknowledged",
		n.run, n.passed, n.missed, n.struck, n.ends, n.starts, n.bytes)
	if *faultFlag == "" {
		n.report(t, all, seed)
	}
}

// failures counts what faults came to.
type failures struct {
	mu                                        sync.Mutex
	run, passed, missed, struck, ends, starts int
	bytes                                     int64
}

func (n *failures) count(w *world, struck, passed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if passed {
		n.passed++
	}
	if !struck {
		n.missed++
	}
	n.struck += w.disks.struck
	n.ends += w.ends
	n.starts += w.starts
	n.bytes += w.bytes
}

func (n *failures) report(t *testing.T, all int, seed uint64) {
	if *reportFlag == "" {
		return
	}
	lost := fmt.Sprintf("0 of %d", n.bytes)
	if n.run != n.passed {
		lost = "some: see the failures"
	}
	command := "make crash REPORT=docs/reliability"
	if n.run < all {
		command = fmt.Sprintf("go test ./internal/crash -run TestFailingDisks -faults %d -seed %d -report $PWD/docs/reliability", n.run, seed)
	}
	require.NoError(t, figures.Report{Layer: "errorfs", Command: command, Measured: time.Now().UTC().Format(time.DateOnly),
		Figures: []figures.Figure{
			{Name: "schedules of a failing disk", Value: fmt.Sprintf("%d of %d run, %d passed", n.run, all, n.passed),
				Note: "all are: each write, sync, create and rename of the workload on the ledger and on one store of three: it alone, and all from it on until the disk is repaired; EIO or ENOSPC by the seed"},
			{Name: "of these, the operation never came", Value: fmt.Sprint(n.missed), Note: "pebble's background work differs a little from run to run; they were checked like the others"},
			{Name: "operations that failed", Value: fmt.Sprint(n.struck)},
			{Name: "ends of the relay because its ledger failed", Value: fmt.Sprint(n.ends), Note: "with an error that names the ledger and the cause; no fault of a store ended it"},
			{Name: "starts refused with a bad ledger", Value: fmt.Sprint(n.starts)},
			{Name: "power cuts after the fault", Value: fmt.Sprint(n.run - n.missed + n.ends), Note: "keeping 0, 50 or 100 % of what was not synced"},
			{Name: "acknowledged bytes lost or wrong", Value: lost},
		},
		Invariants: map[string]string{
			"I1":  "all that is owed is read back after the fault and the power cut",
			"I2":  "no segment goes before what let go of it is durable; none stays behind",
			"I10": "the mirror is compared with the source",
			"I18": "no acknowledged version is older after the fault",
		},
		NotCovered: []string{"reads that fail: the stores' and the ledger's own tests have them", "two disks that fail at once"},
	}.Save(*reportFlag))
}
