package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/ledger"
)

// The end of a log tells nothing: one that a crash cut off, one that the file system cut, and one whose last records are rotten look
// alike to pebble, and rows that were acknowledged would be gone without a word. So every batch has its number in a row, and how
// far batches are durable stands in a file of its own beside the log. The mark is written after the sync that it tells of, and is
// not synced itself: after a crash of the process it is exact, after a power cut it may be behind, and it is never ahead.
//
// The file has 28 bytes: "forebay mark", the format (u32), the number of the last durable batch (u64) and the CRC-32C of all before
// it (u32), big endian.
const (
	markName   = "MARK"
	markMagic  = "forebay mark"
	markFormat = 1
	markSize   = len(markMagic) + 4 + 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// mark is the open file. Without one, it is passed over: it is a witness, and nothing depends on it.
type mark struct {
	mu   sync.Mutex
	file vfs.File
	at   uint64
}

func encodeMark(n uint64) []byte {
	b := append(make([]byte, 0, markSize), markMagic...)
	b = binary.BigEndian.AppendUint32(b, markFormat)
	b = binary.BigEndian.AppendUint64(b, n)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// readMark returns the number in a mark; none, one that is damaged and one of a format that is not known have none.
func readMark(fsys vfs.FS, name string) (uint64, error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, markSize)
	if n, _ := f.ReadAt(b, 0); n < markSize { // a power cut can leave it short
		return 0, nil
	}
	n := binary.BigEndian.Uint64(b[len(markMagic)+4:])
	if string(b) != string(encodeMark(n)) {
		return 0, nil
	}
	return n, nil
}

// openMark opens the mark of a ledger whose batches are durable up to at, making its file and its name durable.
func openMark(fsys vfs.FS, dir string, at uint64) (*mark, error) {
	name := fsys.PathJoin(dir, markName)
	m := &mark{at: at}
	var err error
	if m.file, err = fsys.OpenReadWrite(name, vfs.WriteCategoryUnspecified); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	_, err = m.file.WriteAt(encodeMark(at), 0)
	if err == nil {
		err = m.file.Sync()
	}
	if err == nil {
		err = syncDir(fsys, dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("write %s: %w", name, err), m.file.Close())
	}
	return m, nil
}

// durable notes, if there is a mark, that all batches up to n are. A mark that cannot be written stays behind, which is what it may be at
// any time; the disk that is to blame has the log, too.
func (m *mark) durable(n uint64) {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > m.at {
		m.at = n
		_, _ = m.file.WriteAt(encodeMark(n), 0)
	}
}

func (m *mark) close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = errors.Join(m.file.Sync(), m.file.Close()) // see durable
}

// readCount returns the number of the last batch of a ledger that is being opened.
func readCount(r ledger.Rows) (uint64, error) {
	b, err := r.Get([]byte{ledger.DoorKey})
	if err != nil {
		return 0, err
	}
	if b == nil {
		return 0, nil
	}
	if len(b) != 8 {
		return 0, fmt.Errorf("the count of the ledger's batches has %d bytes, want 8", len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}

func encodeCount(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
