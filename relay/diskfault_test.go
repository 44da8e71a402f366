package relay

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
)

// fault is what happens to the disks of stores whose path has a part.
type fault struct {
	part string
	err  error
	on   func(op errorfs.Op) bool
}

// faults is an injector that tests switch.
type faults struct{ now atomic.Pointer[fault] }

func (f *faults) MaybeError(op errorfs.Op) error {
	x := f.now.Load()
	if x == nil || !strings.Contains(op.Path, x.part) || !x.on(op) {
		return nil
	}
	return x.err
}

func (*faults) String() string { return "faults" }

func writes(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileWrite || op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpFilePreallocate
}
func syncs(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
}
func reads(op errorfs.Op) bool {
	return op.Kind == errorfs.OpFileRead || op.Kind == errorfs.OpFileReadAt
}

// faultyRig is a relay, not started yet, on three stores whose disks fail as the test says.
func faultyRig(t *testing.T) (*rig, *faults) {
	f := &faults{}
	return &rig{t: t, cfg: upkeepConfig(t, 3), clock: &clock{}, fs: errorfs.Wrap(vfs.Default, f)}, f
}

// Disks fill up, fail to sync or fail to read while data comes in: on one store the relay goes on with the others, on all it
// refuses what it cannot keep. What it acknowledged is there, and when the fault is gone it takes data again, codes anew what it
// put narrower, and is healthy, all without an operator.
func TestDiskFaultsUnderLoad(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, part string
		err        error
		on         func(errorfs.Op) bool
		refuses    bool
	}{
		{"one disk full", "store1", syscall.ENOSPC, writes, false},
		{"all disks full", "store", syscall.ENOSPC, writes, true},
		{"fsync fails on one", "store2", syscall.EIO, syncs, false},
		{"fsync fails on all", "store", syscall.EIO, syncs, true},
		{"reads fail on one", "store0", syscall.EIO, reads, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, f := faultyRig(t)
			g.cfg.Upkeep.RebuildAfter = 0
			g.up()
			t.Cleanup(func() { g.down() })
			a := g.join("a")
			a.fill(0, 5)
			f.now.Store(&fault{c.part, c.err, c.on})
			acked, refused := map[int]bool{}, 0
			for i := 5; i < 30; i++ {
				switch ok := a.try(fmt.Sprintf("f%03d", i)); {
				case ok:
					acked[i] = true
				default:
					refused++
				}
				g.relay.stores.Tend()
			}
			require.Equal(t, c.refuses, len(acked) == 0, "%d of 25 were acknowledged", len(acked))
			if !c.refuses || c.err == syscall.ENOSPC { // stores that cannot sync are shut
				g.intact(0, 5)
			}
			f.now.Store(nil)
			g.soon("healthy again", func() bool {
				s := g.cacheNow()
				return s.State == "accepting" && s.DegradedSegments == 0
			})
			a.hello() // the clock was moved: its session has ended
			for i := 5; i < 30; i++ {
				if !acked[i] {
					require.True(t, a.try(fmt.Sprintf("f%03d", i)), "f%03d", i)
				}
			}
			g.intact(0, 30)
			g.soon("all of it at full width", func() bool { return g.whole("2+1") })
			require.Empty(t, g.events("segment-lost"))
			if c.refuses {
				require.Equal(t, 25, refused)
			}
		})
	}
}

// That a store was given up is written down before there is anything new in its place: a relay that is killed in between must know that what
// is there is another one.
func TestAStoreIsGivenUpBeforeItIsReplaced(t *testing.T) {
	t.Parallel()
	g, f := faultyRig(t)
	g.up()
	t.Cleanup(func() { g.down() })
	g.join("a").fill(0, 2)
	_ = g.aside(2)
	var known []knownStores // at the first write into the new store
	var once sync.Once
	f.now.Store(&fault{"store2", nil, func(op errorfs.Op) bool {
		if writes(op) {
			once.Do(func() {
				m, err := ledger.ReadMeta(g.relay.ledger)
				known = make([]knownStores, 1)
				assert.NoError(t, errors.Join(err, proto.Unmarshal(m.Stores, &known[0])))
			})
		}
		return false
	}})
	_, err := g.relay.ReplaceStore(g.cfg.Stores[2], false)
	require.NoError(t, err)
	f.now.Store(nil)
	require.Len(t, known, 1)
	require.Len(t, known[0].Roles.GivenUp, 1)
	require.Len(t, known[0].Stores, 2)
}

// try uploads a small object and reports whether it was acknowledged.
func (p *peer) try(name string) bool {
	content := blob(name, 40_000)
	a := p.claim(proto.Claim{Path: name, Kind: proto.KindFile, Size: int64(len(content))})
	if a.Verdict != proto.VerdictSend {
		return false
	}
	raw, err := segment.Encode(segment.Header{Dataset: proto.Dataset{Cluster: "primary", Name: "media"}, Pieces: []segment.Piece{object(name, content, a)}}, []byte(content))
	require.NoError(p.g.t, err)
	rep, err := p.g.relay.Segment(p.g.t.Context(), p.s, raw)
	return err == nil && rep.Pieces[0].State == proto.PieceAccepted
}
