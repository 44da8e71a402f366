package ledger

import (
	"bytes"
	"encoding/binary"

	"forebay/proto"
)

// Rows by key. Integers are big endian, so that rows sort by number.
//
//	M                      Meta
//	C cluster/name         dataset id (u32)
//	D ds                   DatasetRow
//	H holder               HolderRow
//	h ds node 0 root       holder id (u32)
//	N cluster/node         NodeRow
//	L link                 LinkRow
//	l name                 link id (u32)
//	B link                 BudgetRow
//	I ds slot              InflowRow
//	O ds path              ObjectRow
//	V ds version           VersionRow
//	U upload               UploadRow
//	P upload offset        RangeRow
//	X upload               "" (an upload that is being received and streams)
//	T upload link          StagedRow
//	W upload ds version    "" (a version that retains the upload's ranges)
//	S segment              SegmentRow
//	R segment ds version   "" (a version that retains its description or bytes in the segment)
//	r segment upload off   "" (a range that lies in the segment)
//	F segment              "" (nothing needs the segment any more)
//	f segment              RefusedRow
//	k segment              "" (below Meta.Kept, known after the rebuild and freed since: what is left of it is left over)
//	Q link version         OwedRow
//	A ds version           "" (owed by some link and not cached: to be asked for again)
//	G ds path              times of the first and the last gone report (2 u64): gone from some holder, not yet a tombstone
//	E seq                  proto.Event
//	y ds path 0 n          Evidence (while the ledger is being rebuilt)
//	K name                 a note of the relay's own
//	b ds path 0 n          SumsRow, of blocks from the n-th on
//	d                      the door's own: not read or written here
const (
	pMeta     = 'M'
	pDataset  = 'D'
	pDSName   = 'C'
	pHolder   = 'H'
	pHoldName = 'h'
	pNode     = 'N'
	pLink     = 'L'
	pLinkName = 'l'
	pBudget   = 'B'
	pInflow   = 'I'
	pObject   = 'O'
	pVersion  = 'V'
	pUpload   = 'U'
	pRange    = 'P'
	pStream   = 'X'
	pStaged   = 'T'
	pUpVer    = 'W'
	pSegment  = 'S'
	pSegVer   = 'R'
	pSegRange = 'r'
	pFree     = 'F'
	pRefused  = 'f'
	pFreed    = 'k'
	pOwed     = 'Q'
	pAsked    = 'A'
	pGone     = 'G'
	pEvent    = 'E'
	pEvidence = 'y'
	pNote     = 'K'
	pSums     = 'b'
)

// DoorKey is the key at which a door may keep a row of its own; no entry comes near it.
const DoorKey = 'd'

func key(prefix byte, parts ...any) []byte {
	k := make([]byte, 1, 64)
	k[0] = prefix
	for _, p := range parts {
		switch v := p.(type) {
		case proto.DatasetID:
			k = binary.BigEndian.AppendUint32(k, uint32(v))
		case proto.HolderID:
			k = binary.BigEndian.AppendUint32(k, uint32(v))
		case LinkID:
			k = binary.BigEndian.AppendUint32(k, uint32(v))
		case proto.VersionID:
			k = binary.BigEndian.AppendUint64(k, uint64(v))
		case proto.UploadID:
			k = binary.BigEndian.AppendUint64(k, uint64(v))
		case uint64:
			k = binary.BigEndian.AppendUint64(k, v)
		case int64: // offsets and times: never negative
			k = binary.BigEndian.AppendUint64(k, uint64(v))
		case string:
			k = append(k, v...)
		case byte:
			k = append(k, v)
		default:
			panic("ledger: a key part of an unknown type")
		}
	}
	return k
}

// mark is the value of rows that are all key: storage tells an empty value from an absent row only if it is not nil.
var mark = []byte{0}

// after returns the smallest key greater than every key that begins with prefix.
func after(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// tail64 reads the number a key ends with.
func tail64(k []byte) uint64 { return binary.BigEndian.Uint64(k[len(k)-8:]) }

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// get reads a CBOR row into v and reports whether it is there.
func get(r Rows, k []byte, v any) (bool, error) {
	b, err := r.Get(k)
	if err != nil || b == nil {
		return false, err
	}
	return true, proto.Unmarshal(b, v)
}

// put writes v as a CBOR row.
func put(tx Tx, k []byte, v any) error { return tx.Set(k, proto.Marshal(v)) }

// deleteRows deletes rows from lo to before hi, no more than limit when that is not 0, and returns how many.
func deleteRows(tx *txn, lo, hi []byte, limit int) (int, error) {
	var keys [][]byte
	err := tx.Scan(lo, hi, func(k, _ []byte) (bool, error) {
		keys = append(keys, bytes.Clone(k))
		return len(keys) != limit, nil
	})
	for i := 0; i < len(keys) && err == nil; i++ {
		err = tx.Delete(keys[i])
	}
	return len(keys), err
}
