package ledger

import (
	"fmt"
	"slices"

	"forebay/proto"
	"forebay/proto/segment"
)

// A lost ledger is rebuilt into an empty one: Recover names it, RecoverHolders and SetLink make known who takes part,
// RecoverSegments records what the stores hold, Gather keeps what segments and targets say of each path, ledger/rebuild
// concludes from all of it what the path's state was, and RecoverObjects writes that. The evidence goes with EndRecovery.

// Recover begins a ledger that takes the place of a lost one.
type Recover struct {
	Relay      proto.RelayID
	Name       string
	Generation uint32 // at least that of any grant of the lost ledger
	Stores     []byte // identities, as SetStores has them
	// UpNs is the running time of the lost ledger as far as it is known: counts and graces go by it. 0: not known.
	UpNs int64
}

// RecoverHolders makes known again who was known, so that whoever is not there when the ledger is rebuilt still holds up
// deletes and tombstones. What they hold is not known: they tell it again.
type RecoverHolders struct {
	Nodes   []NodeRow
	Holders []HolderRow // their Dataset is not used
	Names   []proto.Dataset
	NowNs   int64
	UpNs    int64 // the running time at the rebuild
}

// RecoverSegments records segments that the stores hold. Nothing refers to them yet.
type RecoverSegments struct {
	Segments []RecoveredSegment
	NowNs    int64
}

// RecoveredSegment is a segment as the stores describe it.
type RecoveredSegment struct {
	Seq       uint64
	Dataset   proto.Dataset
	Length    int64
	Stored    int64
	Placement []byte
	Degraded  bool
	Refused   RefusedRow
}

// Gather keeps evidence until EndRecovery.
type Gather struct{ Evidence []Evidence }

// Evidence is what one piece of a segment or one entry of a target's journal says of a path. One of Piece and Target is set.
type Evidence struct {
	Dataset proto.Dataset  `cbor:"-"` // in the key, as an id
	Path    string         `cbor:"-"` // in the key
	N       uint64         `cbor:"-"` // in the key: tells evidence of one path apart; the caller numbers it
	Segment uint64         `cbor:"1,keyasint,omitempty"`
	Piece   *segment.Piece `cbor:"2,keyasint,omitempty"`
	Target  *OnTarget      `cbor:"3,keyasint,omitempty"`
	// Refused is why the piece made no version, where that is known; 0: it is not known that it made none.
	Refused proto.PieceState `cbor:"4,keyasint,omitempty"`
	// Told: of the pieces of its segment, all that were refused for what can be noted are known.
	Told bool `cbor:"5,keyasint,omitempty"`
}

// OnTarget is what the journal on a link's target says of a path.
type OnTarget struct {
	Link LinkID `cbor:"1,keyasint"`
	// Version is the newest one that the flush has dealt with there, by the numbers of the lost ledger.
	Version proto.VersionID `cbor:"2,keyasint"`
	// Gone: the path was deleted at Version. The mirror has Desc, which is version Holds, or nothing when that is 0: it has
	// something all the same where deletes are not propagated.
	Gone  bool            `cbor:"3,keyasint,omitempty"`
	Holds proto.VersionID `cbor:"4,keyasint,omitempty"`
	Desc  proto.Desc      `cbor:"5,keyasint"`
	// Begun, when not 0, is a version that a batch had begun to bring there and not ended, NextDesc its description: the mirror
	// may have either.
	Begun    proto.VersionID `cbor:"6,keyasint,omitempty"`
	NextDesc proto.Desc      `cbor:"7,keyasint"`
}

// RecoverObjects writes what paths of one dataset turned out to be.
type RecoverObjects struct {
	Dataset proto.DatasetID
	Objects []Recovered
	NowNs   int64
}

// Recovered is the state of a path as the evidence has it.
type Recovered struct {
	Path   string
	Desc   proto.Desc      // KindNone: nothing was sealed
	Since  proto.VersionID // see ObjectRow.Since
	Epoch  proto.Epoch
	Home   uint64 // the segment that describes it; 0: none
	At     Content
	Recent []Known
	// Owe are the links that have not got it, Have those that have.
	Owe  []RecoveredDebt
	Have []LinkID
	// Uploads are the ranges that At refers to and those of an upload that was being received.
	Uploads []RecoveredUpload
}

// RecoveredDebt is what a link lacks of a version.
type RecoveredDebt struct {
	Link     LinkID
	MetaOnly bool // it has the content
}

// RecoveredUpload is an upload as its pieces in the stores have it.
type RecoveredUpload struct {
	ID     proto.UploadID
	Size   int64
	Sealed bool
	Epoch  proto.Epoch
	Ranges []RecoveredRange // by offset
}

// RecoveredRange is one run of an upload's bytes.
type RecoveredRange struct {
	Offset int64
	Row    RangeRow
}

// EndRecovery drops the evidence, Limit rows at a time. Segments below Kept that the ledger does not know are left alone in
// the stores.
type EndRecovery struct {
	Limit int
	Kept  uint64

	Done bool // result
}

// SetFloor makes all datasets number their versions above floor from now on. It comes after the links are set: what a link
// owes of what was there before it is what the rebuild finds, nothing is seeded.
type SetFloor struct{ Floor proto.VersionID }

func (e *Recover) apply(tx *txn) error {
	m, err := tx.meta()
	if err != nil {
		return err
	}
	if m.Format != 0 {
		return fmt.Errorf("ledger: a ledger of generation %d is there already", m.Generation)
	}
	m.Format, m.Relay, m.Name, m.Generation, m.Rebuilt, m.Stores, m.UpNs = Format, e.Relay, e.Name, e.Generation, e.Generation, e.Stores, e.UpNs
	return nil
}

func (e *SetFloor) apply(tx *txn) error {
	m, err := tx.meta()
	if err != nil {
		return err
	}
	m.Floor = max(m.Floor, e.Floor)
	all, err := Datasets(tx)
	if err != nil {
		return err
	}
	for _, d := range all {
		row, err := tx.dataset(d.ID)
		if err != nil {
			return err
		}
		row.Head = max(row.Head, m.Floor)
	}
	return nil
}

func (e *RecoverHolders) apply(tx *txn) error {
	if len(e.Names) != len(e.Holders) {
		return fmt.Errorf("ledger: %d datasets for %d holders", len(e.Names), len(e.Holders))
	}
	for _, n := range e.Nodes {
		n.SeenNs, n.SeenUp = e.NowNs, e.UpNs // an absence counts from the rebuild
		if err := put(tx, key(pNode, n.Cluster+"/"+n.Node), n); err != nil {
			return err
		}
	}
	for i, h := range e.Holders {
		reg := &RegisterHolder{Dataset: e.Names[i], Node: h.Node, Root: h.Root, Index: "", NowNs: e.NowNs, UpNs: e.UpNs}
		if err := reg.apply(tx); err != nil {
			return err
		}
	}
	for _, n := range e.Nodes { // registering a root forgets what a hello would tell
		if err := put(tx, key(pNode, n.Cluster+"/"+n.Node), NodeRow{Cluster: n.Cluster, Node: n.Node, Instance: n.Instance, SeenNs: e.NowNs, SeenUp: e.UpNs,
			Cordoned: n.Cordoned, Uploaded: n.Uploaded, Takeovers: n.Takeovers, Software: n.Software}); err != nil {
			return err
		}
	}
	return nil
}

func (e *RecoverSegments) apply(tx *txn) error {
	m, err := tx.meta()
	if err != nil {
		return err
	}
	for _, s := range e.Segments {
		d, err := makeDataset(tx, s.Dataset)
		if err != nil {
			return err
		}
		row := SegmentRow{Dataset: d.ID, Length: s.Length, Stored: s.Stored, Placement: s.Placement, AckedNs: e.NowNs, Degraded: s.Degraded}
		if err := tx.addSegment(s.Seq, row); err != nil {
			return err
		}
		if len(s.Refused.Pieces) > 0 || s.Refused.Partly {
			if err := put(tx, key(pRefused, s.Seq), s.Refused); err != nil {
				return err
			}
		}
		m.Segments++
		m.StoredBytes += s.Stored
	}
	return nil
}

func (e *Gather) apply(tx *txn) error {
	for i := range e.Evidence {
		ev := &e.Evidence[i]
		d, err := makeDataset(tx, ev.Dataset)
		if err != nil {
			return err
		}
		if err := put(tx, key(pEvidence, d.ID, ev.Path, byte(0), ev.N), ev); err != nil {
			return err
		}
	}
	return nil
}

// EachEvidence calls fn with all that was gathered of each path of a dataset, in the order of the paths. What it gives is
// fn's.
func EachEvidence(r Rows, ds proto.DatasetID, fn func(path string, all []Evidence) error) error {
	lo := key(pEvidence, ds)
	var path string
	var all []Evidence
	done := func() error {
		if len(all) == 0 {
			return nil
		}
		group := all
		all = nil
		return fn(path, group)
	}
	err := r.Scan(lo, after(lo), func(k, b []byte) (bool, error) {
		var ev Evidence
		if err := proto.Unmarshal(b, &ev); err != nil {
			return false, err
		}
		ev.Path, ev.N = string(k[len(lo):len(k)-9]), tail64(k)
		if ev.Path != path {
			if err := done(); err != nil {
				return false, err
			}
			path = ev.Path
		}
		all = append(all, ev)
		return true, nil
	})
	if err != nil {
		return err
	}
	return done()
}

func (e *EndRecovery) apply(tx *txn) error {
	m, err := tx.meta()
	if err != nil {
		return err
	}
	m.Kept = e.Kept
	limit := max(e.Limit, 1)
	n, err := deleteRows(tx, []byte{pEvidence}, []byte{pEvidence + 1}, limit)
	e.Done = err == nil && n < limit
	return err
}

func (e *RecoverObjects) apply(tx *txn) error {
	d, err := tx.dataset(e.Dataset)
	if err != nil {
		return err
	}
	links, err := tx.links(e.Dataset)
	if err != nil {
		return err
	}
	for i := range e.Objects {
		if err := e.object(tx, d, links, &e.Objects[i]); err != nil {
			return fmt.Errorf("ledger: recover %q: %w", e.Objects[i].Path, err)
		}
	}
	return nil
}

func (e *RecoverObjects) object(tx *txn, d *DatasetRow, links []*LinkRow, r *Recovered) error {
	o := ObjectRow{Epoch: r.Epoch, Recent: r.Recent}
	for i := range r.Uploads {
		if err := e.upload(tx, r.Path, &r.Uploads[i]); err != nil {
			return err
		}
		if !r.Uploads[i].Sealed {
			o.Upload = r.Uploads[i].ID
		}
	}
	if r.Desc.Kind != proto.KindNone {
		if err := e.version(tx, d, links, r, &o); err != nil {
			return err
		}
	}
	for i := range r.Uploads {
		u := &r.Uploads[i]
		if !u.Sealed {
			if err := e.parent(tx, u.ID, o.Current.Version); err != nil {
				return err
			}
			continue
		}
		if err := changeUsers(tx, u.ID, -1); err != nil {
			return err
		}
	}
	return putObject(tx, key(pObject, e.Dataset, r.Path), &o)
}

// parent makes an upload that is being received one for the version after ver.
func (e *RecoverObjects) parent(tx *txn, id proto.UploadID, ver proto.VersionID) error {
	var u UploadRow
	if _, err := get(tx, key(pUpload, id), &u); err != nil {
		return err
	}
	u.Parent = ver
	return put(tx, key(pUpload, id), u)
}

// version makes r the current version of its path, with a number of its own.
func (e *RecoverObjects) version(tx *txn, d *DatasetRow, links []*LinkRow, r *Recovered, o *ObjectRow) error {
	d.Head++
	ver := d.Head
	if r.Desc.Kind != proto.KindTombstone {
		d.Objects++
		d.Bytes += r.Desc.Size
	}
	o.Current = Known{Version: ver, Kind: r.Desc.Kind, Size: r.Desc.Size, Digest: r.Desc.Digest, LinkTo: r.Desc.LinkTo}
	o.MtimeNs, o.Since = r.Desc.Meta.MtimeNs, r.Since
	v := VersionRow{Path: r.Path, Desc: r.Desc, SealedNs: e.NowNs, Epoch: r.Epoch, Home: r.Home}
	v.setContent(r.At)
	for _, debt := range r.Owe {
		i := slices.IndexFunc(links, func(l *LinkRow) bool { return l.ID == debt.Link })
		if i < 0 {
			return fmt.Errorf("link %d is none of its dataset", debt.Link)
		}
		q, err := v.debt(tx, links[i], e.NowNs)
		if err != nil {
			return err
		}
		if debt.MetaOnly && v.Desc.Kind.HasContent() {
			q.State, q.Bytes, q.Staged, q.MetaOnly = OwedCached, 0, 0, true
		}
		if err := change(tx, links[i], ver, &v, nil, &q); err != nil {
			return err
		}
	}
	if v.Need == 0 {
		v.Home = 0
	}
	if v.NeedBytes == 0 {
		v.setContent(Content{})
	}
	for _, l := range links {
		if slices.Contains(r.Have, l.ID) {
			l.ConfirmedObjects++
			l.ConfirmedBytes += r.Desc.Size
			l.ConfirmedNs = e.NowNs
		}
	}
	return settle(tx, e.Dataset, ver, &v)
}

// upload writes an upload and its ranges. It counts as being received until the version that it became is there.
func (e *RecoverObjects) upload(tx *txn, path string, r *RecoveredUpload) error {
	u := UploadRow{Dataset: e.Dataset, Path: path, Size: r.Size, Epoch: r.Epoch, Users: 1, Sealed: r.Sealed, BeganNs: e.NowNs}
	for _, g := range r.Ranges {
		if err := putRange(tx, r.ID, placed{g.Offset, g.Row}); err != nil {
			return err
		}
		u.Acked += int64(g.Row.Length)
		if g.Row.Same {
			u.Same += int64(g.Row.Length)
		}
	}
	return put(tx, key(pUpload, r.ID), u)
}

// RecoveredDigest is the content digest of an upload whose ranges are given by offset, with zeros between them; whole is false
// when a block is neither in a range nor in a hole of d.
func RecoveredDigest(ranges []RecoveredRange, d *proto.Desc) (sum proto.Digest, whole bool) {
	h := proto.NewContentHasher()
	next, holes := int64(0), holeWalker{extents: d.Extents}
	whole = true
	fill := func(to int64) {
		for next < to {
			n := min(int64(proto.BlockSize), d.Size-next)
			whole = whole && holes.covers(next, n)
			h.Add(proto.ZeroBlockDigest(n))
			next += n
		}
	}
	for _, g := range ranges {
		fill(min(g.Offset, d.Size))
		for _, b := range g.Row.Blocks {
			h.Add(b)
		}
		next = g.Offset + int64(g.Row.Length)
	}
	fill(d.Size)
	return h.Sum(), whole
}

// RecoverGuard puts back a link's count of deletes.
type RecoverGuard struct {
	Link       LinkID
	Deletes    map[int64]int64 // by hour, see LinkRow
	ApprovedNs int64
}

func (e *RecoverGuard) apply(tx *txn) error {
	l, err := tx.link(e.Link)
	if err != nil {
		return err
	}
	l.Deletes, l.ApprovedNs = e.Deletes, e.ApprovedNs
	return nil
}

// RecoverScan makes the next scan that is asked for a newer one than any before.
type RecoverScan struct{ Token uint64 }

func (e *RecoverScan) apply(tx *txn) error {
	return editMeta(tx, func(m *Meta) { m.ScanToken = max(m.ScanToken, e.Token) })
}
