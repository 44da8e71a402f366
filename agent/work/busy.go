package work

import (
	"sync"

	"forebay/agent/index"
)

// busy is the set of paths that are being worked on, so that the queue, which still offers them, does not start them twice.
// It is bounded by what packs, slots and the hasher hold.
type busy struct {
	mu    sync.Mutex
	paths map[string]struct{}
}

func newBusy() *busy { return &busy{paths: map[string]struct{}{}} }

// take adds a path; false when it is in the set already.
func (b *busy) take(path string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.paths[path]; ok {
		return false
	}
	b.paths[path] = struct{}{}
	return true
}

func (b *busy) done(path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.paths, path)
}

func (b *busy) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.paths)
}

// free keeps those entries that are not in the set, and adds them.
func (b *busy) free(list []index.Entry) []index.Entry {
	kept := list[:0]
	for _, e := range list {
		if b.take(e.Path) {
			kept = append(kept, e)
		}
	}
	return kept
}
