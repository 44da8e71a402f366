package flush

import (
	"path"
	"time"

	"forebay/ledger"
	"forebay/proto"
)

// A directory that is renamed or moved at the source comes as creates in the new place and as deletes in the old one. Those deletes
// lose nothing: the guard does not count them.

const (
	movedWithin = 25 * time.Hour // a delete waits up to a day for a holder that is away, the create for nobody
	movedMost   = 100_000        // deletes that are looked at
	movedLimit  = 200_000        // versions that are looked through for where contents went, those just before the deletes first
	movedStep   = 10_000
)

// thing is what has to be at another path for a delete to count as a move: the same content in a file of the same name, for of
// contents alone there are many alike.
type thing struct {
	kind   proto.Kind
	size   int64
	digest proto.Digest
	name   string
}

func thingOf(kind proto.Kind, size int64, digest proto.Digest, p string) thing {
	if kind == proto.KindHardlink { // which name leads changes with the names
		kind = proto.KindFile
	}
	return thing{kind, size, digest, path.Base(p)}
}

// pending is a delete that is due.
type pending struct {
	ver  proto.VersionID
	path string
	dir  bool
	was  thing
	gone proto.VersionID // the version that is deleted
}

// moved returns those deletes, due and not approved, of which the content is at a new path of the dataset: one for each such path.
func moved(r ledger.Rows, row ledger.LinkRow) (map[proto.VersionID]bool, error) {
	list, since, err := pendingDeletes(r, row)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	wanted := map[thing][]int{}
	for i, d := range list {
		if !d.dir {
			wanted[d.was] = append(wanted[d.was], i)
		}
	}
	found, err := newPlaces(r, row.Dataset, since, list, wanted)
	if err != nil {
		return nil, err
	}
	out := map[proto.VersionID]bool{}
	// A directory has moved when something in it has, and everything that goes.
	some, other := map[string]bool{}, map[string]bool{}
	for i, d := range list {
		if d.dir {
			continue
		}
		at := other
		if found[i] {
			out[d.ver], at = true, some
		}
		for p := parentOf(d.path); p != ""; p = parentOf(p) {
			at[p] = true
		}
	}
	for _, d := range list {
		if d.dir && some[d.path] && !other[d.path] {
			out[d.ver] = true
		}
	}
	return out, nil
}

// pendingDeletes lists deletes that are due, up to movedMost, and from when on what they deleted may have come up elsewhere.
func pendingDeletes(r ledger.Rows, row ledger.LinkRow) (list []pending, since int64, err error) {
	err = ledger.EachDebt(r, row.ID, row.ApprovedTo, func(ver proto.VersionID, q ledger.OwedRow) (bool, error) {
		if q.Parked || q.Kind != proto.KindTombstone {
			return true, nil
		}
		v, ok, err := ledger.Version(r, row.Dataset, ver)
		if err != nil || !ok {
			return err == nil, err
		}
		o, _, err := ledger.Object(r, row.Dataset, v.Path)
		if err != nil || len(o.Recent) == 0 || o.Current.Version != ver {
			return err == nil, err
		}
		if at := v.SealedNs - int64(movedWithin); len(list) == 0 || at < since {
			since = at
		}
		k := o.Recent[0]
		list = append(list, pending{ver: ver, path: v.Path, dir: k.Kind == proto.KindDir, was: thingOf(k.Kind, k.Size, k.Digest, v.Path), gone: k.Version})
		return len(list) < movedMost, nil
	})
	return list, since, err
}

// newPlaces finds, for the things that are wanted, paths that are new since a moment and have them. It returns the deletes that it found
// one for. It goes back from the last of the deletes: what was moved came up shortly before it was seen to be gone, and a busy dataset has
// very many versions of a day.
func newPlaces(r ledger.Rows, ds proto.DatasetID, since int64, list []pending, wanted map[thing][]int) (map[int]bool, error) {
	found := map[int]bool{}
	from, err := ledger.FirstSince(r, ds, since)
	if err != nil || from == 0 {
		return found, err
	}
	d, err := ledger.Dataset(r, ds)
	if err != nil {
		return found, err
	}
	looked := 0
	err = backwards(from, d.Head+1, func(start, end proto.VersionID) (n int, more bool, err error) {
		err = ledger.EachCurrent(r, ds, start, func(ver proto.VersionID, v ledger.VersionRow) (bool, error) {
			if ver >= end {
				return false, nil
			}
			n++
			k := thingOf(v.Desc.Kind, v.Desc.Size, v.Desc.Digest, v.Path)
			if is := wanted[k]; len(is) > 0 && v.Parent == 0 && ver > list[is[0]].gone {
				found[is[0]] = true
				wanted[k] = is[1:]
			}
			return looked+n < movedLimit, nil
		})
		looked += n
		return n, looked < movedLimit && len(found) < len(list), err
	})
	return found, err
}

// backwards has look go through stretches of versions, from the last back to the first. After one in which it found none the next is twice
// as long: the numbers of a ledger that was rebuilt begin far above those before.
func backwards(from, end proto.VersionID, look func(start, end proto.VersionID) (n int, more bool, err error)) error {
	for step := proto.VersionID(movedStep); end > from; {
		start := from
		if end-from > step {
			start = end - step
		}
		n, more, err := look(start, end)
		if err != nil || !more {
			return err
		}
		if end = start; n > 0 {
			step = movedStep
		} else {
			step *= 2
		}
	}
	return nil
}
