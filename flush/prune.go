package flush

import (
	"context"
	"slices"
	"strings"

	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
)

// prune deletes the directories that objects deleted in a batch leave behind and that were never objects themselves: a
// target makes what directories an object needs, and a directory that never held still, or was gone before anybody had
// looked at it, has no version and so no delete of its own. What is not empty stays.
func (l *link) prune(ctx context.Context, b *batch) error {
	var dirs []string
	for _, it := range b.items {
		if it.op != target.OpDelete || it.state != itemCommitted {
			continue
		}
		for dir := parentOf(it.row.Path); dir != "" && !slices.Contains(dirs, dir); dir = parentOf(dir) {
			o, ok, err := ledger.Object(l.e.deps.Ledger, b.look.row.Dataset, dir)
			if err != nil {
				return err
			}
			if ok && o.Current.Version != 0 {
				break
			}
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	slices.Sort(dirs)
	slices.Reverse(dirs) // what is in a directory before it
	var changes []target.Change
	for _, dir := range slices.Compact(dirs) {
		changes = append(changes, target.Change{Op: target.OpDelete, Path: dir, Desc: proto.Desc{Kind: proto.KindTombstone}})
	}
	l.sess.tgt.Commit(ctx, changes) // what fails is not empty, or is left for a verify: nothing depends on it
	return nil
}

// parentOf is the directory of a path, "" for the dataset itself.
func parentOf(path string) string { return path[:max(0, strings.LastIndexByte(path, '/'))] }
