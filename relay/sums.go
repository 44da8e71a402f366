package relay

import (
	"context"

	"forebay/ledger"
	"forebay/proto"
	"forebay/relay/arbiter"
)

// sums reports whether it is worth asking what the blocks of the current version are: what is granted follows it, goes in ranges,
// and is kept in the cache until it is whole.
func (r *Relay) sums(l arbiter.Lease, c proto.Claim, v arbiter.View, act *arbiter.Action) bool {
	cur := v.Object.Current
	return act.Answer.Verdict == proto.VerdictSend && !act.Again && !v.Asked && l.Allowance == 0 &&
		c.Kind == proto.KindFile && c.Size > proto.MaxPayload && cur.Kind == proto.KindFile && cur.Size > proto.MaxPayload
}

// Sums tells what the blocks of a path's current version are, as far as that is known.
func (r *Relay) Sums(_ context.Context, q proto.SumsRequest) (rep proto.SumsReply, err error) {
	s, ok := r.book.Get(q.Session)
	if !ok || !r.book.Touch(q.Session, r.now()) {
		return rep, unknownSession()
	}
	var ds proto.DatasetID
	for _, root := range s.Roots {
		if root.Name.Name == q.Dataset {
			ds = root.Dataset
		}
	}
	if ds == 0 || q.From < 0 {
		return rep, proto.Errorf(proto.ClassPermanent, "node %s has announced no root of dataset %q, or block %d is none", s.Node, q.Dataset, q.From)
	}
	err = r.ledger.View(func(rows ledger.Rows) error {
		o, ok, err := ledger.Object(rows, ds, q.Path)
		if err != nil || !ok || o.Current.Version != q.Version {
			return err
		}
		if rep.Sums, err = ledger.Sums(rows, ds, q.Path, o.Current.Digest, q.From, proto.MaxSums); err != nil || q.From > 0 || len(rep.Sums) == 0 {
			return err
		}
		v, ok, err := ledger.Version(rows, ds, q.Version)
		if err != nil || !ok {
			return err
		}
		rep.Whole, err = ledger.Whole(rows, v)
		return err
	})
	return rep, err
}
