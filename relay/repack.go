package relay

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
	"forebay/proto/segment"
	"forebay/shard/store"
)

// sparse is the part of a segment's payload below which it is worth copying what is left of it.
const sparse = 0.25

// repackMost bounds how many segments one round looks into.
const repackMost = 64

// repack copies what is still needed of segments that are mostly dead into new ones, while the cache is above low water: a
// few objects that nobody flushes would otherwise keep whole segments.
func (r *Relay) repack(ctx context.Context) error {
	if _, low := r.admission.marks(); r.admission.used() < low {
		return nil
	}
	byDataset := map[proto.DatasetID][]uint64{}
	n := 0
	err := ledger.EachSegment(r.ledger, func(seq uint64, s ledger.SegmentRow) (bool, error) {
		if s.Refs > 0 && float64(s.Live) < sparse*float64(s.Length) && s.Length > proto.BlockSize {
			byDataset[s.Dataset] = append(byDataset[s.Dataset], seq)
			n++
		}
		return n < repackMost, nil
	})
	if err != nil {
		return err
	}
	for _, ds := range slices.Sorted(maps.Keys(byDataset)) {
		seqs := byDataset[ds]
		if len(seqs) < 2 { // one alone gives little back
			continue
		}
		if err := r.repackDataset(ctx, ds, seqs); err != nil {
			return err
		}
	}
	return nil
}

// repackDataset fills new segments from sparse ones.
func (r *Relay) repackDataset(ctx context.Context, ds proto.DatasetID, seqs []uint64) error {
	d, err := ledger.Dataset(r.ledger, ds)
	if err != nil {
		return err
	}
	p := packer{header: segment.Header{Dataset: d.Name, Sealed: r.now().UnixNano()}}
	for _, seq := range seqs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		seg, err := r.ReadSegment(ctx, seq)
		if err != nil {
			continue // lost or freed: handled where it was read
		}
		residents, err := ledger.Residents(r.ledger, seq)
		if err != nil {
			return err
		}
		for _, it := range residents {
			for _, c := range it.Copies(seq, seg.Header.Pieces) {
				if len(p.payload)+int(c.Move.Length) > proto.MaxPayload || len(p.moves) >= proto.MaxClaims {
					if err := r.storePacked(ctx, ds, &p); err != nil {
						return err
					}
				}
				if err := seg.Prove(c.Piece); err != nil { // it stays, with its segment, until that is judged; the others are moved
					r.SuspectSegment(seq, err)
					continue
				}
				p.add(seg, c)
			}
		}
	}
	return r.storePacked(ctx, ds, &p)
}

// packer gathers pieces for one new segment.
type packer struct {
	header  segment.Header
	payload []byte
	moves   []ledger.Move
}

// add copies a piece that is proved.
func (p *packer) add(seg *segment.Segment, c ledger.Copy) {
	piece := seg.Header.Pieces[c.Piece]
	c.Move.At = uint32(len(p.payload))
	p.payload = append(p.payload, seg.Bytes(c.Piece)...)
	piece.At = c.Move.At
	p.header.Pieces = append(p.header.Pieces, piece)
	p.moves = append(p.moves, c.Move)
}

// storePacked writes the gathered pieces as a segment and moves what referred to the old ones.
func (r *Relay) storePacked(ctx context.Context, ds proto.DatasetID, p *packer) error {
	if len(p.moves) == 0 {
		return nil
	}
	raw, err := segment.Encode(p.header, p.payload)
	if err != nil {
		return fmt.Errorf("repack: %w", err)
	}
	id := r.ingest.NextID()
	defer r.ingest.Done(id)
	segment.Stamp(raw, id)
	places, err := r.stores.Put(ctx, []store.Item{{ID: id, Raw: raw}})
	if err != nil {
		return fmt.Errorf("repack: %w", err)
	}
	r.deps.Fault.At(faultpoint.RelayRepackStored)
	e := &ledger.Repack{Seq: id.Seq, Dataset: ds, Length: int64(len(raw)), Stored: places[0].RawBytes(), Placement: proto.Marshal(places[0]), NowNs: r.now().UnixNano(), Moves: p.moves}
	p.header.Pieces, p.payload, p.moves = nil, nil, nil
	if err := r.ledger.Update(e); err != nil {
		return err
	}
	r.deps.Fault.At(faultpoint.RelayRepackRecorded)
	return nil
}
