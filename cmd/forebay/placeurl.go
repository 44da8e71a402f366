package main

import (
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"forebay/config"
)

// parseTarget reads the URL of a target, or of the folder of one prefix in it: what restores, perhaps on a new machine, needs no relay.yaml.
func parseTarget(text string) (t config.Target, err error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" {
		return t, usagef("--from %s: write s3://BUCKET/FOLDER?endpoint=https://HOST:PORT, or sftp://USER@HOST/FOLDER", text)
	}
	switch u.Scheme {
	case config.TypeS3:
		t, err = parseBucketURL(u)
	case config.TypeSFTP:
		t, err = parseServerURL(u)
	default:
		return t, usagef("--from %s: this release knows s3://BUCKET/FOLDER and sftp://USER@HOST/FOLDER; all other targets by their name in --config", text)
	}
	t.Name, t.Type = text, u.Scheme
	return t, err
}

// options refuses what is not known of a URL's query.
func options(u *url.URL, known ...string) (url.Values, error) {
	q := u.Query()
	for k := range q {
		if !slices.Contains(known, k) {
			return nil, usagef("--from %s: %q is not known: %s are", u.Redacted(), k, strings.Join(known, ", "))
		}
	}
	return q, nil
}

// parseBucketURL reads s3://BUCKET/FOLDER. The keys come from the AWS_ variables.
func parseBucketURL(u *url.URL) (t config.Target, err error) {
	q, err := options(u, "endpoint", "region", "style")
	if err != nil {
		return t, err
	}
	t.Path = strings.Trim(u.Path, "/")
	t.S3 = config.S3{Bucket: u.Host, Endpoint: q.Get("endpoint"), Region: q.Get("region"), Style: q.Get("style")}
	return t, nil
}

// parseServerURL reads sftp://USER@HOST:PORT/FOLDER. Without others the key and the known hosts are the user's own, as ssh has them.
func parseServerURL(u *url.URL) (t config.Target, err error) {
	q, err := options(u, "key_file", "passphrase_file", "password_file", "known_hosts")
	if err != nil {
		return t, err
	}
	if _, secret := u.User.Password(); secret {
		return t, usagef("--from %s: no password in here, where others can read it: put it into a file and add ?password_file=FILE", u.Redacted())
	}
	if u.User.Username() == "" || strings.Trim(u.Path, "/") == "" {
		return t, usagef("--from %s: write sftp://USER@HOST/FOLDER, the folder from the server's root on", u)
	}
	t.Path = path.Clean(u.Path)
	t.SFTP = config.SFTP{Host: u.Hostname(), User: u.User.Username()}
	if p := u.Port(); p != "" {
		if t.SFTP.Port, err = strconv.Atoi(p); err != nil { // url.Parse lets digits alone through
			return t, usagef("--from %s: port %s: %s", u, p, err)
		}
	}
	home, _ := os.UserHomeDir() // without one the files are to be named
	known := filepath.Join(home, ".ssh", "known_hosts")
	for _, f := range [...]struct {
		to   *string
		name string
		own  string
	}{
		{&t.SFTP.KeyFile, "key_file", ""}, {&t.SFTP.PassphraseFile, "passphrase_file", ""},
		{&t.SFTP.PasswordFile, "password_file", ""}, {&t.SFTP.KnownHosts, "known_hosts", known},
	} {
		if *f.to = f.own; q.Has(f.name) {
			if *f.to, err = filepath.Abs(q.Get(f.name)); err != nil {
				return t, err
			}
		}
	}
	if t.SFTP.KeyFile == "" && t.SFTP.PasswordFile == "" {
		t.SFTP.KeyFile = ownKey(home)
	}
	if t.SFTP.KeyFile == "" && t.SFTP.PasswordFile == "" {
		return t, usagef("--from %s: there is no key in %s: add ?key_file=FILE or ?password_file=FILE", u, filepath.Join(home, ".ssh"))
	}
	return t, nil
}

// ownKey is the first of the private keys that ssh tries, "" when there is none.
func ownKey(home string) string {
	for _, name := range [...]string{"id_ed25519", "id_ecdsa", "id_rsa"} {
		file := filepath.Join(home, ".ssh", name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

// nameInURL is the URL of a prefix of the target in a folder, as another one has all else.
func nameInURL(from, folder, prefix string) string {
	u, err := url.Parse(from)
	if err != nil { // it was read before
		return from
	}
	u.Path = path.Join("/", folder, prefix)
	return u.String()
}
