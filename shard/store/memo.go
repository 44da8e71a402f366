package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/proto"
)

// The memo is what the relay keeps in each store besides shards: what only its ledger knows otherwise and cannot be learnt
// from segments. The stores do not look into it.
//
//	PATH/memo, integers big endian:
//	 0  4  magic "FBSM"
//	 4  2  format version, 1
//	 6  2  zero
//	 8  4  CRC-32C of bytes 0 to 7 and the body
//	12     body: the relay's
const (
	memoName   = "memo"
	memoFormat = 1
	memoHead   = 12
	maxMemo    = 64 << 20
)

var memoMagic = [4]byte{'F', 'B', 'S', 'M'}

func encodeMemo(body []byte) []byte {
	b := make([]byte, memoHead, memoHead+len(body))
	copy(b, memoMagic[:])
	binary.BigEndian.PutUint16(b[4:], memoFormat)
	binary.BigEndian.PutUint32(b[8:], crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, body))
	return append(b, body...)
}

func decodeMemo(b []byte) ([]byte, error) {
	if len(b) < memoHead || [4]byte(b[:4]) != memoMagic {
		return nil, proto.Errorf(proto.ClassCorrupt, "not the memo of a relay")
	}
	body := b[memoHead:]
	if got, want := crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, body), binary.BigEndian.Uint32(b[8:]); got != want {
		return nil, proto.Errorf(proto.ClassCorrupt, "memo of a relay has checksum %08x, says %08x", got, want)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != memoFormat {
		return nil, proto.Errorf(proto.ClassPermanent, "memo format %d, this program knows %d: use a newer release", v, memoFormat)
	}
	return body, nil
}

// WriteMemo replaces the memo in each store in use, durably. It fails when no store took it. whole is false when one that is
// still in use did not.
func (s *Set) WriteMemo(body []byte) (whole bool, err error) {
	disks := s.all()
	errs := make([]error, len(disks))
	var all sync.WaitGroup
	for i, d := range disks {
		all.Go(func() { errs[i] = d.writeMemo(body) }) // ends at the latest with the deadline of the store's call
	}
	all.Wait()
	whole, some := true, false
	for i, err := range errs {
		some = some || err == nil
		if h := disks[i].report().State; err != nil && (h == OK || h == Degraded) {
			whole = false
		}
	}
	if !some {
		return false, fmt.Errorf("write the relay's memo into the stores: %w", errors.Join(errs...))
	}
	return whole, nil
}

// Memos returns the memos of the stores in use, with the reasons why others could not be read.
func (s *Set) Memos() []Peeked {
	disks := s.all()
	out := make([]Peeked, len(disks))
	var all sync.WaitGroup
	for i, d := range disks {
		all.Go(func() { out[i] = d.readMemo() }) // ends at the latest with the deadline of the store's call
	}
	all.Wait()
	return out
}

func (d *disk) readMemo() Peeked {
	read := make(chan []byte, 1) // the call may go on after its deadline
	err := d.serve(context.Background(), reading, "read the memo", func(*instance) error {
		b, err := readMemo(d.fs, d.path)
		read <- b
		return err
	})
	p := Peeked{Path: d.path, Found: true, Err: err}
	if err == nil {
		p.Memo = <-read
	}
	return p
}

func (d *disk) writeMemo(body []byte) error {
	return d.serve(context.Background(), writing, "write the memo", func(in *instance) error {
		if err := d.stillHere(in); err != nil {
			return err
		}
		err := writeFile(d.fs, d.path, memoName, encodeMemo(body))
		if err != nil {
			d.failedWrite(in, err)
		}
		return err
	})
}

// Peeked is what a store's directory says of itself without being opened.
type Peeked struct {
	Path     string
	Identity Identity
	Found    bool   // there is a store
	Memo     []byte // nil: none
	Err      error  // why it, or its memo, could not be read
}

// Peek looks into the directories of stores without opening or changing anything. fs nil means the operating system's.
func Peek(fs vfs.FS, paths []string) []Peeked {
	if fs == nil {
		fs = vfs.Default
	}
	out := make([]Peeked, 0, len(paths))
	for _, path := range paths {
		p := Peeked{Path: path}
		if p.Identity, p.Found, p.Err = readIdentity(fs, path); p.Err == nil && p.Found {
			p.Memo, p.Err = readMemo(fs, path)
		}
		out = append(out, p)
	}
	return out
}

func readMemo(fs vfs.FS, dir string) ([]byte, error) {
	f, err := fs.Open(fs.PathJoin(dir, memoName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the memo of %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxMemo))
	if err != nil {
		return nil, fmt.Errorf("read the memo of %s: %w", dir, err)
	}
	body, err := decodeMemo(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return body, nil
}
