package config

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"forebay/units/nearest"
)

// astNode is a node of the YAML parser.
type astNode = ast.Node

// reader collects what is wrong with one file, and where each key stands.
type reader struct {
	file   string
	places map[string]place // by full key, such as links[0].flush.size
	errs   Errors
}

type place struct{ line, column int }

// read parses a file into its top section; nil when there is nothing to go on with.
func (r *reader) read(text []byte) *section {
	r.places = map[string]place{}
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		r.notYAML(err)
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body != nil:
			r.places[""] = placeOf(doc.Body)
			r.fail("", "a second YAML document begins here: a file has only one")
			return nil
		default:
			body = doc.Body
		}
	}
	if body == nil {
		r.fail("", "the file is empty")
		return nil
	}
	return r.section("", body)
}

func (r *reader) notYAML(err error) {
	e := Error{File: r.file, Line: 1, Column: 1, Text: err.Error()}
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		e.Text = syntax.Message
		if t := syntax.Token; t != nil && t.Position != nil {
			e.Line, e.Column = t.Position.Line, t.Position.Column
		}
	}
	if strings.Contains(e.Text, "'\t'") || strings.Contains(e.Text, "'\\t'") {
		e.Text += ": indent with blanks"
	}
	r.errs = append(r.errs, e)
}

// fail notes a mistake at key, or where the nearest section around it begins when the key itself is not in the file.
func (r *reader) fail(key, format string, args ...any) {
	at, ok := r.places[key]
	for around := key; !ok && around != ""; {
		around = around[:max(strings.LastIndexAny(around, ".["), 0)]
		at, ok = r.places[around]
	}
	if !ok {
		at = place{1, 1}
	}
	r.errs = append(r.errs, Error{r.file, at.line, at.column, key, fmt.Sprintf(format, args...)})
}

// failedAt reports whether a mistake was noted at key or below it.
func (r *reader) failedAt(key string) bool {
	return slices.ContainsFunc(r.errs, func(e Error) bool {
		return e.Key == key || strings.HasPrefix(e.Key, key+".") || strings.HasPrefix(e.Key, key+"[")
	})
}

// placeOf returns where a node begins. A mapping without braces has no token of its own there.
func placeOf(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && !m.IsFlowStyle && len(m.Values) > 0 {
		n = m.Values[0].Key
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return place{t.Position.Line, t.Position.Column}
	}
	return place{1, 1}
}

// section is a mapping whose keys are asked for one by one; finish reports those that nobody asked for.
type section struct {
	r      *reader
	path   string
	values map[string]ast.Node // nil when the section is not in the file
	order  []string            // keys as they stand in the file
	asked  []string
}

// section reads a mapping. A node that is none is a mistake, and gives the section of a missing key.
func (r *reader) section(path string, n ast.Node) *section {
	missing := &section{r: r, path: path}
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	case *ast.NullNode:
		r.fail(path, "has no value: give its keys, or leave it out")
		return missing
	default:
		r.fail(path, "must be a mapping of keys to values")
		return missing
	}
	s := &section{r: r, path: path, values: map[string]ast.Node{}}
	for _, pair := range pairs {
		name := pair.Key.GetToken().Value
		r.places[s.key(name)] = placeOf(pair.Key)
		s.values[name] = pair.Value
		s.order = append(s.order, name)
	}
	return s
}

// key returns the full name of a key of the section.
func (s *section) key(name string) string {
	if s.path == "" {
		return name
	}
	return s.path + "." + name
}

func (s *section) fail(name, format string, args ...any) { s.r.fail(s.key(name), format, args...) }

// need reports a key that the section must have, with what to do. A section that is missing itself is reported elsewhere.
func (s *section) need(name, help string) {
	if s.values != nil && !s.has(name) {
		s.fail(name, "%s is missing: %s", name, help)
	}
}

// take returns the value of a key and remembers that the key is known.
func (s *section) take(name string) (ast.Node, bool) {
	s.asked = append(s.asked, name)
	n, ok := s.values[name]
	return n, ok
}

// has reports whether the file has a key, without taking it.
func (s *section) has(name string) bool { return s.values[name] != nil }

// set hands the text of a scalar to fn; a key that is missing is left alone. It reports whether fn took it.
func (s *section) set(name string, fn func(text string) error) bool {
	n, ok := s.take(name)
	return ok && s.r.scalar(s.key(name), n, fn)
}

func (r *reader) scalar(key string, n ast.Node, fn func(text string) error) bool {
	text, err := scalarText(n)
	if err == nil {
		r.places[key] = placeOf(n)
		err = fn(text)
	}
	if err != nil {
		r.fail(key, "%s", err)
		return false
	}
	return true
}

// scalarText returns a scalar as it is written, so that 0x10, 1_000 or yes mean what they say to the reader of the file.
func scalarText(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	case *ast.NullNode:
		return "", errors.New("has no value: give one, or leave the key out")
	case *ast.MappingNode:
		if text, ok := splitPlain(n); ok {
			return text, nil
		}
		return "", errors.New("must be a single value")
	case *ast.MappingValueNode, *ast.SequenceNode:
		return "", errors.New("must be a single value")
	case *ast.LiteralNode:
		return "", errors.New("must stand on one line")
	}
	return "", errors.New("anchors, aliases, tags and special numbers are not used here: write the value out")
}

// splitPlain puts together a plain scalar that the parser has taken for a pair: within a list within braces, as in
// {urls: [nats://h:4222]}, it does so at a colon that no blank follows, against YAML 1.2 (7.3.3).
func splitPlain(n *ast.MappingNode) (string, bool) {
	if n.IsFlowStyle || len(n.Values) != 1 {
		return "", false
	}
	key, colon, value := n.Values[0].Key.GetToken(), n.Values[0].Start, n.Values[0].Value
	text, err := scalarText(value)
	if err != nil || key.Type != token.StringType && key.Type != token.IntegerType {
		return "", false
	}
	at, after := key.Position, placeOf(value)
	end := place{at.Line, at.Column + utf8.RuneCountInString(key.Value)}
	if end != (place{colon.Position.Line, colon.Position.Column}) || after != (place{end.line, end.column + 1}) {
		return "", false
	}
	return key.Value + ":" + text, true
}

// flag sets a bool.
func (s *section) flag(name string, to *bool) {
	s.set(name, func(text string) (err error) {
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		*to = text == "true"
		return nil
	})
}

// number sets an int from low to high.
func (s *section) number(name string, to *int, low, high int) {
	s.set(name, func(text string) error {
		n, err := strconv.Atoi(text)
		if err != nil || n < low || n > high {
			return fmt.Errorf("%q is no whole number from %d to %d", text, low, high)
		}
		*to = n
		return nil
	})
}

// oneOf sets a string that is one of allowed.
func (s *section) oneOf(name string, to *string, allowed ...string) {
	s.set(name, func(text string) error {
		if slices.Contains(allowed, text) {
			*to = text
			return nil
		}
		return fmt.Errorf("%q is none of %s", text, strings.Join(allowed, ", "))
	})
}

// parsed sets what a parser makes of the text.
func parsed[T any](s *section, name string, to *T, parse func(string) (T, error)) {
	s.set(name, func(text string) error {
		v, err := parse(text)
		if err == nil {
			*to = v
		}
		return err
	})
}

// unless is a parser that reads word as the zero value.
func unless[T any](word string, parse func(string) (T, error)) func(string) (T, error) {
	return func(text string) (v T, err error) {
		if text == word {
			return v, nil
		}
		return parse(text)
	}
}

// list hands each element of a list to fn with its key; a single value counts as a list of one where single is set.
func (s *section) list(name string, single bool, fn func(key string, n ast.Node)) {
	n, ok := s.take(name)
	if !ok {
		return
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, err := scalarText(n); single && err == nil {
			fn(s.key(name), n)
			return
		}
		s.fail(name, "must be a list")
		return
	}
	for i, element := range seq.Values {
		key := s.key(name) + "[" + strconv.Itoa(i) + "]"
		s.r.places[key] = placeOf(element)
		fn(key, element)
	}
}

// sub returns the section under a key; an empty one when the key is missing.
func (s *section) sub(name string) *section {
	n, ok := s.take(name)
	if !ok {
		return &section{r: s.r, path: s.key(name)}
	}
	return s.r.section(s.key(name), n)
}

// later refuses keys that the contract has and this release does not.
func (s *section) later(names ...string) {
	for _, name := range names {
		if _, ok := s.take(name); ok {
			s.fail(name, "comes with a later release: take it out")
		}
	}
}

// finish reports the keys that nobody asked for.
func (s *section) finish() {
	for _, name := range s.order {
		if slices.Contains(s.asked, name) {
			continue
		}
		if near := nearest.Name(name, s.asked); near != "" {
			s.fail(name, "unknown key, did you mean %s?", near)
			continue
		}
		s.fail(name, "unknown key: the keys here are %s", strings.Join(s.asked, ", "))
	}
}
