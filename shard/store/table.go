package store

import (
	"encoding/binary"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"forebay/proto"
	"forebay/shard"
)

// A shard is one table with these keys, integers big endian:
//
//	 0 16  segment id
//	16  1  key format, 1
//	17  1  data shards
//	18  1  parity shards
//	19  1  index of this shard
//	20  4  length of the segment
//	24  8  tag
//	32  2  0: the value is the shard's header; n > 0: the n-th chunk of its body
//
// The key repeats the header, so that MANIFEST alone tells what a store holds without reading a table, and so that a stale
// shard of the same segment is simply another key.
const (
	keyFormat = 1
	keyLen    = 34
	// chunkLen is the bytes of a value and the block size, so that a chunk is a block. Larger ones cost memory, and seconds of
	// CPU when one is damaged: pebble then tries which flipped bit would explain it, one checksum of the block for each.
	chunkLen = 32 << 10
)

// Found is what a store says it holds: one shard of a segment.
type Found struct {
	shard.Code
	Index int
}

func (f Found) key(chunk int) []byte {
	b := make([]byte, keyLen)
	copy(b, f.ID.Bytes())
	b[16], b[17], b[18], b[19] = keyFormat, byte(f.Geometry.Data), byte(f.Geometry.Parity), byte(f.Index)
	binary.BigEndian.PutUint32(b[20:], uint32(f.Length))
	copy(b[24:], f.Tag[:])
	binary.BigEndian.PutUint16(b[32:], uint16(chunk))
	return b
}

func parseKey(b []byte) (f Found, chunk int, err error) {
	if len(b) != keyLen || b[16] != keyFormat {
		return f, 0, proto.Errorf(proto.ClassCorrupt, "key %x is not that of a shard in key format %d", b, keyFormat)
	}
	if f.ID, err = proto.SegmentIDFromBytes(b[:proto.SegmentIDLen]); err != nil {
		return f, 0, err
	}
	f.Geometry = shard.Geometry{Data: int(b[17]), Parity: int(b[18])}
	f.Index = int(b[19])
	f.Length = int(binary.BigEndian.Uint32(b[20:]))
	f.Tag = shard.Tag(b[24:32])
	if err := f.Validate(); err != nil {
		return f, 0, proto.Errorf(proto.ClassCorrupt, "key %x: %w", b, err)
	}
	if f.Index >= f.Geometry.Shards() {
		return f, 0, proto.Errorf(proto.ClassCorrupt, "key %x: shard %d of %s", b, f.Index, f.Geometry)
	}
	return f, int(binary.BigEndian.Uint16(b[32:])), nil
}

// span returns the keys of segments first to last, whatever was stored of them. Ids in between are included.
func span(first, last proto.SegmentID) pebble.KeyRange {
	return pebble.KeyRange{Start: first.Bytes(), End: append(last.Bytes(), 0xff)}
}

// span returns the keys of one shard.
func (f Found) span() pebble.KeyRange {
	return pebble.KeyRange{Start: f.key(0), End: append(f.key(1<<16-1), 0xff)}
}

// writeTable writes a shard as a table at path. When it returns nil, the table's bytes are durable, its name is not yet.
func writeTable(fs vfs.FS, path string, opts sstable.WriterOptions, f Found, s shard.Shard) error {
	file, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create table: %w", err)
	}
	w := sstable.NewWriter(objstorageprovider.NewFileWritable(file), opts)
	err = w.Set(f.key(0), s.Head[:])
	for chunk, rest := 1, s.Body; err == nil && len(rest) > 0; chunk++ {
		n := min(len(rest), chunkLen)
		err = w.Set(f.key(chunk), rest[:n])
		rest = rest[n:]
	}
	if closeErr := w.Close(); err == nil { // flushes and syncs
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write table: %w", err)
	}
	return nil
}

// errAbsent is a shard that is not where the caller knows it to be: corruption, since pebble loses nothing by itself.
var errAbsent = proto.Errorf(proto.ClassCorrupt, "the store does not have the shard, though it was put there")

// readShard reads the header and fills body with the body of the shard f. What is damaged gives an error of ClassCorrupt.
func readShard(db *pebble.DB, f Found, body []byte) (head []byte, err error) {
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: f.key(0), UpperBound: f.key(1<<16 - 1)})
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	defer func() {
		if closeErr := it.Close(); err == nil && closeErr != nil {
			err = fmt.Errorf("read: %w", closeErr)
		}
	}()
	chunk, rest := 0, body
	for ok := it.First(); ok; ok = it.Next() {
		got, n, err := parseKey(it.Key())
		if err != nil {
			return nil, err
		}
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		switch {
		case got != f || n != chunk:
			return nil, proto.Errorf(proto.ClassCorrupt, "chunk %d of shard %d of segment %s where chunk %d of shard %d of %s should be", n, got.Index, got.ID, chunk, f.Index, f.ID)
		case chunk == 0:
			head = append(head, v...)
		case len(v) > len(rest):
			return nil, proto.Errorf(proto.ClassCorrupt, "shard %d of segment %s has over %d bytes", f.Index, f.ID, len(body))
		default:
			rest = rest[copy(rest, v):]
		}
		chunk++
	}
	if err := it.Error(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if head == nil {
		return nil, errAbsent
	}
	if len(rest) > 0 {
		return nil, proto.Errorf(proto.ClassCorrupt, "shard %d of segment %s lacks %d of %d bytes", f.Index, f.ID, len(rest), len(body))
	}
	return head, nil
}

// damaged reports whether a read failed because of what is on the disk, not because the disk did not answer.
func damaged(err error) bool {
	return proto.ClassOf(err) == proto.ClassCorrupt || pebble.IsCorruptionError(err)
}
