package upload

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"forebay/agent/index"
	"forebay/agent/settle"
	"forebay/proto"
)

// Hasher reads contents of one root to prove them.
type Hasher struct {
	Tree     Tree
	Read     *rate.Limiter // bytes read from disk; nil = no limit
	Reads    *Reads        // the root's
	Patience time.Duration // from when on a read is shown as slow; nobody else waits for it, so it is never given up
}

// Hash reads the object of e for its content digest. It fails with a *Spoiled when the object cannot be read as the index
// has it, and with ctx's error. rest is called after each block that was read, and may wait: hashing gives way to sending.
func (h Hasher) Hash(ctx context.Context, e index.Entry, rest func(context.Context) error) (proto.Digest, error) {
	if h.Reads.hangs(e.Path) { // the next read would hang as well, and all that waits to be read behind it
		return proto.Digest{}, &Spoiled{Fault: settle.FaultRead, Reason: SlowRead + ": the disk has not answered the last one yet"}
	}
	w := watch{path: e.Path, patience: h.Patience}
	o, list, err := openWatched(h.Tree, e, func(fn func(func()) error, drop func()) (bool, error) { return h.Reads.do(ctx, w, fn, drop) })
	if err != nil {
		return proto.Digest{}, err
	}
	defer o.close()
	size := e.Stat.Size
	holes := newBlocks(size)
	for _, x := range list {
		if x.Kind == proto.ExtentHole {
			holes.setWithin(x.Offset, x.Length, size)
		}
	}
	buf := make([]byte, min(size, proto.BlockSize))
	content := proto.NewContentHasher()
	for i := range holes.n {
		n := blockLen(i, size)
		if holes.has(i) {
			content.Add(proto.ZeroBlockDigest(n))
			continue
		}
		if err := h.Reads.pace(ctx, h.Read, n); err != nil {
			return proto.Digest{}, err
		}
		if _, err := h.Reads.do(ctx, w, func(step func()) error { return asError(o.readAt(buf[:n], i*proto.BlockSize, step)) }, nil); err != nil {
			return proto.Digest{}, err
		}
		content.Add(proto.BlockDigest(buf[:n]))
		if err := rest(ctx); err != nil {
			return proto.Digest{}, err
		}
	}
	if _, err := h.Reads.do(ctx, w, func(func()) error { return asError(o.check()) }, nil); err != nil {
		return proto.Digest{}, err
	}
	return content.Sum(), nil
}
