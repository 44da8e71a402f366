package journal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/zeebo/blake3"

	"forebay/flush/target"
	"forebay/proto"
)

// A journal file, all numbers big endian:
//
//	+----------+-----------+--------+-- ... --+--------+-----+
//	| magic 8  | version 2 | record | records | record | end |
//	+----------+-----------+--------+-- ... --+--------+-----+
//	record = | length 4 (1..maxRecord) | CRC-32C of the payload 4 | payload: CBOR |
//	end    = | 0 4 | entries 8 | BLAKE3-256 of all bytes before the end 32 | CRC-32C of entries and digest 4 |
//
// The first record is the header, the others are entries in strictly ascending order of their paths; those of a past file, of which a
// path may have several, of their paths and versions. Nothing follows the end.
const (
	magic     = "FBJRNL1\n"
	maxRecord = 16 << 20
	endLen    = 8 + proto.DigestLen + 4
)

// Format is the version of the journal's files and marks.
const Format = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first record of a file.
type header struct {
	First string `cbor:"1,keyasint"` // paths of the first and last entry, so that a reader can pass over the file
	Last  string `cbor:"2,keyasint"`
	Codec int    `cbor:"3,keyasint"` // 0: none
}

// CorruptError says that a journal file is torn or damaged. It travels in an Error of ClassCorrupt.
type CorruptError struct {
	File   string
	Offset int64 // of the record that is wrong
	What   string
}

// Error names the file, the place and the damage.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("journal file %s is damaged at byte %d: %s", e.File, e.Offset, e.What)
}

// part collects the entries of one file.
type part struct {
	first, last string
	count       int
	body        []byte
}

func (p *part) add(e Entry) error {
	payload := proto.Marshal(e)
	if len(payload) > maxRecord {
		return proto.Errorf(proto.ClassPermanent, "journal entry of %q has %d bytes, at most %d are allowed", e.Path, len(payload), maxRecord)
	}
	if p.count == 0 {
		p.first = e.Path
	}
	p.last = e.Path
	p.count++
	p.body = appendRecord(p.body, payload)
	return nil
}

// encode returns the file.
func (p *part) encode() []byte {
	b := make([]byte, 0, len(p.body)+1024)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint16(b, Format)
	b = appendRecord(b, proto.Marshal(header{First: p.first, Last: p.last}))
	b = append(b, p.body...)
	sum := blake3.Sum256(b)
	b = binary.BigEndian.AppendUint32(b, 0)
	end := len(b)
	b = binary.BigEndian.AppendUint64(b, uint64(p.count))
	b = append(b, sum[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[end:], castagnoli))
}

func appendRecord(b, payload []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(payload, castagnoli))
	return append(b, payload...)
}

// decoder reads one file as a stream. Memory is one record.
type decoder struct {
	name   string
	r      *bufio.Reader
	sum    *blake3.Hasher
	offset int64
	head   header
	count  uint64
	past   bool // it has versions that have ended
	last   Entry
	buf    []byte
}

// newDecoder reads magic, version and header.
func newDecoder(name string, past bool, r io.Reader) (*decoder, error) {
	d := &decoder{name: name, past: past, r: bufio.NewReaderSize(target.Body(r), 64<<10), sum: blake3.New()}
	var start [len(magic) + 2]byte
	if err := d.read(start[:]); err != nil {
		return nil, err
	}
	if string(start[:len(magic)]) != magic {
		return nil, d.corrupt(0, "it does not begin like a journal file")
	}
	if v := binary.BigEndian.Uint16(start[len(magic):]); v != Format {
		if v > Format {
			return nil, proto.Errorf(proto.ClassPermanent, "journal file %s has format %d, this program knows 1 to %d: use a newer release", name, v, Format)
		}
		return nil, d.corrupt(int64(len(magic)), fmt.Sprintf("format %d does not exist", v))
	}
	_, _ = d.sum.Write(start[:])
	at := d.offset
	payload, err := d.record()
	if err != nil {
		return nil, err
	}
	if payload == nil {
		return nil, d.corrupt(at, "it has no header")
	}
	if err := proto.Unmarshal(payload, &d.head); err != nil {
		return nil, d.corrupt(at, err.Error())
	}
	if d.head.Codec != 0 {
		return nil, proto.Errorf(proto.ClassPermanent, "journal file %s has codec %d, this program knows 0: use a newer release", name, d.head.Codec)
	}
	return d, nil
}

// next returns the next entry, io.EOF after the last one of an undamaged file.
func (d *decoder) next() (Entry, error) {
	at := d.offset
	payload, err := d.record()
	if err != nil {
		return Entry{}, err
	}
	if payload == nil {
		return Entry{}, d.end(at)
	}
	var e Entry
	if err := proto.Unmarshal(payload, &e); err != nil {
		return Entry{}, d.corrupt(at, err.Error())
	}
	if err := proto.CheckPath(e.Path); err != nil {
		return Entry{}, d.corrupt(at, err.Error())
	}
	if d.count > 0 && (e.Path < d.last.Path || e.Path == d.last.Path && (!d.past || e.Version <= d.last.Version)) {
		return Entry{}, d.corrupt(at, fmt.Sprintf("entry %q is out of order", e.Path))
	}
	if e.State < StatePresent || d.past != (e.State == StatePast) || d.past != (e.Ended != nil) || e.State > StatePast {
		return Entry{}, d.corrupt(at, fmt.Sprintf("entry %q has state %d", e.Path, e.State))
	}
	d.count++
	d.last = Entry{Path: e.Path, Version: e.Version}
	return e, nil
}

// record returns the next payload, nil at the end mark. The slice is valid until the next call.
func (d *decoder) record() ([]byte, error) {
	at := d.offset
	var n [4]byte
	if err := d.read(n[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(n[:])
	if length == 0 {
		return nil, nil
	}
	if length > maxRecord {
		return nil, d.corrupt(at, fmt.Sprintf("a record of %d bytes", length))
	}
	_, _ = d.sum.Write(n[:])
	var want [4]byte
	if err := d.read(want[:]); err != nil {
		return nil, err
	}
	_, _ = d.sum.Write(want[:])
	if err := d.fill(int(length)); err != nil {
		return nil, err
	}
	if crc32.Checksum(d.buf, castagnoli) != binary.BigEndian.Uint32(want[:]) {
		return nil, d.corrupt(at, "checksum of the record is wrong")
	}
	_, _ = d.sum.Write(d.buf)
	return d.buf, nil
}

// fill reads n bytes into buf. It grows the buffer as bytes arrive, so that a wrong length costs no memory.
func (d *decoder) fill(n int) error {
	d.buf = d.buf[:0]
	for len(d.buf) < n {
		from := len(d.buf)
		step := min(n-from, 1<<20)
		if cap(d.buf) < from+step {
			d.buf = append(make([]byte, 0, max(2*cap(d.buf), from+step)), d.buf...)
		}
		d.buf = d.buf[:from+step]
		if err := d.read(d.buf[from:]); err != nil {
			return err
		}
	}
	return nil
}

// end checks what follows the end mark at byte at.
func (d *decoder) end(at int64) error {
	var b [endLen]byte
	if err := d.read(b[:]); err != nil {
		return err
	}
	if crc32.Checksum(b[:endLen-4], castagnoli) != binary.BigEndian.Uint32(b[endLen-4:]) {
		return d.corrupt(at, "checksum of the end is wrong")
	}
	if n := binary.BigEndian.Uint64(b[:]); n != d.count {
		return d.corrupt(at, fmt.Sprintf("%d entries, the end says %d", d.count, n))
	}
	if string(d.sum.Sum(nil)) != string(b[8:8+proto.DigestLen]) {
		return d.corrupt(at, "digest of the file is wrong")
	}
	if _, err := d.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			return d.corrupt(d.offset, "bytes follow the end")
		}
		return fmt.Errorf("read journal file %s: %w", d.name, err)
	}
	return io.EOF
}

func (d *decoder) read(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return d.corrupt(d.offset+int64(n), "it is cut off")
	}
	d.offset += int64(n)
	if err != nil {
		return fmt.Errorf("read journal file %s: %w", d.name, err)
	}
	return nil
}

func (d *decoder) corrupt(at int64, what string) error {
	return proto.Errorf(proto.ClassCorrupt, "%w", &CorruptError{File: d.name, Offset: at, What: what})
}
