package work

import (
	"context"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// follow keeps the index informed of what was sealed: at each sign of news, and with each poll that shows a higher head. The first sign
// counts at once; of what is sealed while news keeps coming, it is told together, as often as polls would tell.
func (w *Worker) follow(ctx context.Context) error {
	for {
		news, err := w.catchUp(ctx)
		if err != nil {
			return err
		}
		if news && !sleep(ctx, nil, w.lull()) {
			return ctx.Err()
		}
		if !sleep(ctx, w.news, idle) {
			return ctx.Err()
		}
	}
}

// lull is how long news and proofs gather while there are many.
func (w *Worker) lull() time.Duration { return proto.Lull(w.Session.Suspicion()) }

// catchUp follows the feed to its end, and returns whether there was something in it. It fails only with the index.
func (w *Worker) catchUp(ctx context.Context) (news bool, err error) {
	status, ok := w.Session.Dataset(w.Dataset.Name)
	if !ok {
		return false, nil
	}
	at := w.Index.Counts().Cursor
	if told := w.heads(); at == status.Head && told <= at {
		return false, nil
	}
	for ctx.Err() == nil {
		reply, err := w.Relay.Feed(ctx, proto.FeedRequest{Session: w.SessionID, Dataset: w.Dataset.Name, After: at, Limit: feedPage})
		if err != nil {
			w.failed(ctx, "following the feed", err)
			return news, nil
		}
		if reply.Head < at {
			w.Log.Warn().Uint64("cursor", uint64(at)).Uint64("head", uint64(reply.Head)).Msg("the relay knows less than this index: settling the difference again")
			return false, Rewind(w.Index, reply.Head, w.Now())
		}
		w.Fault.At(faultpoint.AgentFeedFetched)
		if err := w.hear(reply); err != nil {
			return news, err
		}
		w.Fault.At(faultpoint.AgentFeedNoted)
		news = news || len(reply.Items) > 0
		poke(w.toHash)
		poke(w.wake)
		if reply.Next <= at {
			return news, nil
		}
		at = reply.Next
		if at >= reply.Head {
			return news, nil
		}
	}
	return news, nil
}

// heads returns the highest head that was told of, and forgets it: it was a hint.
func (w *Worker) heads() proto.VersionID {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.told
	w.told = 0
	return told
}

// hear writes a page of the feed into the index, with the cursor in the same write.
func (w *Worker) hear(reply proto.FeedReply) error {
	now := w.Now()
	return w.Index.Edit(func(tx *index.Tx) error {
		for _, item := range reply.Items {
			cur, ok, err := tx.Get(item.Path)
			if err != nil {
				return err
			}
			if !ok {
				continue // not here; if it appears, the relay is asked
			}
			next, changed, drop := settle.Hear(cur, item, now)
			switch {
			case drop:
				err = tx.Delete(item.Path)
			case changed:
				err = tx.Put(next)
			}
			if err != nil {
				return err
			}
		}
		tx.SetCursor(reply.Next)
		return nil
	})
}

// Rewind makes an index forget all versions above one, so that what was settled at them is settled again: with a relay
// that lost them, or, above 0, with another relay.
func Rewind(ix *index.Root, above proto.VersionID, now time.Time) error {
	err := eachEntry(ix, func(e index.Entry) (index.Entry, bool) { return settle.Forget(e, above, now) })
	if err != nil {
		return err
	}
	return ix.SetCursor(above)
}

// Renew queues everything that is settled, as it is, to be settled once more: with a relay that rebuilt its ledger. The feed is
// followed on from where it was: what the rebuilt ledger knows has higher numbers.
func Renew(ix *index.Root, now time.Time) error {
	return eachEntry(ix, func(e index.Entry) (index.Entry, bool) { return settle.Renew(e, now) })
}

// PutBack queues everything that is settled to be settled once more, for the index was put back to an older copy: the relay has seen
// it with told. Only then, durably, does the index go on above that.
func PutBack(ix *index.Root, told uint64, now time.Time) error {
	if err := eachEntry(ix, func(e index.Entry) (index.Entry, bool) { return settle.PutBack(e, now) }); err != nil {
		return err
	}
	if err := ix.Edit(func(tx *index.Tx) error { tx.Tell(told); return nil }); err != nil {
		return err
	}
	return ix.Sync()
}

// eachEntry changes the entries of an index, a page at a time. It may be done again from the beginning.
func eachEntry(ix *index.Root, fn func(index.Entry) (index.Entry, bool)) error {
	for after := ""; ; {
		page, err := ix.Below("", after, feedPage)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].Path
		err = ix.Edit(func(tx *index.Tx) error {
			for _, e := range page {
				cur, ok, err := tx.Get(e.Path)
				if err != nil {
					return err
				}
				if next, changed := fn(cur); ok && changed {
					if err := tx.Put(next); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
}
