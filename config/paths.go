package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"

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

// CheckPaths looks whether what the configuration names is there and can be used by the user who asks. A target that is away
// is not fatal: its links are stalled until it is back. Neither is a store, but for a relay that starts for the first time:
// there it is a mistake in the file.
func (c *Relay) CheckPaths() (found []Finding) {
	dirs := []located{{"data", "data directory", c.Data}}
	found = append(found, checkOwn("data", c.Data)...)
	_, err := os.Stat(filepath.Join(c.Data, ledgerDir))
	for i, store := range c.Cache.Stores {
		key := fmt.Sprintf("cache.stores[%d]", i)
		dirs = append(dirs, located{key, fmt.Sprintf("store %d", i+1), store})
		for _, f := range checkOwn(key, store) {
			if f.Fatal = err != nil; !f.Fatal {
				f.Text += "; until then the relay does without it"
			}
			found = append(found, f)
		}
	}
	for _, f := range checkReadable("nats.credentials_file", c.NATS.CredentialsFile) {
		f.Fatal = true
		found = append(found, f)
	}
	for _, t := range c.Targets {
		if t.Type != TypeDir {
			for _, f := range []struct{ key, path string }{
				{"secret_key_file", t.S3.SecretKeyFile}, {"session_token_file", t.S3.SessionTokenFile}, {"ca_file", t.S3.CAFile},
				{"key_file", t.SFTP.KeyFile}, {"passphrase_file", t.SFTP.PassphraseFile}, {"password_file", t.SFTP.PasswordFile}, {"known_hosts", t.SFTP.KnownHosts},
			} {
				found = append(found, checkReadable("targets."+t.Name+"."+f.key, f.path)...)
			}
			for name, path := range t.Driver.Files {
				found = append(found, checkReadable("targets."+t.Name+".settings."+name+fileSuffix, path)...)
			}
			if c := t.Driver.Command; len(c) > 0 && unix.Access(c[0], unix.X_OK) != nil {
				found = append(found, Finding{"targets." + t.Name + ".command", c[0], "cannot be started: install the driver, or correct the path", false})
			}
			continue
		}
		key := "targets." + t.Name + ".path"
		dirs = append(dirs, located{key, "target " + t.Name, t.Path})
		found = append(found, checkTarget(key, t.Path)...)
	}
	return append(found, checkApart(dirs)...)
}

// CheckPaths looks whether the data directory can be used and each root is there and can be read by the user who asks. A
// root that is away is not fatal: only its dataset waits.
func (c *Agent) CheckPaths() (found []Finding) {
	dirs := []located{{"data", "data directory", c.Data}}
	found = append(found, checkOwn("data", c.Data)...)
	for i, d := range c.Datasets {
		for j, p := range d.Paths {
			key := fmt.Sprintf("datasets[%d].paths[%d]", i, j)
			dirs = append(dirs, located{key, "dataset " + d.Name, p})
			found = append(found, checkRoot(key, p)...)
		}
	}
	return append(found, checkApart(dirs)...)
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

// checkApart finds directories that overlap once symlinks are followed; reading the file has refused the plain cases.
func checkApart(dirs []located) (found []Finding) {
	for i := range dirs {
		dirs[i].path = resolved(dirs[i].path)
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
		own = append(own, located{"", "target " + t.Name, resolved(t.Path)})
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
