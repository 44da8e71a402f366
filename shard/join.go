package shard

import (
	"fmt"
	"hash/crc32"

	"forebay/proto"
)

// Join puts a segment together from shards read in any order. Data shards are read straight to their place in the segment,
// parity into borrowed memory, so that a healthy segment is not copied at all:
//
//	j, err := coder.Join(code)
//	read shard i's header into head and its body into j.Body(i)
//	err = j.Add(i, head)          // proves it
//	raw, err := j.Raw()           // once j.Missing() is 0
//
// Different shards may be read and added by different goroutines, as long as Join's other methods are not called meanwhile
// and nobody writes into Body(i) after Add(i).
type Join struct {
	code   Code
	coder  *Coder
	size   int
	raw    []byte // Data * size bytes
	parity []*[]byte
	have   []bool
}

// Join begins to put together a segment coded as code, which the caller knows from its ledger. It fails with
// ClassPermanent on a code out of bounds.
func (c *Coder) Join(code Code) (*Join, error) {
	if err := code.Validate(); err != nil {
		return nil, fmt.Errorf("join segment %s: %w", code.ID, err)
	}
	g, size := code.Geometry, code.Geometry.ShardLen(code.Length)
	return &Join{
		code: code, coder: c, size: size,
		raw:    make([]byte, g.Data*size),
		parity: make([]*[]byte, g.Parity),
		have:   make([]bool, g.Shards()),
	}, nil
}

// Body returns the memory for the body of shard i, 0 <= i < Data+Parity.
func (j *Join) Body(i int) []byte {
	if i < j.code.Geometry.Data {
		return j.raw[i*j.size : (i+1)*j.size : (i+1)*j.size]
	}
	p := &j.parity[i-j.code.Geometry.Data]
	if *p == nil {
		*p = j.coder.buffer(j.size)
	}
	return **p
}

// Add proves that shard i, whose body was read into Body(i), is what it should be: undamaged, of this segment, this
// content, this geometry and this index. It fails with ClassCorrupt, and the shard is not used.
func (j *Join) Add(i int, head []byte) error {
	h, err := ParseHeader(head)
	if err != nil {
		return err
	}
	if h.Code != j.code || h.Index != i {
		return proto.Errorf(proto.ClassCorrupt, "shard %d of segment %s (%s, tag %s) where shard %d of %s (%s, tag %s) should be",
			h.Index, h.ID, h.Geometry, h.Tag, i, j.code.ID, j.code.Geometry, j.code.Tag)
	}
	if got := crc32.Checksum(j.Body(i), castagnoli); got != h.CRC {
		return proto.Errorf(proto.ClassCorrupt, "shard %d of segment %s has checksum %08x, says %08x", i, j.code.ID, got, h.CRC)
	}
	j.have[i] = true
	return nil
}

// Missing returns how many more shards are needed; 0 when the segment can be put together.
func (j *Join) Missing() int {
	n := j.code.Geometry.Data
	for _, have := range j.have {
		if have {
			n--
		}
	}
	return max(n, 0)
}

// Raw returns the whole segment, computing the data shards that were not added. The caller owns the bytes. It fails with
// ClassCorrupt when shards are missing. Call it once, then Release.
func (j *Join) Raw() ([]byte, error) {
	if n := j.Missing(); n > 0 {
		return nil, proto.Errorf(proto.ClassCorrupt, "segment %s: %d of %d shards needed are missing", j.code.ID, n, j.code.Geometry.Data)
	}
	if err := j.reconstruct(); err != nil {
		return nil, err
	}
	raw := j.raw[:j.code.Length:j.code.Length]
	if got := TagOf(raw); got != j.code.Tag {
		return nil, proto.Errorf(proto.ClassCorrupt, "segment %s decodes to content with tag %s, its shards say %s", j.code.ID, got, j.code.Tag)
	}
	return raw, nil
}

func (j *Join) reconstruct() error {
	g := j.code.Geometry
	pieces, whole := make([][]byte, g.Shards()), true
	for i, have := range j.have {
		switch {
		case have:
			pieces[i] = j.Body(i)
		case i < g.Data:
			whole = false
			pieces[i] = j.Body(i)[:0] // an empty piece with room is computed in place
		}
	}
	if whole {
		return nil
	}
	code, err := j.coder.code(g)
	if err != nil {
		return err
	}
	if err := code.ReconstructData(pieces); err != nil {
		return fmt.Errorf("decode segment %s as %s: %w", j.code.ID, g, err)
	}
	return nil
}

// Release gives borrowed memory back, but not what Raw returned. It is left out where a reader may still be at work.
func (j *Join) Release() {
	for i, p := range j.parity {
		if p != nil {
			j.coder.memory.Put(p)
			j.parity[i] = nil
		}
	}
}
