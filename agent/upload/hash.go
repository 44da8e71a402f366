package upload

import (
	"context"

	"golang.org/x/time/rate"

	"forebay/agent/index"
	"forebay/proto"
)

// Hash reads the object of e for its content digest. It fails with a *Spoiled when the object cannot be read as the index
// has it, and with ctx's error. rest is called after each block that was read, and may wait: hashing gives way to sending.
func Hash(ctx context.Context, tree Tree, limit *rate.Limiter, e index.Entry, rest func(context.Context) error) (proto.Digest, error) {
	o, bad := open(tree, e)
	if bad != nil {
		return proto.Digest{}, bad
	}
	defer o.close()
	size := e.Stat.Size
	holes := newBlocks(size)
	list, bad := o.holes()
	if bad != nil {
		return proto.Digest{}, bad
	}
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
		if err := paceRead(ctx, limit, n); err != nil {
			return proto.Digest{}, err
		}
		if bad := o.readAt(buf[:n], i*proto.BlockSize); bad != nil {
			return proto.Digest{}, bad
		}
		content.Add(proto.BlockDigest(buf[:n]))
		if err := rest(ctx); err != nil {
			return proto.Digest{}, err
		}
	}
	if bad := o.check(); bad != nil {
		return proto.Digest{}, bad
	}
	return content.Sum(), nil
}
