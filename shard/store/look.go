package store

import "github.com/cockroachdb/pebble/v2/vfs"

// ScratchPrefix begins the names of folders in which a disk is measured, in a store's directory. A store neither reads nor removes them,
// and one of them alone does not keep a directory from becoming a store.
const ScratchPrefix = "forebay-bench-"

// Look reads who the store in a directory is, and changes, opens and locks nothing: a relay may be using it. It reports false where there
// is no store and nothing that keeps one from being made there. Errors are those with which a relay refuses the directory.
func Look(dir string) (Identity, bool, error) { return readIdentity(vfs.Default, dir) }
