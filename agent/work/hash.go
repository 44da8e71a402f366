package work

import (
	"context"
	"errors"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/agent/upload"
	"forebay/proto"
)

// toHashLater is how long the queue leaves alone what the hasher finds by itself.
const toHashLater = 10 * time.Minute

// hand gives an entry to be hashed to whoever does it, and returns it when it is to be put back. Objects that may equal a
// version heard of are found by the hasher itself, in path order, so that a whole replica to be proved does not stand in
// the way of what is to be claimed.
func (w *Worker) hand(e index.Entry, now time.Time) []index.Entry {
	if e.Kind == proto.KindHardlink {
		return w.byLeader(e, now)
	}
	if e.State == index.StatePending && settle.ToBeHashed(e) {
		poke(w.toHash)
		e.Due = now.Add(toHashLater).UnixNano()
		return []index.Entry{e}
	}
	select {
	case w.lot <- e: // stays busy until it is hashed
		return nil
	default:
		e.Due = now.Add(w.spread()).UnixNano()
		return []index.Entry{e}
	}
}

// byLeader gives a hard link the digest of the path that stands for its inode, once that is settled.
func (w *Worker) byLeader(e index.Entry, now time.Time) []index.Entry {
	leader, ok, err := w.Index.Get(e.LinkTo)
	e.Due = now.Add(idle).UnixNano()
	switch {
	case err != nil || !ok || leader.Stat.Ino != e.Stat.Ino:
		w.Root.Rescan(e.Path)
		e.Due = now.Add(settle.BackoffMin).UnixNano()
	case leader.State != index.StatePending && leader.HasDigest && leader.Stat.Size == e.Stat.Size && leader.Stat.MtimeNs == e.Stat.MtimeNs:
		err := w.edit([]string{e.Path}, func(_ int, cur index.Entry) (index.Entry, bool) {
			return settle.Hashed(cur, e, leader.Digest, now), true
		})
		if err == nil {
			w.busy.done(e.Path)
			poke(w.wake)
			return nil
		}
	}
	return []index.Entry{e}
}

// roundRest is how many times as long as it took a round over the pending entries is followed by none, so that looking for
// what may be hashed stays a small part of a core, however many entries wait for something else.
const roundRest = 10

// hasher reads objects for their digests, one at a time, giving way to uploads.
func (w *Worker) hasher(ctx context.Context) error {
	for {
		began := w.Now()
		hashed, err := w.hashRound(ctx)
		if err != nil {
			return err
		}
		if hashed > 0 {
			continue // there may be more by now
		}
		if err := w.hashLot(ctx, min(roundRest*w.Now().Sub(began), 10*idle), nil); err != nil {
			return err
		}
		if err := w.hashLot(ctx, 10*idle, w.toHash); err != nil {
			return err
		}
	}
}

// hashLot hashes what the queue hands over, for d or until a signal.
func (w *Worker) hashLot(ctx context.Context, d time.Duration, until <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case e := <-w.lot:
			if err := w.hashPage(ctx, []index.Entry{e}); err != nil {
				return err
			}
		case <-until:
			return nil
		case <-t.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pageSize is how many pending entries are looked at, and at most hashed, at a time.
const pageSize = 128

// hashRound goes once over all pending entries, and hashes those that may equal a version heard of. It returns how many.
func (w *Worker) hashRound(ctx context.Context) (n int, err error) {
	for after := ""; ctx.Err() == nil; {
		page, err := w.Index.InState(index.StatePending, after, pageSize)
		if err != nil || len(page) == 0 {
			return n, err
		}
		after = page[len(page)-1].Path
		now := w.Now()
		var list []index.Entry
		for _, e := range page {
			if e.Kind != proto.KindFile || !settle.ToBeHashed(e) || settle.SteadyAt(e, now).After(now) || !w.busy.take(e.Path) {
				continue
			}
			list = append(list, e)
		}
		n += len(list)
		if err := w.hashPage(ctx, list); err != nil {
			return n, err
		}
		for e, ok := w.fromLot(); ok; e, ok = w.fromLot() {
			if err := w.hashPage(ctx, []index.Entry{e}); err != nil {
				return n, err
			}
		}
	}
	return n, ctx.Err()
}

func (w *Worker) fromLot() (index.Entry, bool) {
	select {
	case e := <-w.lot:
		return e, true
	default:
		return index.Entry{}, false
	}
}

// hashed is what came of reading one entry.
type hashed struct {
	entry  index.Entry
	digest proto.Digest
	bad    *upload.Spoiled
}

// flushHashed is how long digests may stay unwritten while more are computed.
const flushHashed = 100 * time.Millisecond

// hashPage hashes busy entries, writes the digests into the index and frees them.
func (w *Worker) hashPage(ctx context.Context, list []index.Entry) error {
	if len(list) == 0 {
		return nil
	}
	freed := 0
	defer func() { w.free(list[freed:]) }()
	tree, done, err := w.Root.Open()
	if err != nil || w.Root.Problem() != "" {
		if err == nil {
			done()
		}
		sleep(ctx, nil, idle) // the scan finds out what is wrong with the root
		return nil
	}
	defer done()
	var out []hashed
	last := w.Now()
	for _, e := range list {
		h, err := w.hash(ctx, tree, e)
		if err != nil {
			break // the agent or the session ends; the digests so far are kept
		}
		out = append(out, h)
		if now := w.Now(); now.Sub(last) > flushHashed {
			freed += len(out)
			if err := w.writeHashed(out); err != nil {
				return err
			}
			out, last = nil, now
		}
	}
	freed += len(out)
	return w.writeHashed(out)
}

func (w *Worker) hash(ctx context.Context, tree upload.Tree, e index.Entry) (hashed, error) {
	h := hashed{entry: e}
	digest, err := upload.Hasher{Tree: tree, Read: w.Read, Reads: w.Reads, Patience: w.patience()}.Hash(ctx, e, w.giveWay())
	if errors.As(err, &h.bad) {
		return h, nil
	}
	h.digest = digest
	return h, err
}

// giveWay returns a function that, while bytes are under way to the relay, waits as long as the block before it took: at
// most half of a core, and of the disk's time, goes into proofs then.
func (w *Worker) giveWay() func(context.Context) error {
	last := w.Now()
	return func(ctx context.Context) error {
		took := w.Now().Sub(last)
		if w.Window.Under() > 0 && took > 0 {
			sleep(ctx, nil, min(took, 100*time.Millisecond))
		}
		last = w.Now()
		return ctx.Err()
	}
}

// writeHashed writes digests into the index, frees their entries and has the queue go on with them.
func (w *Worker) writeHashed(list []hashed) error {
	if len(list) == 0 {
		return nil
	}
	defer w.Wake() // after they are free
	names := make([]string, len(list))
	for i, h := range list {
		names[i] = h.entry.Path
		defer w.busy.done(names[i])
		if h.bad != nil && h.bad.Gone {
			w.Root.Rescan(names[i])
		}
	}
	now := w.Now()
	return w.edit(names, func(i int, cur index.Entry) (index.Entry, bool) {
		h := list[i]
		if h.bad != nil && h.bad.Gone {
			return settle.Vanished(cur, now), true
		}
		if h.bad != nil {
			return settle.Failed(cur, h.entry, h.bad.Fault, h.bad.Reason, h.bad.Fresh, now), true
		}
		return settle.Hashed(cur, h.entry, h.digest, now), true
	})
}
