package config

import "strings"

// located is a directory that a file names, and under which key.
type located struct {
	key  string
	what string // for messages: "store", "target nas"
	path string // absolute and clean
}

// within reports whether path is dir or lies in it; both are absolute and clean.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// overlap describes how two directories overlap; "" when they do not.
func overlap(a, b located) string {
	switch {
	case a.path == b.path:
		return a.path + " is also the " + b.what
	case within(a.path, b.path):
		return a.path + " lies in the " + b.what + " (" + b.path + ")"
	case within(b.path, a.path):
		return a.path + " contains the " + b.what + " (" + b.path + ")"
	}
	return ""
}

// apart reports each directory that overlaps one before it.
func (r *reader) apart(all []located) {
	for i, a := range all {
		for _, b := range all[:i] {
			if how := overlap(a, b); how != "" {
				r.fail(a.key, "%s: each needs a directory of its own", how)
				break
			}
		}
	}
}
