package lint

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// maxLines is the most lines that a file may have; most have fewer than 400.
const maxLines = 600

// source is one parsed Go file of the module.
type source struct {
	path  string // from the module's root
	lines int
	file  *ast.File
}

// sources parses the module.
func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	var out []source
	set := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != root && (name == "testdata" || name == "bin" || strings.HasPrefix(name, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(set, path, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		out = append(out, source{rel, bytes.Count(text, []byte("\n")), parsed})
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, out)
	return out
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func TestEachPackageHasOneComment(t *testing.T) {
	t.Parallel()
	comments := map[string][]string{}
	for _, s := range sources(t) {
		dir := filepath.Dir(s.path)
		if s.test() {
			continue
		}
		comments[dir] = slices.Clip(comments[dir])
		if s.file.Doc == nil {
			continue
		}
		comments[dir] = append(comments[dir], s.path)
		want := "Package " + s.file.Name.Name + " "
		if s.file.Name.Name == "main" {
			want = "Command "
		}
		assert.True(t, strings.HasPrefix(s.file.Doc.Text(), want), "%s: the package comment begins with %q", s.path, want)
	}
	for dir, with := range comments {
		assert.Len(t, with, 1, "package %s has a package comment in %d files: one says purpose, place in the flow, and what it must not import", dir, len(with))
	}
}

func TestFilesAreSmall(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		assert.LessOrEqual(t, s.lines, maxLines, "%s is too long: split it", s.path)
	}
}

func TestNothingRunsBeforeMain(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			assert.False(t, ok && f.Recv == nil && f.Name.Name == "init", "%s has an init function", s.path)
		}
	}
}

func TestSleepsAreNoTests(t *testing.T) {
	t.Parallel()
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.SelectorExpr)
			if !ok || call.Sel.Name != "Sleep" {
				return true
			}
			pkg, ok := call.X.(*ast.Ident)
			assert.False(t, ok && pkg.Name == "time" && !usesSynctest(s.file), "%s sleeps: wait on a condition with a deadline", s.path)
			return true
		})
	}
}

// usesSynctest reports whether time in a file may be that of a bubble, where a sleep takes none.
func usesSynctest(f *ast.File) bool {
	return slices.ContainsFunc(f.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` })
}
