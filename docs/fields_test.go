package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the tables of fields in format.md anew from the code")

var block = regexp.MustCompile(`(?s)<!-- fields ([a-z/]+)\.(\w+) -->\n.*?<!-- end -->`)

// The tables of fields in format.md are made from the code: go test ./docs -run TestFields -update.
func TestFieldsAreThoseOfTheCode(t *testing.T) {
	t.Parallel()
	all := packages(t)
	old := page(t, "docs/format.md")
	shown := map[string]bool{}
	fresh := block.ReplaceAllStringFunc(old, func(b string) string {
		m := block.FindStringSubmatch(b)
		name := m[1] + "." + m[2]
		shown[name] = true
		p := all[m[1]]
		if p == nil || p.structs[m[2]] == nil {
			assert.Fail(t, "format.md shows fields of a type that is not there", name)
			return b
		}
		return fmt.Sprintf("<!-- fields %s -->\n%s<!-- end -->", name, p.structs[m[2]].markdown())
	})
	if *update && fresh != old {
		require.NoError(t, os.WriteFile(filepath.Join(root, "docs/format.md"), []byte(fresh), 0o644))
		return
	}
	assert.True(t, fresh == old, "format.md does not show the fields that the code has: run go test ./docs -run TestFields -update, and read what changed: a changed field is a changed format")
	for dir, p := range all {
		for name, s := range p.structs {
			if s.numbered() {
				assert.True(t, shown[dir+"."+name], "%s.%s is on disk or on the wire, and format.md has no <!-- fields %s.%s --> … <!-- end -->", dir, name, dir, name)
			}
		}
	}
}

// numbered reports whether a struct is encoded with numbers as keys.
func (s *table) numbered() bool {
	return slices.ContainsFunc(s.fields, func(f *ast.Field) bool { return strings.Contains(tag(f, "cbor"), "keyasint") })
}

func (s *table) markdown() string {
	var b strings.Builder
	b.WriteString("| key | field | type | |\n|---|---|---|---|\n")
	for _, f := range s.fields {
		parts := strings.Split(tag(f, "cbor"), ",")
		if parts[0] == "" || parts[0] == "-" {
			continue
		}
		key := parts[0]
		if slices.Contains(parts, "omitempty") || slices.Contains(parts, "omitzero") {
			key += " *"
		}
		fmt.Fprintf(&b, "| %s | %s | `%s` | %s |\n", key, f.Names[0].Name, typeText(f.Type), comment(f))
	}
	return b.String()
}

// comment is what the code says of a field, on one line.
func comment(f *ast.Field) string {
	said := f.Comment.Text()
	if f.Doc != nil {
		said = f.Doc.Text() + said
	}
	said = strings.Join(strings.Fields(said), " ")
	return strings.ReplaceAll(said, "|", `\|`)
}

func typeText(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return typeText(e.X) + "." + e.Sel.Name
	case *ast.StarExpr:
		return "*" + typeText(e.X)
	case *ast.ArrayType:
		return "[]" + typeText(e.Elt)
	case *ast.MapType:
		return "map[" + typeText(e.Key) + "]" + typeText(e.Value)
	}
	return fmt.Sprintf("%T", e)
}
