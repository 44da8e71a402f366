package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"forebay/proto"
	"forebay/shard"
)

// Located is a segment as the shards of it in the stores describe it: nothing else is asked.
type Located struct {
	IDPlacement     // shards that no store has are placed in the zero StoreID
	Shards      int // of the placement that are there
}

// Whole reports whether every shard of it is there.
func (l Located) Whole() bool { return l.Shards == l.Geometry.Shards() }

// Readable reports whether enough shards of it are there.
func (l Located) Readable() bool { return l.Shards >= l.Geometry.Data }

// Locate lists the segments of a relay that the stores in use hold shards of, by id, with the placement that the shards
// themselves give. Where there are several of one segment, from a move that was cut short, the one with the most of its
// shards is taken. Memory is a hundred bytes a segment and store; no table is read.
func (s *Set) Locate(ctx context.Context, relay proto.RelayID) ([]Located, error) {
	found := map[shard.Code][]StoreID{}
	for _, d := range s.disks {
		id := d.storeID()
		if s.disk(id) == nil {
			continue
		}
		list, err := d.each(ctx)
		if err != nil {
			return nil, fmt.Errorf("list store %s: %w", d.path, err)
		}
		for _, f := range list {
			if f.ID.Relay != relay {
				continue
			}
			at := found[f.Code]
			if at == nil {
				at = make([]StoreID, f.Geometry.Shards())
				found[f.Code] = at
			}
			if at[f.Index].IsZero() {
				at[f.Index] = id
			}
		}
	}
	all := make([]Located, 0, len(found))
	for code, at := range found {
		l := Located{IDPlacement: IDPlacement{code.ID, Placement{Geometry: code.Geometry, Stores: at, Length: int64(code.Length), Tag: code.Tag}}}
		for _, id := range at {
			if !id.IsZero() {
				l.Shards++
			}
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Located) int {
		return cmp.Or(slices.Compare(a.ID.Bytes(), b.ID.Bytes()), b.spare()-a.spare(), slices.Compare(a.Tag[:], b.Tag[:]))
	})
	out := all[:0]
	for _, l := range all {
		if n := len(out); n == 0 || out[n-1].ID != l.ID {
			out = append(out, l)
		}
	}
	return out, nil
}

// spare is how many shards more than needed are there.
func (l Located) spare() int { return l.Shards - l.Geometry.Data }
