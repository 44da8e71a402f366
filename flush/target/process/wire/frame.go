package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
)

// A frame, numbers little-endian:
//
//	0       4      5      8         12        16       20       24            24+length
//	| "FBD1" | kind | zero | session | request | length | CRC32C | payload ... | CRC32C |
//	                                                    of 0..20                of the payload; absent when length is 0
//
// The first checksum vouches for the length, so that damage is found before a length is believed. This layout never changes: a stream
// that begins with anything else is no driver, whatever its version.

// Kind says what a frame is.
type Kind uint8

// The kinds.
const (
	KindHello   Kind = 1 // relay: begins a session, Hello; whatever was before is void
	KindWelcome Kind = 2 // driver: Welcome, in answer to it
	KindCall    Kind = 3 // relay: Call, a new request
	KindResult  Kind = 4 // driver: Result, the one answer to a request
	KindCancel  Kind = 5 // relay: nobody waits for a request any more; no payload, the answer still comes
	KindDamaged Kind = 6 // either: a frame came damaged, the session is void; no payload
)

// Frame is one frame.
type Frame struct {
	Kind    Kind
	Session uint32 // chosen by the relay for each Hello, in all frames of that session
	Request uint32 // chosen by the relay, not 0 for calls; in the answer too
	Payload []byte
}

const (
	headerSize = 24
	sumSize    = 4
	// MaxPayload is the most bytes that a frame carries, LineMax those on a serial line: damage to a length must not cost minutes.
	MaxPayload = 2 << 20
	LineMax    = 16 << 10
)

var (
	magic = []byte("FBD1") // never written
	table = crc32.MakeTable(crc32.Castagnoli)
)

// ErrDamaged says that bytes came that are no whole frame.
var ErrDamaged = errors.New("damaged frame")

// Append appends the bytes of a frame.
func (f Frame) Append(b []byte) []byte {
	start := len(b)
	b = append(b, magic...)
	b = append(b, byte(f.Kind), 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, f.Session)
	b = binary.LittleEndian.AppendUint32(b, f.Request)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.Payload)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], table))
	if len(f.Payload) > 0 {
		b = append(b, f.Payload...)
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(f.Payload, table))
	}
	return b
}

// Writer writes frames whole, whoever calls it.
type Writer struct {
	limit int
	mu    sync.Mutex
	out   io.Writer
	buf   []byte
}

// NewWriter writes to out frames of at most limit bytes.
func NewWriter(out io.Writer, limit int) *Writer { return &Writer{limit: limit, out: out} }

// ErrTooLarge says that a message does not fit into a frame; nothing was written.
var ErrTooLarge = errors.New("message too large")

// Write writes one frame in one call. After an error the stream is of no more use.
func (w *Writer) Write(f Frame) error {
	if len(f.Payload) > w.limit {
		return fmt.Errorf("%w: it has %d bytes, %d are allowed", ErrTooLarge, len(f.Payload), w.limit)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = f.Append(w.buf[:0])
	_, err := w.out.Write(w.buf)
	if cap(w.buf) > 2*MaxChunk {
		w.buf = nil // messages that large are rare, and this stays for the life of the stream
	}
	return err
}

// Reader reads frames. Not for concurrent use.
type Reader struct {
	limit uint32
	in    *bufio.Reader
}

// NewReader reads from in frames of at most limit bytes.
func NewReader(in io.Reader, limit int) *Reader {
	return &Reader{uint32(limit), bufio.NewReaderSize(in, 64<<10)}
}

// Next reads one frame. ErrDamaged: what came was none, and the next call looks for where one begins. io.EOF: the stream has ended
// between two frames. The payload is the caller's.
func (r *Reader) Next() (Frame, error) {
	head, err := r.in.Peek(headerSize)
	if err != nil {
		if len(head) > 0 && errors.Is(err, io.EOF) {
			return Frame{}, fmt.Errorf("%w: the stream ends within a frame", io.ErrUnexpectedEOF)
		}
		return Frame{}, err
	}
	f, length, err := parseHeader(head, r.limit)
	if err != nil {
		r.resync()
		return Frame{}, err
	}
	_, _ = r.in.Discard(headerSize) // they were peeked at
	if length == 0 {
		return f, nil
	}
	f.Payload = make([]byte, length+sumSize)
	if _, err := io.ReadFull(r.in, f.Payload); err != nil {
		return Frame{}, fmt.Errorf("%w: the stream ends within a frame", io.ErrUnexpectedEOF)
	}
	sum := binary.LittleEndian.Uint32(f.Payload[length:])
	f.Payload = f.Payload[:length:length]
	if crc32.Checksum(f.Payload, table) != sum {
		return Frame{}, fmt.Errorf("%w: the checksum of a payload of %d bytes is wrong", ErrDamaged, length)
	}
	return f, nil
}

func parseHeader(head []byte, limit uint32) (f Frame, length uint32, err error) {
	if !bytes.Equal(head[:4], magic) {
		return f, 0, fmt.Errorf("%w: it begins with %q, not with %q", ErrDamaged, head[:16], magic)
	}
	if crc32.Checksum(head[:20], table) != binary.LittleEndian.Uint32(head[20:]) {
		return f, 0, fmt.Errorf("%w: the checksum of a header is wrong", ErrDamaged)
	}
	f.Kind = Kind(head[4])
	f.Session, f.Request = binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:])
	if length = binary.LittleEndian.Uint32(head[16:]); length > limit {
		return f, 0, fmt.Errorf("%w: it announces %d bytes, %d are allowed", ErrDamaged, length, limit)
	}
	return f, length, nil
}

// resync drops at least one byte, and all up to where a header may begin.
func (r *Reader) resync() {
	_, _ = r.in.Discard(1) // it was peeked at
	for r.in.Buffered() > 0 {
		b, _ := r.in.Peek(r.in.Buffered()) // they are there
		i := bytes.IndexByte(b, magic[0])
		if i < 0 {
			_, _ = r.in.Discard(len(b)) // as above
			continue
		}
		_, _ = r.in.Discard(i) // as above
		if n := min(len(magic), len(b)-i); bytes.Equal(b[i:i+n], magic[:n]) {
			return
		}
		_, _ = r.in.Discard(1) // as above
	}
}
