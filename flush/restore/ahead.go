package restore

import (
	"errors"
	"io"

	"forebay/proto"
)

// ahead reads an object block by block: of one that has more than one block, the next while the caller works on the one before. It closes
// what it reads from. Whoever makes one calls end.
type ahead struct {
	from   io.ReadCloser
	buf    []byte // for an object of one block
	blocks chan block
	free   chan []byte
	stop   chan struct{}
	held   []byte // what the caller works on
}

type block struct {
	data []byte
	err  error // what ended the object: io.EOF, or a failure
}

// aheadBlocks is how many blocks of one object are in memory.
const aheadBlocks = 3

// newAhead reads an object that should have size bytes. Of one that is longer, more comes than that, so that the caller sees it.
func newAhead(from io.ReadCloser, size int64) *ahead {
	a := &ahead{from: from}
	if size < proto.BlockSize {
		a.buf = make([]byte, size+1)
		return a
	}
	a.blocks, a.free, a.stop = make(chan block, 1), make(chan []byte, aheadBlocks), make(chan struct{})
	for range min(aheadBlocks, proto.Blocks(size)+1) {
		a.free <- make([]byte, proto.BlockSize)
	}
	go a.run() // ends with the object, a failure, or the read that is under way when end is called
	return a
}

func (a *ahead) run() {
	defer func() { _ = a.from.Close() }() // only read from
	for {
		var buf []byte
		select {
		case buf = <-a.free:
		case <-a.stop:
			return
		}
		b := read(a.from, buf)
		select {
		case a.blocks <- b:
		case <-a.stop:
			return
		}
		if b.err != nil {
			return
		}
	}
}

// next returns the next block, which is the caller's until it calls next again. With the last one, which may be empty, comes io.EOF.
func (a *ahead) next() ([]byte, error) {
	if a.blocks == nil {
		b := read(a.from, a.buf)
		return b.data, b.err
	}
	if a.held != nil {
		a.free <- a.held // has room for all
	}
	b := <-a.blocks
	a.held = b.data[:cap(b.data)]
	return b.data, b.err
}

// end stops the reading. It does not wait for a read that is under way: who has something worse to tell, a full disk, must not wait for
// a target that does not answer.
func (a *ahead) end() {
	if a.blocks == nil {
		_ = a.from.Close() // only read from
		return
	}
	close(a.stop)
}

// read fills buf as far as there is something.
func read(from io.Reader, buf []byte) block {
	n, err := io.ReadFull(from, buf)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return block{buf[:n], err}
}
