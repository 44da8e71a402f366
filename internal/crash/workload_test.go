package crash

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// put makes or changes a file at the source, of size bytes that occur nowhere else.
func (w *world) put(path string, size int) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], w.rng.Uint64())
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
	w.set(path, object{kind: proto.KindFile, content: string(b), mode: 0o644})
}

func (w *world) set(path string, o object) {
	w.mtime += 1_000_000_000
	o.mtime = w.mtime
	switch o.kind {
	case proto.KindSymlink:
		o.digest = proto.BlockDigest([]byte(o.linkTo))
	case proto.KindFile:
		o.digest = proto.ContentDigest([]byte(o.content))
	}
	w.truth[path] = o
}

func (w *world) remove(path string) {
	delete(w.truth, path)
	delete(w.acked, path)
}

// settled: each holder has settled with the relay all that it has.
func (w *world) settled() bool {
	for _, h := range w.holders {
		if len(h.unsettled())+len(h.gone) > 0 {
			return false
		}
	}
	return true
}

// drained: the links owe nothing.
func (w *world) drained(names ...string) bool {
	rows, err := ledger.Links(w.life.relay.Ledger())
	require.NoError(w.t, err)
	for _, r := range rows {
		if slices.Contains(names, r.Name) && (r.OwedObjects+r.ParkedObjects > 0 || r.SeedCursor < r.SeedHead) {
			return false
		}
	}
	return true
}

// tombs: the relay knows all deletes.
func (w *world) tombs() bool {
	led := w.life.relay.Ledger()
	ds, err := ledger.DatasetByName(led, dataset)
	require.NoError(w.t, err)
	ok := true
	require.NoError(w.t, ledger.EachObject(led, ds.ID, "", func(path string, o ledger.ObjectRow) (bool, error) {
		if _, here := w.truth[path]; !here && o.Current.Version != 0 && o.Current.Kind != proto.KindTombstone {
			ok = false
		}
		return ok, nil
	}))
	return ok
}

// calm brings everything to rest: all is settled, deleted, on the targets.
func (w *world) calm() {
	w.away = false
	w.squeeze(capacity)
	for _, h := range w.holders {
		h.idle, h.halting = false, false
	}
	w.until("everything is on the targets", true, func() bool { return w.settled() && w.tombs() && w.drained("main", "off") })
	w.holders[0].ruined = false
}

// step is one thing that happens at the source or to the relay. It changes the truth, and then leads the relay through what
// is of interest; wherever that is cut short by a crash, calm is reached all the same.
type step struct {
	name string
	do   func(w *world, round int)
}

func path(round int, name string) string { return fmt.Sprintf("r%d/%s", round, name) }

// workload passes every point of the relay. A step that waits for something in particular gives up when the relay dies: the
// check at the end asks for the result alone.
var workload = []step{
	{"small objects", func(w *world, n int) {
		w.set(fmt.Sprintf("r%d", n), object{kind: proto.KindDir, mode: 0o755})
		w.put(path(n, "x"), 900)
		w.put(path(n, "y"), 70_000)
		w.set(path(n, "link"), object{kind: proto.KindSymlink, linkTo: "x", mode: 0o777})
	}},
	{"takeover", func(w *world, n int) {
		w.put(path(n, "big"), 2*proto.BlockSize+500)
		a, b := w.holders[0], w.holders[1]
		b.idle, a.halting, a.stop = true, true, 1
		w.turn(false)
		b.idle, a.idle = false, true
		w.life.relay.EndSession(a.session, "its connection was lost")
		a.session = 0
		w.turn(false)
		a.idle, a.halting = false, false
	}},
	{"changed while it was read", func(w *world, n int) {
		p := path(n, "restless")
		w.put(p, 2*proto.BlockSize)
		a, b := w.holders[0], w.holders[1]
		b.idle, a.halting, a.stop = true, true, 1
		w.turn(false)
		if up := a.partial[p].upload; up != 0 && a.session != 0 { // else the relay died, and ended the session
			err := w.life.relay.Abandon(context.Background(), proto.Abandon{Session: a.session, Holder: a.id, Uploads: []proto.UploadID{up}, Changed: true})
			if !w.died() {
				require.NoError(w.t, err)
			}
		}
		delete(a.partial, p)
		w.put(p, 2*proto.BlockSize)
		b.idle, a.halting = false, false
	}},
	{"metadata, overwrite, hard link, delete", func(w *world, n int) {
		o := w.truth[path(n, "y")]
		o.mode = 0o600
		w.set(path(n, "y"), o)
		w.put(path(n, "x"), 1200)
		w.put(path(n, "lead"), 300)
		w.calm()
		lead := w.truth[path(n, "lead")]
		w.truth[path(n, "hard")] = object{kind: proto.KindHardlink, linkTo: path(n, "lead"), content: lead.content, digest: lead.digest, mode: lead.mode, mtime: lead.mtime}
		w.remove(path(n, "link"))
	}},
	{"a store with a bad shard", func(w *world, n int) {
		for i := range 3 { // a bad parity shard is not noticed
			w.put(path(n, "rotten"+strconv.Itoa(i)), 3000)
			w.until("it is uploaded", false, w.settled)
			w.spoil(0)
		}
		w.restart() // pebble has what it took in last in memory
	}},
	{"two stores with bad shards", func(w *world, n int) {
		w.put(path(n, "lost"), 3000)
		w.until("it is uploaded", false, w.settled)
		w.holders[0].ruined = true
		w.spoil(0, 1)
		w.restart()
	}},
	{"sparse segments", func(w *world, n int) {
		for i := range 2 {
			w.put(path(n, "dead"+strconv.Itoa(i)), proto.BlockSize)
			w.put(path(n, "alive"+strconv.Itoa(i)), 100)
			w.until("it is uploaded", false, w.settled)
		}
		for i := range 2 {
			w.put(path(n, "dead"+strconv.Itoa(i)), 10)
		}
		w.until("it is uploaded", false, w.settled)
		for range 11 {
			w.turn(false)
		}
	}},
	{"a target that is away", func(w *world, n int) {
		w.away = true
		w.put(path(n, "released"), 50_000)
		w.until("the others have it", true, func() bool { return w.settled() && w.drained("main") })
		w.squeeze(30_000)
		w.turn(true)
		w.turn(true)
	}},
	{"a target that is away, another that waits", func(w *world, n int) {
		w.away = true
		w.pause(true)
		w.put(path(n, "kept"), 50_000)
		w.until("it is uploaded", true, w.settled)
		w.squeeze(30_000)
		w.turn(true)
		w.turn(true)
		w.squeeze(capacity)
		w.away = false
		for range 40 {
			w.turn(true)
		}
		w.pause(false)
	}},
	{"an object larger than the cache", func(w *world, n int) {
		w.squeeze(3 << 20)
		w.put(path(n, "stream"), 3*proto.BlockSize)
		for i := 0; i < 60 && !w.settled(); i++ {
			w.squeeze(3 << 20)
			w.turn(true)
		}
		w.squeeze(capacity)
	}},
	{"the target lost a file", func(w *world, n int) {
		require.NoError(w.t, os.Remove(filepath.Join(w.place("main"), path(n, "x"))))
		w.repair("main")
	}},
	{"a link comes and goes", func(w *world, n int) {
		w.extra = "extra" + strconv.Itoa(n)
		require.NoError(w.t, os.MkdirAll(w.place(w.extra), 0o755))
		w.relink()
		w.turn(false)
		w.turn(true)
		name := w.extra
		w.extra = ""
		w.put(path(n, "more"), 10)
		w.relink()
		if err := w.life.relay.DropLink(name); !w.died() && err != nil {
			require.ErrorContains(w.t, err, "no link", "%s", w) // it owed nothing, and went by itself
		}
	}},
	{"a power cut with a segment half taken in", func(w *world, n int) {
		w.put(path(n, "cut"), 2000)
		w.mu.Lock()
		if len(w.arms) == 0 || w.arms[0].point != faultpoint.RelayIngestStored {
			w.arms = append([]arm{{faultpoint.RelayIngestStored, 1}}, w.arms...)
			if len(w.arms) > 1 {
				w.back = w.left
			}
			w.left = 1
		}
		w.mu.Unlock()
		w.until("it is uploaded", false, w.settled)
	}},
	{"a week, and a restart", func(w *world, n int) {
		for range 33 {
			w.turn(true)
		}
		w.restart()
		w.turn(true)
	}},
}

// squeeze makes the cache as small as that.
func (w *world) squeeze(n int64) { w.life.relay.Tune(3e9, n, 0.85, 0.001) }

// pause stops or resumes the link main. An operator who gets no answer says it again: what a relay that ended had done is not known.
func (w *world) pause(on bool) {
	for range 3 {
		if err := w.life.relay.Pause("main", on, 0); !w.died() {
			require.NoError(w.t, err)
			return
		}
	}
	require.Fail(w.t, "the relay ends each time that the link is paused or resumed", "%s", w)
}

// relink puts the configured links in force.
func (w *world) relink() {
	err := w.life.relay.SetLinks(w.config().Links)
	if w.died() {
		return
	}
	require.NoError(w.t, err, "%s", w)
	require.NoError(w.t, w.life.setLinks())
}

// repair has what differs at a target owed again, as often as the relay ends over it.
func (w *world) repair(link string) {
	for range 3 {
		err := w.life.flush.Verify(context.Background(), link, false, true, func(proto.VerifyLine) error { return nil })
		if !w.died() {
			require.NoError(w.t, err, "%s", w)
			return
		}
	}
	require.Fail(w.t, "the relay ends each time that a link is verified", "%s", w)
}

// spoil damages the newest table in stores.
func (w *world) spoil(stores ...int) {
	if w.disks != nil && w.disks.fault.on != "ledger" {
		w.holders[0].ruined = true // a store beside the one that fails
	}
	for _, i := range stores {
		dir := fmt.Sprintf("/stores/%d/db", i)
		names, err := w.life.fs.List(dir)
		require.NoError(w.t, err)
		newest, high := "", 0
		for _, n := range names {
			if num, err := strconv.Atoi(strings.TrimSuffix(n, ".sst")); err == nil && num > high {
				newest, high = n, num
			}
		}
		if newest == "" {
			continue
		}
		f, err := w.life.fs.OpenReadWrite(dir+"/"+newest, vfs.WriteCategoryUnspecified)
		require.NoError(w.t, err)
		_, err = f.WriteAt([]byte("this is not what was written here"), 100)
		require.NoError(w.t, err)
		require.NoError(w.t, f.Sync())
		require.NoError(w.t, f.Close())
	}
}

// play goes through the workload round by round. With crashes to come it ends when the last of them came, and what it led to
// has come to rest.
func (w *world) play(rounds int) {
	crashes := len(w.arms) > 0
	for n := range rounds {
		for _, s := range workload {
			s.do(w, n)
			w.calm()
			if crashes && len(w.arms) == 0 {
				w.judge()
				return
			}
		}
	}
	w.judge()
}
