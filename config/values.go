package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"forebay/proto"
	"forebay/units"
)

// parseName checks a name.
func parseName(s string) (string, error) { return s, proto.CheckName(s) }

// parsePath takes an absolute path and cleans it.
func parsePath(s string) (string, error) {
	switch {
	case !filepath.IsAbs(s):
		return "", fmt.Errorf("path %q is not absolute: begin it with /", s)
	case strings.IndexByte(s, 0) >= 0:
		return "", fmt.Errorf("path %q contains a NUL byte", s)
	}
	return filepath.Clean(s), nil
}

// parseListen checks host:port.
func parseListen(s string) (string, error) {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("address %q is not host:port, such as 127.0.0.1:7480", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil {
		return "", fmt.Errorf("address %q: port %q is no number from 0 to 65535", s, port)
	} else if n == 0 {
		return net.JoinHostPort(hostOf(s), "0"), nil
	}
	return s, nil
}

func hostOf(hostPort string) string {
	host, _, _ := net.SplitHostPort(hostPort)
	return host
}

// loopback reports whether a listener at hostPort is reached from this machine only.
func loopback(hostPort string) bool {
	host := hostOf(hostPort)
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// parseURL checks a URL with one of schemes, a host and nothing behind it. Secrets in URLs end up in logs: they are refused.
func parseURL(s string, schemes ...string) (string, error) {
	want := strings.Join(schemes, " or ") + "://host:port"
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("url %q is not valid: write %s", s, want)
	}
	known := false
	for _, scheme := range schemes {
		known = known || u.Scheme == scheme
	}
	switch {
	case !known || u.Hostname() == "":
		return "", fmt.Errorf("url %q: write %s", s, want)
	case u.User != nil:
		return "", fmt.Errorf("the url of %s contains a secret: secrets come from files, see the *_file keys", u.Host)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("url %q goes on behind the port: write %s", s, want)
	}
	return strings.TrimSuffix(s, "/"), nil
}

// Coding is the number of data and parity shards of a segment.
type Coding struct{ Data, Parity int }

// String returns data+parity, such as 2+1.
func (c Coding) String() string { return fmt.Sprintf("%d+%d", c.Data, c.Parity) }

// maxData and maxParity are what package shard codes.
const (
	maxData   = 64
	maxParity = 16
)

// ParseCoding reads data+parity.
func ParseCoding(s string) (Coding, error) {
	a, b, ok := strings.Cut(s, "+")
	data, err1 := strconv.ParseUint(a, 10, 16)
	parity, err2 := strconv.ParseUint(b, 10, 16)
	switch {
	case !ok || err1 != nil || err2 != nil:
		return Coding{}, fmt.Errorf("coding %q is not DATA+PARITY, such as 2+1", s)
	case data == 0:
		return Coding{}, fmt.Errorf("coding %q has no data shards: write at least 1+0", s)
	case data > maxData || parity > maxParity:
		return Coding{}, fmt.Errorf("coding %q has more than %d data or %d parity shards", s, maxData, maxParity)
	}
	return Coding{int(data), int(parity)}, nil
}

// defaultCoding is the coding for a number of stores.
func defaultCoding(stores int) Coding {
	switch {
	case stores >= 6:
		return Coding{4, 2}
	case stores >= 3:
		return Coding{2, 1}
	case stores == 2:
		return Coding{1, 1}
	}
	return Coding{1, 0}
}

// parseCapacity reads a size that leaves room for some segments.
func parseCapacity(s string) (units.Size, error) {
	const least = 4 * proto.MaxPayload
	v, err := units.ParseSize(s)
	if err == nil && v < least {
		err = fmt.Errorf("capacity %s has no room for segments: give at least %s", v, units.Size(least))
	}
	return v, err
}

// parseScrub reads how often the stores are scrubbed.
func parseScrub(s string) (units.Duration, error) {
	const least = units.Duration(time.Minute)
	v, err := units.ParseDuration(s)
	if err == nil && v < least {
		err = fmt.Errorf("scrub every %s is more often than each %s: give a longer time, or off", v, least)
	}
	return v, err
}

// parseUpkeepRate reads a rate at which segments are read and written: much less than one a minute would never end.
func parseUpkeepRate(s string) (units.Rate, error) {
	const least = 128 * units.Rate(units.KiB)
	v, err := units.ParseRate(s)
	if err == nil && v > 0 && v < least {
		err = fmt.Errorf("a rate of %s would never come to an end: give at least %s, or off for no limit", v, least)
	}
	return v, err
}

// checkGlob is the check of patterns when the caller has none: it knows what path.Match knows.
func checkGlob(glob string) error {
	if glob == "" {
		return errors.New("the pattern is empty")
	}
	if _, err := path.Match(glob, ""); err != nil {
		return fmt.Errorf("pattern %q is not a valid glob (unclosed [ or a \\ at the end?)", glob)
	}
	return nil
}

// Log says what is logged and how.
type Log struct {
	Level  string // trace, debug, info, warn, error
	Format string // auto (console on a terminal, else json), console, json
}

func readLog(s *section) Log {
	l := Log{Level: "info", Format: "auto"}
	s.oneOf("level", &l.Level, "trace", "debug", "info", "warn", "error")
	s.oneOf("format", &l.Format, "auto", "console", "json")
	s.finish()
	return l
}
