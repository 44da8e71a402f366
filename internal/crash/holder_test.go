package crash

import (
	"context"
	"maps"
	"slices"
	"sort"

	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/segment"
)

// object is what the source has at a path.
type object struct {
	kind    proto.Kind
	content string
	digest  proto.Digest
	linkTo  string
	mode    uint32
	mtime   int64
}

func (o object) desc() proto.Desc {
	return proto.Desc{Kind: o.kind, LinkTo: o.linkTo, Size: int64(len(o.content)), Digest: o.digest, Meta: proto.Meta{Mode: o.mode, MtimeNs: o.mtime}}
}

// large is from when on objects go in ranges of a block.
const large = proto.BlockSize + 1

// holder behaves as an agent does: it claims what the relay may not have, sends what it is told to, reports what is gone, and
// asks again when an answer did not come. What it knows outlives the relay.
type holder struct {
	w       *world
	node    string
	session proto.SessionID
	id      proto.HolderID
	cursor  proto.VersionID
	known   map[string]proto.VersionID // as an index has it
	agreed  map[string]object          // what the relay has of it, as the answers said
	gone    map[string]proto.VersionID // to be reported
	last    map[string]proto.Verdict
	idle    bool // does not claim
	stop    int  // ranges of large objects to send in this turn, when halting is set
	halting bool
	ruined  bool // more of the cache is spoiled than the parity: set for the world, on the first holder
	asked   map[string]bool
	partial map[string]partial
}

// partial is how much of an upload the relay acknowledged.
type partial struct {
	upload proto.UploadID
	bytes  int64
}

// unsettled lists the paths that the relay may not have as they are.
func (h *holder) unsettled() (out []string) {
	for p, o := range h.w.truth {
		if got, ok := h.agreed[p]; !ok || got != o {
			out = append(out, p)
		}
	}
	sort.Strings(out)
	return out
}

// work is one round of an agent. It gives up where the relay dies or does not know the session.
func (h *holder) work() {
	ctx, r := context.Background(), h.w.life.relay
	if h.last == nil {
		h.last, h.asked, h.gone, h.partial = map[string]proto.Verdict{}, map[string]bool{}, map[string]proto.VersionID{}, map[string]partial{}
	}
	for p, v := range h.known {
		if _, ok := h.w.truth[p]; !ok {
			h.gone[p] = v
		}
	}
	for p := range h.gone {
		if _, ok := h.w.truth[p]; ok {
			delete(h.gone, p)
		}
	}
	if h.session == 0 {
		rep, err := r.Hello(ctx, proto.Hello{Version: proto.Version, Cluster: dataset.Cluster, Node: h.node, Instance: "i-" + h.node, Boot: "b-" + h.node,
			Roots: []proto.Root{{Dataset: dataset.Name, Path: "/srv", Index: "x-" + h.node}}, ClockNs: h.w.at.UnixNano()}, "127.0.0.1", "127.0.0.1:1")
		if !h.usable(err) {
			return
		}
		h.session, h.id = rep.Session, rep.Holders[0]
	}
	rep, err := r.Poll(ctx, proto.Poll{Session: h.session, ClockNs: h.w.at.UnixNano(), Roots: []proto.RootStatus{{Holder: h.id, Cursor: h.cursor,
		LastScanNs: h.w.at.UnixNano(), UnsentCount: int64(len(h.unsettled()) + len(h.gone)), Watch: "scan"}}})
	if !h.usable(err) {
		return
	}
	for _, d := range rep.Datasets {
		if !h.follow(d) {
			return
		}
	}
	if !h.idle && !h.reportGone() {
		return
	}
	todo := h.unsettled()
	for p := range h.asked {
		if _, ok := h.w.truth[p]; ok && !slices.Contains(todo, p) {
			todo = append(todo, p)
		}
	}
	sort.Strings(todo)
	if h.idle || len(todo) == 0 {
		return
	}
	b := proto.ClaimBatch{Session: h.session, Holder: h.id}
	for _, p := range todo {
		o := h.w.truth[p]
		d := o.desc()
		c := proto.Claim{Path: p, Kind: o.kind, Size: d.Size, MtimeNs: o.mtime, Parent: h.known[p], Digest: d.Digest, HasDigest: true, LinkTo: o.linkTo}
		if was, ok := h.agreed[p]; ok && was.mode != o.mode {
			c.Changed, c.Meta = proto.FieldMode, &d.Meta
		}
		b.Claims = append(b.Claims, c)
	}
	ans, err := r.Claim(ctx, b)
	if !h.usable(err) {
		return
	}
	h.answer(todo, ans.Answers)
}

// usable reports whether an answer came. An unknown session is opened anew in the next round.
func (h *holder) usable(err error) bool {
	if h.w.life.dead.Load() {
		return false // nobody heard it
	}
	if err == nil {
		return true
	}
	switch proto.ClassOf(err) {
	case proto.ClassConflict:
		h.session = 0
		return false
	case proto.ClassOverload, proto.ClassTransient:
		return false
	}
	if h.w.disks.bad() {
		return false
	}
	require.NoError(h.w.t, err, "%s: node %s", h.w, h.node)
	return false
}

func (h *holder) follow(d proto.DatasetStatus) bool {
	ctx, r := context.Background(), h.w.life.relay
	for h.cursor < d.Head {
		rep, err := r.Feed(ctx, proto.FeedRequest{Session: h.session, Dataset: d.Dataset, After: h.cursor, Limit: 100}, false)
		if !h.usable(err) {
			return false
		}
		if rep.Next <= h.cursor {
			break
		}
		h.cursor = rep.Next
	}
	clear(h.asked)
	if d.Asked == 0 {
		return true
	}
	rep, err := r.Feed(ctx, proto.FeedRequest{Session: h.session, Dataset: d.Dataset, Limit: 100}, true)
	if !h.usable(err) {
		return false
	}
	for _, it := range rep.Items {
		h.asked[it.Path] = true
	}
	return true
}

func (h *holder) reportGone() bool {
	r := proto.Report{Session: h.session, Holder: h.id, First: true, ScanDone: true}
	for _, p := range slices.Sorted(maps.Keys(h.gone)) {
		r.Gone = append(r.Gone, proto.GoneEntry{Path: p, Version: h.gone[p]})
	}
	if len(r.Gone) == 0 {
		return true
	}
	if _, err := h.w.life.relay.Report(context.Background(), r); !h.usable(err) {
		return false
	}
	for p := range h.gone {
		delete(h.known, p)
		delete(h.agreed, p)
	}
	clear(h.gone)
	return true
}

// answer does what the relay answered to claims.
func (h *holder) answer(todo []string, answers []proto.ClaimAnswer) {
	var pieces []segment.Piece
	var payload []byte
	for i, a := range answers {
		p, o := todo[i], h.w.truth[todo[i]]
		h.last[p] = a.Verdict
		d := o.desc()
		switch {
		case a.Verdict == proto.VerdictHave:
			h.settle(p, o, a.Version, false)
		case a.Verdict == proto.VerdictSendMeta:
			pieces = append(pieces, segment.Piece{Kind: segment.PieceMeta, Path: p, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version, At: uint32(len(payload)), Desc: &d})
		case a.Verdict == proto.VerdictInvalid:
			h.w.t.Fatalf("%s: %s: %s", h.w, p, a.Reason)
		case a.Verdict != proto.VerdictSend:
		case o.kind == proto.KindFile && len(o.content) >= large:
			if !h.sendLarge(p, o, a) {
				return
			}
		default:
			piece := segment.Piece{Kind: segment.PieceObject, Path: p, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version, At: uint32(len(payload)), Desc: &d}
			if o.kind == proto.KindFile {
				piece.Length, piece.Blocks = uint32(len(o.content)), proto.BlockDigests(nil, []byte(o.content))
				payload = append(payload, o.content...)
			}
			pieces = append(pieces, piece)
		}
	}
	if len(pieces) > 0 {
		h.send(pieces, payload)
	}
}

// send sends a segment and notes what was accepted. It reports whether an answer came.
func (h *holder) send(pieces []segment.Piece, payload []byte) ([]proto.PieceResult, bool) {
	raw, err := segment.Encode(segment.Header{Dataset: dataset, Pieces: pieces}, payload)
	require.NoError(h.w.t, err)
	rep, err := h.w.life.relay.Segment(context.Background(), h.session, raw)
	if !h.usable(err) {
		return nil, false
	}
	for i, res := range rep.Pieces {
		p := pieces[i]
		if res.State == proto.PieceAccepted {
			h.w.bytes += int64(p.Length)
			if p.Kind == segment.PieceRange {
				had := h.partial[p.Path]
				if had.upload != p.Upload {
					had = partial{upload: p.Upload}
				}
				had.bytes += int64(p.Length)
				h.partial[p.Path] = had
			}
		}
		if res.Version != 0 && (res.State == proto.PieceAccepted || res.State == proto.PieceEqual) {
			h.settle(p.Path, h.w.truth[p.Path], res.Version, true)
		}
	}
	return rep.Pieces, true
}

func (h *holder) settle(path string, o object, v proto.VersionID, _ bool) {
	h.known[path], h.agreed[path] = v, o
	h.w.acked[path] = max(h.w.acked[path], v)
	delete(h.partial, path)
}

// sendLarge sends what the relay lacks of a large object, a range a segment, and seals it.
func (h *holder) sendLarge(path string, o object, a proto.ClaimAnswer) bool {
	have := int64(0)
	for _, r := range a.Have {
		have += r.Length
	}
	if was := h.partial[path]; was.upload == a.Upload && was.bytes > have {
		h.w.t.Errorf("%s: %d bytes of %q were acknowledged, the relay knows of %d (I9)", h.w, was.bytes, path, have)
	}
	base := segment.Piece{Path: path, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version}
	for off := 0; off < len(o.content); off += proto.BlockSize {
		if slices.ContainsFunc(a.Have, func(r proto.Range) bool { return r.Offset <= int64(off) && int64(off) < r.Offset+r.Length }) {
			continue
		}
		if h.halting && h.stop == 0 {
			return false
		}
		h.stop--
		run := []byte(o.content[off:min(off+proto.BlockSize, len(o.content))])
		p := base
		p.Kind, p.Offset, p.Length, p.ObjectSize, p.Blocks = segment.PieceRange, int64(off), uint32(len(run)), int64(len(o.content)), proto.BlockDigests(nil, run)
		if res, ok := h.send([]segment.Piece{p}, run); !ok || res[0].State == proto.PieceStale {
			return false
		}
	}
	d := o.desc()
	p := base
	p.Kind, p.Desc = segment.PieceSeal, &d
	_, ok := h.send([]segment.Piece{p}, nil)
	return ok
}
