// Package waves carries out the changes of a commit several at a time where their order does not matter, for targets to which every
// request takes its time. It imports target.
package waves

import (
	"context"
	"strings"
	"sync"

	"forebay/flush/target"
)

// Commit calls apply for each change, up to parallel at a time, as if one after the other in order. The i-th error is the i-th
// change's; it is ctx's once that has ended.
func Commit(ctx context.Context, changes []target.Change, parallel int, apply func(context.Context, target.Change) error) []error {
	errs := make([]error, len(changes))
	for first := 0; first < len(changes); {
		n := Next(changes[first:])
		places := make(chan struct{}, parallel)
		var wg sync.WaitGroup
		for i := first; i < first+n; i++ {
			places <- struct{}{}
			wg.Add(1)
			go func() { // ends with apply
				defer wg.Done()
				defer func() { <-places }()
				if errs[i] = ctx.Err(); errs[i] == nil {
					errs[i] = apply(ctx, changes[i])
				}
			}()
		}
		wg.Wait()
		first += n
	}
	return errs
}

// Next returns how many changes from the first on can be carried out in any order: none has the path of another, lies in it or
// above it, or builds on it.
func Next(changes []target.Change) int {
	paths, above := map[string]bool{}, map[string]bool{}
	for n, ch := range changes {
		needs := []string{ch.Path}
		if ch.Op == target.OpLink {
			needs = append(needs, ch.Desc.LinkTo)
		}
		for _, p := range needs {
			if paths[p] || above[p] {
				return n
			}
			for a := Parent(p); a != ""; a = Parent(a) {
				if paths[a] {
					return n
				}
			}
		}
		for _, p := range needs {
			paths[p] = true
			for a := Parent(p); a != "" && !above[a]; a = Parent(a) {
				above[a] = true
			}
		}
	}
	return len(changes)
}

// Parent is the directory of a path, "" for the mirror itself.
func Parent(p string) string { return p[:max(0, strings.LastIndexByte(p, '/'))] }
