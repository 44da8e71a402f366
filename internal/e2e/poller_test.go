package e2e

import (
	"context"
	"crypto/sha256"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"forebay/internal/baddisk"
	"forebay/proto"
)

// poller looks at a mirror again and again: whatever is there under its final name must be whole (I10), which is one of the
// contents that the source ever had, and what the source keeps must stay.
type poller struct {
	s       *site
	round   func(context.Context) // looks at all that is there, once
	mirror  string
	place   string              // the target's directory: the mirror lies below it where its link has a prefix
	keep    map[string]bool     // paths that must stay once they are there
	missed  map[string]bool     // paths to keep that were gone
	seen    map[string]fileID   // what was read last
	mu      sync.Mutex          // guards what follows
	known   map[[32]byte]bool   // contents that the source had
	had     map[atPath]bool     // and where, as learn found them
	pending map[[32]byte]string // contents that were seen before they were known, and where
	last    map[string][32]byte // what a path had when it was read last
	looks   int                 // files read
	newer   int                 // of these: those whose path had another content before
	gone    int                 // times that a file was there no more
	failed  error               // the first that kept the poller from looking
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// atPath is what a file was at a path.
type atPath struct {
	path string
	sum  [32]byte
}

// fileID tells a file that was replaced or written from one that was not.
type fileID struct {
	inode        uint64
	size         int64
	mtime, ctime unix.Timespec
}

// watch starts a poller of a link's mirror, at 10 ms between two rounds. It learns the contents of the sources now, and
// others whenever it is told.
func (s *site) watch(link string, sources ...string) *poller {
	s.t.Helper()
	p := &poller{mirror: s.mirror(link), place: s.place(link), missed: map[string]bool{}, seen: map[string]fileID{}}
	p.round = func(context.Context) { p.walk() }
	p.begin(s, sources...)
	return p
}

// begin lets a poller look, until the site ends.
func (p *poller) begin(s *site, sources ...string) {
	p.s, p.known, p.had, p.pending, p.last = s, map[[32]byte]bool{}, map[atPath]bool{}, map[[32]byte]string{}, map[string][32]byte{}
	for _, root := range sources {
		p.learn(root)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.done.Go(func() { // ends at end, which the site's close calls
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			p.round(ctx)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	s.atEnd(p.end)
}

func (p *poller) end() {
	p.stop()
	p.done.Wait()
}

// there reports whether the target is: it is taken away and put back while the poller looks.
func (p *poller) there() bool {
	_, err := os.Lstat(filepath.Join(p.place, proto.ReservedName))
	return err == nil
}

// walk reads what has changed in a directory since the last time.
func (p *poller) walk() {
	found, began := map[string]bool{}, p.there()
	_ = filepath.WalkDir(p.mirror, func(path string, d fs.DirEntry, err error) error { // what goes away meanwhile is no news
		if err != nil {
			return nil
		}
		if d.IsDir() && d.Name() == proto.ReservedName {
			return fs.SkipDir
		}
		rel, err := filepath.Rel(p.mirror, path)
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(rel, baddisk.Filler) {
			return nil
		}
		found[rel] = true
		p.look(path, rel)
		return nil
	})
	if !began {
		return
	}
	for path := range p.seen {
		if found[path] {
			continue
		}
		// A walk may pass by what is renamed beside it.
		_, err := os.Lstat(filepath.Join(p.mirror, path))
		if os.IsNotExist(err) && p.there() {
			p.mu.Lock()
			p.gone++
			p.mu.Unlock()
			if p.keep[path] {
				p.missed[path] = true
			}
		}
		delete(p.seen, path)
	}
}

// look reads a file unless it is the one that was read last.
func (p *poller) look(path, rel string) {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return
	}
	id := fileID{st.Ino, st.Size, st.Mtim, st.Ctim}
	if p.seen[rel] == id {
		return
	}
	sum, ok := digest(path)
	if !ok {
		return
	}
	p.seen[rel] = id
	p.saw(rel, sum)
}

// saw takes what was read at a path.
func (p *poller) saw(rel string, sum [32]byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks++
	if was, ok := p.last[rel]; ok && was != sum {
		p.newer++
	}
	p.last[rel] = sum
	if !p.known[sum] {
		p.pending[sum] = rel
	}
}

// trouble takes an error because of which the poller did not see what it looked for. What whoever looks has ended is none.
func (p *poller) trouble(ctx context.Context, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ctx.Err() == nil && p.failed == nil {
		p.failed = err
	}
}

// vanished returns how often a file was there no more.
func (p *poller) vanished() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gone
}

// counts returns how many files were read, and how many of them where another content was read before.
func (p *poller) counts() (looks, newer int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.looks, p.newer
}

// note tells the poller of the content of a file of the source.
func (p *poller) note(path string) {
	if sum, ok := digest(path); ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.known[sum] = true
	}
}

func digest(path string) (sum [32]byte, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return sum, false
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, false
	}
	return [32]byte(h.Sum(nil)), true
}

// learn takes the contents of a source as it is now.
func (p *poller) learn(root string) {
	p.s.t.Helper()
	require.NoError(p.s.t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if sum, ok := digest(path); ok {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.known[sum], p.had[atPath{rel, sum}] = true, true
		}
		return err
	}))
}

// torn returns the files of the mirror that have what the source never had at that path: an empty one, too, passes only where the source
// had one.
func (p *poller) torn() (torn []string) {
	p.s.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NoError(p.s.t, filepath.WalkDir(p.mirror, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && d.Name() == proto.ReservedName {
			return fs.SkipDir
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(p.mirror, path)
		if sum, ok := digest(path); ok && !p.had[atPath{rel, sum}] {
			torn = append(torn, rel)
		}
		return err
	}))
	return torn
}

// whole ends the poller and requires that it read some files while they came and went, each of them whole, and missed none that had to
// stay.
func (p *poller) whole(least int) {
	p.s.t.Helper()
	p.end()
	assert.GreaterOrEqual(p.s.t, p.looks, least, "files read while they came and went")
	p.round(p.s.t.Context()) // once more, of what is there in the end
	for _, n := range p.s.order {
		for _, d := range unique(p.s.nodes[n].datasets) {
			p.learn(p.s.root(n, d))
		}
	}
	for sum, path := range p.pending {
		if !p.known[sum] {
			p.s.t.Errorf("%q was seen at the target with a content that it never had (I10)", path)
		}
	}
	for path := range p.missed {
		p.s.t.Errorf("%q was gone from the target, and the source always had it (I13)", path)
	}
	assert.NoError(p.s.t, p.failed, "the poller could not look")
	p.s.t.Logf("the poller read %d files, %d of them anew", p.looks, p.newer)
}
