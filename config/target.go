package config

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"forebay/proto"
	"forebay/units/nearest"
)

// Target is a place for backups.
type Target struct {
	Name string
	Type string // one of the types below
	Path string // the absolute directory of a dir or sftp; the folder in the bucket of an s3, "" for all of it
	S3   S3     // of an s3
	SFTP SFTP   // of an sftp
	// Driver is of a process, a serial and an rclone.
	Driver Driver
}

// The types of target.
const (
	TypeDir  = "dir"  // a directory: a disk, or network storage that is mounted
	TypeS3   = "s3"   // a bucket
	TypeSFTP = "sftp" // a directory on a server that is reached by SSH

	TypeRclone  = "rclone"  // a remote of rclone, through forebay-rclone
	TypeProcess = "process" // whatever a driver process reaches
	TypeSerial  = "serial"  // whatever a driver at the other end of a serial line reaches
)

// types are those that this release has.
var types = [...]string{TypeDir, TypeS3, TypeSFTP, TypeRclone, TypeProcess, TypeSerial}

// S3 describes a bucket. What is left out comes from the AWS_ variables of the environment.
type S3 struct {
	Endpoint         string // URL without a path, "" for Amazon's
	Region           string
	Bucket           string
	Style            string // how requests name the bucket: "", "path" or "host"
	AccessKey        string
	SecretKeyFile    string
	SessionTokenFile string
	CAFile           string
}

// SFTP describes a server.
type SFTP struct {
	Host           string
	Port           int // 0: 22
	User           string
	KeyFile        string // private key
	PassphraseFile string // of the key
	PasswordFile   string
	KnownHosts     string
}

// Where is the place for people: a directory, or a URL.
func (t Target) Where() string {
	switch t.Type {
	case TypeDir:
		return t.Path
	case TypeSFTP:
		return fmt.Sprintf("sftp://%s@%s%s", t.SFTP.User, net.JoinHostPort(t.SFTP.Host, strconv.Itoa(cmp.Or(t.SFTP.Port, 22))), t.Path)
	case TypeRclone, TypeProcess, TypeSerial:
		return t.Driver.where(t.Type)
	}
	return strings.TrimSuffix(t.S3.Endpoint+"/"+t.S3.Bucket+"/"+t.Path, "/")
}

// Identity tells one place from another: what a link owes is owed to a place, whatever the place is called.
func (t Target) Identity() string { return t.Type + ":" + t.Where() }

// Revision changes with everything that matters to who has the place open.
func (t Target) Revision() string {
	return fmt.Sprintf("%s %+v %+v %+v", t.Identity(), t.S3, t.SFTP, t.Driver)
}

func (c *Relay) readTargets(s *section) (dirs []located) {
	for _, name := range s.order {
		t := Target{Name: name}
		if err := proto.CheckName(name); err != nil {
			s.fail(name, "target: %s", err)
		}
		one := s.sub(name)
		switch ok := one.set("type", func(text string) error { t.Type = text; return checkType(text) }); {
		case !ok:
			one.need("type", "this release has "+releaseHas())
		case t.Type == TypeS3:
			t.readS3(one)
			if t.S3.Bucket != "" {
				dirs = append(dirs, located{one.key("bucket"), "target " + name, t.Where()})
			}
		case t.Type == TypeSFTP:
			t.readSFTP(one)
			if t.SFTP.Host != "" && t.Path != "" {
				dirs = append(dirs, located{one.key("path"), "target " + name, t.Where()})
			}
		case t.Type == TypeRclone || t.Type == TypeProcess || t.Type == TypeSerial:
			t.readDriver(one)
			if where := t.Where(); where != "" {
				dirs = append(dirs, located{one.key("type"), "target " + name, t.Identity()})
			}
		default:
			one.need("path", "name the mounted directory")
			if parsed(one, "path", &t.Path, parsePath); t.Path != "" {
				dirs = append(dirs, located{one.key("path"), "target " + name, t.Path})
			}
			one.finish()
		}
		c.Targets = append(c.Targets, t)
	}
	return dirs
}

func (t *Target) readS3(s *section) {
	b := &t.S3
	s.need("bucket", "name the bucket; it has to be there already")
	parsed(s, "endpoint", &b.Endpoint, func(text string) (string, error) { return parseURL(text, "http", "https") })
	parsed(s, "bucket", &b.Bucket, parseBucket)
	parsed(s, "path", &t.Path, parsePrefix)
	parsed(s, "region", &b.Region, parseName)
	s.oneOf("style", &b.Style, "path", "host")
	parsed(s, "access_key", &b.AccessKey, parseText)
	parsed(s, "secret_key_file", &b.SecretKeyFile, parsePath)
	parsed(s, "session_token_file", &b.SessionTokenFile, parsePath)
	parsed(s, "ca_file", &b.CAFile, parsePath)
	if _, inline := s.take("secret_key"); inline {
		s.fail("secret_key", "secrets do not belong in here: put it into a file that only the relay's user can read, and name that with secret_key_file")
	} else if s.has("access_key") != s.has("secret_key_file") {
		s.fail("secret_key_file", "access_key and secret_key_file go together; without both the AWS_ variables are used")
	}
	s.finish()
}

func (t *Target) readSFTP(s *section) {
	h := &t.SFTP
	s.need("host", "name the server")
	s.need("user", "name the user on the server")
	s.need("path", "name the directory on the server")
	s.need("known_hosts", "name the file with the server's key: ssh-keyscan prints it, compare it with the server's own")
	parsed(s, "host", &h.Host, parseHost)
	s.number("port", &h.Port, 1, 65535)
	parsed(s, "user", &h.User, parseText)
	parsed(s, "path", &t.Path, parsePath)
	parsed(s, "key_file", &h.KeyFile, parsePath)
	parsed(s, "passphrase_file", &h.PassphraseFile, parsePath)
	parsed(s, "password_file", &h.PasswordFile, parsePath)
	parsed(s, "known_hosts", &h.KnownHosts, parsePath)
	switch _, inline := s.take("password"); {
	case inline:
		s.fail("password", "secrets do not belong in here: put it into a file that only the relay's user can read, and name that with password_file")
	case s.values != nil && !s.has("key_file") && !s.has("password_file"):
		s.fail("key_file", "name the private key (key_file), or a file with the password (password_file)")
	case s.has("passphrase_file") && !s.has("key_file"):
		s.fail("passphrase_file", "a passphrase is for a key: name it with key_file")
	}
	s.finish()
}

func parseHost(text string) (string, error) {
	if text == "" || strings.ContainsAny(text, "/@ ") {
		return "", fmt.Errorf("host %q: give a name or an address alone; user and port have keys of their own", text)
	}
	return text, nil
}

func parseBucket(text string) (string, error) {
	if strings.ContainsRune(text, '/') {
		return "", fmt.Errorf("bucket %q: a folder in the bucket is set by path", text)
	}
	if len(text) < 3 || len(text) > 63 {
		return "", fmt.Errorf("bucket %q: the name of a bucket has 3 to 63 characters", text)
	}
	return text, nil
}

func parseText(text string) (string, error) {
	if text == "" || strings.TrimSpace(text) != text {
		return "", fmt.Errorf("%q is empty or has blanks around it", text)
	}
	return text, nil
}

// releaseHas lists the types.
func releaseHas() string {
	return strings.Join(types[:len(types)-1], ", ") + " and " + types[len(types)-1]
}

func checkType(text string) error {
	has := "this release has " + releaseHas()
	if slices.Contains(types[:], text) {
		return nil
	}
	if near := nearest.Name(text, types[:]); near != "" {
		return fmt.Errorf("type %q is not known, did you mean %s? %s", text, near, has)
	}
	return fmt.Errorf("type %q is not known; %s", text, has)
}

// Target returns the target of a name.
func (c *Relay) Target(name string) (Target, bool) {
	for _, t := range c.Targets {
		if t.Name == name {
			return t, true
		}
	}
	return Target{}, false
}

// TargetNames are the names of all targets, in the file's order.
func (c *Relay) TargetNames() (names []string) {
	for _, t := range c.Targets {
		names = append(names, t.Name)
	}
	return names
}
