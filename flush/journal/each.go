package journal

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"forebay/proto"
)

// Each calls fn for every path at or below prefix ("" = all) that the journal knows, in byte order of the paths: the entry
// that counts and, when a batch that has begun but not ended carries a newer version, that one as pending (the mirror then
// has either). An entry that is only pending has StateNone. Memory is one record a run. It stops with fn's error.
func (j *Journal) Each(ctx context.Context, prefix string, fn func(e Entry, pending *Entry) error) error {
	return j.EachReadable(ctx, prefix, fn, nil)
}

// EachReadable is Each for a journal that may be damaged: damaged is told of each damaged file, once, and what can still be
// read of that file and all of the others is used. Where entries are missing, an older version of a path may come out; its
// digest then disagrees with the mirror. damaged nil: the first damage ends it.
func (j *Journal) EachReadable(ctx context.Context, prefix string, fn func(e Entry, pending *Entry) error, damaged func(error)) error {
	return j.walk(ctx, selection{prefix: prefix}, damaged, func(g group) error { return fn(g.present()) }, true, false)
}

// walk calls fn for each selected path with all that the runs of the present, and of the past, say of it.
func (j *Journal) walk(ctx context.Context, sel selection, damaged func(error), fn func(group) error, present, past bool) error {
	var runs []run
	done, intents := j.hold()
	defer j.release()
	if present {
		runs = slices.Concat(done, intents)
	}
	if past {
		runs = append(runs, j.holdPast()...)
		defer j.release()
	}
	for g, err := range j.groups(ctx, runs, sel, damaged) {
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		if err := fn(g); err != nil {
			return err
		}
	}
	return nil
}

// groups merges runs: it gives all that they say of each selected path, in the order of the paths. It ends after an error.
func (j *Journal) groups(ctx context.Context, runs []run, sel selection, damaged func(error)) iter.Seq2[group, error] {
	return func(yield func(group, error) bool) {
		m := &merger{ctx: ctx, damaged: damaged}
		defer m.close()
		for _, r := range runs {
			m.fresh = append(m.fresh, j.source(r, sel))
		}
		for {
			g, err := m.next()
			if errors.Is(err, io.EOF) || !yield(g, err) || err != nil {
				return
			}
		}
	}
}

// Get returns what the journal knows of a path, ok false when nothing. It reads through the journal: for people, not for
// every object.
func (j *Journal) Get(ctx context.Context, path string) (e Entry, pending *Entry, ok bool, err error) {
	err = j.Each(ctx, path, func(found Entry, p *Entry) error {
		if found.Path == path {
			e, pending, ok = found, p, true
		}
		return errStop
	})
	if errors.Is(err, errStop) {
		err = nil
	}
	return e, pending, ok, err
}

var errStop = errors.New("stop")

// hold returns the present runs and keeps their files from being removed until release.
func (j *Journal) hold() (done, intents []run) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers++
	return slices.Clone(j.l.done), slices.Clone(j.l.intents)
}

func (j *Journal) release() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.readers-- // what became obsolete meanwhile goes with the next sweep
}

// selection says of which paths a reader wants to know: those given, or those at or below a prefix, "" being all.
type selection struct {
	paths  []string // sorted; nil: by prefix
	prefix string
}

func (s selection) has(path string) bool {
	if s.paths == nil {
		return Under(path, s.prefix)
	}
	_, ok := slices.BinarySearch(s.paths, path)
	return ok
}

// none reports whether no path from first to last is selected.
func (s selection) none(first, last string) bool {
	if s.paths == nil {
		return s.prefix != "" && (last < s.prefix || !Under(first, s.prefix) && first > s.prefix+"/")
	}
	i, _ := slices.BinarySearch(s.paths, first)
	return i == len(s.paths) || s.paths[i] > last
}

// over reports whether no path after this one is selected.
func (s selection) over(path string) bool {
	return s.paths != nil && path > s.paths[len(s.paths)-1]
}

// source reads the entries of one run in path order.
type source struct {
	j    *Journal
	run  run
	kind string
	sel  selection

	told bool // that a part is missing
	next int  // part to open next
	dec  *decoder
	body io.Closer
	head Entry // the entry that waits to be taken
}

func (j *Journal) source(r run, sel selection) *source {
	return &source{j: j, run: r, kind: r.files[0].kind, sel: sel}
}

// noteBounds remembers the first and last path of a file.
func (j *Journal) noteBounds(f file, h header) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.bounds[f] = h
}

// advance moves head to the next entry in prefix; io.EOF at the end.
func (s *source) advance(ctx context.Context) error {
	if s.run.torn && !s.told {
		s.told = true
		return proto.Errorf(proto.ClassCorrupt, "%w", &CorruptError{File: s.run.files[0].name(),
			What: fmt.Sprintf("a file of the run of batches %d to %d is missing", s.run.lo, s.run.hi)})
	}
	for {
		if s.dec == nil {
			if s.next == len(s.run.files) {
				return io.EOF
			}
			if err := s.open(ctx); err != nil {
				return err
			}
			continue
		}
		e, err := s.dec.next()
		if errors.Is(err, io.EOF) {
			s.shut()
			continue
		}
		if err != nil {
			return err
		}
		if s.sel.has(e.Path) {
			s.head = e
			return nil
		}
		if s.sel.over(e.Path) {
			s.shut()
			s.next = len(s.run.files)
		}
	}
}

// open opens the next part, unless none of its paths can be under the prefix.
func (s *source) open(ctx context.Context) error {
	f := s.run.files[s.next]
	s.next++
	if f.count == 0 {
		return nil
	}
	s.j.mu.Lock()
	known, ok := s.j.bounds[f]
	s.j.mu.Unlock()
	if ok && s.sel.none(known.First, known.Last) {
		return nil
	}
	body, err := s.j.rec.Open(ctx, s.j.dir+"/"+f.name())
	if errors.Is(err, fs.ErrNotExist) {
		return proto.Errorf(proto.ClassTransient, "journal file %s is gone: it was merged into another while this was reading; try again: %w", f.name(), err)
	}
	if err != nil {
		return fmt.Errorf("open journal file %s: %w", f.name(), err)
	}
	s.body = body
	if s.dec, err = newDecoder(f.name(), f.kind == kindPast, body); err != nil {
		return err
	}
	s.j.noteBounds(f, s.dec.head)
	if s.sel.none(s.dec.head.First, s.dec.head.Last) {
		s.shut()
	}
	return nil
}

func (s *source) shut() {
	if s.body != nil {
		_ = s.body.Close() // reading is over
	}
	s.dec, s.body = nil, nil
}

// Under reports whether path is prefix or lies below it; "" is above everything.
func Under(path, prefix string) bool {
	return prefix == "" || path == prefix || strings.HasPrefix(path, prefix+"/")
}

// merger merges sources by path.
type merger struct {
	ctx     context.Context // of the one call that owns the merger
	waiting sources
	damaged func(error)
	fresh   []*source
	done    []Entry // room for a group's
}

// group is all that the sources say of one path. Its done is good until the next group only.
type group struct {
	path          string
	done, planned []Entry // of the present, and of intents
	past          []Entry
}

// present folds what is said of a path now into the entry that counts, and the pending one.
func (g group) present() (Entry, *Entry) {
	var pending *Entry
	for i, e := range g.planned {
		if pending == nil || pending.Version < e.Version {
			pending = &g.planned[i]
		}
	}
	if len(g.done) == 0 {
		return Entry{Path: g.path}, pending
	}
	e := resolve(g.done)
	if pending != nil && pending.Version <= e.Version {
		pending = nil
	}
	return e, pending
}

func (g group) versions() Versions {
	e, pending := g.present()
	return Versions{Path: g.path, Now: e, Pending: pending, Past: pastOf(g.past)}
}

// next returns what is said of the next path.
func (m *merger) next() (group, error) {
	if err := m.ctx.Err(); err != nil {
		return group{}, err
	}
	for len(m.fresh) > 0 {
		s := m.fresh[len(m.fresh)-1]
		m.fresh = m.fresh[:len(m.fresh)-1]
		m.waiting = append(m.waiting, s) // so that close finds it
		if err := m.refill(s, len(m.waiting)-1, false); err != nil {
			return group{}, err
		}
		if len(m.fresh) == 0 {
			heap.Init(&m.waiting)
		}
	}
	if len(m.waiting) == 0 {
		return group{}, io.EOF
	}
	return m.gather()
}

// gather takes all entries of the smallest path.
func (m *merger) gather() (group, error) {
	g := group{path: m.waiting[0].head.Path, done: m.done[:0]}
	for len(m.waiting) > 0 && m.waiting[0].head.Path == g.path {
		s := m.waiting[0]
		switch s.kind {
		case kindIntent:
			g.planned = append(g.planned, s.head)
		case kindPast:
			g.past = append(g.past, s.head)
		default:
			g.done = append(g.done, s.head)
		}
		if err := m.refill(s, 0, true); err != nil {
			return group{}, err
		}
	}
	m.done = g.done
	return g, nil
}

// refill advances the i-th waiting source and takes it out when it has ended.
func (m *merger) refill(s *source, i int, inHeap bool) error {
	err := s.advance(m.ctx)
	for err != nil && !errors.Is(err, io.EOF) {
		if m.damaged == nil || proto.ClassOf(err) != proto.ClassCorrupt {
			return err
		}
		m.damaged(err)
		s.shut()
		err = s.advance(m.ctx)
	}
	switch {
	case err == nil && inHeap:
		heap.Fix(&m.waiting, i)
	case err != nil && inHeap:
		s.shut()
		heap.Remove(&m.waiting, i)
	case err != nil:
		s.shut()
		m.waiting = slices.Delete(m.waiting, i, i+1)
	}
	return nil
}

func (m *merger) close() {
	for _, s := range m.waiting {
		s.shut()
	}
}

// sources is a heap by path; among equal paths the later written run comes first.
type sources []*source

func (s sources) Len() int { return len(s) }
func (s sources) Less(i, k int) bool {
	if a, b := s[i].head.Path, s[k].head.Path; a != b {
		return a < b
	}
	return s[i].run.hi > s[k].run.hi
}
func (s sources) Swap(i, k int) { s[i], s[k] = s[k], s[i] }

// Push is part of heap.Interface.
func (s *sources) Push(x any) { *s = append(*s, x.(*source)) }

// Pop is part of heap.Interface.
func (s *sources) Pop() any {
	old := *s
	last := old[len(old)-1]
	*s = old[:len(old)-1]
	return last
}
