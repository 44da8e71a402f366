package arbiter

import (
	"cmp"
	"slices"
	"time"

	"forebay/proto"
)

// Lease is the right of one holder to upload one version.
type Lease struct {
	Upload  proto.UploadID
	Epoch   proto.Epoch
	Session proto.SessionID
	Holder  proto.HolderID
	Dataset proto.DatasetID
	Path    string
	Size    int64 // declared
	Acked   int64 // acknowledged so far, of Size
	// Allowance is set for an object larger than the room in the cache, which streams through it: the payload bytes that it
	// may have there at a time.
	Allowance int64
	// Here is what the cache had of it when it was granted.
	Here int64
	// Again is set for one that brings a content that is asked for again.
	Again bool
	Since time.Time
	// TakenFrom and Cause are set when the upload had acknowledged bytes of another holder.
	TakenFrom proto.HolderID
	Cause     string
	// FirstAck is when the first bytes under this lease were acknowledged.
	FirstAck time.Time
	// Active is the relay's running time when it was granted, or something of it came last.
	Active int64
}

// Room is what the lease still keeps reserved in the cache, in payload bytes.
func (l *Lease) Room() int64 {
	if l.Allowance > 0 {
		return max(l.Allowance-l.Here, 0)
	}
	return max(l.Size-l.Acked, 0)
}

// coming is what it is to bring, or has brought and not sealed, of content that is asked for again.
func (l *Lease) coming() int64 {
	switch {
	case !l.Again:
		return 0
	case l.Allowance > 0:
		return l.Allowance
	}
	return l.Size
}

type object struct {
	dataset proto.DatasetID
	path    string
}

// Table holds the leases in force. They live in memory: a restart of the relay ends them all, and the generation in the
// epochs of the next ones fences off what is still under way (I7). Not for concurrent use.
type Table struct {
	generation uint32
	epochs     uint64
	uploads    uint64
	byObject   map[object]*Lease
	byUpload   map[proto.UploadID]*Lease
	bySession  map[proto.SessionID]map[proto.UploadID]*Lease
	reserved   int64
	again      map[proto.DatasetID]int64
}

// NewTable returns an empty table for a generation.
func NewTable(generation uint32) *Table {
	return &Table{
		generation: generation,
		byObject:   map[object]*Lease{},
		byUpload:   map[proto.UploadID]*Lease{},
		bySession:  map[proto.SessionID]map[proto.UploadID]*Lease{},
		again:      map[proto.DatasetID]int64{},
	}
}

// At returns the lease on a path, or nil.
func (t *Table) At(ds proto.DatasetID, path string) *Lease { return t.byObject[object{ds, path}] }

// Get returns the lease of an upload, or nil.
func (t *Table) Get(id proto.UploadID) *Lease { return t.byUpload[id] }

// Grant makes a lease under a new epoch; whatever lease the path had ends. l.Upload 0 gives a new upload id.
func (t *Table) Grant(l Lease) *Lease {
	if old := t.At(l.Dataset, l.Path); old != nil {
		t.remove(old)
	}
	t.epochs++
	l.Epoch = proto.Epoch{Generation: t.generation, Counter: t.epochs}
	if l.Upload == 0 {
		t.uploads++
		l.Upload = proto.UploadID(uint64(t.generation)<<40 | t.uploads)
	}
	t.byObject[object{l.Dataset, l.Path}] = &l
	t.byUpload[l.Upload] = &l
	if t.bySession[l.Session] == nil {
		t.bySession[l.Session] = map[proto.UploadID]*Lease{}
	}
	t.bySession[l.Session][l.Upload] = &l
	t.reserved += l.Room()
	t.again[l.Dataset] += l.coming()
	return &l
}

// Check returns the lease under which a session may send pieces of an upload, nil when the epoch is no longer in force.
func (t *Table) Check(s proto.SessionID, id proto.UploadID, e proto.Epoch, path string) *Lease {
	l := t.byUpload[id]
	if l == nil || l.Session != s || l.Epoch != e || l.Path != path {
		return nil
	}
	return l
}

// Ack counts acknowledged bytes of a lease.
func (t *Table) Ack(l *Lease, n int64, now time.Time) {
	before := l.Room()
	l.Acked += n
	if l.FirstAck.IsZero() && n > 0 {
		l.FirstAck = now
	}
	if t.byUpload[l.Upload] == l {
		t.reserved += l.Room() - before
	}
}

// End removes one lease; nil when there is none.
func (t *Table) End(id proto.UploadID) *Lease {
	l := t.byUpload[id]
	if l != nil {
		t.remove(l)
	}
	return l
}

// EndSession removes all leases of a session and returns them in the order of their epochs.
func (t *Table) EndSession(s proto.SessionID) []*Lease {
	var out []*Lease
	for _, l := range t.bySession[s] {
		out = append(out, l)
	}
	return t.end(out)
}

// Count returns how many leases a session has.
func (t *Table) Count(s proto.SessionID) int { return len(t.bySession[s]) }

// Reserved returns the payload bytes that all leases together may still send.
func (t *Table) Reserved() int64 { return t.reserved }

// Again returns the content bytes of a dataset that come under leases because they are asked for again.
func (t *Table) Again(ds proto.DatasetID) int64 { return t.again[ds] }

// Len returns how many leases there are.
func (t *Table) Len() int { return len(t.byUpload) }

// Each calls fn for every lease.
func (t *Table) Each(fn func(*Lease)) {
	for _, l := range t.byUpload {
		fn(l)
	}
}

// EndIdle removes the leases that were active last at or before a running time and returns them in the order of their epochs. Streams,
// which wait for their targets, stay.
func (t *Table) EndIdle(up int64) (out []*Lease) {
	for _, l := range t.byUpload {
		if l.Active <= up && l.Allowance == 0 {
			out = append(out, l)
		}
	}
	return t.end(out)
}

// end removes leases and returns them in the order of their epochs.
func (t *Table) end(out []*Lease) []*Lease {
	slices.SortFunc(out, func(a, b *Lease) int { return cmp.Compare(a.Epoch.Counter, b.Epoch.Counter) })
	for _, l := range out {
		t.remove(l)
	}
	return out
}

func (t *Table) remove(l *Lease) {
	delete(t.byObject, object{l.Dataset, l.Path})
	delete(t.byUpload, l.Upload)
	if s := t.bySession[l.Session]; s != nil {
		delete(s, l.Upload)
		if len(s) == 0 {
			delete(t.bySession, l.Session)
		}
	}
	t.reserved -= l.Room()
	t.again[l.Dataset] -= l.coming()
}
