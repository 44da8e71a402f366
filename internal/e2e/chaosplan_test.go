package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A campaign's schedule is drawn before it runs, from the seed alone: what the workload does, and what fails when and for
// how long. The same seed gives the same schedule. What a run makes of it differs with the timing of the processes.

// op is one change of the dataset, done on every replica in the same order.
type op struct {
	at       time.Duration
	kind     opKind
	path, to string
	n        int   // number of the change: contents and times follow from it
	size     int64 // of what is written
}

type opKind string

const (
	opWrite   opKind = "write"   // a new content, in place
	opReplace opKind = "replace" // a new file in its place
	opAppend  opKind = "append"
	opRename  opKind = "rename"
	opLink    opKind = "link" // a hard link
	opChmod   opKind = "chmod"
	opRemove  opKind = "remove"
	opDir     opKind = "mkdir"
	opRmDir   opKind = "rmdir" // with all that is in it
)

// fault is something that goes wrong, and is put right after a while.
type fault struct {
	at    time.Duration
	kind  faultKind
	of    string // a node, store, target or link
	lasts time.Duration
}

type faultKind string

const (
	killRelay  faultKind = "kill relay"
	stopRelay  faultKind = "stop relay" // SIGSTOP, then SIGCONT
	killAgent  faultKind = "kill agent"
	stopAgent  faultKind = "stop agent"
	resetConns faultKind = "reset connections"
	cutOff     faultKind = "cut off"
	targetGone faultKind = "target gone"
	targetFull faultKind = "target full"
	storeFull  faultKind = "store full"
	storeGone  faultKind = "store gone"
	ledgerFull faultKind = "ledger disk full"
	agentFull  faultKind = "agent disk full"
	inodesGone faultKind = "target out of inodes"
	pauseLink  faultKind = "pause link"
	noReplica  faultKind = "replica gone"   // a root is emptied from under its agent, and put back
	wipeIndex  faultKind = "index wiped"    // an agent loses its data
	setBack    faultKind = "index set back" // an agent's data is copied, the next time put back to that
)

// everyFault is what may happen where bad disks can be made.
var everyFault = []faultKind{killRelay, stopRelay, killAgent, stopAgent, resetConns, cutOff, targetGone, targetFull, storeFull, storeGone,
	ledgerFull, agentFull, inodesGone, pauseLink, noReplica, wipeIndex, setBack}

// needsBadDisk tells the faults that only small disks have.
func (k faultKind) needsBadDisk() bool {
	return slices.Contains([]faultKind{targetFull, storeFull, ledgerFull, agentFull, inodesGone}, k)
}

// endsProcess tells the faults after which a process is another one: a soak, which watches processes for leaks, leaves
// them out.
func (k faultKind) endsProcess() bool {
	return slices.Contains([]faultKind{killRelay, killAgent, ledgerFull, agentFull, wipeIndex, setBack}, k)
}

// schedule is what a campaign does.
type schedule struct {
	ops    []op
	faults []fault
	keep   map[string]bool // paths that are made and never taken away: whoever misses one at a target has found a wrong delete
}

// draw makes the schedule of a campaign.
func draw(seed int64, length time.Duration, kinds []faultKind, nodes []string, suspicion time.Duration) schedule {
	rnd := rand.New(rand.NewPCG(uint64(seed), 0x666f7265626179))
	s := schedule{keep: map[string]bool{}}
	m := &model{rnd: rnd, s: &s}
	for at := time.Duration(0); at < length; at += time.Duration(20+rnd.IntN(180)) * time.Millisecond {
		m.change(at)
	}
	for path := range m.files {
		if !m.taken[path] {
			s.keep[path] = true
		}
	}
	// Faults come one at a time and several at once, and end before the campaign does.
	for at := time.Second; at < length*9/10; at += time.Duration(200+rnd.IntN(3000)) * time.Millisecond {
		f := fault{at: at, kind: kinds[rnd.IntN(len(kinds))]}
		f.lasts = suspicion * []time.Duration{1, 2, 4, 20}[weighted(rnd, 4, 4, 3, 1)] / 2
		switch f.kind {
		case killAgent, stopAgent, resetConns, cutOff, agentFull, noReplica, wipeIndex, setBack:
			f.of = nodes[rnd.IntN(len(nodes))]
		case targetGone, targetFull, inodesGone:
			f.of = "nas" // the other one is never disturbed
		case pauseLink:
			f.of = "media-nas"
		case storeFull:
			f.of = []string{"store-1", "store-2"}[rnd.IntN(2)]
		case storeGone:
			f.of = "store-3"
		case killRelay, stopRelay, ledgerFull:
		}
		f.lasts = min(f.lasts, length-at)
		s.faults = append(s.faults, f)
	}
	return s
}

func weighted(rnd *rand.Rand, weights ...int) int {
	total := 0
	for _, w := range weights {
		total += w
	}
	n := rnd.IntN(total)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	return 0
}

// model knows what there is while a schedule is drawn.
type model struct {
	rnd   *rand.Rand
	s     *schedule
	n     int
	files map[string]bool
	dirs  []string
	taken map[string]bool // paths that were removed or renamed once
}

// names are the files in order, so that drawing one is repeatable.
func (m *model) names() []string {
	out := make([]string, 0, len(m.files))
	for path := range m.files {
		out = append(out, path)
	}
	slices.Sort(out)
	return out
}

func (m *model) change(at time.Duration) {
	if m.files == nil {
		m.files, m.taken = map[string]bool{}, map[string]bool{}
	}
	m.n++
	o := op{at: at, n: m.n}
	names := m.names()
	kinds := []opKind{opWrite, opWrite, opWrite, opReplace, opReplace, opAppend, opAppend, opRename, opLink, opChmod, opRemove, opDir, opRmDir}
	o.kind = kinds[m.rnd.IntN(len(kinds))]
	if len(names) < 20 && o.kind != opDir || len(m.dirs) == 0 && o.kind == opRmDir {
		o.kind = opWrite
	}
	switch o.kind {
	case opWrite, opReplace:
		o.path, o.size = m.place(), m.amount()
		if m.rnd.IntN(2) == 0 && len(names) > 0 {
			o.path = names[m.rnd.IntN(len(names))]
		}
		m.files[o.path] = true
	case opAppend, opChmod:
		o.path, o.size = names[m.rnd.IntN(len(names))], 1+m.rnd.Int64N(20_000)
	case opRename:
		o.path, o.to = names[m.rnd.IntN(len(names))], m.place()
		delete(m.files, o.path)
		m.files[o.to], m.taken[o.path] = true, true
	case opLink:
		o.path, o.to = names[m.rnd.IntN(len(names))], m.place()
		m.files[o.to] = true
	case opRemove:
		o.path = names[m.rnd.IntN(len(names))]
		delete(m.files, o.path)
		m.taken[o.path] = true
	case opDir:
		o.path = fmt.Sprintf("dir %d", m.n)
		m.dirs = append(m.dirs, o.path)
	case opRmDir:
		i := m.rnd.IntN(len(m.dirs))
		o.path = m.dirs[i]
		m.dirs = slices.Delete(m.dirs, i, i+1)
		for _, path := range names {
			if strings.HasPrefix(path, o.path+"/") {
				delete(m.files, path)
				m.taken[path] = true
			}
		}
	}
	m.s.ops = append(m.s.ops, o)
}

// place is a name that nothing has yet.
func (m *model) place() string {
	name := fmt.Sprintf("file %d", m.n)
	if len(m.dirs) > 0 && m.rnd.IntN(3) > 0 {
		return m.dirs[m.rnd.IntN(len(m.dirs))] + "/" + name
	}
	return name
}

// amount is a size: most files are small, some are sent in ranges, one in a hundred takes seconds.
func (m *model) amount() int64 {
	switch n := m.rnd.IntN(100); {
	case n == 0:
		return 30<<20 + m.rnd.Int64N(60<<20)
	case n < 8:
		return m.rnd.Int64N(12 << 20)
	default:
		return m.rnd.Int64N(100_000)
	}
}

func TestTheSameSeedGivesTheSameSchedule(t *testing.T) {
	t.Parallel()
	nodes := []string{"a", "b", "c"}
	one := draw(7, 5*time.Minute, everyFault, nodes, 2*time.Second)
	require.Equal(t, one, draw(7, 5*time.Minute, everyFault, nodes, 2*time.Second))
	require.NotEqual(t, one, draw(8, 5*time.Minute, everyFault, nodes, 2*time.Second))
	seen := map[faultKind]bool{}
	for _, f := range one.faults {
		seen[f.kind] = true
		require.LessOrEqual(t, f.at+f.lasts, 5*time.Minute, "faults end with the campaign")
	}
	require.Len(t, seen, len(everyFault), "five minutes have every kind of fault")
	require.NotEmpty(t, one.keep)
}
