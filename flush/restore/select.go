package restore

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/proto"
)

// item is an object to be restored: one description for sure, or two where a batch was interrupted and the mirror may have
// either.
type item struct {
	path string
	desc proto.Desc
	// also is what the interrupted batch would have put there; its Kind is KindNone when there is no doubt.
	also proto.Desc
	// kept is the name under which the target may have kept its content, "" where it is in the mirror alone; past is set where the
	// mirror does not have it.
	kept target.KeptName
	past bool
}

// each calls fn for every selected object in path order, with the directories above Path first: a restored tree is not to
// be more open than its source. A journal that cannot be read now is read again from its beginning; what it has told is not told again.
func (r *run) each(ctx context.Context, fn func(item) error) error {
	if !r.surveyed {
		r.report.Damaged = nil
	}
	for i, c := range r.o.Path {
		if c != '/' {
			continue
		}
		it, ok, err := r.folder(ctx, r.o.Path[:i])
		if err != nil {
			return wrap(err, "look for %q in the journal", r.o.Path[:i])
		}
		if ok {
			if err := fn(it); err != nil {
				return err
			}
		}
	}
	t, told := &tries{}, "" // told is the last path that fn was called for, or would be
	for {
		var stopped error // by fn
		err := r.walk(ctx, func(path string, choose func() (item, bool)) error {
			if path <= told {
				return nil
			}
			if told = path; t.n > 0 {
				r.src.answered(t)
			}
			if it, want := choose(); want {
				stopped = fn(it)
			}
			return stopped
		})
		if err == nil && t.n > 0 {
			r.src.answered(t) // there was nothing more to tell
		}
		if err == nil || stopped != nil || ctx.Err() != nil || !mayPass(err) {
			return err
		}
		if err := r.src.wait(ctx, t, err); err != nil {
			return wrap(err, "look for what there is")
		}
	}
}

// walk calls fn for every path that the journal has, in order, with what says as what it is restored.
func (r *run) walk(ctx context.Context, fn func(path string, choose func() (item, bool)) error) error {
	damaged := func(err error) {
		if text := err.Error(); !r.surveyed && !slices.Contains(r.report.Damaged, text) {
			r.report.Damaged = append(r.report.Damaged, text)
		}
	}
	if !r.o.At.IsZero() {
		return r.o.Journal.EachVersions(ctx, r.o.Path, func(v journal.Versions) error {
			return fn(v.Path, func() (item, bool) { return r.chooseAt(v) })
		}, damaged)
	}
	return r.o.Journal.EachReadable(ctx, r.o.Path, func(e journal.Entry, pending *journal.Entry) error {
		return fn(e.Path, func() (item, bool) { return r.choose(e, pending) })
	}, damaged)
}

// folder returns a directory above Path.
func (r *run) folder(ctx context.Context, path string) (item, bool, error) {
	var v journal.Versions
	err := r.src.ask(ctx, func(*tries) (err error) {
		v, _, err = r.o.Journal.GetVersions(ctx, path)
		return err
	})
	e := v.Now
	if !r.o.At.IsZero() {
		e, _ = v.At(r.o.At.UnixNano(), r.horizon)
	}
	return item{path: path, desc: e.Desc}, err == nil && e.Desc.Kind == proto.KindDir && e.State != journal.StateDeleted, err
}

// chooseAt is choose for what a path had at a moment.
func (r *run) chooseAt(v journal.Versions) (item, bool) {
	e, pending := v.At(r.o.At.UnixNano(), r.horizon)
	past := e.State == journal.StatePast
	if past {
		e.State = journal.StatePresent // as of then
	}
	e.Path = v.Path
	it, want := r.choose(e, pending)
	if want && it.desc.Kind.HasContent() && (past || v.Pending != nil) {
		it.kept = target.NameKept(v.Path, it.desc.Digest)
		it.past = past && !(v.Now.InMirror() && v.Now.Desc.Kind.HasContent() && v.Now.Desc.Digest == it.desc.Digest)
	}
	return it, want
}

// list puts a path on a list of the report, once: all are looked at twice.
func (r *run) list(to *[]string, path string) {
	if !r.surveyed && len(*to) < MaxFailures {
		*to = append(*to, path)
	}
}

// choose says whether and as what an entry is restored.
func (r *run) choose(e journal.Entry, pending *journal.Entry) (item, bool) {
	it := item{path: e.Path}
	if !e.InMirror() && e.State == journal.StateParked && pending == nil {
		r.list(&r.report.Missing, e.Path)
	}
	if e.InMirror() {
		if e.State == journal.StateKept && !r.o.Kept && r.o.Path != e.Path {
			if !r.surveyed {
				r.report.KeptOut++
			}
		} else {
			it.desc = e.Desc
			if e.State == journal.StateParked {
				r.list(&r.report.Older, e.Path)
			}
		}
	}
	if pending != nil {
		switch {
		case pending.State == journal.StateDeleted:
			it.also = proto.Desc{Kind: proto.KindTombstone}
		case it.desc.Kind == proto.KindNone:
			// Nothing was there before: it is there if the batch came so far, and no loss if it did not.
			it.desc, it.also = pending.Desc, proto.Desc{Kind: proto.KindTombstone}
		default:
			it.also = pending.Desc
		}
	}
	return it, it.desc.Kind != proto.KindNone
}

// settle finds out, by a look at the mirror, which of an item's two descriptions holds; ok false when the object is gone and
// may be. Of two files of one size the digest will tell.
func (r *run) settle(ctx context.Context, it item) (item, bool, error) {
	if it.also.Kind == proto.KindNone {
		return it, true, nil
	}
	var have target.Entry
	err := r.src.ask(ctx, func(*tries) (err error) {
		have, err = r.o.From.Stat(ctx, it.path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		if it.also.Kind == proto.KindTombstone {
			return it, false, nil
		}
		return it, true, nil // reading it will fail, and say so
	}
	if err != nil {
		return it, true, err
	}
	fits := func(d proto.Desc) bool {
		if d.Kind.HasContent() {
			return have.Desc.Kind.HasContent() && have.Desc.Size == d.Size
		}
		return have.Desc.Kind == d.Kind && have.Desc.LinkTo == d.LinkTo
	}
	switch {
	case it.also.Kind == proto.KindTombstone:
		it.also = proto.Desc{}
	case fits(it.also) && !fits(it.desc):
		it.desc, it.also = it.also, proto.Desc{}
	case !fits(it.also):
		it.also = proto.Desc{}
	case !it.desc.Kind.HasContent():
		it.desc, it.also = it.also, proto.Desc{} // both fit, the same but for metadata: the newer
	}
	return it, true, nil
}

// survey counts what is selected, finds the files that hard links share, and compares with the room there is.
func (r *run) survey(ctx context.Context) error {
	need, under := int64(0), false
	err := r.each(ctx, func(it item) error {
		r.report.TotalObjects++
		under = under || journal.Under(it.path, r.o.Path)
		switch it.desc.Kind {
		case proto.KindFile:
			r.report.TotalBytes += it.desc.Size
			r.want(it)
			if !r.sameSize(ctx, it) {
				need += dataBytes(it.desc) + 4096
			}
		case proto.KindHardlink:
			r.leaders[keyOf(it.desc.LinkTo)] = leader{}
			r.want(it) // it comes with its content where its leader is not restored
			need += 4096
		default:
			need += 4096
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.o.Path != "" && !under && len(r.report.Damaged) == 0 {
		if !r.o.At.IsZero() {
			return proto.Errorf(proto.ClassPermanent, "restore: the backup had nothing at %q then", r.o.Path)
		}
		return proto.Errorf(proto.ClassPermanent, "restore: the backup has nothing at %q", r.o.Path)
	}
	r.surveyed = true
	if err := r.dropLeft(ctx); err != nil {
		return err
	}
	return r.room(need - workBytes(r.o.To))
}

// sameSize reports whether To has a file of the right size already, which needs no further room.
func (r *run) sameSize(ctx context.Context, it item) bool {
	if !r.o.IntoExisting || r.local == nil {
		return false
	}
	have, err := r.local.Stat(ctx, it.path)
	return err == nil && have.Desc.Kind == proto.KindFile && have.Desc.Size == it.desc.Size
}

func dataBytes(d proto.Desc) int64 {
	if len(d.Extents) == 0 {
		return d.Size
	}
	n := int64(0)
	for _, e := range d.Extents {
		if e.Kind != proto.ExtentHole {
			n += e.Length
		}
	}
	return n
}

// key is a short name for a path, for maps with an entry for each hard-linked file.
type key [16]byte

func keyOf(path string) key {
	d := proto.BlockDigest([]byte(path))
	return key(d[:16])
}

// leader is what became of a file that hard links share.
type leader struct {
	path   string // restored there; "" when not
	digest proto.Digest
}

func damaged() error {
	return proto.Errorf(proto.ClassCorrupt, "the content at the target is not what the journal says: it is damaged there, or was changed by hand")
}
