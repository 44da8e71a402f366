package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/fsmeta"
	"forebay/proto"
)

// namesAtOnce is how many names are asked of a directory at once: a large one is told from a disk that hangs.
const namesAtOnce = 4096

func parent(path string) string {
	return path[:max(0, strings.LastIndexByte(path, '/'))]
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// level is a directory whose subdirectories are still to be walked.
type level struct {
	dir  string
	subs []string // names, in order
}

// tree lists dir and, in order of paths, the directories below it: all of them, or only those that are new.
func (r *run) tree(ctx context.Context, dir string, all bool) error {
	subs, err := r.list(ctx, dir, all)
	if err != nil {
		return err
	}
	stack := []level{{dir, subs}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if len(top.subs) == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		next := join(top.dir, top.subs[0])
		top.subs = top.subs[1:]
		// Below a directory that is new, everything is.
		subs, err := r.list(ctx, next, true)
		if err != nil {
			return err
		}
		stack = append(stack, level{next, subs})
	}
	return nil
}

// list compares one directory with the index and returns the names of the directories in it that are to be entered.
func (r *run) list(ctx context.Context, dir string, all bool) (subs []string, err error) {
	f, names, err := r.namesOf(dir)
	if err != nil {
		return nil, r.unlisted(dir, err)
	}
	defer func() { _ = f.Close() }()
	r.res.Dirs++
	if dir == "" {
		if err := r.notEmptied(names); err != nil {
			return nil, err
		}
	}
	r.unseen = ""
	known := children{index: r.index, dir: dir}
	for len(names) > 0 || known.more() {
		if err := known.fill(); err != nil {
			return nil, err
		}
		if r.names++; r.names%paceEvery == 0 {
			if err := r.pace(ctx); err != nil {
				return nil, err
			}
		}
		r.ask(dir)
		e, have := known.peek()
		switch {
		case len(names) == 0 || have && name(e.Path) < names[0]:
			if have {
				known.next()
				err = r.missing(e)
			}
		default:
			n := names[0]
			names = names[1:]
			had := have && name(e.Path) == n
			if had {
				known.next()
			} else {
				e = index.Entry{}
			}
			var enter bool
			if enter, err = r.found(int(f.Fd()), join(dir, n), e, had, all); enter {
				subs = append(subs, n)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return subs, r.mark(dir, r.unseen)
}

// mark notes in a directory's entry why not all of what is in it could be seen; "" when it could.
func (r *run) mark(dir, why string) error {
	if dir == "" {
		return nil
	}
	if len(r.batch) > 0 && why != "" {
		if err := r.flush(); err != nil { // the directory's own entry may be in it
			return err
		}
	}
	if e, ok, err := r.index.Get(dir); err != nil || !ok || e.Unlisted == why {
		return err
	}
	return r.index.Edit(func(tx *index.Tx) error {
		e, ok, err := tx.Get(dir)
		if err != nil || !ok || !e.Present() || e.Kind != proto.KindDir {
			return err
		}
		e.Unlisted = why
		return tx.Put(e)
	})
}

func name(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// namesOf opens a directory and returns its names, sorted, without those that are never part of a dataset.
func (r *run) namesOf(dir string) (*os.File, []string, error) {
	r.ask(dir)
	f, err := r.root.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for err == nil {
		var some []string
		r.ask(dir)
		some, err = f.Readdirnames(namesAtOnce)
		names = append(names, some...)
	}
	if !errors.Is(err, io.EOF) {
		return nil, nil, errors.Join(err, f.Close())
	}
	sort.Strings(names)
	if i := sort.SearchStrings(names, proto.ReservedName); i < len(names) && names[i] == proto.ReservedName {
		names = append(names[:i], names[i+1:]...)
	}
	return f, names, nil
}

// unlisted deals with a directory that could not be read: what the index has below it stays as it is.
func (r *run) unlisted(dir string, err error) error {
	switch {
	case dir == "":
		return r.unreadable(err)
	case errors.Is(err, unix.EXDEV):
		r.fail(dir, proto.FailSkipped, mountPoint, 0)
		return r.mark(dir, mountPoint)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		// Gone or replaced since its parent was listed: the next scan's business.
	default:
		r.fail(dir, proto.FailUnreadable, cause(err).Error(), 0)
		return r.mark(dir, "cannot be listed: "+cause(err).Error())
	}
	return nil
}

// notEmptied refuses a root in which nothing wanted is left, though the index has objects: an unmounted file system is far
// likelier than a wish to delete everything (I13).
func (r *run) notEmptied(names []string) error {
	if r.index.Counts().Objects == 0 {
		return nil
	}
	for _, n := range names {
		// Whether it is a directory is not known yet; either way of being wanted will do.
		if n != "lost+found" && (r.rules.Wanted(n, true) || r.rules.Wanted(n, false)) {
			return nil
		}
	}
	return &Refused{Cause: RootEmpty, Root: r.cfg.Root, Do: "mount its file system; if everything in it was deleted on purpose, remove the agent's index of it"}
}

const mountPoint = "mount point: other file systems are not entered, make it a dataset of its own"

// found compares one name that a listing has, and reports whether it is a directory to be entered: any, or a new one.
func (r *run) found(dirfd int, path string, e index.Entry, had, all bool) (enter bool, err error) {
	if err := proto.CheckPath(path); err != nil {
		r.failWanted(path, proto.FailSkipped, err.Error())
		return false, nil
	}
	st, err := fsmeta.StatAt(dirfd, name(path))
	if errors.Is(err, fs.ErrNotExist) {
		if had {
			return false, r.missing(e)
		}
		return false, nil
	}
	if err != nil {
		if parent(path) == "" && errors.Is(err, fs.ErrPermission) {
			return false, r.unreadable(err)
		}
		r.failWanted(path, proto.FailUnreadable, errno(err))
		return false, nil
	}
	f := finding{path: path, kind: st.Kind(), stat: toStat(st)}
	if !r.rules.Wanted(path, f.kind == proto.KindDir) {
		if had && r.full {
			return false, r.forget(path)
		}
		return false, nil
	}
	switch {
	case st.MountRoot:
		return false, r.skipped(f, mountPoint, e, had)
	case f.kind == proto.KindNone:
		return false, r.skipped(f, st.TypeName(), e, had)
	case f.kind == proto.KindDir:
		if what := r.own(dirfd, name(path)); what != "" {
			return false, r.skipped(f, proto.SkippedOwn+what+", which is no part of a dataset", e, had)
		}
	case f.kind == proto.KindSymlink:
		if f.linkTo, err = r.linkText(dirfd, path, e, f); err != nil {
			return false, nil // replaced since: the next scan's business
		}
	}
	isNew := !had || !e.Present() || e.Kind != proto.KindDir || e.Stat.Ino != st.Ino
	return f.kind == proto.KindDir && (all || isNew), r.compare(f, e, had)
}

// failWanted is fail for what may be a directory or not.
func (r *run) failWanted(path string, kind proto.FailureKind, reason string) {
	if r.rules.Wanted(path, false) || r.rules.Wanted(path, true) {
		r.fail(path, kind, reason, 0)
		if r.unseen == "" {
			r.unseen = fmt.Sprintf("%.300q in it cannot be looked at: %s", name(path), reason)
		}
	}
}

// linkText reads a symlink's text unless the index has it.
func (r *run) linkText(dirfd int, path string, e index.Entry, f finding) (string, error) {
	if e.Kind == proto.KindSymlink && e.Present() && sameMeta(e.Stat, f.stat) {
		return e.LinkTo, nil
	}
	return fsmeta.ReadlinkAt(dirfd, name(path))
}

func errno(err error) string {
	var n unix.Errno
	if errors.As(err, &n) {
		return n.Error()
	}
	return err.Error()
}

// skipped lists what is never sent. A directory that was walked before something was mounted on it keeps its entry, and
// so does what the index has below it.
func (r *run) skipped(f finding, reason string, e index.Entry, had bool) error {
	since := int64(0)
	if had && e.State == index.StateSkipped {
		since = e.FirstSeen
	}
	r.fail(f.path, proto.FailSkipped, reason, since)
	if reason == mountPoint && had && e.Present() && e.State != index.StateSkipped {
		return r.mark(f.path, reason)
	}
	f.kind, f.reason = proto.KindNone, reason
	return r.compare(f, e, had)
}

// compare puts a finding into the batch unless the index says the same.
func (r *run) compare(f finding, e index.Entry, had bool) error {
	if f.kind != proto.KindNone {
		r.res.Objects++
	}
	if had && f.kind == proto.KindFile && f.stat.Nlink > 1 {
		var err error
		if f, err = r.linked(r.index, f, nil); err != nil {
			return err
		}
	}
	if next, _ := decide(e, had, f, r.res.Started); had && next == e {
		if f.kind == proto.KindFile {
			r.res.Bytes += f.stat.Size
		}
		return nil
	}
	r.batch = append(r.batch, seen{f, e, had})
	if len(r.batch) < batchSize {
		return nil
	}
	return r.flush()
}

// missing deals with an entry that its directory's listing no longer has.
func (r *run) missing(e index.Entry) error {
	switch {
	case !r.full || !e.Present():
		return nil
	case !r.rules.Wanted(e.Path, e.Kind == proto.KindDir):
		return r.forget(e.Path)
	}
	r.suspects = append(r.suspects, e.Path)
	if len(r.suspects) < batchSize {
		return nil
	}
	return r.flush()
}

// children reads the index's entries of one directory in order, a page at a time.
type children struct {
	index *index.Root
	dir   string
	page  []index.Entry
	last  string
	end   bool
}

func (c *children) more() bool { return len(c.page) > 0 || !c.end }

func (c *children) fill() (err error) {
	if len(c.page) > 0 || c.end {
		return nil
	}
	if c.page, err = c.index.Children(c.dir, c.last, pageSize); err != nil {
		return err
	}
	c.end = len(c.page) < pageSize
	if len(c.page) > 0 {
		c.last = name(c.page[len(c.page)-1].Path)
	}
	return nil
}

func (c *children) peek() (index.Entry, bool) {
	if len(c.page) == 0 {
		return index.Entry{}, false
	}
	return c.page[0], true
}

func (c *children) next() { c.page = c.page[1:] }
