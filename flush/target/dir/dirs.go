package dir

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/proto"
)

const dirsFile = ".dirs"

// kept is what a directory of the mirror is to have again when a commit has changed what is in it.
type kept struct {
	Path    string `cbor:"1,keyasint"` // in the mirror
	Mode    uint32 `cbor:"2,keyasint"` // 07777
	MtimeNs int64  `cbor:"3,keyasint"`
	Ino     uint64 `cbor:"4,keyasint"`
}

// keptFile is the record of the directories that a commit is disturbing. It is durable before the first of them is
// touched, so that after a crash the next commit gives them back what they had.
type keptFile struct {
	Version int    `cbor:"1,keyasint"`
	Dirs    []kept `cbor:"2,keyasint"`
}

// keeper remembers directories for the time of a commit.
type keeper struct {
	p    *place
	dirs map[string]kept
}

// newKeeper notes the directories that the changes are about to touch, and those that an interrupted commit left.
func newKeeper(p *place, changes []target.Change) (*keeper, error) {
	k := &keeper{p: p, dirs: map[string]kept{}}
	name := p.d.stageDir() + "/" + dirsFile
	b, err := p.readSmall(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	left := 0
	if err == nil {
		left = k.load(b)
	}
	tried := map[string]bool{}
	for _, c := range changes {
		if proto.CheckPath(c.Path) != nil {
			continue // its change will fail
		}
		for dir := parent(c.Path); dir != "" && !tried[dir]; dir = parent(dir) {
			tried[dir] = true
			if found, err := k.note(dir); err != nil {
				return nil, err
			} else if found {
				break
			}
		}
	}
	if len(k.dirs) == left {
		return k, nil
	}
	return k, p.writeSmall(name, proto.Marshal(keptFile{Version: 1, Dirs: k.all()}))
}

// load takes over what an interrupted commit left. What cannot be read was torn before anything was touched.
func (k *keeper) load(b []byte) int {
	var f keptFile
	if proto.Unmarshal(b, &f) != nil || f.Version != 1 {
		return 0
	}
	for _, d := range f.Dirs {
		if proto.CheckPath(d.Path) == nil {
			k.dirs[d.Path] = d
		}
	}
	return len(k.dirs)
}

// note remembers an existing directory as it is; found false when there is none.
func (k *keeper) note(dir string) (found bool, err error) {
	if _, ok := k.dirs[dir]; ok {
		return true, nil
	}
	st, err := k.p.Stat(k.p.d.full(dir))
	if absent(err) || is(err, unix.EACCES) || err == nil && st.Kind() != proto.KindDir {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	k.dirs[dir] = kept{Path: dir, Mode: st.Mode & 0o7777, MtimeNs: st.MtimeNs, Ino: st.Ino}
	return true, nil
}

// set says what a directory that the commit itself made or described is to have.
func (k *keeper) set(dir string, mode uint32, mtimeNs int64, ino uint64) {
	k.dirs[dir] = kept{Path: dir, Mode: mode, MtimeNs: mtimeNs, Ino: ino}
}

// forget says that dir is none any more.
func (k *keeper) forget(dir string) { delete(k.dirs, dir) }

// all returns what is kept, children before their parents, whose lock may then shut.
func (k *keeper) all() []kept {
	out := make([]kept, 0, len(k.dirs))
	for _, d := range k.dirs {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b kept) int { return cmp.Compare(b.Path, a.Path) })
	return out
}

// restore gives every directory back what it had. Directories that are gone or were exchanged are left alone.
func (k *keeper) restore() error {
	for _, d := range k.all() {
		if err := k.giveBack(d); err != nil {
			return classify(err, "give directory %q its mode and time back", d.Path)
		}
	}
	return nil
}

func (k *keeper) giveBack(d kept) error {
	f, err := k.p.Open(k.p.d.full(d.Path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	st, err := fsmeta.StatOf(f)
	if err != nil || st.Ino != d.Ino {
		return err
	}
	if st.Mode&0o7777 != d.Mode {
		if err := retry(func() error { return unix.Chmod(procPath(f), d.Mode) }); err != nil {
			return k.mayNot(err)
		}
	}
	if st.MtimeNs == d.MtimeNs {
		return nil
	}
	return k.mayNot(fsmeta.SetMtime(procPath(f), d.MtimeNs))
}

// mayNot turns a missing right into a note: a directory of somebody else's in the mirror stays usable.
func (k *keeper) mayNot(err error) error {
	if !is(err, unix.EPERM, unix.EACCES) {
		return err
	}
	k.p.d.note("some directories of the mirror belong to another user: their times cannot be kept")
	return nil
}

// unlock makes dir and the directories above it in the mirror searchable and writable for this process, where it owns them
// and only their mode is in the way; restore shuts them again. It reports whether anything was changed.
func (k *keeper) unlock(dir string) (changed bool, err error) {
	if k.p.d.rights.override {
		return false, nil
	}
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' || i == 0 {
			continue
		}
		opened, err := k.unlockOne(dir[:i])
		changed = changed || opened
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func (k *keeper) unlockOne(dir string) (bool, error) {
	f, err := k.p.Open(k.p.d.full(dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	st, err := fsmeta.StatOf(f)
	if err != nil || st.Mode&0o700 == 0o700 {
		return false, err
	}
	if _, ok := k.dirs[dir]; !ok {
		k.set(dir, st.Mode&0o7777, st.MtimeNs, st.Ino)
	}
	err = retry(func() error { return unix.Chmod(procPath(f), st.Mode&0o7777|0o700) })
	return err == nil, err
}

// clear forgets the record when everything has what it had.
func (k *keeper) clear() error { return k.p.remove(k.p.d.stageDir() + "/" + dirsFile) }

// parent returns the directory of a path in the mirror, "" for the mirror itself.
func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}
