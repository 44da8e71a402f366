package scan

import (
	"fmt"
	"path"
	"strings"

	"forebay/proto"
)

// Rules say which paths belong to a dataset. Patterns are globs over slash-separated paths, as bytes:
//
//   - * and ? match within a component, [a-z] a class, \ takes the next character as it is; ** as a whole component
//     matches any number of components, none included (at the end: at least one);
//   - a pattern with a slash at its start or in its middle is matched from the root ("/build", "a/*.o"), one without at
//     any depth ("*.tmp");
//   - a slash at the end matches directories only ("cache/").
//
// A path is excluded when an exclude pattern matches it or a directory above it; an excluded directory is not entered. When
// there are include patterns, a path is wanted only when one of them matches it or a directory above it; a directory is
// also wanted while a pattern could match something below it, so that what is wanted keeps its parents. Excluding wins.
// A folder named .forebay is never wanted.
type Rules struct{ include, exclude []pattern }

// maxComponents of a pattern; positions in it are bits of a word.
const maxComponents = 62

// pattern is a glob, cut at slashes, as a small state machine whose state is the set of components that may match next.
type pattern struct {
	parts   []string
	dirOnly bool
}

// NewRules checks and compiles patterns. Errors are for operators.
func NewRules(include, exclude []string) (*Rules, error) {
	r := &Rules{}
	for _, l := range []struct {
		key  string
		from []string
		to   *[]pattern
	}{{"include", include, &r.include}, {"exclude", exclude, &r.exclude}} {
		for _, glob := range l.from {
			p, err := compile(glob)
			if err != nil {
				return nil, fmt.Errorf("%s pattern %q: %w", l.key, glob, err)
			}
			*l.to = append(*l.to, p)
		}
	}
	return r, nil
}

func compile(glob string) (pattern, error) {
	p := pattern{dirOnly: strings.HasSuffix(glob, "/")}
	body := strings.TrimSuffix(glob, "/")
	anchored := strings.Contains(body, "/")
	body = strings.TrimPrefix(body, "/")
	if body == "" {
		return p, fmt.Errorf("it names nothing")
	}
	if !anchored {
		p.parts = append(p.parts, "**")
	}
	for _, part := range strings.Split(body, "/") {
		switch {
		case part == "":
			return p, fmt.Errorf("two slashes in a row")
		case part == "." || part == "..":
			return p, fmt.Errorf("a component %q never matches, paths are relative to the root", part)
		case strings.IndexByte(part, 0) >= 0:
			return p, fmt.Errorf("it contains a NUL byte")
		case part != "**" && strings.Contains(part, "**"):
			return p, fmt.Errorf("** must stand alone between slashes, as in a/**/b")
		}
		if _, err := path.Match(part, ""); err != nil {
			return p, fmt.Errorf("%q is not a valid glob (unclosed [ or a \\ at the end?)", part)
		}
		p.parts = append(p.parts, part)
	}
	if p.parts[len(p.parts)-1] == "**" {
		p.parts = append(p.parts, "*")
	}
	if len(p.parts) > maxComponents {
		return p, fmt.Errorf("more than %d components", maxComponents)
	}
	return p, nil
}

// Wanted reports whether the object at path belongs to the dataset.
func (r *Rules) Wanted(p string, isDir bool) bool {
	for rest, more := p, true; more; {
		var name string
		if name, rest, more = strings.Cut(rest, "/"); name == proto.ReservedName {
			return false
		}
	}
	for _, x := range r.exclude {
		if hit, _ := x.match(p, isDir); hit {
			return false
		}
	}
	if len(r.include) == 0 {
		return true
	}
	for _, i := range r.include {
		if hit, below := i.match(p, isDir); hit || below && isDir {
			return true
		}
	}
	return false
}

// match reports whether the pattern matches path or a directory above it, and whether it could match something below.
func (p pattern) match(s string, isDir bool) (hit, below bool) {
	at := p.skip(1)
	for more := true; more; {
		var name string
		name, s, more = strings.Cut(s, "/")
		if at = p.step(at, name); at == 0 {
			return false, false
		}
		if at&(1<<len(p.parts)) != 0 && (!p.dirOnly || more || isDir) {
			return true, true
		}
	}
	return false, at&^(1<<len(p.parts)) != 0
}

// step returns the positions after one more component.
func (p pattern) step(at uint64, name string) (next uint64) {
	for i, part := range p.parts {
		if at&(1<<i) == 0 {
			continue
		}
		if part == "**" {
			next |= 1 << i
		} else if ok, _ := path.Match(part, name); ok {
			next |= 1 << (i + 1)
		}
	}
	return p.skip(next)
}

// skip adds the positions that are reached by letting a ** match nothing.
func (p pattern) skip(at uint64) uint64 {
	for i, part := range p.parts {
		if part == "**" && at&(1<<i) != 0 {
			at |= 1 << (i + 1)
		}
	}
	return at
}
