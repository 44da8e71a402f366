// Package trial tries what a target can do, as an operator asks before a link relies on it: contents are written, made durable, put in
// their place, replaced, read, listed and deleted again, below a prefix of the trial's own. It knows the contract alone, no driver.
package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"forebay/flush/target"
	"forebay/proto"
)

// Prefix is where trials take place at a target, one at a time. An empty folder of that name may stay.
const Prefix = target.TrialPrefix

// Step is one thing that was tried.
type Step struct {
	Name   string
	Err    error
	Detail string
	Took   time.Duration
}

// Report is what came of a trial.
type Report struct {
	Info  target.Info // what the target says of itself
	Steps []Step      // in order; it ends with the first that all others need
	// Class is what "confirmed" can honestly mean there, "" when no link can use it.
	Class target.ConfirmClass
	// Write and Read are bytes a second of one large content, Small objects a second of a batch of small ones; 0 when not measured.
	Write, Read, Small float64
}

// Options say how much is written.
type Options struct {
	Now   func() time.Time
	Large int64 // bytes of the large content; 16 MiB when 0
	Small int   // small objects; 64 when 0
}

// Run tries a target that was opened at Prefix. What it wrote is gone when it returns, as far as the target lets it.
func Run(ctx context.Context, tgt target.Target, o Options) Report {
	if o.Large == 0 {
		o.Large = 16 << 20
	}
	if o.Small == 0 {
		o.Small = 64
	}
	t := &try{ctx: ctx, tgt: tgt, o: o}
	t.run()
	return t.report
}

type try struct {
	ctx    context.Context // of the one call that owns it
	tgt    target.Target
	o      Options
	report Report
	paths  []string        // to be deleted, deepest last
	kept   target.KeptName // to be forgotten, "" for nothing
}

// step does one thing and notes what came of it.
func (t *try) step(name string, do func() (detail string, err error)) bool {
	began := t.o.Now()
	detail, err := do()
	t.report.Steps = append(t.report.Steps, Step{Name: name, Err: err, Detail: detail, Took: t.o.Now().Sub(began)})
	return err == nil
}

func (t *try) run() {
	if !t.step("probe", t.probe) {
		return
	}
	usable := t.step("records", t.records)
	if usable {
		t.step("create once", t.createOnce)
	}
	large := content(t.o.Large, largeSeed)
	usable = usable && t.step("write", func() (string, error) { return t.writeLarge(large) })
	if usable && t.report.Info.Confirm == target.ConfirmReread {
		if !t.step("read past the cache", func() (string, error) { return t.reread("large", large) }) {
			t.report.Info.Confirm = target.ConfirmSync
		}
	}
	usable = usable && t.step("put in place", func() (string, error) { return t.place("large", large) })
	usable = usable && t.step("read", func() (string, error) { return t.read("large", large) })
	usable = usable && t.step("replace", t.replace)
	usable = usable && t.step("small objects", t.small)
	if usable {
		t.step("unchanged parts", t.reuse)
		t.step("symlinks, hard links, directories", t.kinds)
		usable = t.step("list", t.list)
	}
	usable = t.step("delete", t.clean) && usable
	if usable {
		t.report.Class = t.report.Info.Confirm
	}
}

func (t *try) probe() (detail string, err error) {
	t.report.Info, err = t.tgt.Probe(t.ctx)
	if err != nil {
		return "", err
	}
	i := t.report.Info
	parts := []string{"whole objects by a put"}
	if i.Move {
		parts[0] = "whole objects by a move"
	}
	if i.FreeBytes < 0 {
		parts = append(parts, "does not tell how much is free")
	}
	if !i.Clock.IsZero() {
		parts = append(parts, "its clock is "+skew(t.o.Now().Sub(i.Clock)))
	}
	return strings.Join(parts, ", "), nil
}

func skew(d time.Duration) string {
	switch {
	case d.Abs() < 2*time.Second:
		return "right"
	case d > 0:
		return d.Round(time.Second).String() + " behind"
	}
	return (-d).Round(time.Second).String() + " ahead"
}

func (t *try) records() (string, error) {
	rec := t.tgt.Records()
	const name = Prefix
	if err := rec.Put(t.ctx, name, []byte("one")); err != nil {
		return "", err
	}
	if err := rec.Put(t.ctx, name, []byte("two")); err != nil {
		return "", err
	}
	in, err := rec.Open(t.ctx, name)
	if err != nil {
		return "", err
	}
	got, err := io.ReadAll(io.LimitReader(in, 100))
	if err = errors.Join(err, in.Close()); err != nil {
		return "", err
	}
	if string(got) != "two" {
		return "", proto.Errorf(proto.ClassCorrupt, "a record that was written over reads %q", got)
	}
	return "", rec.Remove(t.ctx, name)
}

// createOnce tries whether a record is made only where there is none: with that, of two relays that begin at once on the same place
// one gets it. A target without does no harm otherwise.
func (t *try) createOnce() (string, error) {
	rec := t.tgt.Records()
	const name = Prefix
	const not = "no: two relays that begin on the same prefix in the same moment are told apart a little later"
	switch err := target.Create(t.ctx, rec, name, []byte("one")); {
	case errors.Is(err, errors.ErrUnsupported):
		return not, nil
	case err != nil:
		return "", err
	}
	err := target.Create(t.ctx, rec, name, []byte("two"))
	if rerr := rec.Remove(t.ctx, name); rerr != nil {
		return "", rerr
	}
	switch {
	case err == nil:
		return not, nil
	case errors.Is(err, fs.ErrExist):
		return "yes", nil
	}
	return "", err
}

// largeSeed is that of the large content.
const largeSeed = 1

// content is what nothing can compress.
func content(n int64, seed byte) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p) // never fails
	return p
}

func describe(p []byte) proto.Desc {
	return proto.Desc{Kind: proto.KindFile, Size: int64(len(p)), Digest: proto.ContentDigest(p), Meta: proto.Meta{Mode: 0o644, MtimeNs: 1e18}}
}

func stageID(name string) target.StageID { return target.StageID("check-" + name) }

// stage opens a content that nothing of an earlier trial, which was cut short, is left of.
func (t *try) stage(c target.Content) (target.Stage, error) {
	w, err := t.tgt.Stage(t.ctx, c)
	if err != nil || w.Offset() == 0 {
		return w, err
	}
	if err := errors.Join(w.Close(), t.tgt.Unstage(t.ctx, func(id target.StageID) bool { return id != c.ID })); err != nil {
		return nil, err
	}
	return t.tgt.Stage(t.ctx, c)
}

func staged(name string, p []byte) target.Content {
	return target.Content{ID: stageID(name), Size: int64(len(p)), Path: name, Desc: describe(p)}
}

// write stages a content and makes it durable.
func (t *try) write(name string, p []byte) error {
	w, err := t.stage(staged(name, p))
	if err != nil {
		return err
	}
	return t.finish(w, name, p)
}

// finish writes what a stage lacks of a content, and makes it durable.
func (t *try) finish(w target.Stage, name string, p []byte) error {
	_, err := w.Write(p[w.Offset():])
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	return t.tgt.Barrier(t.ctx, []target.StageID{stageID(name)})
}

// writeLarge stages the large content, with a break after three quarters of it, as when the relay is killed.
func (t *try) writeLarge(p []byte) (string, error) {
	began := t.o.Now()
	w, err := t.stage(staged("large", p))
	if err != nil {
		return "", err
	}
	_, err = w.Write(p[:len(p)/4*3])
	var durable int64
	if err == nil {
		durable, err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	if w, err = t.tgt.Stage(t.ctx, staged("large", p)); err != nil {
		return "", fmt.Errorf("after a break: %w", err)
	}
	from := w.Offset()
	if from < durable {
		return "", errors.Join(w.Close(), proto.Errorf(proto.ClassCorrupt, "the target said that %d bytes are durable, and has %d after a break", durable, from))
	}
	if err := t.finish(w, "large", p); err != nil {
		return "", err
	}
	written := len(p)/4*3 + len(p) - int(from)
	if took := t.o.Now().Sub(began).Seconds(); took > 0 {
		t.report.Write = float64(written) / took
	}
	if from == 0 {
		return "begins anew after a break", nil
	}
	return fmt.Sprintf("goes on after a break, at %d of %d MiB", from>>20, len(p)>>20), nil
}

func (t *try) reread(name string, p []byte) (string, error) {
	in, err := t.tgt.Reread(t.ctx, stageID(name))
	if err != nil {
		return "", err
	}
	return "", compare(in, p)
}

// holds compares an object of the mirror.
func (t *try) holds(name string, p []byte) error {
	in, err := t.tgt.Open(t.ctx, name)
	if err != nil {
		return err
	}
	return compare(in, p)
}

// compare reads a content to its end, and past it.
func compare(in io.ReadCloser, want []byte) error {
	got, err := io.ReadAll(io.LimitReader(in, int64(len(want))+1))
	if err = errors.Join(err, in.Close()); err != nil {
		return err
	}
	if len(got) != len(want) || proto.ContentDigest(got) != proto.ContentDigest(want) {
		return proto.Errorf(proto.ClassCorrupt, "the target gives back %d bytes that are not the %d that were written: it does not keep what it is given", len(got), len(want))
	}
	return nil
}

// commit carries out changes and remembers what is to be deleted.
func (t *try) commit(changes ...target.Change) error {
	var all []error
	for i, err := range t.tgt.Commit(t.ctx, changes) {
		if err == nil && changes[i].Op != target.OpDelete && changes[i].Op != target.OpMeta {
			t.paths = append(t.paths, changes[i].Path)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

func put(name string, p []byte) target.Change {
	return target.Change{Op: target.OpPut, Path: name, Stage: stageID(name), Desc: describe(p)}
}

func (t *try) place(name string, p []byte) (string, error) {
	c := put(name, p)
	if err := t.commit(c); err != nil {
		return "", err
	}
	if err := t.commit(c); err != nil { // as after an answer that was lost
		return "", fmt.Errorf("a second time: %w", err)
	}
	return "", nil
}

func (t *try) read(name string, p []byte) (string, error) {
	began := t.o.Now()
	if err := t.holds(name, p); err != nil {
		return "", err
	}
	if took := t.o.Now().Sub(began).Seconds(); took > 0 {
		t.report.Read = float64(len(p)) / took
	}
	return "", nil
}

// stagers is how many contents are staged at once; as a link does.
const stagers = 4

// small puts many small objects in one batch, as a link does.
func (t *try) small() (string, error) {
	began := t.o.Now()
	changes := make([]target.Change, t.o.Small)
	ids := make([]target.StageID, t.o.Small)
	g := errgroup.Group{}
	g.SetLimit(stagers)
	for i := range changes {
		p := content(4096, byte(i))
		changes[i] = put(fmt.Sprintf("small-%03d", i), p)
		ids[i] = changes[i].Stage
		g.Go(func() error {
			w, err := t.stage(staged(changes[i].Path, p))
			if err != nil {
				return err
			}
			_, err = w.Write(p)
			return errors.Join(err, w.Close())
		})
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	if err := t.tgt.Barrier(t.ctx, ids); err != nil {
		return "", err
	}
	if err := t.commit(changes...); err != nil {
		return "", err
	}
	if took := t.o.Now().Sub(began).Seconds(); took > 0 {
		t.report.Small = float64(t.o.Small) / took
	}
	return "", nil
}

// kinds tries what is no file. What the target does not carry is in the journal only, which is no failure.
func (t *try) kinds() (string, error) {
	meta := proto.Meta{Mode: 0o755, MtimeNs: 1e18}
	linked := describe(content(replacedBytes, secondSeed))
	linked.Kind, linked.LinkTo = proto.KindHardlink, replaced
	text := replaced
	err := t.commit(
		target.Change{Op: target.OpMkdir, Path: "dir", Desc: proto.Desc{Kind: proto.KindDir, Meta: meta}},
		target.Change{Op: target.OpSymlink, Path: "dir/symlink", Desc: proto.Desc{Kind: proto.KindSymlink, LinkTo: text, Digest: proto.BlockDigest([]byte(text)), Meta: meta}},
		target.Change{Op: target.OpLink, Path: "dir/link", Desc: linked},
	)
	var lacks []string
	c := t.report.Info.Carries
	for _, k := range []struct {
		name string
		has  bool
	}{
		{"symlinks", c.Symlinks}, {"hard links", c.Hardlinks}, {"empty directories", c.EmptyDirs}, {"modes", c.Mode}, {"owners", c.Owner},
		{"times", c.Mtime}, {"extended attributes", c.Xattrs}, {"names that are not UTF-8", c.RawNames},
	} {
		if !k.has {
			lacks = append(lacks, k.name)
		}
	}
	if len(lacks) == 0 {
		return "", err
	}
	return "in the journal alone, or as copies: " + strings.Join(lacks, ", "), err
}

func (t *try) list() (string, error) {
	seen := map[string]bool{}
	if err := t.tgt.List(t.ctx, "", func(e target.Entry) error { seen[e.Path] = true; return nil }); err != nil {
		return "", err
	}
	for _, p := range []string{"large", replaced, "small-000"} {
		if !seen[p] {
			return "", proto.Errorf(proto.ClassTransient, "%q was put there and is not listed", p)
		}
	}
	return fmt.Sprintf("%d entries", len(seen)), nil
}

// clean deletes everything again.
func (t *try) clean() (string, error) {
	ctx := context.WithoutCancel(t.ctx) // what was cut short is to leave nothing behind
	t.ctx = ctx
	var changes []target.Change
	seen := map[string]bool{}
	for i := len(t.paths) - 1; i >= 0; i-- {
		if p := t.paths[i]; !seen[p] {
			seen[p] = true
			changes = append(changes, target.Change{Op: target.OpDelete, Path: p, Desc: proto.Desc{Kind: proto.KindTombstone}})
		}
	}
	locked, err := t.forget()
	err = errors.Join(t.commit(changes...), t.unstage(), err)
	if err != nil || !seen["large"] {
		return "", err
	}
	if _, err := t.tgt.Stat(ctx, "large"); !errors.Is(err, fs.ErrNotExist) {
		return "", proto.Errorf(proto.ClassTransient, "what was deleted is still there (%v)", err)
	}
	return locked, nil
}

// forget removes what was kept; it returns why that stays, if the target says that it has to.
func (t *try) forget() (locked string, err error) {
	if t.kept == "" {
		return "", nil
	}
	err = errors.Join(t.tgt.History().Remove(t.ctx, []target.KeptName{t.kept})...)
	var l *target.LockedError
	if errors.As(err, &l) {
		return "what was replaced stays in the history: " + l.Error(), nil
	}
	return "", err
}

func (t *try) unstage() error {
	return t.tgt.Unstage(t.ctx, func(target.StageID) bool { return false })
}
