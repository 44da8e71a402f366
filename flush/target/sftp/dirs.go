package sftp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"forebay/flush/target"
	"forebay/flush/target/tree"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// What happens in a directory changes its times on the server, and one whose mode forbids it has to be opened for it. A commit notes
// what directories have before it begins, in memory and in the file .dirs, and gives it back at the end; one that was cut short is
// made good for when the next connection begins to write.

// kept is what a directory had.
type kept struct {
	Path  []byte `json:"path"` // in the mirror; bytes need not be text
	Mode  uint32 `json:"mode"` // 07777
	Mtime int64  `json:"mtime"`
}

type keptFile struct {
	Format int    `json:"format"`
	Dirs   []kept `json:"dirs"`
	// Replaced are the paths in whose place the commit may move something aside, see replace.go. An older program passes over them.
	Replaced [][]byte `json:"replaced,omitempty"`
}

// keeper is what a commit gives back.
type keeper struct {
	d *SFTP
	c *conn

	mu    sync.Mutex
	dirs  map[string]kept
	noted bool // .dirs is there
}

// keepDirs looks at the directories in which changes will be made.
func (d *SFTP) keepDirs(c *conn, changes []target.Change) (*keeper, error) {
	k := &keeper{d: d, c: c, dirs: map[string]kept{}}
	paths := map[string]bool{}
	for _, ch := range changes {
		if proto.CheckPath(ch.Path) != nil {
			continue
		}
		for p := waves.Parent(ch.Path); p != "" && !paths[p]; p = waves.Parent(p) {
			paths[p] = true
		}
	}
	var g errgroup.Group
	g.SetLimit(d.cfg.Requests)
	for p := range paths {
		g.Go(func() error { // ends with its request
			var st os.FileInfo
			err := d.above(c, p)
			if err == nil {
				st, err = c.lstat(d.full(p))
			}
			if absent(err) || err == nil && !st.IsDir() || d.tooLong(c, err, d.full(p)) != "" {
				return nil // of what is not there, the changes tell
			}
			if err != nil {
				return err
			}
			k.set(p, attrs(st).Mode&0o7777, int64(attrs(st).Mtime))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return k, nil // the changes tell
		}
		return nil, d.failed(c, err, "look at directories")
	}
	file := keptFile{Format: 1, Replaced: c.replaced(changes)}
	if len(k.dirs)+len(file.Replaced) == 0 {
		return k, nil
	}
	for _, dir := range k.dirs {
		file.Dirs = append(file.Dirs, dir)
	}
	b, err := json.Marshal(file)
	if err == nil {
		err = d.writeSmall(c, d.stageDir()+"/"+dirsFile, b)
	}
	if err != nil {
		return nil, d.failed(c, err, "note what directories have")
	}
	k.noted = true
	if c.root() {
		return k, nil
	}
	for p, dir := range k.dirs {
		if dir.Mode&0o300 != 0o300 {
			if err := c.sftp.Chmod(d.full(p), os.FileMode(dir.Mode&0o777|0o300)); err != nil && !errors.Is(err, fs.ErrPermission) {
				return nil, d.failed(c, err, "open directory %q", p)
			}
		}
	}
	return k, nil
}

// set notes what a directory is to have in the end.
func (k *keeper) set(p string, mode uint32, mtime int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirs[p] = kept{[]byte(p), mode, mtime}
}

// restore gives directories what they had, or were given meanwhile.
func (k *keeper) restore() error {
	dirs := make([]kept, 0, len(k.dirs))
	for _, dir := range k.dirs {
		dirs = append(dirs, dir)
	}
	return k.d.giveBack(k.c, dirs)
}

func (d *SFTP) giveBack(c *conn, dirs []kept) error {
	slices.SortFunc(dirs, func(a, b kept) int { return strings.Compare(string(b.Path), string(a.Path)) }) // what is in one before it
	for _, dir := range dirs {
		if err := d.above(c, string(dir.Path)); err != nil {
			if absent(err) {
				continue // it was deleted or replaced
			}
			return d.failed(c, err, "give directory %q its times back", dir.Path)
		}
		full := d.full(string(dir.Path))
		st, err := c.lstat(full)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
			continue // it was deleted or replaced
		}
		if err == nil && attrs(st).Mode&0o7777 != dir.Mode {
			err = c.sftp.Chmod(full, fileMode(dir.Mode))
		}
		if err == nil && int64(attrs(st).Mtime) != dir.Mtime {
			err = c.setTime(full, dir.Mtime)
		}
		if err != nil && !errors.Is(err, fs.ErrPermission) {
			return d.failed(c, err, "give directory %q its times back", dir.Path)
		}
	}
	return nil
}

// fileMode is a mode of 07777 as the client of SFTP takes it.
func fileMode(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for bit, is := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if mode&bit != 0 {
			m |= is
		}
	}
	return m
}

// clear removes the note.
func (k *keeper) clear() error {
	if !k.noted {
		return nil
	}
	return k.d.dropDirs(k.c)
}

// dropDirs removes the note, and first what may be beside it: it would be taken for one.
func (d *SFTP) dropDirs(c *conn) error {
	name := d.stageDir() + "/" + dirsFile
	err := c.drop(beside(name))
	if err == nil {
		err = c.drop(name)
	}
	return d.failed(c, err, "end a commit")
}

// restoreDirs makes good for a commit that was cut short.
func (d *SFTP) restoreDirs(c *conn) error {
	name := d.stageDir() + "/" + dirsFile
	if _, err := c.recover(name); err != nil {
		return d.failed(c, err, "look for %s", name)
	}
	b, err := c.readSmall(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return d.failed(c, err, "read %s", name)
	}
	var file keptFile
	if err := json.Unmarshal(b, &file); err == nil && file.Format == 1 {
		if err := d.putBack(c, file.Replaced); err != nil { // before the times of directories are
			return err
		}
		for _, dir := range file.Dirs {
			if err := proto.CheckPath(string(dir.Path)); err != nil {
				return proto.Errorf(proto.ClassCorrupt, "%s names %q: %w", name, dir.Path, err)
			}
			if err := d.giveBack(c, []kept{dir}); err != nil {
				return err
			}
		}
	} else if err == nil {
		return proto.Errorf(proto.ClassPermanent, "%s has format %d, this program knows 1: use a newer release", name, file.Format)
	}
	return d.dropDirs(c)
}

func lastSlash(s string) int { return strings.LastIndexByte(s, '/') }

var errNoDir = errors.New("a parent is no directory")

// eachAbove calls fn for the directories above a path, those of the prefix first: how each is remembered in dirs, and where it is.
func (d *SFTP) eachAbove(p string, fn func(name, full string) error) error {
	if prefix := d.cfg.Prefix; prefix != "" {
		for i := range len(prefix) + 1 {
			if i == len(prefix) || prefix[i] == '/' {
				if err := fn("/"+prefix[:i], tree.Join(d.cfg.Path, prefix[:i])); err != nil {
					return err
				}
			}
		}
	}
	for i := range len(p) {
		if p[i] == '/' {
			if err := fn(p[:i], d.full(p[:i])); err != nil {
				return err
			}
		}
	}
	return nil
}

// isDir sees that there is a directory, which is remembered.
func (d *SFTP) isDir(c *conn, name, full string) error {
	if d.dirs.Has(name) {
		return nil
	}
	st, err := c.lstat(full)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return proto.Errorf(proto.ClassTransient, "%w: %q", errNoDir, name)
	}
	d.dirs.Add(name)
	return nil
}

// above sees that what lies above a path is a directory and no link: a server follows whatever lies there.
func (d *SFTP) above(c *conn, p string) error {
	err := d.eachAbove(p, func(name, full string) error { return d.isDir(c, name, full) })
	if err != nil && !absent(err) {
		return fmt.Errorf("look above %q: %w", p, err)
	}
	return err
}
