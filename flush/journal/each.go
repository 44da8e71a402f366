package journal

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"forebay/flush/target"
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
	done, intents := j.hold()
	defer j.release()
	m := &merger{ctx: ctx, damaged: damaged}
	defer m.close()
	for _, r := range done {
		m.add(&source{rec: j.rec, dir: j.dir, run: r, prefix: prefix})
	}
	for _, r := range intents {
		m.add(&source{rec: j.rec, dir: j.dir, run: r, prefix: prefix, intent: true})
	}
	for {
		e, pending, err := m.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		if err := fn(e, pending); err != nil {
			return err
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

// source reads the entries of one run in path order.
type source struct {
	rec    target.Records
	dir    string
	run    run
	prefix string
	intent bool

	told bool // that a part is missing
	next int  // part to open next
	dec  *decoder
	body io.Closer
	head Entry // the entry that waits to be taken
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
		if Under(e.Path, s.prefix) {
			s.head = e
			return nil
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
	name := s.dir + "/" + f.name()
	body, err := s.rec.Open(ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return proto.Errorf(proto.ClassTransient, "journal file %s is gone: it was merged into another while this was reading; try again: %w", f.name(), err)
	}
	if err != nil {
		return fmt.Errorf("open journal file %s: %w", f.name(), err)
	}
	s.body = body
	if s.dec, err = newDecoder(f.name(), body); err != nil {
		return err
	}
	if s.prefix != "" && (s.dec.head.Last < s.prefix || !Under(s.dec.head.First, s.prefix) && s.dec.head.First > s.prefix+"/") {
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
	group   []Entry
}

func (m *merger) add(s *source) { m.fresh = append(m.fresh, s) }

// next returns what counts for the next path.
func (m *merger) next() (Entry, *Entry, error) {
	if err := m.ctx.Err(); err != nil {
		return Entry{}, nil, err
	}
	for len(m.fresh) > 0 {
		s := m.fresh[len(m.fresh)-1]
		m.fresh = m.fresh[:len(m.fresh)-1]
		m.waiting = append(m.waiting, s) // so that close finds it
		if err := m.refill(s, len(m.waiting)-1, false); err != nil {
			return Entry{}, nil, err
		}
		if len(m.fresh) == 0 {
			heap.Init(&m.waiting)
		}
	}
	if len(m.waiting) == 0 {
		return Entry{}, nil, io.EOF
	}
	return m.fold()
}

// fold takes all entries of the smallest path.
func (m *merger) fold() (Entry, *Entry, error) {
	path := m.waiting[0].head.Path
	m.group = m.group[:0]
	var pending *Entry
	for len(m.waiting) > 0 && m.waiting[0].head.Path == path {
		s := m.waiting[0]
		e := s.head
		switch {
		case !s.intent:
			m.group = append(m.group, e)
		case pending == nil || pending.Version < e.Version:
			pending = &e
		}
		if err := m.refill(s, 0, true); err != nil {
			return Entry{}, nil, err
		}
	}
	if len(m.group) == 0 {
		return Entry{Path: path}, pending, nil
	}
	e := resolve(m.group)
	if pending != nil && pending.Version <= e.Version {
		pending = nil
	}
	return e, pending, nil
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
