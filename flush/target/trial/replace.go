package trial

import (
	"bytes"
	"errors"
	"fmt"

	"forebay/flush/target"
	"forebay/proto"
)

// replaced is the object that is put twice, and its sizes and contents.
const (
	replaced      = "replaced"
	replacedBytes = 100_000
	firstSeed     = 2
	secondSeed    = 3
)

// replace puts one content over another of the same size, and keeps the one before where the target can.
func (t *try) replace() (string, error) {
	first, second := content(replacedBytes, firstSeed), content(replacedBytes, secondSeed)
	if err := t.put(replaced, first); err != nil {
		return "", err
	}
	h := t.tgt.History()
	k := target.Keep{Path: replaced, Size: replacedBytes, Digest: proto.ContentDigest(first)}
	k.Name = target.NameKept(k.Path, k.Digest)
	if h != nil {
		t.kept = k.Name
		if err := errors.Join(h.Keep(t.ctx, []target.Keep{k})...); err != nil {
			return "", fmt.Errorf("keep what is replaced: %w", err)
		}
	}
	if err := t.put(replaced, second); err != nil {
		return "", err
	}
	if err := t.holds(replaced, second); err != nil {
		return "", err
	}
	if h == nil {
		return "without history: what is replaced cannot be kept", nil
	}
	in, err := h.Open(t.ctx, k.Name)
	if err == nil {
		err = compare(in, first)
	}
	if err != nil {
		return "", fmt.Errorf("what was replaced: %w", err)
	}
	return "what is replaced can be kept for history", nil
}

// put writes a content and puts it in its place.
func (t *try) put(name string, p []byte) error {
	if err := t.write(name, p); err != nil {
		return err
	}
	return t.commit(put(name, p))
}

// reuse replaces the large content by one whose first byte differs, and lets the target take the rest from what it has.
func (t *try) reuse() (string, error) {
	old := content(t.o.Large, largeSeed)
	next := bytes.Clone(old)
	next[0]++
	c := staged("large", next)
	c.Reuses = true
	w, err := t.stage(c)
	if err != nil {
		return "", err
	}
	u, able := w.(target.Reuser)
	if !able {
		return "a large object that changes goes through the relay whole", errors.Join(w.Close(), t.unstage())
	}
	if _, err = w.Write(next[:min(proto.BlockSize, len(next))]); err == nil {
		err = t.reuseRest(w, u, next, []proto.Digest{proto.ContentDigest(old)})
	}
	if err != nil {
		return "", errors.Join(err, w.Close())
	}
	if err := t.finish(w, "large", next); err != nil {
		return "", err
	}
	if err := t.commit(put("large", next)); err != nil {
		return "", err
	}
	return "of a large object that changes, what did not change is not sent again", t.holds("large", next)
}

func (t *try) reuseRest(w target.Stage, u target.Reuser, next []byte, was []proto.Digest) error {
	for off := w.Offset(); off < int64(len(next)); off = w.Offset() {
		end := min(off+proto.BlockSize, int64(len(next)))
		if err := u.Reuse(t.ctx, end-off, proto.BlockDigest(next[off:end]), was); err != nil {
			return err
		}
	}
	return nil
}
