package sftp

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"strings"

	"forebay/flush/target"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// A server with posix-rename@openssh.com puts a file in another's place in one step. The protocol's own rename takes no name that is
// taken: what has it is moved aside first, so that the name is away until the other has it, and for longer where the relay or the server
// ends in between. What was moved aside is put back then, by who misses the name: it goes only while something has the name.
//
//	<dir>/.<name>.old                                 of a record, or of a file of the driver's own: beside it
//	<path>/.forebay/stage/<prefix key>/.a-<digest>    of an object in the mirror, whose path .dirs has

const (
	asideStart = ".a-"
	oldEnd     = ".old"
)

// replaceTries bounds how often what has a name is moved aside: another may put it back in between.
const replaceTries = 5

// beside is where a record is while it is replaced.
func beside(name string) string {
	i := lastSlash(name) + 1
	return name[:i] + "." + name[i:] + oldEnd
}

// asideOf is where an object of the mirror is while it is replaced.
func (d *SFTP) asideOf(p string) string {
	sum := proto.BlockDigest([]byte(p))
	return d.stageDir() + "/" + asideStart + hex.EncodeToString(sum[:16])
}

// replace moves a record, or a file of the driver's own, over whatever has the name.
func (c *conn) replace(from, to string) error { return c.rename(from, to, beside(to)) }

// rename moves a file over whatever has the name, which may be at aside meanwhile.
func (c *conn) rename(from, to, aside string) error {
	if c.posixRename {
		return c.sftp.PosixRename(from, to)
	}
	for try := 1; ; try++ {
		err := c.sftp.Rename(from, to)
		if err == nil {
			break
		}
		// It may have failed for another reason than that the name is taken.
		_, ferr := c.lstat(from)
		if st, terr := c.lstat(to); ferr != nil || terr != nil || st.IsDir() || try == replaceTries {
			return err
		}
		if err := c.drop(aside); err != nil { // of an earlier time: something has the name
			return err
		}
		if rerr := c.sftp.Rename(to, aside); rerr != nil {
			return err
		}
		if err = c.sftp.Rename(from, to); err == nil {
			break
		}
		if _, terr := c.lstat(to); terr == nil {
			continue // who missed it has put it back
		}
		if rerr := c.sftp.Rename(aside, to); rerr != nil {
			c.close() // it is put back with the next connection
			return errors.Join(err, rerr)
		}
	}
	return c.drop(aside)
}

// drop removes a file, one that is gone is no error.
func (c *conn) drop(name string) error {
	if err := c.sftp.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// recover puts back what a replacement of a record that was cut short has left beside it, and reports whether the record is there. It may
// be asked while a replacement goes on, which then begins again.
func (c *conn) recover(name string) (there bool, err error) {
	_, old := c.lstat(beside(name)) // whatever the server can do now: it may have been another then
	if old != nil && !errors.Is(old, fs.ErrNotExist) {
		return false, old
	}
	if old != nil && c.posixRename {
		return false, nil
	}
	if _, err := c.lstat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err == nil, err // there meanwhile
	}
	if old != nil {
		return false, nil
	}
	if err := c.sftp.Rename(beside(name), name); err != nil {
		if _, lerr := c.lstat(name); lerr == nil {
			return true, nil
		}
		return false, err
	}
	return true, c.syncDir(name[:lastSlash(name)])
}

// orRecovered looks for a record by look, once more where it was put back for that.
func (c *conn) orRecovered(name string, look func() error) error {
	err := look()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	there, rerr := c.recover(name)
	switch {
	case rerr != nil:
		return rerr
	case there:
		return look()
	}
	return err
}

// replaced are the paths of changes in whose place something may be moved aside.
func (c *conn) replaced(changes []target.Change) (paths [][]byte) {
	if c.posixRename {
		return nil
	}
	for _, ch := range changes {
		if (ch.Op == target.OpPut || ch.Op == target.OpSymlink || ch.Op == target.OpLink) && proto.CheckPath(ch.Path) == nil {
			paths = append(paths, []byte(ch.Path))
		}
	}
	return paths
}

// putBack gives objects of the mirror back their names after a commit that was cut short while it replaced them.
func (d *SFTP) putBack(c *conn, paths [][]byte) error {
	if len(paths) == 0 {
		return nil
	}
	found, err := c.sftp.ReadDir(d.stageDir())
	if err != nil {
		return d.failed(c, err, "list staged contents")
	}
	left := map[string]bool{}
	for _, st := range found {
		if strings.HasPrefix(st.Name(), asideStart) {
			left[d.stageDir()+"/"+st.Name()] = true
		}
	}
	for _, b := range paths {
		p := string(b)
		if err := proto.CheckPath(p); err != nil {
			return proto.Errorf(proto.ClassCorrupt, "%s/%s names %q: %w", d.stageDir(), dirsFile, p, err)
		}
		aside := d.asideOf(p)
		if !left[aside] {
			continue
		}
		err := d.above(c, p)
		if absent(err) {
			continue // nothing is to be in it any more
		}
		if err == nil {
			_, err = c.lstat(d.full(p))
		}
		if err == nil {
			err = c.drop(aside)
		} else if errors.Is(err, fs.ErrNotExist) {
			if err = c.sftp.Rename(aside, d.full(p)); err == nil {
				err = c.syncDir(d.full(waves.Parent(p)))
			}
		}
		if err != nil {
			return d.failed(c, err, "give %q its name back", p)
		}
	}
	return nil
}
