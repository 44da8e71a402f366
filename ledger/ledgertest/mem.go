// Package ledgertest serves tests of the ledger and of whoever fills or empties it: a ledger in memory, and a check that
// recounts everything the ledger counts. It imports ledger and proto only.
package ledgertest

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"

	"forebay/ledger"
)

// Mem is a ledger in memory with the methods of ledger/disk.Ledger. It may be used by several goroutines.
type Mem struct {
	mu   sync.RWMutex
	keys []string // sorted
	rows map[string][]byte
}

// New returns an empty ledger.
func New() *Mem { return &Mem{rows: map[string][]byte{}} }

// Update applies entries as one. When one fails nothing of them is seen.
func (m *Mem) Update(entries ...ledger.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	tx := &memTx{base: m, changes: map[string][]byte{}}
	for _, e := range entries {
		if err := ledger.Apply(tx, e); err != nil {
			return fmt.Errorf("apply %T: %w", e, err)
		}
	}
	for k, v := range tx.changes {
		m.set(k, v)
	}
	return nil
}

// View calls fn with the ledger as it is, whatever is written meanwhile.
func (m *Mem) View(fn func(ledger.Rows) error) error {
	m.mu.RLock()
	s := &Mem{keys: slices.Clone(m.keys), rows: maps.Clone(m.rows)} // values are never changed in place
	m.mu.RUnlock()
	return fn(s)
}

// Get implements ledger.Rows.
func (m *Mem) Get(key []byte) ([]byte, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return bytes.Clone(m.rows[string(key)]), nil
}

// Scan implements ledger.Rows.
func (m *Mem) Scan(lo, hi []byte, fn func(key, value []byte) (bool, error)) error {
	m.mu.RLock()
	keys := slices.Clone(m.span(lo, hi))
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = m.rows[k]
	}
	m.mu.RUnlock()
	return give(keys, values, fn)
}

// Hash is a digest of all rows: equal ledgers have equal ones.
func (m *Mem) Hash() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := fnv.New64a()
	for _, k := range m.keys {
		_, _ = fmt.Fprintf(h, "%d %s %d %s", len(k), k, len(m.rows[k]), m.rows[k]) // a Hash's Write never fails
	}
	return h.Sum64()
}

// give calls fn with copies that it is a mistake to keep, as with storage: they are overwritten after each call.
func give(keys []string, values [][]byte, fn func(key, value []byte) (bool, error)) error {
	for i, k := range keys {
		key, value := []byte(k), bytes.Clone(values[i])
		more, err := fn(key, value)
		clear(key)
		clear(value)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (m *Mem) set(k string, v []byte) {
	_, known := m.rows[k]
	at, _ := slices.BinarySearch(m.keys, k)
	switch {
	case v == nil && known:
		delete(m.rows, k)
		m.keys = slices.Delete(m.keys, at, at+1)
	case v != nil:
		m.rows[k] = v
		if !known {
			m.keys = slices.Insert(m.keys, at, k)
		}
	}
}

// span returns the keys from lo up to hi; a nil hi is the end.
func (m *Mem) span(lo, hi []byte) []string {
	from, _ := slices.BinarySearch(m.keys, string(lo))
	to := len(m.keys)
	if hi != nil {
		to, _ = slices.BinarySearch(m.keys, string(hi))
	}
	return m.keys[from:max(from, to)]
}

// memTx is a transaction: its changes over the rows as they were.
type memTx struct {
	base    *Mem // locked by Update
	changes map[string][]byte
}

func (t *memTx) Get(key []byte) ([]byte, error) {
	if v, ok := t.changes[string(key)]; ok {
		return bytes.Clone(v), nil
	}
	return bytes.Clone(t.base.rows[string(key)]), nil
}

func (t *memTx) Scan(lo, hi []byte, fn func(key, value []byte) (bool, error)) error {
	merged := map[string][]byte{}
	for _, k := range t.base.span(lo, hi) {
		merged[k] = t.base.rows[k]
	}
	for k, v := range t.changes {
		switch {
		case k < string(lo) || hi != nil && k >= string(hi):
		case v == nil:
			delete(merged, k)
		default:
			merged[k] = v
		}
	}
	keys := slices.Sorted(maps.Keys(merged))
	values := make([][]byte, len(keys))
	for i, k := range keys {
		values[i] = merged[k]
	}
	return give(keys, values, fn)
}

func (t *memTx) Set(key, value []byte) error {
	v := make([]byte, len(value)) // never nil: that is a deletion
	copy(v, value)
	t.changes[string(key)] = v
	return nil
}

func (t *memTx) Delete(key []byte) error {
	t.changes[string(key)] = nil
	return nil
}
