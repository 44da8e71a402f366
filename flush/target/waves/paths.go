package waves

import "sync"

// Paths is a set of paths that something is known of, for drivers that would have to ask their target each time. It forgets all of
// it rather than grow beyond maxPaths.
type Paths struct {
	mu  sync.Mutex
	all map[string]bool
}

const maxPaths = 200_000

// NewPaths returns an empty set.
func NewPaths() *Paths { return &Paths{all: map[string]bool{}} }

// Has reports whether a path is in the set.
func (p *Paths) Has(path string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all[path]
}

// Add adds a path.
func (p *Paths) Add(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.all) >= maxPaths {
		clear(p.all)
	}
	p.all[path] = true
}

// Drop takes a path out.
func (p *Paths) Drop(path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, path)
}

// Clear takes all out.
func (p *Paths) Clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.all)
}
