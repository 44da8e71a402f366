package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"forebay/proto"
)

// Identity says who a store is. The store keeps it in a file, the ledger keeps a copy: where the two do not fit, the store
// is another relay's, or an old copy whose shards must not be believed.
type Identity struct {
	ID    StoreID       `cbor:"1,keyasint"`
	Relay proto.RelayID `cbor:"2,keyasint"`
	// Opened counts the openings. A store whose count is lower than the ledger's was put back from an old copy. It is 0
	// while the store is being initialised.
	Opened uint64 `cbor:"3,keyasint"`
	// Generation is the relay's last one that was written to this store; only the store's own is ever read back.
	Generation uint32 `cbor:"4,keyasint,omitempty"`
	// Path is where the store was last found. The ledger needs it to tell a known empty directory from a new one.
	Path string `cbor:"5,keyasint,omitempty"`
}

const (
	identityName   = "store"
	identityFormat = 1
	identityHead   = 12
)

var (
	identityMagic = [4]byte{'F', 'B', 'S', 'T'}
	castagnoli    = crc32.MakeTable(crc32.Castagnoli)
)

// The identity file, integers big endian:
//
//	 0  4  magic "FBST"
//	 4  2  format version, 1
//	 6  2  length of the body
//	 8  4  CRC-32C of bytes 0 to 7 and the body
//	12     body: CBOR of Identity
func encodeIdentity(id Identity) []byte {
	body := proto.Marshal(id)
	b := make([]byte, identityHead, identityHead+len(body))
	copy(b, identityMagic[:])
	binary.BigEndian.PutUint16(b[4:], identityFormat)
	binary.BigEndian.PutUint16(b[6:], uint16(len(body)))
	binary.BigEndian.PutUint32(b[8:], crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, body))
	return append(b, body...)
}

func decodeIdentity(b []byte) (id Identity, err error) {
	if len(b) < identityHead || [4]byte(b[:4]) != identityMagic {
		return id, proto.Errorf(proto.ClassCorrupt, "not the identity of a store")
	}
	body := b[identityHead:]
	if got, want := crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, body), binary.BigEndian.Uint32(b[8:]); got != want {
		return id, proto.Errorf(proto.ClassCorrupt, "identity of a store has checksum %08x, says %08x", got, want)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != identityFormat {
		return id, proto.Errorf(proto.ClassPermanent, "store format %d, this program knows %d: use a newer release", v, identityFormat)
	}
	if n := int(binary.BigEndian.Uint16(b[6:])); n != len(body) {
		return id, proto.Errorf(proto.ClassCorrupt, "identity of a store has %d bytes, says %d", len(body), n)
	}
	return id, proto.Unmarshal(body, &id)
}

// noStore are the names that make no store of a directory.
var noStore = [...]string{"LOCK", "lost+found", stageName, memoName, ballastName}

// readIdentity returns the identity in dir, and false when there is none and nothing else either: the directory is absent
// or holds only what an interrupted initialisation or a file system's own tools leave, or what a store wrote in the moment in
// which its disk was unmounted.
func readIdentity(fs vfs.FS, dir string) (Identity, bool, error) {
	names, err := fs.List(dir)
	if errors.Is(err, os.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, fmt.Errorf("list %s: %w", dir, err)
	}
	if !slices.Contains(names, identityName) {
		for _, name := range names {
			if !slices.Contains(noStore[:], name) && !strings.HasSuffix(name, newSuffix) && !strings.HasPrefix(name, ScratchPrefix) {
				return Identity{}, false, proto.Errorf(proto.ClassPermanent, "%s holds %q but is no store: give the store an empty directory", dir, name)
			}
		}
		return Identity{}, false, nil
	}
	f, err := fs.Open(fs.PathJoin(dir, identityName))
	if err != nil {
		return Identity{}, false, fmt.Errorf("open the identity of %s: %w", dir, err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return Identity{}, false, fmt.Errorf("read the identity of %s: %w", dir, err)
	}
	id, err := decodeIdentity(b)
	if err != nil {
		return Identity{}, false, fmt.Errorf("%s: %w", dir, err)
	}
	return id, true, nil
}

// writeIdentity replaces the identity; when it returns, the new one is durable.
func writeIdentity(fs vfs.FS, dir string, id Identity) error {
	if err := writeFile(fs, dir, identityName, encodeIdentity(id)); err != nil {
		return fmt.Errorf("write the identity of %s: %w", dir, err)
	}
	return nil
}

// verdict is what admit makes of a directory.
type verdict uint8

const (
	admitted verdict = iota
	initialise
	missing
	refused
)

// admit decides what to do with a directory: found says whether it has an identity, known and roles are what the ledger
// remembers. The returned identity is the one to open with.
func admit(path string, relay proto.RelayID, id Identity, found bool, known []Identity, roles Roles) (verdict, Identity, error) {
	here := slices.IndexFunc(known, func(k Identity) bool { return k.Path == path })
	if !found {
		if here < 0 && roles.givenUpAt(path) {
			return missing, Identity{}, errGivenUp
		}
		if here < 0 {
			return initialise, Identity{ID: StoreID(uuid.New()), Relay: relay, Path: path}, nil
		}
		return missing, known[here], proto.Errorf(proto.ClassTransient,
			"store %s at %s is missing (the directory is absent or empty): mount or restore it, it is never initialised anew by itself", known[here].ID, path)
	}
	if id.Relay != relay {
		return refused, id, proto.Errorf(proto.ClassPermanent, "store %s at %s belongs to relay %s, this is relay %s: give this relay a directory of its own", id.ID, path, id.Relay, relay)
	}
	mine := slices.IndexFunc(known, func(k Identity) bool { return k.ID == id.ID })
	switch {
	case roles.IsGivenUp(id.ID):
		return refused, id, proto.Errorf(proto.ClassPermanent, "%s holds store %s, which was given up: what it holds is not believed any more; empty the directory and use forebay stores replace %s, or take it out of cache.stores", path, id.ID, path)
	case mine < 0 && here >= 0:
		return refused, id, proto.Errorf(proto.ClassPermanent, "%s holds store %s, the ledger expects store %s there: put the right disk back", path, id.ID, known[here].ID)
	case mine >= 0 && id.Opened < known[mine].Opened:
		return refused, id, proto.Errorf(proto.ClassPermanent, "store %s at %s is an old copy: it was opened %d times, the ledger knows of %d; put the present disk back",
			id.ID, path, id.Opened, known[mine].Opened)
	case mine < 0 && id.Opened == 0:
		return initialise, id, nil // a crash interrupted its initialisation
	}
	id.Path = path
	return admitted, id, nil
}
