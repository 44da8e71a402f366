package relay

import (
	"cmp"
	"slices"

	"forebay/ledger"
	"forebay/proto"
)

// Unread tells which objects of a link are backed up by nobody, or not as they are now, because who holds them cannot read
// them; away are the nodes of its dataset that have not listed theirs since they connected, more counts what is not named.
func (r *Relay) Unread(link string) (list []proto.FailureInfo, more int64, away []string, err error) {
	l, err := r.linkRow(link)
	if err != nil {
		return nil, 0, nil, err
	}
	told := map[string]bool{}
	alive := r.alive(l.Dataset)
	for _, s := range r.book.All() {
		for _, root := range s.Roots {
			if root.Dataset != l.Dataset || !root.Reported {
				continue
			}
			told[s.Node] = true
			named := int64(0)
			for _, f := range root.Failures {
				if f.Kind != proto.FailUnreadable {
					continue
				}
				named++
				o, known, err := ledger.Object(r.ledger, l.Dataset, f.Path)
				if err != nil {
					return nil, 0, nil, err
				}
				if known && o.Current.Version != 0 && ledger.CurrentAlive(&o, root.Holder, alive) {
					continue // another holder has read it
				}
				list = append(list, proto.FailureInfo{Node: s.Node, Root: root.Path, Dataset: root.Name.String(), Path: f.Path, Kind: f.Kind, Reason: f.Reason, Since: stampNs(f.SinceNs)})
			}
			more += max(root.Status.Unreadable-named, 0)
		}
	}
	slices.SortFunc(list, func(a, b proto.FailureInfo) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Path, b.Path))
	})
	hs, err := ledger.Holders(r.ledger)
	for _, h := range hs {
		if h.Dataset == l.Dataset && !told[h.Node] && !slices.Contains(away, h.Node) {
			away = append(away, h.Node)
		}
	}
	return list, more, away, err
}
