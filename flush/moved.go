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
	movedLimit  = 100_000        // versions that are looked through for where contents went
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

// pendingDeletes lists deletes that are due, up to countLimit, and from when on what they deleted may have come up elsewhere.
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
		return len(list) < countLimit, nil
	})
	return list, since, err
}

// newPlaces finds, for the things that are wanted, paths that are new since a moment and have them. It returns the deletes that it found
// one for.
func newPlaces(r ledger.Rows, ds proto.DatasetID, since int64, list []pending, wanted map[thing][]int) (map[int]bool, error) {
	found := map[int]bool{}
	from, err := ledger.FirstSince(r, ds, since)
	if err != nil || from == 0 {
		return found, err
	}
	looked := 0
	err = ledger.EachCurrent(r, ds, from, func(ver proto.VersionID, v ledger.VersionRow) (bool, error) {
		looked++
		k := thingOf(v.Desc.Kind, v.Desc.Size, v.Desc.Digest, v.Path)
		if is := wanted[k]; len(is) > 0 && v.Parent == 0 && ver > list[is[0]].gone {
			found[is[0]] = true
			wanted[k] = is[1:]
		}
		return looked < movedLimit && len(found) < len(list), nil
	})
	return found, err
}
