package config

import (
	"strings"

	"github.com/goccy/go-yaml"
)

// tree makes nested mappings out of dotted keys, in the order in which they are put.
type tree struct {
	order []string
	leafs map[string]string
	subs  map[string]*tree
}

func splitKey(key string) []string { return strings.Split(key, ".") }

func (t *tree) put(path []string, value string) {
	if t.leafs == nil {
		t.leafs, t.subs = map[string]string{}, map[string]*tree{}
	}
	name := path[0]
	if _, leaf := t.leafs[name]; !leaf && t.subs[name] == nil {
		t.order = append(t.order, name)
	}
	if len(path) == 1 {
		t.leafs[name] = value
		return
	}
	if t.subs[name] == nil {
		t.subs[name] = &tree{}
	}
	t.subs[name].put(path[1:], value)
}

func (t *tree) slice() yaml.MapSlice {
	out := make(yaml.MapSlice, 0, len(t.order))
	for _, name := range t.order {
		if sub := t.subs[name]; sub != nil {
			out = append(out, yaml.MapItem{Key: name, Value: sub.slice()})
			continue
		}
		out = append(out, yaml.MapItem{Key: name, Value: t.leafs[name]})
	}
	return out
}
