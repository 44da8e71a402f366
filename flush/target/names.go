package target

import (
	"encoding/hex"
	"fmt"
	"strings"

	"forebay/proto"
)

// CheckPrefix says why p cannot be a link's folder under a target: "" is the target's root; else it is an object path, one
// that could not be a record of Forebay itself.
func CheckPrefix(p string) error {
	if p == "" {
		return nil
	}
	if err := proto.CheckPath(p); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	return nil
}

// rootKey is the key of the empty prefix. It has no '-', which all other keys have.
const rootKey = "root"

// PrefixKey returns a name for what belongs to one prefix in a place that all prefixes of a target share, such as its
// folder of staged contents: readable, unique per prefix, the same for ever, and a valid record name component.
func PrefixKey(prefix string) string {
	if prefix == "" {
		return rootKey
	}
	readable := strings.Map(func(r rune) rune {
		if r < 0x80 && recordByte(byte(r)) && r != '.' {
			return r
		}
		return '_'
	}, prefix)
	sum := proto.BlockDigest([]byte(prefix))
	return readable[:min(len(readable), 40)] + "-" + hex.EncodeToString(sum[:8])
}

// PrefixesOverlap reports whether one prefix lies in the other, or both are the same.
func PrefixesOverlap(a, b string) bool {
	return a == b || a == "" || b == "" || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// TrialPrefix is the prefix below which targets are tried (package trial). An empty folder of that name may stay in the mirror of a link
// without a prefix; it is no difference.
const TrialPrefix = "forebay-check"

// CheckRecord says why name cannot be a record's name: slash-separated components of letters, digits, '.', '_' and '-',
// at most 255 bytes each, none starting with '.'. The component "stage" at the beginning belongs to the drivers.
func CheckRecord(name string) error {
	for i, part := range strings.Split(name, "/") {
		if part == "" || part[0] == '.' || len(part) > 255 {
			return fmt.Errorf("record name %q: component %q is empty, too long or begins with a dot", name, part)
		}
		if i == 0 && part == StageDir {
			return fmt.Errorf("record name %q: %s is where drivers keep staged contents", name, StageDir)
		}
		for j := range len(part) {
			if !recordByte(part[j]) {
				return fmt.Errorf("record name %q: character %q is not allowed (letters, digits, . _ -)", name, part[j])
			}
		}
	}
	return nil
}

// CheckStageID says why id cannot name a staged content: 1 to 64 letters, digits and '-'.
func CheckStageID(id StageID) error {
	if id == "" || len(id) > 64 {
		return fmt.Errorf("stage id %q has %d bytes, 1 to 64 are allowed", id, len(id))
	}
	for i := range len(id) {
		if c := id[i]; !recordByte(c) || c == '.' || c == '_' {
			return fmt.Errorf("stage id %q: character %q is not allowed (letters, digits, -)", id, c)
		}
	}
	return nil
}

// Folders under .forebay that have a fixed meaning for every driver.
const (
	StageDir   = "stage"   // staged contents; not reachable through Records
	MarkDir    = "target"  // one owner mark for each prefix, named by PrefixKey
	JournalDir = "journal" // a folder for each prefix, named by PrefixKey
	HistoryDir = "history" // contents that were replaced or deleted, in a folder for each prefix, named by PrefixKey
	UnreadDir  = "unread"  // a record for each prefix of what could not be read at the source, named by PrefixKey
)

func recordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-'
}
