package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// root is the module's directory.
const root = ".."

// pkg is what the sources of one folder declare.
type pkg struct {
	files   []*ast.File       // tests too
	symbols map[string]bool   // Name, and Type.Member for methods and fields
	tests   map[string]bool   // Test and Fuzz functions
	structs map[string]*table // struct types by name
}

// table is a struct type with its fields.
type table struct{ fields []*ast.Field }

// house is the module by folder, such as flush/target/dir.
var house = sync.OnceValues(readHouse)

func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	all, err := house()
	require.NoError(t, err)
	return all
}

func readHouse() (map[string]*pkg, error) {
	all := map[string]*pkg{}
	set := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (n == "testdata" || n == "bin" || strings.HasPrefix(n, ".")) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parse %s: %w", path, err)
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		p := all[dir]
		if p == nil {
			p = &pkg{symbols: map[string]bool{}, tests: map[string]bool{}, structs: map[string]*table{}}
			all[dir] = p
		}
		p.add(file)
		return nil
	})
	return all, err
}

func (p *pkg) add(f *ast.File) {
	p.files = append(p.files, f)
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			p.addFunc(d)
		case *ast.GenDecl:
			for _, s := range d.Specs {
				p.addSpec(s)
			}
		}
	}
}

func (p *pkg) addFunc(d *ast.FuncDecl) {
	if d.Recv == nil {
		p.symbols[d.Name.Name] = true
		p.tests[d.Name.Name] = strings.HasPrefix(d.Name.Name, "Test") || strings.HasPrefix(d.Name.Name, "Fuzz")
		return
	}
	p.symbols[receiver(d.Recv.List[0].Type)+"."+d.Name.Name] = true
}

// receiver is the name of a receiver's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}

func (p *pkg) addSpec(s ast.Spec) {
	switch s := s.(type) {
	case *ast.ValueSpec:
		for _, n := range s.Names {
			p.symbols[n.Name] = true
		}
	case *ast.TypeSpec:
		p.symbols[s.Name.Name] = true
		var fields *ast.FieldList
		switch x := s.Type.(type) {
		case *ast.StructType:
			fields = x.Fields
			p.structs[s.Name.Name] = &table{x.Fields.List}
		case *ast.InterfaceType:
			fields = x.Methods
		default:
			return
		}
		for _, f := range fields.List {
			for _, n := range f.Names {
				p.symbols[s.Name.Name+"."+n.Name] = true
			}
		}
	}
}

// tag returns one key of a field's tag.
func tag(f *ast.Field, key string) string {
	if f.Tag == nil {
		return ""
	}
	text, err := strconv.Unquote(f.Tag.Value)
	if err != nil {
		return ""
	}
	return reflect.StructTag(text).Get(key)
}

// calls visits every call in the non-test files of a folder and those below it: name is the function's own name, without
// what is before its last dot.
func calls(t *testing.T, under string, visit func(name string, args []ast.Expr)) {
	t.Helper()
	for dir, p := range packages(t) {
		if dir != under && !strings.HasPrefix(dir, under+"/") {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				switch fn := call.Fun.(type) {
				case *ast.Ident:
					visit(fn.Name, call.Args)
				case *ast.SelectorExpr:
					visit(fn.Sel.Name, call.Args)
				}
				return true
			})
		}
	}
}

// text is the value of a string literal, also of the literal at the start of a sum; "" for anything else.
func text(e ast.Expr) string {
	if sum, ok := e.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
		return text(sum.X)
	}
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return ""
	}
	s, err := strconv.Unquote(lit.Value)
	if err != nil {
		return ""
	}
	return s
}

// pages are all Markdown files of the documentation, from the module's directory.
func pages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, glob := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "deploy/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, glob))
		require.NoError(t, err)
		for _, f := range found {
			rel, err := filepath.Rel(root, f)
			require.NoError(t, err)
			out = append(out, rel)
		}
	}
	slices.Sort(out)
	return out
}

// page reads one of them.
func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	return string(b)
}
