package scan

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/proto"
)

// leaders is the part of a Tx and of a Root that hard links need.
type leaders interface {
	Get(path string) (index.Entry, bool, error)
	Leader(dev, ino uint64) (string, bool, error)
}

// linked says what a path of an inode with several links is: the file, when it is the inode's leader or becomes it, else a
// hard link to the leader. With a Tx, a new leader is written down.
func (r *run) linked(from leaders, f finding, tx *index.Tx) (finding, error) {
	leader, ok, err := from.Leader(f.stat.Dev, f.stat.Ino)
	if err != nil {
		return f, err
	}
	f.kind, f.linkTo = proto.KindFile, ""
	if ok && leader == f.path {
		return f, nil
	}
	if ok {
		holds, err := r.leads(from, leader, f.stat)
		if err != nil {
			return f, err
		}
		if holds {
			f.kind, f.linkTo = proto.KindHardlink, leader
			return f, nil
		}
	}
	if tx == nil {
		f.kind = proto.KindHardlink // differs from whatever the entry says, so that it goes through a Tx
		return f, nil
	}
	return f, tx.SetLeader(f.stat.Dev, f.stat.Ino, f.path)
}

// leads reports whether the path that the index has as an inode's leader still is one. A leader that cannot be looked at
// is believed.
func (r *run) leads(from leaders, leader string, st index.Stat) (bool, error) {
	if !r.rules.Wanted(leader, false) {
		return false, nil
	}
	if e, ok, err := from.Get(leader); err != nil || !ok || !e.Present() || e.Kind != proto.KindFile {
		return false, err
	}
	now, err := r.root.Stat(leader)
	if notThere(err) {
		return false, nil
	}
	return err != nil || now.Dev == st.Dev && now.Ino == st.Ino, nil
}

// notThere reports whether err says that nothing is at a path; a symlink on the way to it is nothing too.
func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// unlead forgets that an entry leads its inode.
func unlead(tx *index.Tx, e index.Entry) error {
	if e.Kind != proto.KindFile || e.Stat.Nlink < 2 {
		return nil
	}
	if p, ok, err := tx.Leader(e.Stat.Dev, e.Stat.Ino); err != nil || !ok || p != e.Path {
		return err
	}
	return tx.DeleteLeader(e.Stat.Dev, e.Stat.Ino)
}

// flush writes the batch and the suspects.
func (r *run) flush() error {
	if len(r.batch)+len(r.suspects) == 0 {
		return nil
	}
	err := r.index.Edit(func(tx *index.Tx) error {
		for _, s := range r.batch {
			if err := r.put(tx, s); err != nil {
				return err
			}
		}
		for _, path := range r.suspects {
			tx.Suspect(path)
		}
		return nil
	})
	r.batch, r.suspects = r.batch[:0], r.suspects[:0]
	return err
}

// put writes one finding. When the agent changed the entry since the walk read it, the object is looked at again: what the
// agent wrote may be newer than the finding.
func (r *run) put(tx *index.Tx, s seen) error {
	cur, had, err := tx.Get(s.path)
	if err != nil {
		return err
	}
	if had != s.had || cur != s.was {
		st, err := r.root.Stat(s.path)
		if err != nil || st.MountRoot || st.Kind() != kindOf(s.finding) {
			return nil // the next scan's business
		}
		if s.kind == proto.KindSymlink && !sameMeta(s.stat, toStat(st)) {
			return nil // its text may be another
		}
		s.stat = toStat(st)
	}
	if kindOf(s.finding) == proto.KindFile {
		if s.stat.Nlink > 1 {
			if s.finding, err = r.linked(tx, s.finding, tx); err != nil {
				return err
			}
		} else {
			s.kind, s.linkTo = proto.KindFile, ""
		}
	}
	next, changed := decide(cur, had, s.finding, r.res.Started)
	if next.Kind == proto.KindFile {
		r.res.Bytes += next.Stat.Size
	}
	if changed {
		r.res.Changed++
	}
	if had && cur.Kind == proto.KindDir && next.Kind != proto.KindDir {
		tx.Suspect(s.path) // for what was below it
	}
	if same := next.Kind == proto.KindFile && next.Stat.Nlink > 1 && next.Stat.Dev == cur.Stat.Dev && next.Stat.Ino == cur.Stat.Ino; had && !same {
		if err := unlead(tx, cur); err != nil {
			return err
		}
	}
	return tx.Put(next)
}

// kindOf is the kind in the file system.
func kindOf(f finding) proto.Kind {
	if f.kind == proto.KindHardlink {
		return proto.KindFile
	}
	return f.kind
}

// forget removes a path and everything below it from the index: it is no longer part of the dataset, which is no delete.
func (r *run) forget(path string) error {
	if err := r.flush(); err != nil {
		return err
	}
	drop := func(tx *index.Tx, e index.Entry) error {
		if err := unlead(tx, e); err != nil {
			return err
		}
		return tx.Delete(e.Path)
	}
	return r.edit(path, true, drop)
}

// edit calls fn for the entry at path, if self, and for all below it, some hundred in one Edit.
func (r *run) edit(path string, self bool, fn func(*index.Tx, index.Entry) error) error {
	if self {
		err := r.index.Edit(func(tx *index.Tx) error {
			e, ok, err := tx.Get(path)
			if err != nil || !ok {
				return err
			}
			return fn(tx, e)
		})
		if err != nil {
			return err
		}
	}
	for after := ""; ; {
		page, err := r.index.Below(path, after, pageSize)
		if err != nil || len(page) == 0 {
			return err
		}
		err = r.index.Edit(func(tx *index.Tx) error {
			for _, old := range page {
				e, ok, err := tx.Get(old.Path)
				if err != nil {
					return err
				}
				if !ok {
					continue
				}
				if err := fn(tx, e); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(page) < pageSize {
			return err
		}
		after = page[len(page)-1].Path
	}
}

// judgeSize is how many suspects are judged between two looks at the root's identity.
const judgeSize = 64

// judge decides on the suspects once the whole root was walked.
func (r *run) judge(ctx context.Context) error {
	for after := ""; ; {
		if err := r.pace(ctx); err != nil {
			return err
		}
		page, err := r.index.Suspects(after, judgeSize)
		if err != nil || len(page) == 0 {
			return err
		}
		r.ask("")
		if err := r.stillThere(); err != nil {
			return err
		}
		var judged []string
		for _, path := range page {
			done, err := r.judge1(path)
			if err != nil {
				return err
			}
			if done {
				judged = append(judged, path)
			}
		}
		err = r.index.Edit(func(tx *index.Tx) error {
			for _, path := range judged {
				tx.Acquit(path)
			}
			return nil
		})
		if err != nil {
			return err
		}
		after = page[len(page)-1]
	}
}

// judge1 looks at a suspect once more, and reports whether that decided on it. Listings may miss a name that is being
// renamed; and what was moved elsewhere and back is not gone.
func (r *run) judge1(path string) (bool, error) {
	r.ask(parent(path))
	st, err := r.root.Stat(path)
	switch {
	case notThere(err):
		return true, r.edit(path, true, r.gone)
	case err != nil:
		return false, nil
	case st.Kind() == proto.KindDir:
		return true, nil
	}
	return true, r.edit(path, false, r.gone) // replaced by something that nothing can be below of
}

// gone marks an entry gone, or forgets it when the relay can know nothing of it from here.
func (r *run) gone(tx *index.Tx, e index.Entry) error {
	if !e.Present() {
		return nil
	}
	if err := unlead(tx, e); err != nil {
		return err
	}
	if !r.rules.Wanted(e.Path, e.Kind == proto.KindDir) {
		return tx.Delete(e.Path)
	}
	r.res.Gone++
	if e.Unknown() {
		return tx.Delete(e.Path)
	}
	e.State, e.Due, e.FirstSeen = index.StateGone, r.now().UnixNano(), r.now().UnixNano()
	e.Attempts, e.Reason, e.Waited, e.Unlisted = 0, "", false, ""
	return tx.Put(e)
}
