package flush

import (
	"cmp"
	"slices"

	"forebay/flush/target"
	"forebay/proto"
)

// ordered is a batch in the order in which it is committed.
type ordered struct {
	first []*item // one commit
	links []*item // hard links, in a commit of their own once their leaders are there
	kept  []*item // the journal alone
}

func (o ordered) touched() []*item { return slices.Concat(o.first, o.links) }

// order sorts what is fit to be committed: parents before what is in them, and for deletes what is in them before parents.
// Deletes come last, so that a renamed object is not away in between; but those that a file or link is waiting for to take
// a directory's place come first, and all of them where names that differ in case only are one.
func order(b *batch, caseFolds bool) ordered {
	var o ordered
	var early, creates, late []*item
	taken := map[string]bool{} // paths that become something else than a directory
	for _, it := range b.items {
		if it.fit() && it.op != target.OpMkdir && it.op != target.OpDelete && it.op != target.OpMeta && it.op != 0 {
			taken[it.row.Path] = true
		}
	}
	for _, it := range b.items {
		switch {
		case !it.fit():
		case it.op == 0:
			o.kept = append(o.kept, it)
		case it.op == target.OpLink:
			o.links = append(o.links, it)
		case it.op != target.OpDelete:
			creates = append(creates, it)
		case caseFolds || below(it.row.Path, taken):
			early = append(early, it)
		default:
			late = append(late, it)
		}
	}
	up := func(a, b *item) int { return cmp.Compare(a.row.Path, b.row.Path) }
	down := func(a, b *item) int { return up(b, a) }
	slices.SortFunc(early, down)
	slices.SortFunc(creates, up)
	slices.SortFunc(o.links, up)
	slices.SortFunc(late, down)
	o.first = slices.Concat(early, creates, late)
	return o
}

// fit reports whether an item is ready to be committed.
func (it *item) fit() bool {
	return it.state == itemStaged || it.state == itemPicked && it.op != target.OpPut
}

// below reports whether a path lies below one of dirs.
func below(path string, dirs map[string]bool) bool {
	for p := parentOf(path); p != ""; p = parentOf(p) {
		if dirs[p] {
			return true
		}
	}
	return false
}

// withLeaders returns the links that can be made now: not those whose leader was to come in this batch and did not, since
// what has its name is an older content.
func (o ordered) withLeaders(b *batch) []*item {
	leaders := map[string]*item{}
	for _, it := range b.items {
		leaders[it.row.Path] = it
	}
	return slices.DeleteFunc(o.links, func(it *item) bool {
		leader := leaders[it.desc.LinkTo]
		if it.state == itemFailed || leader == nil || leader.state == itemCommitted || leader.op == target.OpMeta || leader.op == 0 {
			return false
		}
		it.state, it.err = itemFailed, proto.Errorf(proto.ClassTransient, "hard link to %q, which is not there yet", it.desc.LinkTo)
		return true
	})
}
