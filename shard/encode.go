package shard

import (
	"fmt"
	"hash/crc32"
	"sync"

	"github.com/klauspost/reedsolomon"

	"forebay/proto"
)

// Coder encodes and joins segments. It keeps the code matrices and the buffers for parity, so that coding allocates next to
// nothing. It is safe for concurrent use; the zero value is ready.
type Coder struct {
	mu     sync.Mutex
	codes  map[Geometry]reedsolomon.Encoder
	memory sync.Pool // of *[]byte
}

// code returns the matrix for a geometry with parity.
func (c *Coder) code(g Geometry) (reedsolomon.Encoder, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.codes[g]; ok {
		return e, nil
	}
	// One goroutine: a segment codes in about a millisecond, and segments of a group are coded side by side anyway.
	e, err := reedsolomon.New(g.Data, g.Parity, reedsolomon.WithMaxGoroutines(1))
	if err != nil {
		return nil, fmt.Errorf("code matrix %s: %w", g, err)
	}
	if c.codes == nil {
		c.codes = make(map[Geometry]reedsolomon.Encoder)
	}
	c.codes[g] = e
	return e, nil
}

// buffer returns n bytes of any content.
func (c *Coder) buffer(n int) *[]byte {
	if p, ok := c.memory.Get().(*[]byte); ok && cap(*p) >= n {
		*p = (*p)[:n]
		return p
	}
	b := make([]byte, n)
	return &b
}

// Shard is one coded piece: what is stored is Head, then Body.
type Shard struct {
	Head [HeaderLen]byte
	Body []byte
}

// Encoded is a coded segment. The bodies of its data shards lie in the segment's own bytes, which must not change while
// they are used; the rest lies in borrowed memory until Release.
type Encoded struct {
	Code
	Shards []Shard // by index
	coder  *Coder
	memory *[]byte
}

// Encode codes a whole stamped segment. It fails with ClassPermanent on a geometry or length out of bounds.
func (c *Coder) Encode(id proto.SegmentID, raw []byte, g Geometry) (*Encoded, error) {
	e := &Encoded{Code: Code{ID: id, Geometry: g, Length: len(raw), Tag: TagOf(raw)}, coder: c}
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("encode segment %s: %w", id, err)
	}
	size := g.ShardLen(len(raw))
	pieces := c.cut(e, raw, size)
	if g.Parity > 0 {
		code, err := c.code(g)
		if err != nil {
			return nil, err
		}
		if err := code.Encode(pieces); err != nil {
			return nil, fmt.Errorf("encode segment %s as %s: %w", id, g, err)
		}
	}
	e.Shards = make([]Shard, g.Shards())
	for i, body := range pieces {
		h := Header{Code: e.Code, Index: i, Body: size, CRC: crc32.Checksum(body, castagnoli)}
		e.Shards[i] = Shard{Head: h.encode(), Body: body}
	}
	return e, nil
}

// cut lays the data shards over raw without copying, but for those that reach past its end and need padding, and borrows
// memory for these and the parity.
func (c *Coder) cut(e *Encoded, raw []byte, size int) [][]byte {
	g := e.Geometry
	whole := min(len(raw)/size, g.Data)
	pieces := make([][]byte, g.Shards())
	for i := range whole {
		pieces[i] = raw[i*size : (i+1)*size : (i+1)*size]
	}
	rest := g.Shards() - whole
	if rest == 0 {
		return pieces
	}
	e.memory = c.buffer(rest * size)
	for i := range rest {
		pieces[whole+i] = (*e.memory)[i*size : (i+1)*size : (i+1)*size]
	}
	padded := (*e.memory)[:(g.Data-whole)*size]
	clear(padded[copy(padded, raw[whole*size:]):])
	return pieces
}

// Release gives the borrowed memory back. The shards must not be used afterwards, by nobody: where a writer may still be at
// work (a disk that hangs), Release is left out and the garbage collector does it.
func (e *Encoded) Release() {
	if e.memory != nil {
		e.coder.memory.Put(e.memory)
	}
	e.memory, e.Shards = nil, nil
}
