package config

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Finding is something about a path that keeps the program, or a part of it, from working.
type Finding struct {
	Key   string
	Path  string
	Text  string // what is wrong and what to do
	Fatal bool   // the daemon cannot start; else one target or dataset has to wait
}

// String returns key: path: text.
func (f Finding) String() string { return f.Key + ": " + f.Path + ": " + f.Text }

// ledgerDir is what a relay makes in its data directory when it first starts.
const ledgerDir = "ledger"

// patience is how long the file system of a path may take to answer: that of a hard mount whose server is away never does, and a daemon that waited
// for it would do nothing for everything else.
const patience = 10 * time.Second

// checked is a path to be checked.
type checked struct {
	located // what is "" where it may lie anywhere, in others too
	check   func() []Finding
	fatal   bool // the daemon cannot start when it does not answer
}

// answer is what was found at a place.
type answer struct {
	found []Finding
	real  string // its path without links
}

// inTime waits for an answer, at most until ctx ends. One that is there by then counts, also where another was waited for before it.
func inTime(ctx context.Context, c <-chan answer) (a answer, ok bool) {
	select {
	case a = <-c:
		return a, true
	case <-ctx.Done(): // of two cases that are ready, either would be taken
	}
	select {
	case a = <-c:
		return a, true
	default:
		return a, false
	}
}

// checkAll checks all places at once, each for as long as its file system answers, and the directories among them that do for overlaps.
func checkAll(places []checked) (found []Finding) {
	answers := make([]chan answer, len(places))
	for i, p := range places {
		c := make(chan answer, 1)
		go func() { c <- answer{p.check(), resolved(p.path)} }() // ends when the file system answers
		answers[i] = c
	}
	late, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var dirs []located
	for i, p := range places {
		a, ok := inTime(late, answers[i])
		switch {
		case !ok:
			found = append(found, Finding{p.key, p.path, fmt.Sprintf("has not answered for %s: see to its disk, or to the server that it is mounted from", patience), p.fatal})
		case p.what != "":
			dirs = append(dirs, located{p.key, p.what, a.real})
		}
		found = append(found, a.found...)
	}
	return append(found, checkApart(dirs)...)
}

// CheckPaths looks whether what the configuration names is there and can be used by the user who asks. A target that is away
// is not fatal: its links are stalled until it is back. Neither is a store, but for a relay that starts for the first time:
// there it is a mistake in the file.
func (c *Relay) CheckPaths() []Finding {
	places := []checked{{located{"data", "data directory", c.Data}, func() []Finding { return checkOwn("data", c.Data) }, true}}
	for i, store := range c.Cache.Stores {
		key := fmt.Sprintf("cache.stores[%d]", i)
		places = append(places, checked{located{key, fmt.Sprintf("store %d", i+1), store}, func() []Finding { return c.checkStore(key, store) }, false})
	}
	if file := c.NATS.CredentialsFile; file != "" {
		key := "nats.credentials_file"
		places = append(places, checked{located{key, "", file}, func() (found []Finding) {
			for _, f := range checkReadable(key, file) {
				f.Fatal = true
				found = append(found, f)
			}
			return found
		}, true})
	}
	for _, t := range c.Targets {
		key := "targets." + t.Name + ".path"
		if t.Type == TypeDir {
			places = append(places, checked{located{key, "target " + t.Name, t.Path}, func() []Finding { return checkTarget(key, t.Path) }, false})
			continue
		}
		places = append(places, t.files()...)
	}
	return checkAll(places)
}

// checkStore is checkOwn for a store.
func (c *Relay) checkStore(key, path string) (found []Finding) {
	_, err := os.Stat(filepath.Join(c.Data, ledgerDir))
	for _, f := range checkOwn(key, path) {
		if f.Fatal = err != nil; !f.Fatal {
			f.Text += "; until then the relay does without it"
		}
		found = append(found, f)
	}
	return found
}

// files are what a target that is no directory reads or runs.
func (t Target) files() (places []checked) {
	readable := func(key, path string) {
		if path != "" {
			places = append(places, checked{located{key, "", path}, func() []Finding { return checkReadable(key, path) }, false})
		}
	}
	for _, f := range []struct{ key, path string }{
		{"secret_key_file", t.S3.SecretKeyFile}, {"session_token_file", t.S3.SessionTokenFile}, {"ca_file", t.S3.CAFile},
		{"key_file", t.SFTP.KeyFile}, {"passphrase_file", t.SFTP.PassphraseFile}, {"password_file", t.SFTP.PasswordFile}, {"known_hosts", t.SFTP.KnownHosts},
	} {
		readable("targets."+t.Name+"."+f.key, f.path)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Driver.Files)) {
		readable("targets."+t.Name+".settings."+name+fileSuffix, t.Driver.Files[name])
	}
	if c := t.Driver.Command; len(c) > 0 {
		key := "targets." + t.Name + ".command"
		places = append(places, checked{located{key, "", c[0]}, func() []Finding {
			if unix.Access(c[0], unix.X_OK) == nil {
				return nil
			}
			return []Finding{{key, c[0], "cannot be started: install the driver, or correct the path", false}}
		}, false})
	}
	return places
}

// CheckPaths looks whether the data directory can be used and each root is there and can be read by the user who asks. A
// root that is away is not fatal: only its dataset waits.
func (c *Agent) CheckPaths() []Finding {
	places := []checked{{located{"data", "data directory", c.Data}, func() []Finding { return checkOwn("data", c.Data) }, true}}
	for i, d := range c.Datasets {
		for j, p := range d.Paths {
			key := fmt.Sprintf("datasets[%d].paths[%d]", i, j)
			places = append(places, checked{located{key, "dataset " + d.Name, p}, func() []Finding { return checkRoot(key, p) }, false})
		}
	}
	return checkAll(places)
}

// checkOwn checks a directory that belongs to the program: it is made when its parent is there.
func checkOwn(key, path string) []Finding {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		parent := filepath.Dir(path)
		if info, err := os.Stat(parent); err != nil || !info.IsDir() {
			return []Finding{{key, path, "is not there, and neither is " + parent + " to make it in: mount the disk or make the directory", true}}
		}
		if unix.Access(parent, unix.W_OK|unix.X_OK) != nil {
			return []Finding{{key, path, "is not there and cannot be made: make it, and give it to the user that the program runs as", true}}
		}
	case err != nil:
		return []Finding{{key, path, reasonOf(err) + ": give it to the user that the program runs as", true}}
	case !info.IsDir():
		return []Finding{{key, path, "is not a directory: name another path", true}}
	case unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK) != nil:
		return []Finding{{key, path, "cannot be written: give it to the user that the program runs as", true}}
	}
	return nil
}

// checkReadable checks a file of secrets or certificates, "" for none.
func checkReadable(key, path string) []Finding {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return []Finding{{key, path, reasonOf(err) + ": let the user of the relay read it", false}}
	}
	_ = f.Close() // only looked at
	return nil
}

func checkTarget(key, path string) []Finding {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{{key, path, "is not there: mount it; until then its links are stalled", false}}
	case err != nil:
		return []Finding{{key, path, reasonOf(err) + ": until that is mended its links are stalled", false}}
	case !info.IsDir():
		return []Finding{{key, path, "is not a directory: name another path; until then its links are stalled", false}}
	case unix.Access(path, unix.R_OK|unix.W_OK|unix.X_OK) != nil:
		return []Finding{{key, path, "cannot be written by this user: give the relay's user the right to; until then its links are stalled", false}}
	}
	return nil
}

func checkRoot(key, path string) []Finding {
	dir, err := os.Open(path)
	if err == nil {
		_, err = dir.ReadDir(1)
		_ = dir.Close()
	}
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{{key, path, "is not there: mount it or correct the path; until then the dataset is not backed up from here", false}}
	case errors.Is(err, fs.ErrPermission):
		return []Finding{{key, path, "cannot be read: give the agent CAP_DAC_READ_SEARCH, or its user the right to read", false}}
	case errors.Is(err, unix.ENOTDIR):
		return []Finding{{key, path, "is not a directory: name the directory of the dataset", false}}
	}
	return []Finding{{key, path, reasonOf(err), false}}
}

func reasonOf(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// checkApart finds directories that overlap, their symlinks being followed; reading the file has refused the plain cases.
func checkApart(dirs []located) (found []Finding) {
	for i := range dirs {
		for _, b := range dirs[:i] {
			if how := overlap(dirs[i], b); how != "" {
				found = append(found, Finding{dirs[i].key, dirs[i].path, how + ": each needs a directory of its own", true})
			}
		}
	}
	return found
}

// resolved is a path with the symlinks in it followed, as far as it is there.
func resolved(path string) string {
	for at, rest := path, ""; ; at, rest = filepath.Dir(at), filepath.Join(filepath.Base(at), rest) {
		if real, err := filepath.EvalSymlinks(at); err == nil {
			return filepath.Join(real, rest)
		}
		if at == "/" {
			return path
		}
	}
}

// CheckTogether looks for a store, target or data directory of a relay that overlaps a root of an agent on the same machine:
// the cache would back itself up, or a backup overwrite its source. Symlinks are followed. Whether both run on one machine is
// told by the agent's relays: if none of them is on loopback, nothing is compared.
func CheckTogether(r *Relay, a *Agent) (found []Finding) {
	local := false
	for _, relay := range a.Relays {
		u, err := url.Parse(relay)
		local = local || err == nil && loopback(net.JoinHostPort(u.Hostname(), "0"))
	}
	if !local {
		return nil
	}
	own := []located{{"data", "data directory of the relay", resolved(r.Data)}}
	for i, store := range r.Cache.Stores {
		own = append(own, located{"", fmt.Sprintf("store %d of the relay", i+1), resolved(store)})
	}
	for _, t := range r.Targets {
		if t.Type == TypeDir { // the paths of others are on a server
			own = append(own, located{"", "target " + t.Name, resolved(t.Path)})
		}
	}
	for i, d := range a.Datasets {
		for j, p := range d.Paths {
			root := located{fmt.Sprintf("datasets[%d].paths[%d]", i, j), "dataset " + d.Name, resolved(p)}
			for _, o := range own {
				if how := overlap(root, o); how != "" {
					found = append(found, Finding{root.key, p, how + ": each needs a directory of its own", true})
				}
			}
		}
	}
	return found
}
