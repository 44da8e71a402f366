package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"forebay/agent/client"
	"forebay/agent/session"
	"forebay/internal/show"
	"forebay/proto"
	"forebay/proto/segment"
)

// What the sender has under way: as much as an agent.
const (
	inFlight    = proto.DefaultWindow / proto.SegmentTarget
	largeObject = 64 << 20
	senders     = 2 // large objects at once, so that one is sealed while the next is sent
)

// sender sends objects that it makes up to a relay, with the calls of an agent.
type sender struct {
	client  *client.Client
	session *session.Session
	now     func() time.Time
	free    chan []byte   // payloads that are not under way
	serial  atomic.Uint64 // makes each block another one
}

// hail opens a session.
func hail(ctx context.Context, url string, now func() time.Time) (*sender, error) {
	c := client.New(url, inFlight+senders, nil)
	s, err := session.Open(ctx, []*client.Client{c}, proto.Hello{
		Version: proto.Version, Software: "bench", Cluster: dataset.Cluster, Node: "bench", Instance: uuid.NewString(), Boot: uuid.NewString(),
		ClockNs: now().UnixNano(),
		Roots:   []proto.Root{{Dataset: dataset.Name, Path: "/bench", Index: uuid.NewString()}},
	}, session.Deps{Now: now, Notice: func() string { return "" }, Polled: func(proto.PollReply) {},
		Roots: func() []proto.RootStatus { return []proto.RootStatus{{Watch: "scan"}} }})
	if err != nil {
		return nil, err
	}
	out := &sender{client: c, session: s, now: now, free: make(chan []byte, inFlight)}
	for range inFlight {
		out.free <- noise(proto.SegmentTarget)
	}
	return out, nil
}

// payload takes one that is free, with other content than any before.
func (c *sender) payload(ctx context.Context) ([]byte, error) {
	select {
	case p := <-c.free:
		for at := 0; at < len(p); at += smallSize {
			binary.BigEndian.PutUint64(p[at:], c.serial.Add(1))
		}
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// claim asks for the right to send objects.
func (c *sender) claim(ctx context.Context, claims []proto.Claim) ([]proto.ClaimAnswer, error) {
	r, err := c.client.Claim(ctx, proto.ClaimBatch{Session: c.session.Hello.Session, Holder: c.session.Hello.Holders[0], Claims: claims})
	if err != nil {
		return nil, err
	}
	for _, a := range r.Answers {
		if a.Verdict != proto.VerdictSend {
			return nil, fmt.Errorf("the measured relay does not take an object (verdict %d): %s", a.Verdict, a.Reason)
		}
	}
	return r.Answers, nil
}

// put sends pieces; all have to be accepted.
func (c *sender) put(ctx context.Context, pieces []segment.Piece, payload []byte) error {
	raw, err := segment.Encode(segment.Header{Dataset: dataset, Pieces: pieces}, payload)
	if err != nil {
		return err
	}
	r, err := c.client.Segment(ctx, c.session.Hello.Session, raw)
	if err != nil {
		return err
	}
	for _, p := range r.Pieces {
		if p.State != proto.PieceAccepted {
			return fmt.Errorf("the measured relay does not accept a piece (state %d)", p.State)
		}
	}
	return nil
}

// large sends large objects until a moment, or until so many bytes were acknowledged.
func (c *sender) large(ctx context.Context, until time.Time, bytes int64, bar *show.Bar) (int64, error) {
	size := min(int64(largeObject), max(bytes/senders/proto.SegmentTarget, 2)*proto.SegmentTarget)
	var given, done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range senders {
		g.Go(func() error { // ends with the time, the bytes, or ctx
			for {
				n := given.Add(1)
				if n > 1 && (n*size > bytes || !c.now().Before(until)) {
					return nil
				}
				if err := c.object(ctx, fmt.Sprintf("large/%06d", n), size, func(n int64) { done.Add(n); bar.Add(n) }); err != nil {
					return err
				}
			}
		})
	}
	err := g.Wait()
	return done.Load(), err
}

// object sends one object in segments side by side and seals it.
func (c *sender) object(ctx context.Context, path string, size int64, acked func(int64)) error {
	answers, err := c.claim(ctx, []proto.Claim{{Path: path, Kind: proto.KindFile, Size: size, MtimeNs: 1e18}})
	if err != nil {
		return err
	}
	piece := segment.Piece{Path: path, Upload: answers[0].Upload, Epoch: answers[0].Epoch, Parent: answers[0].Version}
	digests := make([]proto.Digest, proto.Blocks(size))
	g, run := errgroup.WithContext(ctx)
	for at := int64(0); at < size; at += proto.SegmentTarget {
		p, err := c.payload(run)
		if err != nil {
			break // g has the reason
		}
		g.Go(func() error { // ends with the relay's answer, or ctx
			defer func() { c.free <- p }()
			from, to := proto.Blocks(at), proto.Blocks(at+proto.SegmentTarget)
			proto.BlockDigests(digests[from:from:to], p)
			part := piece
			part.Kind, part.Offset, part.Length, part.Blocks, part.ObjectSize = segment.PieceRange, at, proto.SegmentTarget, digests[from:to], size
			if err := c.put(run, []segment.Piece{part}, p); err != nil {
				return err
			}
			acked(proto.SegmentTarget)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	piece.Kind = segment.PieceSeal
	piece.Desc = &proto.Desc{Kind: proto.KindFile, Size: size, Digest: proto.DigestOfBlocks(digests), Meta: proto.Meta{Mode: 0o644,
		MtimeNs: 1e18}}
	return c.put(ctx, []segment.Piece{piece}, nil)
}

// small sends small objects, packed, until a moment, or until so many were acknowledged.
func (c *sender) small(ctx context.Context, until time.Time, objects int64, bar *show.Bar) (int64, error) {
	var given, done atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range inFlight {
		g.Go(func() error { // ends with the time, the number, or ctx
			for {
				n := given.Add(1)
				if n > 1 && (n*proto.MaxClaims > objects || !c.now().Before(until)) {
					return nil
				}
				if err := c.pack(ctx, n); err != nil {
					return err
				}
				done.Add(proto.MaxClaims)
				bar.Add(proto.MaxClaims)
			}
		})
	}
	err := g.Wait()
	return done.Load(), err
}

// pack claims and sends as many objects as a claim may have, in one segment.
func (c *sender) pack(ctx context.Context, n int64) error {
	claims := make([]proto.Claim, proto.MaxClaims)
	for i := range claims {
		claims[i] = proto.Claim{Path: fmt.Sprintf("small/%06d/%04d", n, i), Kind: proto.KindFile, Size: smallSize, MtimeNs: 1e18}
	}
	answers, err := c.claim(ctx, claims)
	if err != nil {
		return err
	}
	p, err := c.payload(ctx)
	if err != nil {
		return err
	}
	defer func() { c.free <- p }()
	pieces := make([]segment.Piece, len(claims))
	for i, a := range answers {
		blocks := proto.BlockDigests(nil, p[i*smallSize:(i+1)*smallSize])
		pieces[i] = segment.Piece{Kind: segment.PieceObject, Path: claims[i].Path, Upload: a.Upload, Epoch: a.Epoch, Parent: a.Version,
			At: uint32(i * smallSize), Length: smallSize, Blocks: blocks,
			Desc: &proto.Desc{Kind: proto.KindFile, Size: smallSize, Digest: proto.DigestOfBlocks(blocks), Meta: proto.Meta{Mode: 0o644,
				MtimeNs: 1e18}}}
	}
	return c.put(ctx, pieces, p[:len(claims)*smallSize])
}
