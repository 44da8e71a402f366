package config

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"forebay/units"
)

// Driver describes a target that is reached through a driver of its own: a process, one at the end of a serial line, or rclone's.
type Driver struct {
	Command []string // the program, absolute, and its arguments; for rclone empty where it is to be found
	Device  string   // of a serial line
	Baud    int      // bits a second on it
	Remote  string   // rclone's, as a connection string
	// Settings are what the driver is told of its target. Files are those of them that lie in files, by the name that the driver hears:
	// the file's content, without a newline at the end.
	Settings map[string]string
	Files    map[string]string
	Memory   units.Size     // that it may have, of a process
	Timeout  units.Duration // for a request
	Partial  bool           // objects may be visible in part
}

// Defaults of drivers.
const (
	defaultDriverMemory  = 512 * units.MiB
	defaultDriverTimeout = units.Duration(time.Minute)
	defaultBaud          = 115200
)

// where is the place for people. Who changes a setting names another place; secrets do not count.
func (d Driver) where(kind string) string {
	switch kind {
	case TypeRclone:
		return d.Remote
	case TypeSerial:
		return strings.TrimSuffix(d.Device+" "+d.settings(), " ")
	}
	if len(d.Command) == 0 {
		return ""
	}
	return strings.TrimSuffix(filepath.Base(d.Command[0])+" "+d.settings(), " ")
}

func (d Driver) settings() string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(d.Settings)) {
		all = append(all, k+"="+d.Settings[k])
	}
	return strings.Join(all, " ")
}

func (t *Target) readDriver(s *section) {
	d := &t.Driver
	d.Timeout = defaultDriverTimeout
	if t.Type == TypeSerial {
		d.Baud = defaultBaud
		s.need("device", "name the serial line, such as /dev/ttyUSB0")
		parsed(s, "device", &d.Device, parsePath)
		parsed(s, "baud", &d.Baud, parseBaud)
	} else {
		d.Memory = defaultDriverMemory
		parsed(s, "memory", &d.Memory, parseMemory)
		d.readCommand(s)
	}
	switch t.Type {
	case TypeProcess:
		s.need("command", "name the driver's program and its arguments, as in [/usr/lib/forebay/forebay-x, --flag]")
	case TypeRclone:
		s.need("remote", `give a connection string, as in ":webdav,url='https://dav.example.org':/backup"`)
		parsed(s, "remote", &d.Remote, parseRemote)
	}
	parsed(s, "timeout", &d.Timeout, parseTimeout)
	s.flag("allow_partial", &d.Partial)
	d.readSettings(s.sub("settings"))
	s.finish()
}

func (d *Driver) readCommand(s *section) {
	s.list("command", true, func(key string, n ast.Node) {
		s.r.scalar(key, n, func(text string) error {
			if len(d.Command) == 0 && !filepath.IsAbs(text) {
				return fmt.Errorf("program %q is not absolute: begin it with /", text)
			}
			if strings.ContainsRune(text, 0) {
				return errors.New("it contains a NUL byte")
			}
			d.Command = append(d.Command, text)
			return nil
		})
	})
}

const fileSuffix = "_file"

// readSettings reads what the driver is told. Which keys there are only the driver knows; NAME_file is the file with the value of NAME.
func (d *Driver) readSettings(s *section) {
	d.Settings, d.Files = map[string]string{}, map[string]string{}
	for _, name := range s.order {
		key, inFile := strings.CutSuffix(name, fileSuffix)
		if s.has(key) && inFile {
			s.fail(name, "%s is given, too: one of both is enough", key)
		}
		if !inFile && secretName.MatchString(name) {
			s.take(name)
			s.fail(name, "secrets do not belong in here: put it into a file that only the relay's user can read, and name that with %s%s", name, fileSuffix)
			continue
		}
		s.set(name, func(text string) (err error) {
			if inFile {
				d.Files[key], err = parsePath(text)
			} else {
				d.Settings[name] = text
			}
			return err
		})
	}
}

// secretName are the names under which rclone and other drivers have secrets. access_key_id and the like are none.
var secretName = regexp.MustCompile(`^(.*_)?(pass|password|passphrase|secret|token|credentials|key|sas_url|auth|secret_access_key|client_secret|application_credential_secret|key_pem|headers|sse_customer_key_base64)$`)

// userInfo is a user and a password in an address.
var userInfo = regexp.MustCompile(`://[^/@'",]*:[^/@'",]*@`)

var remoteOption = regexp.MustCompile(`[:,]([A-Za-z0-9_]+)=`)

// parseRemote takes a connection string that names the backend itself and has no secret.
func parseRemote(text string) (string, error) {
	if !strings.HasPrefix(text, ":") || len(text) < 2 || strings.Count(text, ":") < 2 {
		return "", fmt.Errorf("remote %q is no connection string: write :BACKEND,option=value:PATH", text)
	}
	if userInfo.MatchString(text) {
		return "", errors.New("the remote has a user and a password in an address: give user=… and settings: {pass_file: …}")
	}
	for _, m := range remoteOption.FindAllStringSubmatch(text, -1) {
		if secretName.MatchString(m[1]) {
			return "", fmt.Errorf("the option %s of the remote is a secret: put it into a file that only the relay's user can read, and name that with settings: {%s%s: …}", m[1], m[1], fileSuffix)
		}
	}
	return text, nil
}

func parseBaud(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q is no number of bits a second", text)
	}
	return n, nil
}

// parseMemory takes what a program can live with.
func parseMemory(text string) (units.Size, error) {
	const least = 32 * units.MiB
	v, err := units.ParseSize(text)
	if err == nil && v < least {
		err = fmt.Errorf("memory %s is too little for a program to live: give at least %s", v, least)
	}
	return v, err
}

func parseTimeout(text string) (units.Duration, error) {
	const least, most = units.Duration(time.Second), units.Duration(time.Hour)
	v, err := units.ParseDuration(text)
	if err == nil && (v < least || v > most) {
		err = fmt.Errorf("a time of %s for a request: give %s to %s", v, least, most)
	}
	return v, err
}
