package upload

import "forebay/proto"

// blocks is a set of an object's blocks, one bit each.
type blocks struct {
	bits []uint64
	n    int64 // how many blocks the object has
}

func newBlocks(size int64) *blocks {
	n := proto.Blocks(size)
	return &blocks{bits: make([]uint64, (n+63)/64), n: n}
}

func (b *blocks) set(i int64)      { b.bits[i/64] |= 1 << (i % 64) }
func (b *blocks) has(i int64) bool { return b.bits[i/64]&(1<<(i%64)) != 0 }

// setWithin adds the blocks that lie wholly in the run of bytes; the object's last block may be short.
func (b *blocks) setWithin(off, length, size int64) {
	end := min(off+length, size)
	last := end / proto.BlockSize
	if end == size {
		last = b.n
	}
	for i := (off + proto.BlockSize - 1) / proto.BlockSize; i < last; i++ {
		b.set(i)
	}
}

// next returns the first run of at most limit blocks from i on that are not in the set; ok is false when there is none.
func (b *blocks) next(i int64, limit int64) (from, to int64, ok bool) {
	for ; i < b.n && b.has(i); i++ {
	}
	if i >= b.n {
		return 0, 0, false
	}
	for to = i; to < b.n && to-i < limit && !b.has(to); to++ {
	}
	return i, to, true
}

// blockLen is the length of block i of an object of size bytes.
func blockLen(i, size int64) int64 { return min(proto.BlockSize, size-i*proto.BlockSize) }
