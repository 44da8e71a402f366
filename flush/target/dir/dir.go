package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/internal/faultpoint"
	"forebay/proto"
)

// Config says where the target is.
type Config struct {
	// Path is the target's directory, absolute. It must exist; links in Path itself are followed.
	Path string
	// Prefix is the folder below it that the mirror lies in, "" for Path itself. It is made by the first commit.
	Prefix string
	// Expect is set when this target was marked before, as the ledger knows: without its owner mark it is then not there,
	// and nothing is written into what may be the empty mount point of a disk that is missing.
	Expect bool
	// Legible is set for a mirror that this user has to read again: without the right to read everything, files get u+r and
	// directories u+rx. The journal has the modes that they should have.
	Legible bool
	// Work is the name of the folder for what is not the mirror, proto.ReservedName when empty. Restore has its own.
	Work string
}

// Validate says what is wrong with a configuration (ClassPermanent).
func (c Config) Validate() error {
	if !filepath.IsAbs(c.Path) {
		return proto.Errorf(proto.ClassPermanent, "target path %q: give an absolute path", c.Path)
	}
	if err := target.CheckPrefix(c.Prefix); err != nil {
		return proto.Errorf(proto.ClassPermanent, "target %s: %w", c.Path, err)
	}
	return nil
}

// Deps is what a Dir is given. The zero Deps works.
type Deps struct {
	Names *fsmeta.Names // user names, shared with others
	// Fault is told of the boundaries within a commit, and an error of it ends the commit there; nil in the program that ships.
	Fault func(faultpoint.Point) error
}

// Dir is a directory as a target. Between calls it keeps no file of the target open, so that the target can be unmounted,
// except while contents are staged.
type Dir struct {
	cfg    Config
	names  *fsmeta.Names
	rights rights
	key    string

	commits sync.Mutex // held by Commit and by what must not meet one

	mu      sync.Mutex
	bound   *identity // the root that was written to; nil before
	mark    []byte    // its owner mark, nil when it has none yet
	writing map[target.StageID]bool
	// unsynced are the contents staged since they were made durable last; tainted those whose durability is unknown.
	unsynced, tainted map[target.StageID]bool
	// watch is opened before the first of unsynced is written and is what syncfs is called on: the kernel reports a failed
	// write only to descriptors that were open before it.
	watch     *os.File
	recovered bool // contents of an earlier boot have been dealt with
	notes     []string

	seen   *traitsSeen // nil when there was none yet
	seenOn identity

	temps    atomic.Uint64
	fault    func(faultpoint.Point) error // nil in the program that ships
	syncfs   func(fd int) error           // for tests: in a barrier, in unix.Syncfs's place, whatever the file system; nil else
	noSyncfs bool                         // for tests: the way of file systems without a trusted syncfs
	noLinks  bool                         // for tests: the way of file systems without hard links, for what is kept
	hidden   bool                         // for tests: the way of file systems whose type does not tell what they can hold
}

type identity struct{ fsType, fsID, ino uint64 }

var _ target.Target = (*Dir)(nil)

// Open returns the target. It touches nothing: a target that is not there shows in Probe and in every other call. Errors
// are those of Validate.
func Open(cfg Config, deps Deps) (*Dir, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Work == "" {
		cfg.Work = proto.ReservedName
	}
	if deps.Names == nil {
		deps.Names = fsmeta.NewNames(1024)
	}
	return &Dir{
		cfg: cfg, names: deps.Names, rights: ownRights(), key: target.PrefixKey(cfg.Prefix),
		fault: deps.Fault, writing: map[target.StageID]bool{}, unsynced: map[target.StageID]bool{}, tainted: map[target.StageID]bool{},
	}, nil
}

// legible reports whether modes that shut out their owner are to be avoided.
func (d *Dir) legible() bool { return d.cfg.Legible && !d.rights.override }

// Close lets go of what is open. Staged contents stay.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unwatch()
	return nil
}

// place is the target's root during one call.
type place struct {
	*fsmeta.Root
	d  *Dir
	fs unix.Statfs_t
	t  traits
}

// enter opens the root for reading and makes sure that it is the one it was. The caller closes the place.
func (d *Dir) enter(ctx context.Context) (*place, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := fsmeta.OpenRoot(d.cfg.Path, fsmeta.NoXDev)
	if err != nil {
		return nil, notThere(d.cfg.Path, "it cannot be opened", err)
	}
	p := &place{Root: root, d: d}
	if err := p.identify(); err != nil {
		_ = root.Close()
		return nil, err
	}
	return p, nil
}

func (p *place) identify() error {
	if err := p.Use(func(fd int) error { return retry(func() error { return unix.Fstatfs(fd, &p.fs) }) }); err != nil {
		return notThere(p.Path(), "it does not answer", err)
	}
	var now identity
	var err error
	if now.fsType, now.fsID, now.ino, err = p.FSIdentity(); err != nil {
		return notThere(p.Path(), "it does not answer", err)
	}
	d := p.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := p.learn(now); err != nil {
		return notThere(p.Path(), "it cannot be looked into", err)
	}
	if d.bound != nil && *d.bound == now {
		return nil
	}
	mark, err := p.readMark()
	if err != nil && !absent(err) {
		return notThere(p.Path(), "its owner mark cannot be read", err)
	}
	switch {
	case d.bound != nil && (mark == nil || string(mark) != string(d.mark)):
		return notThere(p.Path(), "another directory or file system is in its place", nil)
	case d.bound == nil && d.cfg.Expect && mark == nil:
		return notThere(p.Path(), "it was used before, but has no owner mark now: mount it; "+target.WipedHint, nil)
	}
	if mark != nil || d.bound != nil {
		d.bound, d.mark = &now, mark
	}
	return nil
}

// write enters for writing: from now on the root is known and must stay the same, with its mark.
func (d *Dir) write(ctx context.Context) (*place, error) {
	p, err := d.enter(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.bind(); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *place) bind() error {
	d := p.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bound == nil {
		var now identity
		var err error
		if now.fsType, now.fsID, now.ino, err = p.FSIdentity(); err != nil {
			return notThere(p.Path(), "it does not answer", err)
		}
		d.bound = &now
	}
	return p.stillMarked()
}

// stillMarked looks for a mark that was there: someone may have emptied the target. d.mu is held.
func (p *place) stillMarked() error {
	if p.d.mark == nil { // perhaps somebody else has made it meanwhile
		if mark, err := p.readMark(); err == nil {
			p.d.mark = mark
		}
		return nil
	}
	if _, err := p.Stat(p.markPath()); err != nil {
		if !absent(err) {
			return notThere(p.Path(), "its owner mark cannot be read", err)
		}
		return notThere(p.Path(), "its owner mark has vanished; "+target.WipedHint, nil)
	}
	return nil
}

func (p *place) markPath() string {
	return path.Join(p.d.cfg.Work, target.MarkDir, p.d.key)
}

func (p *place) readMark() ([]byte, error) {
	f, err := p.Open(p.markPath(), unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read from
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// full returns the path below the root of an object.
func (d *Dir) full(p string) string { return path.Join(d.cfg.Prefix, p) }

// stageDir returns the path below the root of the folder of staged contents.
func (d *Dir) stageDir() string { return path.Join(d.cfg.Work, target.StageDir, d.key) }

// note remembers something that an operator should know, once.
func (d *Dir) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.notes, s) && len(d.notes) < 20 {
		d.notes = append(d.notes, s)
	}
}

// Probe looks at the directory. It makes nothing.
func (d *Dir) Probe(ctx context.Context) (target.Info, error) {
	p, err := d.enter(ctx)
	if err != nil {
		return target.Info{}, err
	}
	defer func() { _ = p.Close() }()
	d.mu.Lock()
	err = p.stillMarked()
	d.mu.Unlock()
	if err != nil {
		return target.Info{}, err
	}
	base, err := p.Open(d.cfg.Prefix, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		base, err = p.Open("", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return target.Info{}, classify(err, "open %s", path.Join(d.cfg.Path, d.cfg.Prefix))
	}
	defer func() { _ = base.Close() }()
	info := target.Info{
		Driver: "dir", Where: path.Join(d.cfg.Path, d.cfg.Prefix),
		Carries: p.t.carries(d.rights, xattrsWork(base), !d.legible()), FreeBytes: int64(p.fs.Bavail) * p.fs.Bsize,
		MaxName: int(p.fs.Namelen), CaseFolds: caseFolds(p.t, base), Move: true, Atomic: true, Keeps: true, Reuses: true,
	}
	var word string
	info.Confirm, word = syncReaches(p.fs.Type)
	d.mu.Lock()
	defer d.mu.Unlock()
	info.Notes = append(d.standing(info), d.notes...)
	if word != "" {
		info.Notes = append(info.Notes, word)
	}
	return info, nil
}

// standing returns the notes that follow from what the target can do.
func (d *Dir) standing(info target.Info) (notes []string) {
	if !info.Carries.Owner {
		notes = append(notes, "no right to chown: owners, and the setuid and setgid bits that need them, are kept under .forebay/ only")
	}
	if !info.Carries.Xattrs {
		notes = append(notes, "the file system has no extended attributes: they are kept under .forebay/ only")
	}
	if !info.Carries.Hardlinks {
		notes = append(notes, "the file system has no hard links: they become copies")
	}
	if info.CaseFolds {
		notes = append(notes, "names that differ in case only are one name here: the second of them is parked")
	}
	return notes
}
