// Package restore brings a dataset back from a target alone: what the journal says is there, in the mirror's bytes. It stands
// at the end of the flow, beside verify; the relay may be dead. It writes with the directory driver, so that what holds for
// a target holds for the restored tree: nothing outside it is touched (I12), objects appear whole (I10), and it is durable.
// It imports the journal, target, target/dir, fsmeta and proto.
package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/fsmeta"
	"forebay/proto"
)

// workStart begins the name of the folder in which a restore keeps what is not whole yet.
const workStart = ".forebay-restore-"

// Options says what to restore and where to.
type Options struct {
	From    target.Target
	Journal *journal.Journal
	To      string // a directory; made when it is missing
	Prefix  string // From's, by which its records are named
	Path    string // an object, or a directory with all below it; "" for everything
	// IntoExisting allows To to have something in it. What the backup has replaces what is there, what is equal already is
	// left, and what the backup does not have stays. So it also goes on from a restore that was interrupted.
	IntoExisting bool
	DryRun       bool // find out what there is to do
	// At is the moment as of which to restore, by the relay's stamps of versions: of each path the newest version that was
	// acknowledged by then and has reached the target. Zero: what is there now.
	At time.Time
	// Kept brings back also what was deleted at the source and kept at the target. One named by Path comes back anyway.
	Kept     bool
	Workers  int            // objects read at a time; 16 when 0
	Progress func(Progress) // called with each MiB and each batch, from one goroutine at a time; may be nil
	// Waiting is called with what From fails with when nothing has come from it for seconds, and with nil when something does again.
	// From one goroutine at a time, and it must not block; may be nil.
	Waiting func(why error)

	batch int   // objects in a batch; 0: batchObjects
	large int64 // bytes; 0: largeContent
}

// Report is what a restore did. The counts are of what To now has as the backup describes it.
type Report struct {
	Objects int64 `json:"objects"` // restored, or found equal
	Bytes   int64 `json:"bytes"`   // content written
	Equal   int64 `json:"equal"`   // of Objects: were there already
	// KeptOut counts what was deleted at the source, is kept at the target, and was not asked for.
	KeptOut int64 `json:"kept_out"`
	// Older are objects whose newest version never reached the target (parked): an older one was restored.
	Older []string `json:"older,omitempty"`
	// Missing are objects of which nothing ever reached the target (parked).
	Missing []string  `json:"missing,omitempty"`
	Failed  []Failure `json:"failed,omitempty"` // at most MaxFailures of FailedN
	FailedN int64     `json:"failed_objects"`
	// Unread are objects that nobody could read at the source when the backup was last told: they were not restored, or are
	// as they were before. UnreadMore counts those that it does not name.
	Unread     []Failure `json:"unread,omitempty"`
	UnreadMore int64     `json:"unread_more,omitempty"`
	Damaged    []string  `json:"damaged,omitempty"` // records and journal files that could not be read whole: objects may be missing
	Notes      []string  `json:"notes,omitempty"`   // what To cannot hold
	// Left is the folder in To that has LeftBytes of large contents which are not whole, of a restore that did not come to its end: the next
	// one into To goes on with them. "" when there are none.
	Left      string `json:"left,omitempty"`
	LeftBytes int64  `json:"left_bytes,omitempty"`
	// TotalObjects and TotalBytes are what was selected.
	TotalObjects int64 `json:"total_objects"`
	TotalBytes   int64 `json:"total_bytes"`
}

// MaxFailures is how many objects a report names.
const MaxFailures = 10_000

// Failure is an object that was not restored.
type Failure struct {
	Path   string `json:"path"`
	Reason string `json:"reason"`
}

// Complete reports whether everything selected was restored as its newest known version.
func (r Report) Complete() bool { return r.Incomplete() == 0 }

// Incomplete counts what was not.
func (r Report) Incomplete() int64 {
	return r.FailedN + int64(len(r.Damaged)+len(r.Older)+len(r.Missing)+len(r.Unread)) + r.UnreadMore
}

// Deps is what a restore is given.
type Deps struct {
	Names *fsmeta.Names    // may be nil
	Now   func() time.Time // with a monotonic reading; must be set
}

// Restore restores. Reads of the target that fail in a way that may pass are tried again, for about a minute without a byte of the
// object. Objects that fail are in the report and do not stop the rest. The error is what stopped all of it: a To that is not empty
// (ClassConflict) or too small (ClassOverload), a target that gave nothing for five minutes, a local disk that is full, ctx.
func Restore(ctx context.Context, o Options, deps Deps) (Report, error) {
	if o.Path != "" {
		if err := proto.CheckPath(o.Path); err != nil {
			return Report{}, proto.Errorf(proto.ClassPermanent, "restore: %w", err)
		}
	}
	if deps.Now == nil {
		return Report{}, proto.Errorf(proto.ClassPermanent, "restore: a clock is needed")
	}
	to, err := filepath.Abs(o.To)
	if err != nil || o.To == "" {
		return Report{}, proto.Errorf(proto.ClassPermanent, "restore: name a directory to restore to")
	}
	o.To = to
	if err := checkEmpty(o); err != nil {
		return Report{}, err
	}
	if !o.At.IsZero() {
		if err := o.Journal.CheckAt(o.At); err != nil {
			return Report{}, fmt.Errorf("restore: %w", err)
		}
	}
	history, _ := o.Journal.History()
	r := &run{o: o, horizon: history.Horizon, leaders: map[key]leader{}, names: deps.Names, src: newSource(o, deps.Now)}
	r.meter.tell = o.Progress
	if r.names == nil {
		r.names = fsmeta.NewNames(1024)
	}
	if o.IntoExisting || !o.DryRun {
		if err := r.openLocal(ctx); err != nil {
			return Report{}, err
		}
		defer r.close()
	}
	err = r.survey(ctx)
	if err == nil {
		err = r.unread(ctx)
	}
	if err != nil {
		r.undo = r.made
		r.leave(ctx)
		return r.report, err
	}
	if o.DryRun {
		return r.report, nil
	}
	r.meter.objects(r.report)
	err = r.all(ctx)
	r.finish(ctx)
	if err != nil || o.Path != "" {
		r.leave(ctx)
	}
	return r.report, err
}

// checkEmpty refuses a To that has something in it, unless that is wanted. Left-overs of an interrupted restore are nothing.
func checkEmpty(o Options) error {
	entries, err := os.ReadDir(o.To)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return proto.Errorf(proto.ClassPermanent, "restore: look into %s: %w", o.To, err)
	}
	for _, e := range entries {
		if !o.IntoExisting && e.Name() != "lost+found" && !strings.HasPrefix(e.Name(), workStart) {
			return proto.Errorf(proto.ClassConflict, "restore: %s is not empty (%q is in it): name an empty directory, or allow an existing one (--into-existing)", o.To, e.Name())
		}
	}
	return nil
}

// openLocal makes To, locks it and opens it as a target. A dry run makes nothing.
func (r *run) openLocal(ctx context.Context) error {
	_, err := os.Lstat(r.o.To)
	r.made = errors.Is(err, fs.ErrNotExist) && !r.o.DryRun
	if errors.Is(err, fs.ErrNotExist) && r.o.DryRun {
		return nil
	}
	if !r.o.DryRun {
		if err := os.MkdirAll(r.o.To, 0o755); err != nil {
			return proto.Errorf(proto.ClassPermanent, "restore: %w", err)
		}
	}
	lock, err := os.Open(r.o.To)
	if err != nil {
		return proto.Errorf(proto.ClassPermanent, "restore: %w", err)
	}
	r.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		r.close()
		return proto.Errorf(proto.ClassConflict, "restore: another restore writes to %s: %w", r.o.To, err)
	}
	work := workStart + "none"
	if !r.o.DryRun {
		if work, err = r.makeWork(); err != nil {
			r.close()
			return err
		}
	}
	r.local, err = dir.Open(dir.Config{Path: r.o.To, Work: work}, dir.Deps{Names: r.names})
	if err == nil && !r.o.DryRun {
		err = here(r.findLeft(ctx))
	}
	if err != nil {
		r.close()
		return err
	}
	return nil
}

// makeWork makes the work folder, or takes that of a restore that did not come to its end: nobody else has the lock.
func (r *run) makeWork() (string, error) {
	entries, err := os.ReadDir(r.o.To)
	if err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "restore: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), workStart) {
			if r.work == "" {
				r.work = filepath.Join(r.o.To, e.Name())
				continue
			}
			if err := os.RemoveAll(filepath.Join(r.o.To, e.Name())); err != nil {
				return "", proto.Errorf(proto.ClassPermanent, "restore: remove what an earlier restore left: %w", err)
			}
		}
	}
	if r.work != "" {
		return filepath.Base(r.work), nil
	}
	if r.work, err = os.MkdirTemp(r.o.To, workStart+"*"); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "restore: %w", err)
	}
	r.fresh = true
	return filepath.Base(r.work), nil
}

func (r *run) finish(ctx context.Context) {
	if info, err := r.local.Probe(context.WithoutCancel(ctx)); err == nil {
		r.report.Notes = info.Notes
	}
}

func (r *run) close() {
	if r.local != nil {
		_ = r.local.Close() // everything was synced by its commits
	}
	r.removeWork()
	if r.lock != nil {
		_ = r.lock.Close()
	}
	if r.undo {
		_ = os.Remove(r.o.To) // fails unless it is empty
	}
}

// room compares what is to be written with the free space where To is or will be.
func (r *run) room(need int64) error {
	at := r.o.To
	for {
		var st unix.Statfs_t
		err := unix.Statfs(at, &st)
		if errors.Is(err, unix.ENOENT) && at != "/" {
			at = filepath.Dir(at)
			continue
		}
		if err != nil {
			return proto.Errorf(proto.ClassPermanent, "restore: free space of %s: %w", at, err)
		}
		if free := int64(st.Bavail) * st.Bsize; need > free {
			return proto.Errorf(proto.ClassOverload, "restore: %s has %d bytes free, %d are needed: free some, or restore a part (--path)", at, free, need)
		}
		return nil
	}
}

// unread reads what the backup was told that it lacks. The error is one that ends the restore.
func (r *run) unread(ctx context.Context) error {
	var u journal.Unread
	err := r.src.ask(ctx, func(*tries) (err error) {
		u, err = journal.ReadUnread(ctx, r.o.From.Records(), r.o.Prefix)
		return err
	})
	if err != nil && fatal(ctx, err) {
		return wrap(err, "read what the backup lacks")
	}
	if err != nil {
		r.report.Damaged = append(r.report.Damaged, err.Error())
		return nil
	}
	at := map[string]int{} // by path: several nodes may have tried
	for _, x := range u.Objects {
		path := string(x.Path)
		if r.o.Path != "" && path != r.o.Path && !strings.HasPrefix(path, r.o.Path+"/") && !strings.HasPrefix(r.o.Path, path+"/") {
			continue
		}
		why := fmt.Sprintf("on %s since %s: %s", x.Node, x.Since, x.Reason)
		if i, ok := at[path]; ok {
			r.report.Unread[i].Reason += "; " + why
			continue
		}
		at[path] = len(r.report.Unread)
		r.report.Unread = append(r.report.Unread, Failure{Path: path, Reason: why})
	}
	if r.o.Path == "" {
		r.report.UnreadMore = u.More
	}
	return nil
}

func (r *run) fail(path string, err error) {
	r.report.FailedN++
	if len(r.report.Failed) < MaxFailures {
		r.report.Failed = append(r.report.Failed, Failure{Path: path, Reason: err.Error()})
	}
}

// hereError is a failure at this end, of what is written to To. Its class does not tell: a server that is busy and a local disk that
// is full are both ClassOverload.
type hereError struct{ err error }

func (e *hereError) Error() string { return e.err.Error() }
func (e *hereError) Unwrap() error { return e.err }

// here marks what To answered.
func here(err error) error {
	if err == nil {
		return nil
	}
	return &hereError{err}
}

func hereFailed(err error) bool {
	var e *hereError
	return errors.As(err, &e)
}

// fatal reports whether err would meet every other object too.
func fatal(ctx context.Context, err error) bool {
	var e *hereError
	return ctx.Err() != nil || isAway(err) || errors.As(err, &e) && proto.ClassOf(e.err) == proto.ClassOverload
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("restore: "+format+": %w", append(args, err)...)
}
