package demo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// change is one thing done to every replica, as the primary's own replication would.
type change struct {
	what string // changed, renamed, deleted, new mode, new
	path string
	to   string // renamed
	do   func(root string) error
}

// String tells the change to people.
func (c change) String() string {
	if c.to != "" {
		return fmt.Sprintf("%s %q to %q", c.what, c.path, c.to)
	}
	return fmt.Sprintf("%s %q", c.what, c.path)
}

// planChanges picks what to change from the small files of a tree: spread over it, each file once. fresh is the name of a
// new directory at the top, for objects of other kinds.
func planChanges(small []string, fresh string) []change {
	var plan []change
	pick := spread(small, 9)
	next := func() (string, bool) {
		if len(pick) == 0 {
			return "", false
		}
		p := pick[0]
		pick = pick[1:]
		return p, true
	}
	for _, make := range []func(string) change{
		rewrite, rename, remove, chmod, rewrite, rename, remove, rewrite, remove,
	} {
		if path, ok := next(); ok {
			plan = append(plan, make(path))
		}
	}
	return append(plan, additions(fresh)...)
}

// spread picks n entries from list, evenly.
func spread(list []string, n int) []string {
	if len(list) <= n {
		return slices.Clone(list)
	}
	var out []string
	for i := range n {
		out = append(out, list[(2*i+1)*len(list)/(2*n)])
	}
	return out
}

func rewrite(path string) change {
	return change{what: "changed", path: path, do: func(root string) error {
		f, err := openWritable(filepath.Join(root, path))
		if err != nil {
			return err
		}
		_, err = f.WriteString("changed by the demo\n")
		return errors.Join(err, f.Close())
	}}
}

func rename(path string) change {
	to := path + ".renamed"
	return change{what: "renamed", path: path, to: to, do: func(root string) error {
		return os.Rename(filepath.Join(root, path), filepath.Join(root, to))
	}}
}

func remove(path string) change {
	return change{what: "deleted", path: path, do: func(root string) error { return os.Remove(filepath.Join(root, path)) }}
}

func chmod(path string) change {
	return change{what: "new mode of", path: path, do: func(root string) error { return os.Chmod(filepath.Join(root, path), 0o600) }}
}

// additions are new objects of the kinds that a source tree seldom has.
func additions(dir string) []change {
	in := func(name string) string { return dir + "/" + name }
	add := func(path string, do func(full string) error) change {
		return change{what: "new", path: path, do: func(root string) error { return do(filepath.Join(root, path)) }}
	}
	return []change{
		add(dir, func(full string) error { return os.Mkdir(full, 0o750) }),
		add(in("empty"), func(full string) error { return os.Mkdir(full, 0o755) }),
		add(in("file"), func(full string) error { return os.WriteFile(full, []byte("new\n"), 0o640) }),
		add(in("hard link"), func(full string) error { return os.Link(filepath.Join(filepath.Dir(full), "file"), full) }),
		add(in("symlink"), func(full string) error { return os.Symlink("../nowhere", full) }),
		add(in("odd\n\xff"), func(full string) error { return os.WriteFile(full, []byte("odd name\n"), 0o604) }),
		add(in("sparse"), func(full string) error {
			f, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("end"), 1<<20)
			return errors.Join(err, f.Close())
		}),
		add(in("attribute"), func(full string) error {
			if err := os.WriteFile(full, nil, 0o644); err != nil {
				return err
			}
			err := unix.Lsetxattr(full, "user.forebay.demo", []byte{0, 1, 0xff}, 0)
			if errors.Is(err, unix.ENOTSUP) {
				return nil // this file system has none
			}
			return err
		}),
	}
}

// apply makes all changes in one replica. What was touched gets the same time in every replica, directories too.
func apply(plan []change, root string, when time.Time) error {
	touched := map[string]struct{}{}
	for _, c := range plan {
		for _, path := range []string{c.path, c.to} {
			if path == "" {
				continue
			}
			dir := filepath.Dir(path)
			if err := makeWritable(filepath.Join(root, dir)); err != nil {
				return err
			}
			if dir != "." {
				touched[dir] = struct{}{}
			}
			touched[path] = struct{}{}
		}
		if err := c.do(root); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		if c.what == "renamed" {
			delete(touched, c.to) // a rename leaves the object's own time
		}
	}
	paths := make([]string, 0, len(touched))
	for path := range touched {
		paths = append(paths, path)
	}
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(b, a) })
	for _, path := range paths {
		err := setTimes(filepath.Join(root, path), stamp(when))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// moved is how many bytes of content the changes bring, counted in a replica that has them.
func moved(plan []change, root string) (bytes int64) {
	for _, c := range plan {
		path := c.path
		switch c.what {
		case "deleted", "new mode of":
			continue
		case "renamed":
			path = c.to
		}
		if st, err := os.Lstat(filepath.Join(root, path)); err == nil && st.Mode().IsRegular() {
			bytes += st.Size()
		}
	}
	return bytes
}

// makeWritable lets the owner of a read-only directory write into it, as an ordinary user has to.
func makeWritable(dir string) error {
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if st.Mode()&0o300 != 0o300 {
		return os.Chmod(dir, st.Mode().Perm()|0o300)
	}
	return nil
}

// openWritable opens a file for appending, a read-only one of our own too.
func openWritable(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode()&0o200 == 0 {
		if err := os.Chmod(path, st.Mode().Perm()|0o200); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
}
