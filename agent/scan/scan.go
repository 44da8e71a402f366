package scan

import (
	"context"
	"errors"
	"fmt"
	"time"

	"forebay/agent/index"
	"forebay/fsmeta"
	"forebay/proto"
)

// Config describes one root.
type Config struct {
	Dataset          proto.Dataset
	Root             string // absolute path of the directory
	Include, Exclude []string
}

// Deps are what a Scanner works with.
type Deps struct {
	Index *index.Root
	Now   func() time.Time
	// Moved is told why the root was recognised although the number of its device is another than before. May be nil.
	Moved func(why string)
}

// Scanner scans one root. One Scan at a time for an index; ScanPaths may run beside it, so also in the pauses of a Pacer.
type Scanner struct {
	cfg   Config
	rules *Rules
	index *index.Root
	now   func() time.Time
	moved func(why string)

	asking   asking
	identify func(*fsmeta.Root) (seen index.Identity, numbered bool, err error) // identify; tests have their own
}

// New checks the configuration.
func New(cfg Config, deps Deps) (*Scanner, error) {
	rules, err := NewRules(cfg.Include, cfg.Exclude)
	if err != nil {
		return nil, fmt.Errorf("dataset root %s: %w", cfg.Root, err)
	}
	s := &Scanner{cfg: cfg, rules: rules, index: deps.Index, now: deps.Now, moved: deps.Moved, identify: identify}
	if s.moved == nil {
		s.moved = func(string) {}
	}
	return s, nil
}

// Rules returns what the scanner wants of the root.
func (s *Scanner) Rules() *Rules { return s.rules }

// Result is what a scan saw. Entries that were found changed have StatePending when it returns, gone ones StateGone.
type Result struct {
	Started  time.Time
	Duration time.Duration

	Objects int64 // seen and wanted: files, hard links, directories, symlinks
	Bytes   int64 // of files, hard links once
	Dirs    int64 // directories listed
	Changed int64 // created, changed, or replaced by another kind
	Gone    int64 // marked gone, or forgotten because the relay never heard of them; full scans only
	// Skipped counts sockets, devices, pipes, mount points inside the root, and names that cannot be objects.
	Skipped int64
	// Unreadable counts directories that could not be listed and names that could not be looked at. The index has the
	// directories concerned, with the reason, as Entry.Unlisted. Files whose content the agent could not read are not among
	// them: the index has those as StateUnreadable.
	Unreadable int64
	// Failures names the Skipped and Unreadable, up to proto.MaxFailures.
	Failures []proto.Failure
}

// pageSize is how many entries are read from the index at once, batchSize how many findings go into one Edit, paceEvery
// after how many names the pacer is asked.
const (
	pageSize  = 512
	batchSize = 256
	paceEvery = 64
)

// run is one scan under way.
type run struct {
	*Scanner
	root  *fsmeta.Root
	id    index.Identity // of root
	pacer *Pacer
	full  bool // a full scan: concludes gone, forgets what is excluded
	res   Result
	batch []seen
	names int // looked at, for the pacer
	// unseen is the first reason why something in the directory being listed could not be looked at.
	unseen string
	// suspects are entries that a listing did not have; not yet written.
	suspects []string
}

// seen is a finding that differs from the entry was that the walk compared it with.
type seen struct {
	finding
	was index.Entry
	had bool
}

// Scan walks the whole root. It returns Refused (see Cause) when the root is not what the index knows, the context's error
// when it was stopped, and errors of the index; in all these cases nothing was marked gone that is not gone, and the next
// scan begins anew. What it could not read is no error: see Result.
func (s *Scanner) Scan(ctx context.Context, p *Pacer) (Result, error) {
	// Suspects of an earlier scan that did not complete are kept: each is looked at anew before anything is concluded, and
	// what was below a directory that became a file is found by them alone.
	return s.with(p, true, func(r *run) error {
		if err := r.tree(ctx, "", true); err != nil {
			return err
		}
		if err := r.flush(); err != nil {
			return err
		}
		return r.judge(ctx)
	})
}

// ScanPaths looks at the given directories ("" = the root) because something may have changed in them: their entries are
// compared, new directories among them are walked whole, others are not entered. It concludes nothing about what is
// missing. A directory that the index does not know is found from the nearest one above it that it does. Errors are those
// of Scan.
func (s *Scanner) ScanPaths(ctx context.Context, dirs []string, p *Pacer) (Result, error) {
	return s.with(p, false, func(r *run) error {
		done := map[string]bool{}
		for _, dir := range dirs {
			dir, err := r.nearest(dir)
			if err != nil {
				return err
			}
			dir = r.outside(dir)
			if done[dir] || dir != "" && !s.rules.Wanted(dir, true) {
				continue
			}
			done[dir] = true
			if err := r.self(dir); err != nil {
				return err
			}
			if err := r.tree(ctx, dir, false); err != nil {
				return err
			}
		}
		return r.flush()
	})
}

func (s *Scanner) with(p *Pacer, full bool, walk func(*run) error) (Result, error) {
	started := s.now()
	p.start()
	s.ask("")
	defer s.answered()
	root, err := s.openRoot()
	if err != nil {
		return Result{}, err
	}
	r := &run{Scanner: s, root: root, pacer: p, full: full, res: Result{Started: started}}
	if r.id, _, err = s.identify(root); err == nil {
		err = walk(r)
	}
	err = errors.Join(err, root.Close())
	r.res.Duration = s.now().Sub(started)
	return r.res, err
}

// nearest returns dir, or the nearest directory above it that the index has.
func (r *run) nearest(dir string) (string, error) {
	for dir != "" {
		e, ok, err := r.index.Get(dir)
		if err != nil {
			return "", err
		}
		if ok && e.Present() && e.Kind == proto.KindDir {
			break
		}
		dir = parent(dir)
	}
	return dir, nil
}

// pace lets the pacer rest, with nothing asked of the disk meanwhile.
func (r *run) pace(ctx context.Context) error {
	r.answered()
	return r.pacer.Pace(ctx)
}

// self compares a directory's own entry: what changed in it changed its times.
func (r *run) self(dir string) error {
	if dir == "" {
		return nil
	}
	e, ok, err := r.index.Get(dir)
	if err != nil || !ok {
		return err
	}
	r.ask(dir)
	st, err := r.root.Stat(dir)
	if err != nil || st.Kind() != proto.KindDir || st.MountRoot {
		return nil // its parent's business
	}
	return r.compare(finding{path: dir, kind: proto.KindDir, stat: toStat(st)}, e, true)
}

// fail notes an object that is not backed up from here.
func (r *run) fail(path string, kind proto.FailureKind, reason string, since int64) {
	if kind == proto.FailSkipped {
		r.res.Skipped++
	} else {
		r.res.Unreadable++
	}
	if since == 0 {
		since = r.res.Started.UnixNano()
	}
	if len(r.res.Failures) < proto.MaxFailures {
		r.res.Failures = append(r.res.Failures, proto.Failure{Path: path, Kind: kind, Reason: reason, SinceNs: since})
	}
}
