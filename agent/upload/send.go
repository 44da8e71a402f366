package upload

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"forebay/proto"
	"forebay/proto/segment"
)

// The pauses between two tries to send the same segment.
const (
	resendMin = 100 * time.Millisecond
	resendMax = 5 * time.Second
)

// maxCorrupt is how often bytes may arrive wrong in a row before that is no accident on the way.
const maxCorrupt = 3

// put encodes pieces and sends them until the relay has answered: the same bytes again after a lost connection, so that
// bytes which had arrived are known as duplicates (I6). It fails with ClassPermanent or ClassCorrupt when the relay refuses
// them for good, with ClassConflict when the session is over, and with ctx's error.
func (u *Uploader) put(ctx context.Context, raw []byte, pieces int) (proto.SegmentReply, error) {
	back, corrupt := resendMin, 0
	for {
		reply, err := u.Relay.Segment(ctx, u.Session, raw)
		if ctx.Err() != nil {
			return reply, ctx.Err()
		}
		wait := back/2 + rand.N(back/2+1)
		switch class := proto.ClassOf(err); class {
		case "":
			if len(reply.Pieces) != pieces {
				return reply, proto.Errorf(proto.ClassPermanent, "the relay gave %d results for %d pieces", len(reply.Pieces), pieces)
			}
			return reply, nil
		case proto.ClassConflict:
			u.Events.Broken(err)
			return reply, err
		case proto.ClassPermanent:
			return reply, err
		case proto.ClassCorrupt:
			if corrupt++; corrupt == maxCorrupt {
				return reply, err
			}
		case proto.ClassOverload:
			wait = resendMax
			var e *proto.Error
			if errors.As(err, &e) && e.RetryAfter > 0 {
				wait = e.RetryAfter
			}
			u.Events.Paused(wait)
		}
		if err := pause(ctx, wait); err != nil {
			return reply, err
		}
		back = min(2*back, resendMax)
	}
}

// encode makes a segment of pieces around payload.
func (u *Uploader) encode(pieces []segment.Piece, payload []byte) ([]byte, error) {
	return segment.Encode(segment.Header{Dataset: u.Dataset, Pieces: pieces}, payload)
}

// encodeIn makes a segment of pieces around the first n bytes of the payload in r, where that is. r is not to be used for anything else as long as
// the segment is.
func (u *Uploader) encodeIn(pieces []segment.Piece, r *room, n int) ([]byte, error) {
	return segment.EncodeAt(segment.Header{Dataset: u.Dataset, Pieces: pieces}, r.upTo(n), headRoom)
}
