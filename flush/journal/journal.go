package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"sync"

	"forebay/flush/target"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// partBytes is the size at which a part ends. It bounds the memory of every writer and fits every target's single put.
const partBytes = 4 << 20

// Journal is the journal of one prefix on one target. It may be used concurrently; only one process may write it, which
// the owner mark is to see to. Readers in other processes may meet a file that was merged away meanwhile: they get an
// error and start again.
type Journal struct {
	// Fault is told of the boundaries between durable steps; nil in the program that ships. Set it before the first use.
	Fault faultpoint.Hook

	rec target.Records
	dir string

	compacting sync.Mutex // held by Compact

	mu       sync.Mutex
	l        layout
	open     map[uint64]struct{} // batches begun here and neither done nor abandoned
	readers  int
	obsolete []file // to be removed when no reader is left
	bounds   map[file]header
	history  *History // nil where nothing of the past is kept
}

// Remains is what is left of a journal where the target has lost its owner mark.
type Remains struct {
	// Whole is set where it may be all that was ever written: its first batch is there. The target was not emptied then.
	Whole bool

	rec   target.Records
	dir   string
	names []string
}

// Left looks for what is left of the journal of the prefix whose target.PrefixKey is key. Errors: ClassPermanent when a newer release wrote
// it, else the target's.
func Left(ctx context.Context, rec target.Records, key string) (Remains, error) {
	r := Remains{rec: rec, dir: path.Join(target.JournalDir, key)}
	names, files, err := list(ctx, rec, r.dir)
	if err != nil {
		return r, fmt.Errorf("list journal %s: %w", key, err)
	}
	r.names, r.Whole = names, slices.ContainsFunc(files, func(f file) bool { return f.lo == 1 })
	return r, nil
}

// Remove removes it: the target's next journal begins with nothing. It may be called again after an error.
func (r Remains) Remove(ctx context.Context) error {
	for _, name := range r.names {
		if err := r.rec.Remove(ctx, path.Join(r.dir, name)); err != nil {
			return fmt.Errorf("remove journal file %s: %w", name, err)
		}
	}
	return nil
}

// Open lists the journal of the prefix whose target.PrefixKey is key. It changes nothing. A journal that was never written
// is empty. Errors: ClassPermanent when a newer release wrote it, else the target's. Damage shows when it is read.
func Open(ctx context.Context, rec target.Records, key string) (*Journal, error) {
	j := &Journal{rec: rec, dir: path.Join(target.JournalDir, key), open: map[uint64]struct{}{}, bounds: map[file]header{}}
	_, files, err := list(ctx, rec, j.dir)
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", key, err)
	}
	if err := j.readHistory(ctx); err != nil {
		return nil, err
	}
	j.l = arrange(files)
	j.obsolete = j.l.garbage
	return j, nil
}

// list returns the names of all that is in a journal's folder, and the files of batches among it.
func list(ctx context.Context, rec target.Records, dir string) (names []string, files []file, err error) {
	if names, err = rec.List(ctx, dir); err != nil {
		return nil, nil, err
	}
	files = make([]file, 0, len(names))
	for _, name := range names {
		if name == historyFile {
			continue
		}
		f, err := parseFile(name)
		if err != nil {
			return nil, nil, err
		}
		files = append(files, f)
	}
	return names, files, nil
}

// Empty reports whether nothing was ever written.
func (j *Journal) Empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.l.done) == 0 && len(j.l.intents) == 0
}

// Entries returns how many entries the files have: at least the number of paths.
func (j *Journal) Entries() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, r := range j.l.done {
		n += r.count()
	}
	return n
}

// Batch is a batch between its intent and its end.
type Batch struct {
	j      *Journal
	number uint64
}

// Number is the batch's, above those of all before it.
func (b *Batch) Number() uint64 { return b.number }

// Last is the highest number of a batch that is done, 0 when there is none. It never becomes lower, unless the target was put back.
func (j *Journal) Last() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.l.done); n > 0 {
		return j.l.done[n-1].hi
	}
	return 0
}

// Raise makes a number, at least the next one, that of the last batch, durably: one without entries.
func (j *Journal) Raise(ctx context.Context, to uint64) error {
	j.mu.Lock()
	j.l.next = max(j.l.next, to)
	j.mu.Unlock()
	b, err := j.Begin(ctx, nil)
	if err != nil {
		return err
	}
	if err := b.Done(ctx, nil); err != nil {
		b.Abandon()
		return err
	}
	return nil
}

// Witness is a file of a journal that stays until a later merge.
type Witness struct{ name string }

// Newest returns the newest file of a batch that is done, for There.
func (j *Journal) Newest() Witness {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := len(j.l.done); n > 0 {
		return Witness{j.l.done[n-1].files[0].name()}
	}
	return Witness{}
}

// There reports whether a file is where it was: the target was not put back to a copy of before it, or emptied. Nothing may be merged
// between Newest and There.
func (j *Journal) There(ctx context.Context, w Witness) (bool, error) {
	if w.name == "" {
		return true, nil
	}
	body, err := j.rec.Open(ctx, j.dir+"/"+w.name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open journal file %s: %w", w.name, err)
	}
	_ = body.Close() // nothing was read
	return true, nil
}

// Begin writes the intent of a batch: what the mirror is about to be made to have. When it returns, the intent is durable
// and the commit may begin. States need not be set. A batch that is never done stays pending, which harms nothing; the
// batches that carry out its versions, or newer ones, settle it.
func (j *Journal) Begin(ctx context.Context, entries []Entry) (*Batch, error) {
	if err := check(entries); err != nil {
		return nil, err
	}
	if err := j.sweep(ctx); err != nil {
		return nil, err
	}
	j.mu.Lock()
	n := j.l.next
	j.l.next++
	j.open[n] = struct{}{}
	j.mu.Unlock()
	b := &Batch{j: j, number: n}
	planned := make([]Entry, len(entries))
	for i, e := range entries {
		e.State = StatePresent
		if e.Desc.Kind == proto.KindTombstone || e.Desc.Kind == proto.KindNone {
			e.State, e.Stage = StateDeleted, ""
		}
		planned[i] = e
	}
	r, err := j.write(ctx, kindIntent, n, n, all(sorted(planned)))
	if err != nil {
		b.Abandon()
		return nil, fmt.Errorf("write intent of batch %d: %w", n, err)
	}
	j.mu.Lock()
	j.l.intents = append(j.l.intents, r)
	j.mu.Unlock()
	return b, nil
}

// number returns a number that no run has.
func (j *Journal) number() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := j.l.next
	j.l.next++
	return n
}

// Done writes what became of a batch, durably, and takes its intent away. Entries may be fewer than were begun: what failed
// is left out and stays owed. Call it once, after the commit; after an error call it again with the same
// entries, or Abandon.
func (b *Batch) Done(ctx context.Context, entries []Entry) error {
	if err := check(entries); err != nil {
		return err
	}
	for _, e := range entries {
		if e.State < StatePresent || e.State > StateParked {
			return proto.Errorf(proto.ClassPermanent, "journal: entry %q of batch %d has no state", e.Path, b.number)
		}
	}
	j := b.j
	r, err := j.write(ctx, kindDone, b.number, b.number, all(sorted(entries)))
	if err != nil {
		return fmt.Errorf("write the end of batch %d: %w", b.number, err)
	}
	j.mu.Lock()
	j.l.done = insert(j.l.done, r)
	delete(j.open, b.number)
	j.mu.Unlock()
	j.dropIntent(b.number)
	// The batch is done whether or not its intent can be removed now: the next opening sees that.
	_ = j.sweep(ctx)
	return nil
}

// Abandon gives up a batch that will not be done. Its intent stays: the mirror may have got any part of it.
func (b *Batch) Abandon() {
	b.j.mu.Lock()
	defer b.j.mu.Unlock()
	delete(b.j.open, b.number)
}

// insert keeps runs ascending: batches may end in another order than they began.
func insert(runs []run, r run) []run {
	i, _ := slices.BinarySearchFunc(runs, r.lo, func(o run, lo uint64) int {
		if o.lo < lo {
			return -1
		}
		if o.lo > lo {
			return 1
		}
		return 0
	})
	return slices.Insert(slices.Clone(runs), i, r)
}

func check(entries []Entry) error {
	for _, e := range entries {
		if err := proto.CheckPath(e.Path); err != nil {
			return proto.Errorf(proto.ClassPermanent, "journal entry: %w", err)
		}
		if e.Version == 0 {
			return proto.Errorf(proto.ClassPermanent, "journal entry %q has no version", e.Path)
		}
	}
	return nil
}

// write writes sorted entries as a run, part by part, each durable before the next.
func (j *Journal) write(ctx context.Context, kind string, lo, hi uint64, entries iter.Seq2[Entry, error]) (run, error) {
	r := run{lo: lo, hi: hi, complete: true}
	var p part
	put := func(last bool) error {
		f := file{kind: kind, lo: lo, hi: hi, part: len(r.files), count: p.count, last: last}
		if err := j.rec.Put(ctx, j.dir+"/"+f.name(), p.encode()); err != nil {
			return err
		}
		r.files = append(r.files, f)
		j.noteBounds(f, header{First: p.first, Last: p.last})
		p = part{body: p.body[:0]}
		return nil
	}
	for e, err := range entries {
		if err == nil && len(p.body) >= partBytes {
			err = put(false)
		}
		if err == nil {
			err = p.add(e)
		}
		if err != nil {
			return r, err
		}
	}
	return r, put(true)
}

func all(entries []Entry) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
	}
}

// sweep removes files that nothing needs, unless somebody may be reading them.
func (j *Journal) sweep(ctx context.Context) error {
	j.mu.Lock()
	if j.readers > 0 {
		j.mu.Unlock()
		return nil
	}
	files := j.obsolete
	j.obsolete = nil
	j.mu.Unlock()
	for i, f := range files {
		if err := j.rec.Remove(ctx, j.dir+"/"+f.name()); err != nil {
			j.mu.Lock()
			j.obsolete = append(j.obsolete, files[i:]...)
			j.mu.Unlock()
			return fmt.Errorf("remove journal file %s: %w", f.name(), err)
		}
		j.mu.Lock()
		delete(j.bounds, f)
		j.mu.Unlock()
	}
	return nil
}
