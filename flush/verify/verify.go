// Package verify compares a target with its journal: what the journal says is there must be there, as described, and nothing
// else. It stands at the end of the flow, beside restore, and changes nothing. It imports journal, target and proto.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/proto"
)

// Kind says what differs.
type Kind string

// The kinds of differences.
const (
	Missing    Kind = "missing"    // in the journal, not at the target
	Extra      Kind = "extra"      // at the target, not in the journal
	Other      Kind = "kind"       // a directory where a file should be, and the like
	Size       Kind = "size"       // of a file
	Link       Kind = "link"       // text of a symlink
	Metadata   Kind = "metadata"   // what the target can carry of it
	Content    Kind = "content"    // deep: bytes are not what their digest says
	Unreadable Kind = "unreadable" // a directory that cannot be listed; deep: a file that cannot be read
	Journal    Kind = "journal"    // Path is a journal file that is damaged
	// Of what is kept of the past; Path is the object's, of a stray its record's.
	KeptMissing Kind = "kept-missing"
	KeptSize    Kind = "kept-size"
	KeptContent Kind = "kept-content" // deep
	Stray       Kind = "stray"        // no version has it
)

// Difference is one difference.
type Difference struct {
	Path string `json:"path"`
	Kind Kind   `json:"kind"`
	What string `json:"what"` // in words
}

// Options say how deep to look.
type Options struct {
	Deep     bool                       // read all content
	Path     string                     // an object, or a directory with all below it; "" for everything
	Progress func(objects, bytes int64) // of Report; each progressEvery objects or progressBytes
}

// Report counts what was compared.
type Report struct {
	Objects     int64 // compared
	Bytes       int64 // content read
	Kept        int64 // deleted at the source and kept here: no differences
	Differences int64
}

// progressEvery and progressBytes are how many objects, or bytes read, lie between two calls of Progress at most.
const (
	progressEvery = 1000
	progressBytes = 64 << 20
)

// Verify compares and calls fn for each difference, in path order but for extra directories. It stops with fn's error, or
// when the target or ctx does. Memory does not grow with the number of objects.
func Verify(ctx context.Context, t target.Target, j *journal.Journal, o Options, fn func(Difference) error) (Report, error) {
	if o.Path != "" {
		if err := proto.CheckPath(o.Path); err != nil {
			return Report{}, proto.Errorf(proto.ClassPermanent, "verify: %w", err)
		}
	}
	info, err := t.Probe(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("verify: %w", err)
	}
	next, stop := iter.Pull2(listing(ctx, t, o.Path))
	defer stop()
	v := &verifier{ctx: ctx, t: t, o: o, carries: info.Carries, fn: fn, next: next}
	if err := v.run(j); err != nil {
		return v.report, fmt.Errorf("verify: %w", err)
	}
	return v.report, nil
}

// listing turns a List into a sequence; an error is the last of it.
func listing(ctx context.Context, t target.Target, path string) iter.Seq2[target.Entry, error] {
	enough := errors.New("enough")
	return func(yield func(target.Entry, error) bool) {
		err := t.List(ctx, path, func(e target.Entry) error {
			if !yield(e, nil) {
				return enough
			}
			return nil
		})
		if err != nil && !errors.Is(err, enough) {
			yield(target.Entry{}, err)
		}
	}
}

type verifier struct {
	ctx     context.Context // of the one call that owns the verifier
	t       target.Target
	o       Options
	carries target.Carries
	fn      func(Difference) error
	next    func() (target.Entry, error, bool)

	have   target.Entry
	more   bool
	hidden []string // directories that could not be listed, with a slash: what is in them is not known
	report Report
	// unclaimed are directories that the journal does not name and nothing below them has been seen in it yet; each lies in
	// the one before.
	unclaimed []string
}

func (v *verifier) run(j *journal.Journal) error {
	if err := v.advance(); err != nil {
		return err
	}
	var told error
	err := j.EachReadable(v.ctx, v.o.Path, func(e journal.Entry, pending *journal.Entry) error {
		if told != nil {
			return told
		}
		return v.entry(e, pending)
	}, func(err error) {
		var c *journal.CorruptError
		if errors.As(err, &c) {
			told = v.tell(c.File, Journal, c.Error())
		}
	})
	if err = errors.Join(err, told); err != nil {
		return err
	}
	return v.extras("")
}

func (v *verifier) advance() (err error) {
	var e target.Entry
	e, err, v.more = v.next()
	if v.more && err != nil {
		return err
	}
	v.have = e
	if e.Unlisted != "" {
		v.hidden = append(v.hidden, e.Path+"/")
		return v.tell(e.Path, Unreadable, e.Unlisted+": what is in it was not compared")
	}
	return nil
}

// extras deals with what the target has before path ("": all of it) and the journal does not.
func (v *verifier) extras(path string) error {
	for v.more && (path == "" || v.have.Path < path) {
		if err := v.leave(v.have.Path); err != nil {
			return err
		}
		if v.have.Desc.Kind == proto.KindDir {
			v.unclaimed = append(v.unclaimed, v.have.Path)
		} else if err := v.tell(v.have.Path, Extra, "a "+v.have.Desc.Kind.String()+" that the journal does not know"); err != nil {
			return err
		}
		if err := v.advance(); err != nil {
			return err
		}
	}
	return v.leave(path)
}

// leave tells of unclaimed directories that the walk has passed: nothing in them is in the journal.
func (v *verifier) leave(path string) error {
	kept := v.unclaimed[:0]
	for _, d := range v.unclaimed {
		if path != "" && path < d+"0" { // '0' follows '/': there may be more in it
			kept = append(kept, d)
			continue
		}
		if d == target.TrialPrefix { // left by targets check; what is in it would be told of
			continue
		}
		if err := v.tell(d, Extra, "a directory that the journal does not know, nor anything in it"); err != nil {
			return err
		}
	}
	v.unclaimed = kept
	return nil
}

// entry compares what the journal says of a path.
func (v *verifier) entry(e journal.Entry, pending *journal.Entry) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	if err := v.extras(e.Path); err != nil {
		return err
	}
	here := v.more && v.have.Path == e.Path
	var have target.Entry
	if here {
		have = v.have
		if err := v.advance(); err != nil {
			return err
		}
	}
	if e.InMirror() || pending != nil && pending.InMirror() {
		v.claim(e.Path)
	}
	if e.State == journal.StateKept {
		v.report.Kept++
	}
	if !here && slices.ContainsFunc(v.hidden, func(dir string) bool { return strings.HasPrefix(e.Path, dir) }) {
		return nil
	}
	have, err := v.detail(e, here, have)
	if err != nil {
		return err
	}
	diff := v.compare(e.InMirror(), e.Desc, here, have)
	if diff != nil && pending != nil { // a batch was interrupted: either is right
		if v.compare(pending.InMirror(), pending.Desc, here, have) == nil {
			diff = nil
		}
	}
	if e.InMirror() || here {
		v.count()
	}
	if diff == nil {
		return nil
	}
	diff.Path = e.Path
	return v.tell(diff.Path, diff.Kind, diff.What)
}

// detail asks for what a brief listing does not tell of an object, where it matters.
func (v *verifier) detail(e journal.Entry, here bool, have target.Entry) (target.Entry, error) {
	if !here || !have.Brief || !v.o.Deep && (e.Desc.Kind == have.Desc.Kind || e.Desc.Kind.HasContent() && have.Desc.Kind.HasContent()) {
		return have, nil
	}
	full, err := v.t.Stat(v.ctx, have.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return have, nil // it went meanwhile, or an object of that name is no file
	}
	return full, err
}

// claim takes the directories above a path out of the unclaimed.
func (v *verifier) claim(path string) {
	kept := v.unclaimed[:0]
	for _, d := range v.unclaimed {
		if !strings.HasPrefix(path, d+"/") {
			kept = append(kept, d)
		}
	}
	v.unclaimed = kept
}

func (v *verifier) count() {
	v.report.Objects++
	if v.o.Progress != nil && v.report.Objects%progressEvery == 0 {
		v.o.Progress(v.report.Objects, v.report.Bytes)
	}
}

func (v *verifier) tell(path string, kind Kind, what string) error {
	v.report.Differences++
	return v.fn(Difference{Path: path, Kind: kind, What: what})
}

// compare returns the first difference of an object from what it should be, nil when there is none.
func (v *verifier) compare(want bool, desc proto.Desc, here bool, have target.Entry) *Difference {
	switch {
	case !want && !here:
		return nil
	case !want:
		return &Difference{Kind: Extra, What: "a " + have.Desc.Kind.String() + " where the journal says there is nothing"}
	case !here && (desc.Kind == proto.KindSymlink && !v.carries.Symlinks || desc.Kind == proto.KindDir && !v.carries.EmptyDirs):
		return nil // it is in the journal only
	case !here:
		return &Difference{Kind: Missing, What: "the journal says there is a " + desc.Kind.String()}
	}
	if desc.Kind != have.Desc.Kind && !(desc.Kind.HasContent() && have.Desc.Kind.HasContent()) {
		return &Difference{Kind: Other, What: fmt.Sprintf("a %s instead of a %s", have.Desc.Kind, desc.Kind)}
	}
	if desc.Kind.HasContent() && desc.Size != have.Desc.Size {
		return &Difference{Kind: Size, What: fmt.Sprintf("%d bytes instead of %d", have.Desc.Size, desc.Size)}
	}
	if desc.Kind == proto.KindSymlink && desc.LinkTo != have.Desc.LinkTo {
		return &Difference{Kind: Link, What: fmt.Sprintf("it points to %q instead of %q", have.Desc.LinkTo, desc.LinkTo)}
	}
	if have.Brief {
		return nil
	}
	if what := metadata(desc, have.Desc, v.carries); what != "" {
		return &Difference{Kind: Metadata, What: what}
	}
	if v.o.Deep && desc.Kind.HasContent() {
		return v.content(have.Path, desc)
	}
	return nil
}

// reading counts what is read.
type reading struct {
	in io.Reader
	v  *verifier
}

func (r reading) Read(p []byte) (int, error) {
	n, err := r.in.Read(p)
	v := r.v
	before := v.report.Bytes
	v.report.Bytes += int64(n)
	if v.o.Progress != nil && v.report.Bytes/progressBytes > before/progressBytes {
		v.o.Progress(v.report.Objects, v.report.Bytes)
	}
	return n, err
}

// content reads a file and compares its digest.
func (v *verifier) content(path string, desc proto.Desc) *Difference {
	f, err := v.t.Open(v.ctx, path)
	if err != nil {
		return &Difference{Kind: Unreadable, What: err.Error()}
	}
	defer func() { _ = f.Close() }() // only read from
	sum, _, err := proto.ReadDigest(v.ctx, reading{f, v})
	switch {
	case v.ctx.Err() != nil: // it ends as a whole
		return nil
	case err != nil:
		return &Difference{Kind: Unreadable, What: err.Error()}
	case sum != desc.Digest:
		return &Difference{Kind: Content, What: fmt.Sprintf("its digest is %s instead of %s", sum.Short(), desc.Digest.Short())}
	}
	return nil
}
