package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/flush/target/process/serve"
	"forebay/flush/target/tree"
	"forebay/proto"
)

// mirror is a directory as a target:
//
//	<path>/<prefix>/...                             the mirror
//	<path>/.forebay/stage/<prefix key>/<stage id>   staged contents
//	<path>/.forebay/<record>                        records
//
// Contents, names and links are kept, metadata only as far as files' times go, by which a commit that is repeated is known. Who may write
// into the directory meanwhile could lead it astray within it, never out of it (os.Root).
type mirror struct {
	root   *os.Root
	path   string
	o      serve.Opening
	commit sync.Mutex // held by Commit

	mu      sync.Mutex
	writing map[target.StageID]bool
}

func newMirror(root *os.Root, path string, o serve.Opening) *mirror {
	return &mirror{root: root, path: path, o: o, writing: map[target.StageID]bool{}}
}

// place is where a path of the mirror is; "" is the mirror itself.
func (m *mirror) place(p string) string {
	if m.o.Prefix == "" && p == "" {
		return "."
	}
	return tree.Join(m.o.Prefix, p)
}

func (m *mirror) stageDir() string {
	return path.Join(proto.ReservedName, target.StageDir, target.PrefixKey(m.o.Prefix))
}

func (m *mirror) staged(id target.StageID) string { return path.Join(m.stageDir(), string(id)) }

// gone reports whether an error says that nothing is there: a file above a path says so, too.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) }

// failed gives an error of the system its class.
func failed(err error, what string, args ...any) error {
	switch doing := fmt.Sprintf(what, args...); {
	case err == nil:
		return nil
	case gone(err):
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, fs.ErrNotExist)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return proto.Errorf(proto.ClassOverload, "%s: %w: it is full", doing, err)
	case proto.ClassOf(err) != proto.ClassTransient:
		return fmt.Errorf("%s: %w", doing, err)
	default:
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, err)
	}
}

// Probe looks whether the directory is there and, where it has to be, the owner mark.
func (m *mirror) Probe(ctx context.Context) (target.Info, error) {
	if err := ctx.Err(); err != nil {
		return target.Info{}, err
	}
	mark := path.Join(proto.ReservedName, target.MarkDir, target.PrefixKey(m.o.Prefix))
	if _, err := m.root.Lstat(mark); m.o.Expect && err != nil {
		return target.Info{}, proto.Errorf(proto.ClassTransient, "%s is not the target it was: its owner mark %s is not there: is the disk mounted?", m.path, mark)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(m.path, &st); err != nil {
		return target.Info{}, failed(err, "look at %s", m.path)
	}
	return target.Info{
		Where: m.path, Confirm: target.ConfirmSync, FreeBytes: int64(st.Bavail) * st.Bsize, MaxName: int(st.Namelen), Move: true, Atomic: true,
		Carries: target.Carries{Symlinks: true, Hardlinks: true, Sparse: true, EmptyDirs: true, RawNames: true},
		Notes:   []string{"a sample: metadata are kept under .forebay/ only"},
	}, nil
}

// Close closes the directory.
func (m *mirror) Close() error { return m.root.Close() }

// checked is what every call looks at first.
func checked(ctx context.Context, p string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := proto.CheckPath(p); err != nil {
		return proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return nil
}

// above sees that what lies above a path are directories and no links.
func (m *mirror) above(p string) error {
	full := m.place(p)
	for i := range len(full) {
		if full[i] != '/' {
			continue
		}
		if st, err := m.root.Lstat(full[:i]); err != nil {
			return err
		} else if !st.IsDir() {
			return &fs.PathError{Op: "open", Path: full[:i], Err: syscall.ENOTDIR}
		}
	}
	return nil
}

// Open opens a file.
func (m *mirror) Open(ctx context.Context, p string) (io.ReadCloser, error) {
	e, err := m.Stat(ctx, p)
	if err != nil {
		return nil, err
	}
	if e.Desc.Kind != proto.KindFile {
		return nil, proto.Errorf(proto.ClassPermanent, "open %q: it is a %s", p, e.Desc.Kind)
	}
	f, err := m.root.Open(m.place(p))
	if err != nil {
		return nil, failed(err, "open %q", p)
	}
	return f, nil
}

// Stat describes what is at a path.
func (m *mirror) Stat(ctx context.Context, p string) (e target.Entry, err error) {
	if err := checked(ctx, p); err != nil {
		return e, err
	}
	if err := m.above(p); err != nil {
		return e, failed(err, "look for %q", p)
	}
	st, err := m.root.Lstat(m.place(p))
	if err != nil {
		return e, failed(err, "look for %q", p)
	}
	return m.entry(p, st)
}

func (m *mirror) entry(p string, st fs.FileInfo) (e target.Entry, err error) {
	e.Path = p
	e.Desc.Meta.MtimeNs = st.ModTime().UnixNano()
	switch mode := st.Mode(); {
	case mode.IsRegular():
		e.Desc.Kind, e.Desc.Size = proto.KindFile, st.Size()
	case mode.IsDir():
		e.Desc.Kind = proto.KindDir
	case mode&fs.ModeSymlink != 0:
		e.Desc.Kind = proto.KindSymlink
		if e.Desc.LinkTo, err = m.root.Readlink(m.place(p)); err != nil {
			return e, failed(err, "read the link %q", p)
		}
	}
	return e, nil
}

// List walks the mirror.
func (m *mirror) List(ctx context.Context, prefix string, fn func(target.Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return tree.List(ctx, prefix, m.Stat, m.entries, fn)
}

// entries lists one directory.
func (m *mirror) entries(dir string) (out []target.Entry, err error) {
	f, err := m.root.Open(m.place(dir))
	if gone(err) && dir == "" {
		return nil, nil // nothing was put there yet
	}
	if err != nil {
		return nil, failed(err, "list %q", dir)
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, failed(err, "list %q", dir)
	}
	for _, name := range names {
		if name == proto.ReservedName {
			continue
		}
		st, err := m.root.Lstat(m.place(tree.Join(dir, name)))
		if gone(err) {
			continue // it went while we looked
		}
		if err != nil {
			return nil, failed(err, "look for %q", name)
		}
		e, err := m.entry(tree.Join(dir, name), st)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// syncDir makes a directory's entries durable.
func (m *mirror) syncDir(name string) error {
	f, err := m.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// makeDirs makes a directory and what is missing above it, durably.
func (m *mirror) makeDirs(name string) error {
	if st, err := m.root.Lstat(name); err == nil && st.IsDir() {
		return nil
	}
	if dir := path.Dir(name); dir != "." {
		if err := m.makeDirs(dir); err != nil {
			return err
		}
	}
	if err := m.root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if st, err := m.root.Lstat(name); err != nil || !st.IsDir() {
		return proto.Errorf(proto.ClassTransient, "%q is no directory", name)
	}
	return m.syncDir(path.Dir(name))
}

func mtime(d proto.Desc) time.Time { return time.Unix(0, d.Meta.MtimeNs) }
