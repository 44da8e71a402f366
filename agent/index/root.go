package index

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"forebay/proto"
)

// Root is the index of one root; the list of its methods stands in this package's overview. Its methods may be called
// concurrently.
type Root struct {
	d    *DB
	name string
	num  uint32
	id   string

	edit sync.Mutex // held over each write

	mu       sync.RWMutex // protects what follows; written only while edit is held
	counts   Counts
	identity Identity
	known    bool // identity is set
}

// row is what a root's row holds.
type row struct {
	ID       string    `cbor:"1,keyasint"`
	Name     string    `cbor:"2,keyasint"` // for people who look into the database
	Identity *Identity `cbor:"3,keyasint,omitempty"`
	Counts   Counts    `cbor:"4,keyasint"`
}

func (r *Root) create() error {
	num, err := r.d.nextRoot()
	if err != nil {
		return err
	}
	r.num, r.id = num, newID()
	b := r.d.pdb.NewBatch()
	_ = b.Set(nameKey(r.name), binary.BigEndian.AppendUint32(nil, r.num), nil) // writes to a batch do not fail
	_ = b.Set(prefix(kindRow, r.num), proto.Marshal(row{ID: r.id, Name: r.name}), nil)
	return r.d.do(func() error { return b.Commit(pebble.Sync) })
}

func (r *Root) load(number []byte) error {
	if len(number) != 4 {
		return fmt.Errorf("%w: number of %d bytes", ErrCorrupt, len(number))
	}
	r.num = binary.BigEndian.Uint32(number)
	v, err := r.d.get(prefix(kindRow, r.num))
	if err != nil {
		return err
	}
	var c row
	if err := proto.Unmarshal(v, &c); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r.id, r.counts = c.ID, c.Counts
	if c.Identity != nil {
		r.identity, r.known = *c.Identity, true
	}
	return nil
}

// ID is random and made with the index: an index made anew has another.
func (r *Root) ID() string { return r.id }

// Counts returns the counts as of the last Edit.
func (r *Root) Counts() Counts {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.counts
}

// Identity returns what SetIdentity remembered, and whether it did.
func (r *Root) Identity() (Identity, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.identity, r.known
}

// SetIdentity remembers how the root is recognised.
func (r *Root) SetIdentity(id Identity) error {
	r.edit.Lock()
	defer r.edit.Unlock()
	if err := r.commit(r.d.pdb.NewBatch(), r.Counts(), &id); err != nil {
		return fmt.Errorf("remember root's identity: %w", err)
	}
	return nil
}

// SetCursor remembers up to where the relay's feed was followed.
func (r *Root) SetCursor(v proto.VersionID) error {
	return r.Edit(func(tx *Tx) error { tx.SetCursor(v); return nil })
}

// AddUploaded adds acknowledged payload bytes to Counts.UploadedBytes.
func (r *Root) AddUploaded(n int64) error {
	return r.Edit(func(tx *Tx) error { tx.AddUploaded(n); return nil })
}

// SetScanned remembers the end of a completed scan.
func (r *Root) SetScanned(at time.Time) error {
	return r.Edit(func(tx *Tx) error { tx.counts.LastScanNs = at.UnixNano(); return nil })
}

// SetAnswered remembers the scan token that is answered. It leaves the end of the last scan alone: the next may have ended since.
func (r *Root) SetAnswered(token uint64) error {
	return r.Edit(func(tx *Tx) error { tx.counts.ScanToken = token; return nil })
}

// Sync makes everything written so far survive a power cut; without it, an agent that is killed loses nothing but perhaps
// the last milliseconds, a machine that loses power perhaps the last seconds.
func (r *Root) Sync() error {
	if err := r.d.do(func() error { return r.d.pdb.LogData(nil, pebble.Sync) }); err != nil {
		return fmt.Errorf("sync index: %w", err)
	}
	return nil
}

// commit writes a batch with the root's row. The caller holds edit. The counts change only when it succeeded.
func (r *Root) commit(b *pebble.Batch, c Counts, id *Identity) error {
	w := row{ID: r.id, Name: r.name, Counts: c, Identity: id}
	if id == nil && r.known {
		w.Identity = &r.identity // written only under edit
	}
	_ = b.Set(prefix(kindRow, r.num), proto.Marshal(w), nil)
	if err := r.d.do(func() error { return b.Commit(pebble.NoSync) }); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts = c
	if id != nil {
		r.identity, r.known = *id, true
	}
	return nil
}

// Get returns the entry of a path.
func (r *Root) Get(path string) (Entry, bool, error) {
	v, err := r.d.get(entryKey(r.num, path))
	if err != nil || v == nil {
		return Entry{}, false, err
	}
	e, err := decode(path, v)
	return e, err == nil, err
}

func decode(path string, v []byte) (Entry, error) {
	e := Entry{}
	if err := proto.Unmarshal(v, &e); err != nil {
		return Entry{}, fmt.Errorf("index entry %q: %w: %w", path, ErrCorrupt, err)
	}
	e.Path = path
	return e, nil
}

// Children returns up to limit direct children of dir ("" = the root) whose names sort after the name after, by name.
func (r *Root) Children(dir, afterName string, limit int) ([]Entry, error) {
	p := append(append(prefix(kindEntry, r.num), dir...), 0)
	from := p
	if afterName != "" {
		from = after(append(p[:len(p):len(p)], afterName...))
	}
	return r.entries(nil, from, end(p), limit)
}

// Below returns up to limit entries below dir ("" = all), by (directory, name), after the path after.
func (r *Root) Below(dir, afterPath string, limit int) ([]Entry, error) {
	p := prefix(kindEntry, r.num)
	if dir == "" {
		return r.entries(nil, r.afterKey(p, afterPath), end(p), limit)
	}
	p = append(p, dir...)
	// The direct children, then those of every directory below.
	var out []Entry
	var err error
	if d, _ := split(afterPath); afterPath == "" || d == dir {
		direct := append(p[:len(p):len(p)], 0)
		out, err = r.entries(nil, r.afterKey(direct, afterPath), end(direct), limit)
		if err != nil || limit > 0 && len(out) >= limit {
			return out, err
		}
		afterPath = ""
	}
	deeper := append(p[:len(p):len(p)], '/')
	return r.entries(out, r.afterKey(deeper, afterPath), end(deeper), limit)
}

func (r *Root) afterKey(from []byte, afterPath string) []byte {
	if afterPath == "" {
		return from
	}
	return after(entryKey(r.num, afterPath))
}

// entries appends the entries with keys in [from, to) until out has limit.
func (r *Root) entries(out []Entry, from, to []byte, limit int) ([]Entry, error) {
	err := r.d.each(from, to, func(k, v []byte) (bool, error) {
		e, err := decode(pathOf(k[prefixLen:]), v)
		if err != nil {
			return false, err
		}
		out = append(out, e)
		return limit <= 0 || len(out) < limit, nil
	})
	return out, err
}

// TooFar is how far ahead of the clock hardly anything is put back: what is due later than that was put back before the clock was
// set back, and is due now. A claim out of turn is the worst that comes of it.
const TooFar = time.Hour

// Due returns up to limit queued entries with Due <= now, or further ahead than TooFar, by (Due, Path).
func (r *Root) Due(now time.Time, limit int) ([]Entry, error) {
	p := prefix(kindDue, r.num)
	out, err := r.due(nil, p, timeKey(kindDue, r.num, now.UnixNano()+1, ""), limit)
	if err != nil || limit > 0 && len(out) >= limit {
		return out, err
	}
	return r.due(out, timeKey(kindDue, r.num, now.Add(TooFar).UnixNano(), ""), end(p), limit)
}

func (r *Root) due(out []Entry, from, to []byte, limit int) ([]Entry, error) {
	err := r.d.each(from, to, func(k, _ []byte) (bool, error) {
		due, path := splitTimeKey(k)
		e, ok, err := r.Get(path)
		if err != nil {
			return false, err
		}
		if ok && e.State.Queued() && e.Due == due { // else it was changed while we read
			out = append(out, e)
		}
		return limit <= 0 || len(out) < limit, nil
	})
	return out, err
}

// NextDue returns when the queue next offers an entry; it may be in the past. False when the queue is empty.
func (r *Root) NextDue() (time.Time, bool, error) { return r.firstTime(kindDue) }

// OldestUnsent returns the smallest FirstSeen of all unsent entries. False when there are none.
func (r *Root) OldestUnsent() (time.Time, bool, error) { return r.firstTime(kindFirst) }

func (r *Root) firstTime(kind byte) (at time.Time, ok bool, err error) {
	p := prefix(kind, r.num)
	err = r.d.each(p, end(p), func(k, _ []byte) (bool, error) {
		ns, _ := splitTimeKey(k)
		at, ok = time.Unix(0, ns), true
		return false, nil
	})
	return at, ok, err
}

// InState returns up to limit entries of a state, by (directory, name), after the path after.
func (r *Root) InState(s State, afterPath string, limit int) ([]Entry, error) {
	var out []Entry
	add := func(e Entry) bool {
		switch {
		case e.State == s:
			out = append(out, e)
		case s == StateUnreadable && e.unlisted():
			e.Reason = e.Unlisted
			out = append(out, e)
		} // else it was changed while we read
		return limit <= 0 || len(out) < limit
	}
	if s == StateSettled {
		p := prefix(kindEntry, r.num)
		err := r.d.each(r.afterKey(p, afterPath), end(p), func(k, v []byte) (bool, error) {
			e, err := decode(pathOf(k[prefixLen:]), v)
			return err == nil && add(e), err
		})
		return out, err
	}
	p := append(prefix(kindState, r.num), byte(s))
	from := p
	if afterPath != "" {
		from = after(stateKey(r.num, s, afterPath))
	}
	err := r.d.each(from, end(p), func(k, _ []byte) (bool, error) {
		e, ok, err := r.Get(pathOf(k[prefixLen+1:]))
		return err == nil && (!ok || add(e)), err
	})
	return out, err
}

// Leader returns the path that stands for a hard-linked inode.
func (r *Root) Leader(dev, ino uint64) (string, bool, error) {
	v, err := r.d.get(leaderKey(r.num, dev, ino))
	return string(v), v != nil, err
}

// Suspects returns up to limit paths that the running scan did not find, by (directory, name), after the path after.
func (r *Root) Suspects(afterPath string, limit int) ([]string, error) {
	p := prefix(kindSuspect, r.num)
	from := p
	if afterPath != "" {
		from = after(suspectKey(r.num, afterPath))
	}
	var out []string
	err := r.d.each(from, end(p), func(k, _ []byte) (bool, error) {
		out = append(out, pathOf(k[prefixLen:]))
		return limit <= 0 || len(out) < limit, nil
	})
	return out, err
}
