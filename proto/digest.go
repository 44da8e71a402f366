package proto

import (
	"context"
	"io"
	"sync"

	"github.com/zeebo/blake3"
)

// BlockSize is the length in bytes of the fixed blocks that content digests are built from. The last block of an object
// may be shorter.
const BlockSize = 1 << 20

// BlockDigest is the BLAKE3-256 of one block's bytes.
func BlockDigest(block []byte) Digest { return blake3.Sum256(block) }

// BlockDigests appends to dst the digests of p's blocks; p starts at a block boundary of its object.
func BlockDigests(dst []Digest, p []byte) []Digest {
	for len(p) > 0 {
		n := min(len(p), BlockSize)
		dst = append(dst, BlockDigest(p[:n]))
		p = p[n:]
	}
	return dst
}

// Blocks returns how many blocks an object of size bytes has.
func Blocks(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// ContentHasher computes a content digest from block digests fed in order: BLAKE3-256 over their concatenation. The
// digest of an empty object is the BLAKE3-256 of nothing. It does not depend on how an object was cut into segments,
// which blocks were holes, or who sent which part, which is what lets one holder prove that it can finish for another.
type ContentHasher struct{ h *blake3.Hasher }

// NewContentHasher returns an empty hasher.
func NewContentHasher() *ContentHasher { return &ContentHasher{h: blake3.New()} }

// Add feeds the next block's digest.
func (c *ContentHasher) Add(d Digest) { _, _ = c.h.Write(d[:]) } // a Hasher's Write never fails

// Sum returns the digest over all blocks fed so far.
func (c *ContentHasher) Sum() (d Digest) {
	c.h.Sum(d[:0])
	return d
}

// DigestOfBlocks is the content digest of an object whose blocks have these digests.
func DigestOfBlocks(blocks []Digest) Digest {
	c := NewContentHasher()
	for _, d := range blocks {
		c.Add(d)
	}
	return c.Sum()
}

// ContentDigest is the content digest of a whole object held in memory.
func ContentDigest(p []byte) Digest { return DigestOfBlocks(BlockDigests(nil, p)) }

// blockMemory is for reading objects: most are small, and to make a block for each costs more than to read it.
var blockMemory = sync.Pool{New: func() any { return new([BlockSize]byte) }}

// ReadDigest reads an object to its end and returns its content digest and how many bytes were read. Errors: in's, and ctx's once it has
// ended; the digest is then zero.
func ReadDigest(ctx context.Context, in io.Reader) (sum Digest, n int64, err error) {
	memory := blockMemory.Get().(*[BlockSize]byte)
	defer blockMemory.Put(memory)
	c, block := NewContentHasher(), memory[:]
	for ctx.Err() == nil {
		k, err := fill(in, block)
		if k > 0 {
			c.Add(BlockDigest(block[:k]))
			n += int64(k)
		}
		if err == io.EOF { //nolint:errorlint // as io.ReadAll has it: whoever wraps it says more than that it is the end
			return c.Sum(), n, nil
		}
		if err != nil {
			return sum, n, err
		}
	}
	return sum, n, ctx.Err()
}

// fill reads until p is full. It is not io.ReadFull, which gives io.ErrUnexpectedEOF for the end amid a block: HTTP clients give that for a
// connection that is cut amid a body, which must not pass for the end of a shorter object.
func fill(in io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = in.Read(p[n:])
		n += k
	}
	return n, err
}

// zeroBlock is the digest of a full block of zeros, the commonest block of a sparse object.
var zeroBlock = BlockDigest(make([]byte, BlockSize))

// ZeroBlockDigest returns the digest of a block of n zero bytes, 0 < n <= BlockSize: what a hole's block hashes to.
func ZeroBlockDigest(n int64) Digest {
	if n == BlockSize {
		return zeroBlock
	}
	return BlockDigest(make([]byte, n))
}
