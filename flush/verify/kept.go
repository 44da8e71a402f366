package verify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/proto"
)

// keptRound bounds the kept contents that are compared at once, in memory.
const keptRound = 200_000

// wanted is a content that the journal says is kept.
type wanted struct {
	path   string
	size   int64
	digest proto.Digest
	must   bool // else it may be there
	until  int64
}

// Kept compares what a target has kept with what the journal says of the past, and calls fn for each difference: a content that is
// missing or of another size, when deep one whose bytes are not what their digest says, and a stray that no version has, whose Path
// is its record. A batch that is under way, or was cut short, may show as a stray: see to it that none is before strays are removed.
func Kept(ctx context.Context, t target.Target, j *journal.Journal, prefixKey string, o Options, fn func(Difference) error) (Report, error) {
	h, ok := j.History()
	if !ok {
		return Report{}, nil
	}
	if t.History() == nil {
		return Report{}, proto.Errorf(proto.ClassPermanent, "verify: this way to the target does not know what it has kept")
	}
	v := &keptVerifier{ctx: ctx, t: t, j: j, h: h, key: prefixKey, o: o, fn: fn}
	rounds := j.PastEntries()/keptRound + 1
	for round := range rounds {
		if err := v.round(round, rounds); err != nil {
			return v.report, fmt.Errorf("verify what is kept: %w", err)
		}
	}
	return v.report, nil
}

type keptVerifier struct {
	ctx    context.Context // of the one call that owns it
	t      target.Target
	j      *journal.Journal
	h      journal.History
	key    string
	o      Options
	fn     func(Difference) error
	report Report
	terr   error // of fn, while the journal was read
}

// round compares a part of what is kept, told apart by names.
func (v *keptVerifier) round(n, of int) error {
	mine := func(name target.KeptName) bool { return int(partOf(name))%of == n }
	want := map[target.KeptName]wanted{}
	damaged := false
	err := v.j.EachVersions(v.ctx, "", func(p journal.Versions) error {
		for name, w := range keptOf(p, v.h) {
			if mine(name) {
				want[name] = w
			}
		}
		return nil
	}, func(err error) {
		if !damaged && n == 0 {
			v.terr = v.tell(proto.ReservedName, Journal, "of the past: "+err.Error())
		}
		damaged = true
	})
	if err = errors.Join(err, v.terr); err != nil {
		return err
	}
	err = v.t.History().List(v.ctx, func(k target.Kept) error {
		if !mine(k.Name) {
			return nil
		}
		w, ok := want[k.Name]
		delete(want, k.Name)
		v.report.Objects++
		switch {
		case !ok && damaged: // what cannot be read may have it
			return nil
		case !ok:
			return v.tell(proto.ReservedName+"/"+target.KeptRecord(v.key, k.Name), Stray, fmt.Sprintf("%d bytes that no version has", k.Size))
		case k.Size != w.size:
			return v.tell(w.path, KeptSize, fmt.Sprintf("kept: %d bytes instead of %d%s", k.Size, w.size, w.ended()))
		case v.o.Deep && w.must:
			return v.content(k.Name, w)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, w := range want {
		if !w.must {
			continue
		}
		v.report.Objects++
		if err := v.tell(w.path, KeptMissing, "kept: its content is not there"+w.ended()); err != nil {
			return err
		}
	}
	return nil
}

func partOf(name target.KeptName) byte {
	b, _ := hex.DecodeString(string(name[:2])) // such names begin so
	return b[0]
}

func (w wanted) ended() string {
	if !w.must {
		return ""
	}
	return ", of the version that ended at " + time.Unix(0, w.until).UTC().Format(time.RFC3339)
}

// keptOf are the contents of a path that may be kept.
func keptOf(p journal.Versions, h journal.History) map[target.KeptName]wanted {
	out := map[target.KeptName]wanted{}
	note := func(d proto.Desc, must bool, until int64) {
		name := target.NameKept(p.Path, d.Digest)
		out[name] = wanted{path: p.Path, size: d.Size, digest: d.Digest, must: must || out[name].must, until: max(until, out[name].until)}
	}
	for _, e := range p.Past {
		if e.Ended.Up <= h.Swept || e.Ended.Lost || !e.Desc.Kind.HasContent() {
			continue
		}
		live := p.Now.InMirror() && p.Now.Desc.Kind.HasContent() && p.Now.Desc.Digest == e.Desc.Digest
		note(e.Desc, e.Ended.Up > h.Horizon && !live, e.Ended.Ns)
	}
	if p.Pending != nil && p.Now.InMirror() && p.Now.Desc.Kind.HasContent() { // the batch may have come as far as keeping it
		note(p.Now.Desc, false, 0)
	}
	return out
}

// content reads a kept content and compares its digest.
func (v *keptVerifier) content(name target.KeptName, w wanted) error {
	f, err := v.t.History().Open(v.ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // given up meanwhile
	}
	if err != nil {
		return v.tell(w.path, KeptContent, "kept: it cannot be read: "+err.Error())
	}
	defer func() { _ = f.Close() }() // only read from
	sum, n, err := proto.ReadDigest(v.ctx, f)
	v.report.Bytes += n
	switch {
	case v.ctx.Err() != nil:
		return v.ctx.Err()
	case err != nil:
		return v.tell(w.path, KeptContent, "kept: it cannot be read: "+err.Error())
	case sum != w.digest:
		return v.tell(w.path, KeptContent, fmt.Sprintf("kept: its digest is %s instead of %s%s", sum.Short(), w.digest.Short(), w.ended()))
	}
	return nil
}

func (v *keptVerifier) tell(path string, kind Kind, what string) error {
	v.report.Differences++
	return v.fn(Difference{Path: path, Kind: kind, What: what})
}
