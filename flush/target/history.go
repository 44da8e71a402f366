package target

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"forebay/proto"
)

// History is where a target keeps contents of the mirror that are about to be replaced or deleted: below .forebay/history, in a
// folder for each prefix, where no reader of the mirror sees them. What they are versions of, with what metadata, is in the journal.
// Its methods may be called concurrently, but for Keep, which is not to meet a Commit. Errors carry a proto class as a Target's do.
type History interface {
	// Keep keeps contents and returns when those that succeeded are durable; call it before the changes that replace or delete
	// them are committed. The i-th error is the i-th keep's. A reader of the mirror sees nothing of it. Where something is kept
	// under a name already, that stays as it is: so a keep may be repeated, after the change was carried out too, and never puts
	// the newer content in the place of the older one. Where the path has nothing, or surely another content, errors.Is(err,
	// ErrNotThere). What is kept never changes any more; its metadata may.
	Keep(ctx context.Context, keeps []Keep) []error
	// Open opens a kept content for reading. Not there: fs.ErrNotExist.
	Open(ctx context.Context, name KeptName) (io.ReadCloser, error)
	// List calls fn for all that is kept, in any order. What is not named like a kept content is left out. It stops with fn's
	// error.
	List(ctx context.Context, fn func(Kept) error) error
	// Remove removes kept contents and returns when those that succeeded are gone for good; the mirror is never touched. The
	// i-th error is the i-th name's: one that is gone already is none, and where the target refuses it until a moment,
	// errors.As(err, *LockedError).
	Remove(ctx context.Context, names []KeptName) []error
}

// Keep says which content of the mirror is to be kept, and under which name.
type Keep struct {
	Path   string // a file of the mirror
	Name   KeptName
	Size   int64        // bytes
	Digest proto.Digest // of the content; a target that can tell, does not keep another
}

// Kept is what a listing of a history tells.
type Kept struct {
	Name KeptName
	Size int64 // bytes
}

// ErrNotThere is in the chain of the error of a Keep whose path does not have what is to be kept.
var ErrNotThere = errors.New("the target does not have the content that is to be kept")

// LockedError says that a target keeps something whatever is asked of it.
type LockedError struct {
	Until time.Time // zero: it does not say
}

// Error says until when.
func (e *LockedError) Error() string {
	if e.Until.IsZero() {
		return "the target has it locked"
	}
	return "the target has it locked until " + e.Until.UTC().Format(time.RFC3339)
}

// KeptName names a kept content: one name for all versions of a path with that content. It is a record name below the prefix's
// folder of the history.
type KeptName string

// NameKept returns the name under which a content of a path is kept. Names are spread over 256 folders.
func NameKept(path string, content proto.Digest) KeptName {
	at := proto.BlockDigest([]byte(path))
	return KeptName(hex.EncodeToString(at[:1]) + "/" + hex.EncodeToString(at[1:17]) + "-" + hex.EncodeToString(content[:16]))
}

// CheckKept says why a name is none that NameKept makes.
func CheckKept(name KeptName) error {
	dir, rest, _ := strings.Cut(string(name), "/")
	path, content, _ := strings.Cut(rest, "-")
	for part, n := range map[string]int{dir: 2, path: 32, content: 32} {
		if b, err := hex.DecodeString(part); err != nil || len(part) != n || hex.EncodeToString(b) != part {
			return fmt.Errorf("%q is no name of a kept content", name)
		}
	}
	return nil
}

// KeptRecord is a kept content's name as a record of the target.
func KeptRecord(prefixKey string, name KeptName) string {
	return HistoryDir + "/" + prefixKey + "/" + string(name)
}

// KeptFolders are the folders that the names of kept contents begin with.
func KeptFolders() []string {
	out := make([]string, 256)
	for i := range out {
		out[i] = hex.EncodeToString([]byte{byte(i)})
	}
	return out
}
