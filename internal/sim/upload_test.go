package sim

import (
	"fmt"
	"slices"
	"time"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/proto"
	"forebay/proto/segment"
)

// Uploads as in agent/upload: small objects whole and packed, large ones in ranges of blocks, several under way, the seal last.

// job is an object with the relay's grant for it.
type job struct {
	entry    index.Entry
	upload   proto.UploadID
	epoch    proto.Epoch
	parent   proto.VersionID
	have     []proto.Range
	metaOnly bool

	// Of a large one.
	acked   []bool
	flying  int
	digests []proto.Digest
	ended   bool
	sealing bool
}

// large objects travel in ranges. In the simulation two blocks suffice for that, so that objects stay small.
func (j *job) large() bool {
	return !j.metaOnly && j.entry.Kind == proto.KindFile && j.entry.Stat.Size > proto.BlockSize
}

// outcome is what became of a job; as in agent/upload.
type outcome uint8

const (
	sealed outcome = iota + 1
	lags
	again
	failed
)

func outcomeOf(r proto.PieceResult) outcome {
	switch {
	case r.State == proto.PieceLags:
		return lags
	case r.Version == 0:
		return again
	case r.State == proto.PieceAccepted, r.State == proto.PieceDuplicate, r.State == proto.PieceEqual:
		return sealed
	}
	return again
}

// put sends pieces until there is an answer, the same bytes again after a lost connection.
func (a *agent) put(what string, pieces []segment.Piece, payload []byte, then func(proto.SegmentReply), refused func(error)) {
	raw, err := segment.Encode(segment.Header{Dataset: media, Pieces: pieces}, payload)
	if err != nil {
		refused(err)
		return
	}
	s, back := a.session, 100*time.Millisecond
	var send func()
	send = func() {
		if a.session != s {
			return
		}
		retry := func(d time.Duration) {
			a.w.count("segments sent again")
			a.within(d, "again "+what, send)
			back = min(2*back, 5*time.Second)
		}
		a.w.net.call(a, what, callTimeout, func() func() {
			rep, err := a.w.relay.segment(a, s.id, raw)
			return func() {
				if a.session != s {
					return
				}
				switch proto.ClassOf(err) {
				case "":
					then(rep)
				case proto.ClassConflict:
					a.broken(err.Error())
				case proto.ClassPermanent, proto.ClassCorrupt:
					refused(err)
				case proto.ClassOverload:
					a.w.note("%v", err)
					a.failedCall(err)
					retry(5 * time.Second)
				default:
					a.w.note("%v", err)
					retry(back)
				}
			}
		}, func(error) { retry(back) })
	}
	send()
}

// startPack reads small objects and sends them together.
func (a *agent) startPack(jobs []*job) {
	a.within(a.w.between(time.Millisecond, 20*time.Millisecond), "read pack", func() {
		var pieces []segment.Piece
		var payload []byte
		var in []*job
		var metas []proto.Meta
		for _, j := range jobs {
			f, bad := a.read(j.entry)
			if bad != nil {
				a.done(j, failed, proto.PieceResult{}, [4]uint64{}, bad)
				continue
			}
			p := segment.Piece{Kind: segment.PieceObject, Path: j.entry.Path, Upload: j.upload, Epoch: j.epoch, Parent: j.parent, At: uint32(len(payload))}
			d := proto.Desc{Kind: j.entry.Kind, LinkTo: j.entry.LinkTo, Meta: f.meta()}
			if j.metaOnly {
				p.Kind = segment.PieceMeta
			}
			if j.entry.Kind == proto.KindFile {
				d.Size, d.Digest = f.data.size(), f.data.digest
				if !j.metaOnly {
					p.Length, p.Blocks = uint32(f.data.size()), f.data.blocks
					payload = append(payload, f.data.bytes...)
				} else {
					d.Digest, _ = settle.Content(j.entry)
				}
				j.entry.Digest, j.entry.HasDigest = d.Digest, true
			} else {
				d.Digest, _ = settle.Content(j.entry)
			}
			p.Desc = &d
			pieces, in, metas = append(pieces, p), append(in, j), append(metas, d.Meta)
		}
		if len(pieces) == 0 {
			return
		}
		a.put(fmt.Sprintf("segment of %d", len(pieces)), pieces, payload, func(rep proto.SegmentReply) {
			for i, r := range rep.Pieces {
				o := outcomeOf(r)
				a.w.note("%s: %d v%d", in[i].entry.Path, r.State, r.Version)
				a.done(in[i], o, r, metas[i].Sums(), nil)
			}
		}, func(err error) {
			for _, j := range in {
				a.done(j, failed, proto.PieceResult{}, [4]uint64{}, &spoiled{fault: settle.FaultRefused, reason: "refused: " + err.Error()})
			}
		})
	})
}

// done writes the end of a job into the index, as agent/work does.
func (a *agent) done(j *job, o outcome, r proto.PieceResult, sums [4]uint64, bad *spoiled) {
	state, v := r.State, r.Version
	j.ended = true
	path, now := j.entry.Path, a.clock.now()
	delete(a.busy, path)
	a.workSoon(0)
	sent, claimed := j.entry, j.entry
	known := state != proto.PieceAccepted || v <= j.parent
	if cur, ok := a.ix.entries[path]; ok {
		switch {
		case o == sealed && known && !j.metaOnly:
			cur = settle.Brought(cur, sent, v, now)
		case o == sealed:
			cur = settle.Agree(cur, sent, v, sums, now)
		case o == lags:
			cur = settle.Lagged(cur, sent)
		case o == again:
			cur = settle.Requeue(cur, now.Add(a.suspicion/10))
		case bad.gone:
			cur = settle.Vanished(cur, now)
		default:
			cur = settle.Failed(cur, claimed, bad.fault, bad.reason, bad.fresh, now)
		}
		a.ix.entries[path] = cur
	}
	if o != failed {
		return
	}
	a.w.note("%s failed: %s", path, bad.reason)
	back := proto.Abandon{Uploads: []proto.UploadID{j.upload}}
	switch bad.fault {
	case settle.FaultChanged:
		back.Changed = true
	case settle.FaultRead:
		back.ReadError = bad.reason
		a.w.count("read errors")
	}
	a.giveBack(back)
}

// startLarge begins an upload in ranges.
func (a *agent) startLarge(j *job) {
	n := proto.Blocks(j.entry.Stat.Size)
	j.acked, j.digests = make([]bool, n), make([]proto.Digest, n)
	for _, r := range j.have {
		for b := r.Offset / proto.BlockSize; b < proto.Blocks(r.Offset+r.Length); b++ {
			j.acked[b] = true
		}
	}
	sent := append([]bool(nil), j.acked...)
	a.within(a.w.between(time.Millisecond, 20*time.Millisecond), "open "+j.entry.Path, func() { a.pump(j, sent) })
}

// rangesInFlight is the window of the model.
const rangesInFlight = 2

// pump sends the next missing range, proves what the relay had before, and seals when all is there.
func (a *agent) pump(j *job, sent []bool) {
	if j.ended || j.sealing {
		return
	}
	f, bad := a.read(j.entry)
	if bad != nil {
		a.done(j, failed, proto.PieceResult{}, [4]uint64{}, bad)
		return
	}
	from := -1
	for b := range sent {
		if j.acked[b] && j.digests[b] == (proto.Digest{}) {
			j.digests[b] = f.data.blocks[b] // what the relay had before is read, not sent
		}
		if !sent[b] && from < 0 {
			from = b
		}
	}
	if from < 0 {
		if j.flying == 0 {
			a.seal(j, f)
		}
		return
	}
	if j.flying >= rangesInFlight {
		return
	}
	to := min(from+1+a.w.rng.IntN(2), len(sent))
	for b := from; b < to; b++ {
		if sent[b] {
			to = b
			break
		}
		sent[b], j.digests[b] = true, f.data.blocks[b]
	}
	off := int64(from) * proto.BlockSize
	end := min(int64(to)*proto.BlockSize, f.data.size())
	p := segment.Piece{Kind: segment.PieceRange, Path: j.entry.Path, Upload: j.upload, Epoch: j.epoch, Parent: j.parent, Offset: off,
		Length: uint32(end - off), Blocks: f.data.blocks[from:to], ObjectSize: f.data.size()}
	j.flying++
	a.put(fmt.Sprintf("range %s %d", j.entry.Path, off), []segment.Piece{p}, f.data.bytes[off:end], func(rep proto.SegmentReply) {
		j.flying--
		st := rep.Pieces[0].State
		a.w.note("state %d", st)
		if j.ended {
			return
		}
		if st != proto.PieceAccepted && st != proto.PieceDuplicate {
			a.done(j, again, proto.PieceResult{}, [4]uint64{}, nil)
			return
		}
		for b := from; b < to; b++ {
			j.acked[b] = true
		}
		prefix := int64(0)
		for prefix < int64(len(j.acked)) && j.acked[prefix] {
			prefix++
		}
		a.gossip(proto.ProgressItem{Path: j.entry.Path, Upload: j.upload, Epoch: j.epoch, Acked: min(prefix*proto.BlockSize, f.data.size()), Size: f.data.size()})
		if slices.Contains(j.acked, false) {
			a.w.halfThere(a, j)
		}
		a.pump(j, sent)
	}, func(err error) {
		j.flying--
		if !j.ended {
			a.done(j, failed, proto.PieceResult{}, [4]uint64{}, &spoiled{fault: settle.FaultRefused, reason: "refused: " + err.Error()})
		}
	})
	a.within(a.w.between(time.Millisecond, a.w.cfg.pace), "next range "+j.entry.Path, func() { a.pump(j, sent) })
	a.w.midObject(a, j)
}

func (a *agent) seal(j *job, f *file) {
	j.sealing = true
	h := proto.NewContentHasher()
	for _, d := range j.digests {
		h.Add(d)
	}
	desc := proto.Desc{Kind: proto.KindFile, Size: f.data.size(), Digest: h.Sum(), Meta: f.meta()}
	j.entry.Digest, j.entry.HasDigest = desc.Digest, true
	p := segment.Piece{Kind: segment.PieceSeal, Path: j.entry.Path, Upload: j.upload, Epoch: j.epoch, Parent: j.parent, Desc: &desc}
	a.put("seal "+j.entry.Path, []segment.Piece{p}, nil, func(rep proto.SegmentReply) {
		r := rep.Pieces[0]
		a.w.note("%d v%d", r.State, r.Version)
		a.done(j, outcomeOf(r), r, desc.Meta.Sums(), nil)
	}, func(err error) {
		a.done(j, failed, proto.PieceResult{}, [4]uint64{}, &spoiled{fault: settle.FaultRefused, reason: "refused: " + err.Error()})
	})
}
