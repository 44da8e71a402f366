package docs

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/config"
	"forebay/flush/policy"
)

const (
	readme       = "README.md"
	operating    = "docs/operating.md"
	architecture = "docs/ARCHITECTURE.md"
)

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ (.+)$`)
	code     = regexp.MustCompile("`([^`\n]+)`")
	fence    = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")
	symbol   = regexp.MustCompile(`^((?:[a-z]+/)*[a-z]+)\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)?)$`)
	testName = regexp.MustCompile(`^(?:Test|Fuzz)[A-Z]\w*$`)
)

func TestRelativeLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	for _, name := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page(t, name), ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			to, anchor, _ := strings.Cut(m[1], "#")
			file := filepath.Join(filepath.Dir(name), to)
			if to == "" {
				file = name
			}
			_, err := os.Stat(filepath.Join(root, file))
			assert.NoError(t, err, "%s links to %s", name, m[1])
			if anchor != "" && err == nil && strings.HasSuffix(file, ".md") {
				assert.True(t, slices.Contains(anchors(page(t, file)), anchor), "%s links to %s", name, m[1])
			}
		}
	}
}

// anchors are the names by which the headings of a page can be linked to.
func anchors(text string) (out []string) {
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		name := strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
				return r
			case r == ' ':
				return '-'
			}
			return -1
		}, strings.ToLower(m[1]))
		out = append(out, name)
	}
	return out
}

// What ARCHITECTURE.md and the decision records name in code quotes as PACKAGE.SYMBOL, or as a test, has to be there.
func TestSymbolsAndTestsExist(t *testing.T) {
	t.Parallel()
	all := packages(t)
	known := map[string]bool{}
	for _, p := range all {
		for name := range p.tests {
			known[name] = known[name] || p.tests[name]
		}
	}
	found := 0
	for _, name := range pages(t) {
		if name != architecture && !strings.HasPrefix(name, "docs/decisions/") {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(fence.ReplaceAllString(page(t, name), ""), -1) {
			if testName.MatchString(m[1]) {
				assert.True(t, known[m[1]], "%s names the test %s, which is not there", name, m[1])
				continue
			}
			s := symbol.FindStringSubmatch(m[1])
			if s == nil || all[s[1]] == nil || s[2] == "go" || s[2] == "md" || s[2] == "yaml" {
				continue
			}
			found++
			assert.True(t, all[s[1]].symbols[s[2]], "%s names %s, which is not there", name, m[1])
		}
	}
	assert.Greater(t, found, 40, "the pattern no longer finds the symbols")
}

// A sample begins with a comment that says which file it is.
func TestSamplesParse(t *testing.T) {
	t.Parallel()
	samples := 0
	for _, name := range pages(t) {
		for _, m := range fence.FindAllStringSubmatch(page(t, name), -1) {
			if m[1] != "yaml" {
				continue
			}
			samples++
			var err error
			switch first, _, _ := strings.Cut(m[2], "\n"); {
			case strings.HasPrefix(first, "# relay.yaml"):
				_, err = config.ParseRelay([]byte(m[2]), name)
			case strings.HasPrefix(first, "# agent.yaml"):
				_, err = config.ParseAgent([]byte(m[2]), name)
			default:
				assert.Fail(t, "a sample must say in its first line whether it is # relay.yaml or # agent.yaml", "%s:\n%s", name, m[2])
			}
			assert.NoError(t, err, "%s", name)
		}
	}
	assert.GreaterOrEqual(t, samples, 4, "README and operating.md have samples of both files")
}

// Every verb and flag of the command line is in the table of operating.md, every verb in that of the README.
func TestVerbsAreDocumented(t *testing.T) {
	t.Parallel()
	var verbs, flags []string
	calls(t, "cmd/forebay", func(name string, args []ast.Expr) {
		switch name {
		case "verb", "daemonVerb", "group":
			if use := text(args[0]); use != "" {
				verbs = append(verbs, strings.Fields(use)[0])
			}
		case "StringVar", "BoolVar", "IntVar":
			flags = append(flags, text(args[1]))
		case "Var":
			if len(args) > 1 {
				flags = append(flags, text(args[1]))
			}
		}
	})
	for _, f := range packages(t)["cmd/forebay"].files {
		ast.Inspect(f, func(n ast.Node) bool {
			if lit, ok := n.(*ast.CompositeLit); ok {
				verbs = append(verbs, useOf(lit)...)
			}
			return true
		})
	}
	require.Greater(t, len(verbs), 25, "the way verbs are made has changed")
	require.Greater(t, len(flags), 20, "the way flags are made has changed")
	short, long := quoted(page(t, readme)), quoted(page(t, operating))
	for _, v := range verbs {
		assert.True(t, hasWord(short, v), "README.md does not name the verb %s", v)
		assert.True(t, hasWord(long, v), "operating.md does not name the verb %s", v)
	}
	for _, f := range flags {
		if f != "" {
			assert.True(t, hasWord(long, "--"+f), "operating.md does not name the flag --%s", f)
		}
	}
}

// useOf is the first word of Use of a cobra.Command that is not hidden.
func useOf(lit *ast.CompositeLit) (use []string) {
	sel, ok := lit.Type.(*ast.SelectorExpr)
	if !ok || sel.Sel.Name != "Command" {
		return nil
	}
	for _, e := range lit.Elts {
		kv, ok := e.(*ast.KeyValueExpr)
		if !ok {
			continue
		}
		switch key, _ := kv.Key.(*ast.Ident); {
		case key == nil:
		case key.Name == "Hidden":
			return nil
		case key.Name == "Use" && text(kv.Value) != "" && text(kv.Value) != "forebay":
			use = []string{strings.Fields(text(kv.Value))[0]}
		}
	}
	return use
}

// quoted is all that a page has in code quotes, a line each.
func quoted(page string) string {
	var b strings.Builder
	for _, m := range code.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		b.WriteString(m[1] + "\n")
	}
	return b.String()
}

func hasWord(in, word string) bool {
	return regexp.MustCompile(`(?m)(^|[\s,\[(|])` + regexp.QuoteMeta(word) + `($|[\s,\])|=])`).MatchString(in)
}

// Every code that status can show as a problem is explained.
func TestProblemCodesAreDocumented(t *testing.T) {
	t.Parallel()
	page := page(t, operating)
	for c := range problemCodes(t) {
		assert.True(t, strings.Contains(page, "| `"+c+"` |"), "operating.md does not explain the problem %s", c)
	}
}

// Every code is brought about by a test of the relay or of the whole, which names it (I17).
func TestEveryProblemIsProvoked(t *testing.T) {
	t.Parallel()
	var tests strings.Builder
	for _, dir := range []string{"relay", "internal/e2e", "cmd/forebay/relayd"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
		require.NoError(t, err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			tests.Write(b)
		}
	}
	for c := range problemCodes(t) {
		assert.True(t, strings.Contains(tests.String(), `"`+c+`"`), "no test makes the problem %s appear", c)
	}
}

// problemCodes are the codes of problems that the sources name.
func problemCodes(t *testing.T) map[string]bool {
	codes := map[string]bool{}
	calls(t, "relay", func(name string, args []ast.Expr) {
		if name != "add" || len(args) < 4 {
			return
		}
		switch code := text(args[0]); {
		case code == "store-": // followed by the state
			for _, state := range []string{"degraded", "failed", "missing"} {
				codes[code+state] = true
			}
		case code != "":
			codes[code] = true
		}
	})
	for dir, p := range packages(t) {
		if dir != "relay" && !strings.HasPrefix(dir, "cmd/") {
			continue
		}
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				if kv, ok := n.(*ast.KeyValueExpr); ok {
					if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Code" && text(kv.Value) != "" && dir != "cmd/forebay" {
						codes[text(kv.Value)] = true
					}
				}
				return true
			})
		}
	}
	require.Greater(t, len(codes), 15, "the way problems are made has changed")
	return codes
}

func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	var names []string
	for _, dir := range []string{"relay/api", "agent"} {
		calls(t, dir, func(name string, args []ast.Expr) {
			if len(args) == 0 || text(args[0]) == "" {
				return
			}
			switch name {
			case "gauge", "counter":
				names = append(names, "forebay_"+text(args[0]))
			case "rootMetric":
				names = append(names, "forebay_agent_"+text(args[0]))
			case "NewDesc":
				if n := text(args[0]); len(n) > len("forebay_agent_") {
					names = append(names, n)
				}
			}
		})
	}
	require.Greater(t, len(names), 35, "the way metrics are made has changed")
	page := page(t, operating)
	for _, n := range names {
		assert.True(t, strings.Contains(page, "`"+n+"`"), "operating.md does not name the metric %s", n)
	}
}

func TestStatusFieldsAreDocumented(t *testing.T) {
	t.Parallel()
	text := quoted(page(t, operating))
	for _, of := range []struct {
		pkg   string
		types []string
	}{
		{"proto", []string{"Status", "LedgerStatus", "Problem", "CacheStatus", "StoreStatus", "NodeStatus", "RootInfo", "LinkStatus", "DatasetInfo"}},
		{"agent", []string{"Status", "SessionStatus", "RootStatus"}},
	} {
		for _, name := range of.types {
			s := packages(t)[of.pkg].structs[name]
			require.NotNil(t, s, "%s.%s", of.pkg, name)
			for _, f := range s.fields {
				key, _, _ := strings.Cut(tag(f, "json"), ",")
				assert.True(t, hasWord(text, key), "operating.md does not name the field %s of %s.%s", key, of.pkg, name)
			}
		}
	}
}

// The keys of both files and their defaults are those that the program has.
func TestKeysAndDefaultsAreDocumented(t *testing.T) {
	t.Parallel()
	tables := keyTables(page(t, operating))
	def := policy.Default()
	want := map[string]map[string]string{"links": {"name": "", "from": "", "to": "", "prefix": "none"}}
	for _, kv := range policy.Canonical(&def) {
		want["links"][kv.Key] = kv.Value
	}
	relay, err := config.ParseRelay([]byte("name: r\ncache: {stores: [/s1, /s2, /s3]}\n"), "test")
	require.NoError(t, err)
	agent, err := config.ParseAgent([]byte("node: n\ncluster: c\ndatasets: [{name: d, path: /d}]\n"), "test")
	require.NoError(t, err)
	want["relay.yaml"] = map[string]string{
		"name": "", "data": relay.Data, "listen": relay.Listen, "insecure": "false", "nats.listen": relay.NATS.Listen, "nats.urls": "none",
		"nats.credentials_file": "none", "cache.stores": "", "cache.coding": relay.Cache.Coding.String(), "cache.capacity": "90 %",
		"cache.high_water": relay.Cache.HighWater.String(), "cache.low_water": relay.Cache.LowWater.String(),
		"cache.ballast": relay.Cache.Ballast.String(), "cache.rebuild_after": relay.Cache.RebuildAfter.String(),
		"cache.rebuild_rate": relay.Cache.RebuildRate.String(), "cache.scrub": relay.Cache.Scrub.String(), "cache.scrub_rate": relay.Cache.ScrubRate.String(),
		"bandwidth": relay.Bandwidth.String(), "timezone": relay.Zone.String(), "suspicion": relay.Suspicion.String(), "log.level": relay.Log.Level,
		"log.format": relay.Log.Format, "targets": "none", "links": "none",
	}
	want["agent.yaml"] = map[string]string{
		"node": "", "cluster": "", "relays": agent.Relays[0], "data": agent.Data, "datasets[].name": "", "datasets[].path": "",
		"datasets[].paths": "", "datasets[].scan": "auto", "datasets[].include": "none", "datasets[].exclude": "none",
		"limits.read": agent.Limits.Read.String(), "limits.upload": agent.Limits.Upload.String(), "limits.nice": "10",
		"limits.io": agent.Limits.IO, "listen": "none", "insecure": "false", "log": agent.Log.Level,
	}
	for section, keys := range want {
		for key, value := range keys {
			row, ok := tables[section][key]
			assert.True(t, ok, "operating.md, %s: no row for the key %s", section, key)
			assert.True(t, strings.Contains(row, value), "operating.md, %s: the default of %s is %s", section, key, value)
		}
		for key := range tables[section] {
			_, ok := keys[key]
			assert.True(t, ok, "operating.md, %s: the key %s is not known", section, key)
		}
	}
}

// keyTables reads the tables of keys: the column of defaults by heading and key.
func keyTables(page string) map[string]map[string]string {
	out := map[string]map[string]string{}
	section := ""
	for _, line := range strings.Split(page, "\n") {
		if name, ok := strings.CutPrefix(line, "### "); ok {
			section = name
			out[section] = map[string]string{}
		}
		if strings.HasPrefix(line, "## ") {
			section = ""
		}
		cells := strings.Split(line, " | ")
		if section == "" || len(cells) < 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(cells[0], -1) {
			out[section][m[1]] = cells[1]
		}
	}
	return out
}

// Events that an operator reads are listed.
func TestEventKindsAreDocumented(t *testing.T) {
	t.Parallel()
	var kinds []string
	for _, dir := range []string{"relay", "cmd/forebay/relayd"} {
		calls(t, dir, func(name string, args []ast.Expr) {
			if (name == "event" || name == "Event") && len(args) == 3 {
				if k := text(args[0]); k != "" && !strings.HasSuffix(k, "-") {
					kinds = append(kinds, k)
				}
			}
		})
	}
	require.NotEmpty(t, kinds)
	text := quoted(page(t, operating))
	for _, k := range slices.Compact(slices.Sorted(slices.Values(kinds))) {
		assert.True(t, hasWord(text, k), "operating.md does not name the event %s", k)
	}
}

// Every module that is imported has a row with its version, and no other has.
func TestDependenciesAreListed(t *testing.T) {
	t.Parallel()
	versions := map[string]string{}
	for _, file := range []string{"cmd/forebay-rclone/go.mod", "go.mod"} { // what both have counts as the main module has it
		for _, m := range regexp.MustCompile(`(?m)^\s+(\S+\.\S+/\S+|go\.\S+|pgregory\.net/\S+) (v\S+)`).FindAllStringSubmatch(page(t, file), -1) {
			versions[m[1]] = m[2]
		}
	}
	direct := map[string]bool{}
	for _, p := range packages(t) {
		for _, f := range p.files {
			for _, i := range f.Imports {
				if m := moduleOf(strings.Trim(i.Path.Value, `"`), versions); m != "" {
					direct[m] = true
				}
			}
		}
	}
	text := page(t, "docs/dependencies.md")
	for m := range direct {
		assert.True(t, strings.Contains(text, "| "+m+" | "+versions[m]+" |"), "dependencies.md has no row for %s %s", m, versions[m])
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (\S+/\S+) \|`).FindAllStringSubmatch(text, -1) {
		assert.True(t, direct[m[1]], "dependencies.md lists %s, which nothing imports", m[1])
	}
}

// moduleOf is the module of go.mod that an import is of, "" for none.
func moduleOf(path string, versions map[string]string) (module string) {
	for m := range versions {
		if (path == m || strings.HasPrefix(path, m+"/")) && len(m) > len(module) {
			module = m
		}
	}
	return module
}

func TestReadmeIsShort(t *testing.T) {
	t.Parallel()
	assert.Less(t, strings.Count(page(t, readme), "\n"), 250)
}
