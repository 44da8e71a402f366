package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// StaleError says that an edit does not fit the tree any more.
type StaleError struct {
	File  string
	Times int // how often the old lines are in the file; -1 when there is no file
	Old   []byte
}

func (e *StaleError) Error() string {
	if e.Times < 0 {
		return fmt.Sprintf("%s is not there any more", e.File)
	}
	return fmt.Sprintf("in %s these lines are %d times, not once:\n%s", e.File, e.Times, e.Old)
}

// Mutate returns the changed text of every file that a bug touches, by its name from the root of the module. It is a
// *StaleError when old lines are not there exactly once, and another error when a result is not Go.
func Mutate(root string, b Bug) (map[string][]byte, error) {
	out := make(map[string][]byte)
	for _, e := range b.Edits {
		text, ok := out[e.File]
		if !ok {
			var err error
			if text, err = os.ReadFile(filepath.Join(root, e.File)); err != nil {
				return nil, &StaleError{File: e.File, Times: -1}
			}
		}
		// Whole lines: an old line must not match the end of a longer one.
		text = append([]byte("\n"), text...)
		old := append([]byte("\n"), e.Old...)
		if n := bytes.Count(text, old); n != 1 {
			return nil, &StaleError{File: e.File, Times: n, Old: e.Old}
		}
		out[e.File] = bytes.Replace(text, old, append([]byte("\n"), e.New...), 1)[1:]
	}
	for name, text := range out {
		if _, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution); err != nil {
			return nil, fmt.Errorf("with the bug it is not Go: %w", err)
		}
	}
	return out, nil
}

// overlay writes the changed files into dir, and beside them what go's flag -overlay wants: the tree stays as it is, and
// whatever go builds, the program that tests start included, has the bug. It returns the file for the flag.
func overlay(root, dir string, changed map[string][]byte) (string, error) {
	replace := make(map[string]string)
	n := 0
	for name, text := range changed {
		to := filepath.Join(dir, fmt.Sprintf("%d-%s", n, path.Base(name)))
		n++
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return "", fmt.Errorf("write the changed %s: %w", name, err)
		}
		replace[filepath.Join(root, name)] = to
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return "", fmt.Errorf("write the overlay: %w", err)
	}
	return file, nil
}

// packages are those that a bug changes, as go names them from the root.
func packages(b Bug) []string {
	var out []string
	for _, e := range b.Edits {
		out = append(out, "./"+path.Dir(e.File))
	}
	slices.Sort(out)
	return slices.Compact(out)
}
