package work

import (
	"context"
	"time"

	"forebay/agent/index"
	"forebay/agent/pick"
	"forebay/proto"
)

// asked offers the relay what it owes and no longer has. It needs no entry in the queue: the relay goes on asking until it
// has everything, and each round offers what this holder surely has.
func (w *Worker) asked(ctx context.Context) error {
	var since time.Time // when the relay began to ask
	for {
		status, ok := w.Session.Dataset(w.Dataset.Name)
		switch {
		case !ok || status.Asked == 0 || !status.Wanted || w.Root.Problem() != "":
			since = time.Time{}
		default:
			if since.IsZero() {
				since = w.Now()
			}
			if err := w.offer(ctx, since); err != nil {
				return err
			}
		}
		if !sleep(ctx, nil, idle) {
			return ctx.Err()
		}
	}
}

// offer goes once over what is asked for.
func (w *Worker) offer(ctx context.Context, since time.Time) error {
	for at := proto.VersionID(0); ctx.Err() == nil; {
		if until := w.pausedUntil(); until.After(w.Now()) {
			return nil
		}
		reply, err := w.Relay.Asked(ctx, proto.FeedRequest{Session: w.SessionID, Dataset: w.Dataset.Name, After: at, Limit: feedPage})
		if err != nil {
			w.failed(ctx, "asking what the relay misses", err)
			return nil
		}
		list, err := w.offered(reply.Items, since)
		if err != nil {
			return err
		}
		if err := w.claimOffered(ctx, list); err != nil {
			return err
		}
		if reply.Next <= at { // a page without items is not the end: the relay may ask for some of its list only
			return nil
		}
		at = reply.Next
	}
	return nil
}

// offered returns those items that this holder has, settled at exactly that version, and whose turn it is: each holder
// in the pick leaves them to those before it from the first time the relay asked. They are busy.
func (w *Worker) offered(items []proto.FeedItem, since time.Time) ([]index.Entry, error) {
	var list []index.Entry
	members := w.Session.Members(w.Dataset.Name)
	waited := w.Now().Sub(since)
	for _, item := range items {
		e, ok, err := w.Index.Get(item.Path)
		if err != nil {
			return nil, err
		}
		if !ok || e.State != index.StateSettled || e.Version != item.Version {
			continue
		}
		if pick.Turn(item.Path, w.Holder, members, w.Session.Suspicion()) > waited || w.Heard.Since(item.Path, w.Now().Add(-w.Session.Suspicion())) {
			continue
		}
		if w.busy.take(e.Path) {
			list = append(list, e)
		}
	}
	return list, nil
}

// claimOffered claims with the digest and sends what the relay grants. It returns when the small objects of the page have
// been sent, so that no more than a page is under way.
func (w *Worker) claimOffered(ctx context.Context, list []index.Entry) error {
	if len(list) == 0 {
		return nil
	}
	if err := w.packs.Acquire(ctx, 1); err != nil {
		w.free(list)
		return nil
	}
	b := &batch{}
	for _, e := range list {
		// What is a hard link by now may have been a file, or a link to another name, when it was published.
		w.enter(b, claim{entry: e, alone: true}, w.Now())
	}
	w.free(b.wait) // large ones without a slot: the next round offers them again
	if err := w.compare(ctx, b); err != nil {
		w.packs.Release(1)
		return err
	}
	for i := range b.claim {
		b.claim[i].changed = 0 // this is about content; changed metadata goes through the queue
	}
	small, large, err := w.ask(ctx, b.claim)
	w.startLarge(ctx, large)
	if err != nil || len(small) == 0 {
		w.packs.Release(1)
		return err
	}
	w.startPack(ctx, small)
	return nil
}
