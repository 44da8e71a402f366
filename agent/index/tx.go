package index

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"forebay/proto"
)

// Tx is one read-modify-write of a root's index. It is valid inside the function given to Edit only, and not for
// concurrent use.
type Tx struct {
	r       *Root
	entries map[string]*change
	leaders map[[2]uint64]string // "" = deleted
	suspect map[string]bool      // false: acquitted
	counts  Counts
}

// change is what a Tx did to one path.
type change struct {
	old, new   Entry
	had, keeps bool // there was an old, there is a new
}

// Edit runs fn on a Tx and writes what it did, all of it or, when fn fails, nothing. Edits of one root follow one another;
// fn should therefore not wait for anything slow, and must not call Edit or a Set method of the same root. What a Tx
// changes stays in memory until fn returns: some thousand entries at most.
func (r *Root) Edit(fn func(tx *Tx) error) error {
	r.edit.Lock()
	defer r.edit.Unlock()
	tx := &Tx{r: r, entries: map[string]*change{}, leaders: map[[2]uint64]string{}, suspect: map[string]bool{}, counts: r.Counts()}
	if err := fn(tx); err != nil {
		return err
	}
	return tx.commit()
}

// at returns the path's change, with what the index has as old and new when the Tx has not touched it.
func (tx *Tx) at(path string) (*change, error) {
	if c := tx.entries[path]; c != nil {
		return c, nil
	}
	e, ok, err := tx.r.Get(path)
	if err != nil {
		return nil, err
	}
	c := &change{old: e, new: e, had: ok, keeps: ok}
	tx.entries[path] = c
	return c, nil
}

// Get returns the entry of a path as the Tx sees it.
func (tx *Tx) Get(path string) (Entry, bool, error) {
	c, err := tx.at(path)
	if err != nil {
		return Entry{}, false, err
	}
	return c.new, c.keeps, nil
}

// Put writes an entry under its Path.
func (tx *Tx) Put(e Entry) error {
	if err := proto.CheckPath(e.Path); err != nil {
		return proto.Errorf(proto.ClassPermanent, "index entry: %w", err)
	}
	c, err := tx.at(e.Path)
	if err != nil {
		return err
	}
	c.new, c.keeps = e, true
	return nil
}

// Delete removes the entry of a path; one that is not there is no error.
func (tx *Tx) Delete(path string) error {
	c, err := tx.at(path)
	if err != nil {
		return err
	}
	c.new, c.keeps = Entry{}, false
	return nil
}

// Leader is Root.Leader as the Tx sees it.
func (tx *Tx) Leader(dev, ino uint64) (string, bool, error) {
	if p, ok := tx.leaders[[2]uint64{dev, ino}]; ok {
		return p, p != "", nil
	}
	return tx.r.Leader(dev, ino)
}

// SetLeader makes path stand for a hard-linked inode.
func (tx *Tx) SetLeader(dev, ino uint64, path string) error {
	tx.leaders[[2]uint64{dev, ino}] = path
	return nil
}

// DeleteLeader forgets the path that stands for an inode.
func (tx *Tx) DeleteLeader(dev, ino uint64) error { return tx.SetLeader(dev, ino, "") }

// Suspect notes that the running scan did not find path.
func (tx *Tx) Suspect(path string) { tx.suspect[path] = true }

// Acquit takes a suspect back.
func (tx *Tx) Acquit(path string) { tx.suspect[path] = false }

// SetCursor is Root.SetCursor together with the entries of the feed that led there.
func (tx *Tx) SetCursor(v proto.VersionID) { tx.counts.Cursor = v }

// AddUploaded is Root.AddUploaded together with the entries that were acknowledged.
func (tx *Tx) AddUploaded(n int64) { tx.counts.UploadedBytes += n }

// Tell counts that the relay is about to be told of something: Counts.Told, which it returns, grows to more than above.
func (tx *Tx) Tell(above uint64) uint64 {
	tx.counts.Told = max(tx.counts.Told, above) + 1
	return tx.counts.Told
}

func (tx *Tx) commit() error {
	b := tx.r.d.pdb.NewBatch()
	for _, c := range tx.entries {
		if c.had == c.keeps && c.old == c.new {
			continue
		}
		tx.write(b, c)
	}
	for k, path := range tx.leaders {
		if key := leaderKey(tx.r.num, k[0], k[1]); path == "" {
			_ = b.Delete(key, nil)
		} else {
			_ = b.Set(key, []byte(path), nil)
		}
	}
	for path, is := range tx.suspect {
		if key := suspectKey(tx.r.num, path); is {
			_ = b.Set(key, nil, nil)
		} else {
			_ = b.Delete(key, nil)
		}
	}
	if b.Empty() && tx.counts == tx.r.Counts() {
		return b.Close()
	}
	if err := tx.r.commit(b, tx.counts, nil); err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	return nil
}

// write puts one change into the batch and the counts. Writes to a batch do not fail.
func (tx *Tx) write(b *pebble.Batch, c *change) {
	stale := map[string]bool{}
	if c.had {
		tx.counts.add(c.old, -1)
		for _, k := range secondary(tx.r.num, c.old) {
			stale[string(k)] = true
		}
	}
	if c.keeps {
		tx.counts.add(c.new, 1)
		_ = b.Set(entryKey(tx.r.num, c.new.Path), proto.Marshal(c.new), nil)
		for _, k := range secondary(tx.r.num, c.new) {
			if stale[string(k)] {
				delete(stale, string(k))
			} else {
				_ = b.Set(k, nil, nil)
			}
		}
	} else {
		_ = b.Delete(entryKey(tx.r.num, c.old.Path), nil)
	}
	for k := range stale {
		_ = b.Delete([]byte(k), nil)
	}
}

// secondary returns the keys that lead to an entry besides its own.
func secondary(root uint32, e Entry) (keys [][]byte) {
	if e.State != StateSettled {
		keys = append(keys, stateKey(root, e.State, e.Path))
	}
	if e.unlisted() && e.State != StateUnreadable {
		keys = append(keys, stateKey(root, StateUnreadable, e.Path))
	}
	if e.State.Queued() {
		keys = append(keys, timeKey(kindDue, root, e.Due, e.Path))
	}
	if e.Present() && e.State.unsent() {
		keys = append(keys, timeKey(kindFirst, root, e.FirstSeen, e.Path))
	}
	return keys
}

// unlisted reports whether e counts as unreadable for what is in it.
func (e Entry) unlisted() bool { return e.Unlisted != "" && e.Present() && e.State != StateSkipped }

// unsent reports whether the object's bytes are still to reach the relay.
func (s State) unsent() bool { return s.Queued() && s != StateGone }

// add counts e n times, n being 1 or -1.
func (c *Counts) add(e Entry, n int64) {
	switch {
	case e.State == StateGone:
		c.Gone += n
		return
	case e.State == StateSkipped:
		c.Skipped += n
		return
	case !e.Present():
		return
	}
	var size int64
	if e.Kind == proto.KindFile {
		size = e.Stat.Size
	}
	c.Objects += n
	c.Bytes += n * size
	if e.State.unsent() {
		c.UnsentCount += n
		c.UnsentBytes += n * size
	}
	if e.State == StateUnreadable || e.unlisted() {
		c.Unreadable += n
	}
	switch e.State {
	case StateLagging:
		c.Lagging += n
	case StateDivergent:
		c.Divergent += n
	case StateUnsettled:
		c.Unsettled += n
	case StateUnwanted:
		c.Unwanted += n
	}
}
