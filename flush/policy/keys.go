package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"forebay/flush/target"
	"forebay/units"
	"forebay/units/nearest"
)

// KeyValue is one setting in canonical form. Key is the path below the link in the configuration.
type KeyValue struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// String returns KEY=VALUE.
func (kv KeyValue) String() string { return kv.Key + "=" + kv.Value }

// key is one setting: how it is read and printed.
type key struct {
	name string
	set  func(p *Policy, value string) error
	get  func(p *Policy) string
}

const none = "none"

// keys is in the order in which settings are shown.
var keys = [...]key{
	textKey("flush.size", none, func(p *Policy) *units.Size { return &p.Size }, units.ParseSize),
	textKey("flush.age", none, func(p *Policy) *units.Duration { return &p.Age }, units.ParseDuration),
	textKey("flush.objects", none, func(p *Policy) *count { return (*count)(&p.Objects) }, parseCount),
	{"flush.window", setBy(func(p *Policy) *Windows { return &p.Windows }, ParseWindows), func(p *Policy) string { return p.Windows.String() }},
	{"flush.timezone", setBy(func(p *Policy) *Zone { return &p.Zone }, ParseZone), func(p *Policy) string { return p.Zone.String() }},
	{"flush.bandwidth", setBy(func(p *Policy) *Timetable { return &p.Bandwidth }, ParseTimetable), func(p *Policy) string { return p.Bandwidth.String() }},
	textKey("flush.budget", none, func(p *Policy) *units.Size { return &p.Budget }, units.ParseSize),
	textKey("flush.deadline", none, func(p *Policy) *units.Duration { return &p.Deadline }, units.ParseDuration),
	{"flush.priority", setBy(func(p *Policy) *int { return &p.Priority }, parsePriority), func(p *Policy) string { return strconv.Itoa(p.Priority) }},
	{"flush.weight", setBy(func(p *Policy) *int { return &p.Weight }, parseWeight), func(p *Policy) string { return strconv.Itoa(p.Weight) }},
	textKey("flush.batch_min", "", func(p *Policy) *units.Size { return &p.BatchMin }, units.ParseSize),
	textKey("flush.batch_max", "", func(p *Policy) *units.Size { return &p.BatchMax }, units.ParseSize),
	textKey("confirm", "auto", func(p *Policy) *confirm { return (*confirm)(&p.Confirm) }, parseConfirm),
	boolKey("coalesce", func(p *Policy) *bool { return &p.Coalesce }),
	textKey("share", "equal", func(p *Policy) *units.Percent { return &p.Share }, units.ParsePercent),
	{"when_full", setBy(func(p *Policy) *WhenFull { return &p.WhenFull }, parseWhenFull), func(p *Policy) string { return string(p.WhenFull) }},
	boolKey("delete.propagate", func(p *Policy) *bool { return &p.Delete.Propagate }),
	textKey("delete.grace", "", func(p *Policy) *units.Duration { return &p.Delete.Grace }, units.ParseDuration),
	textKey("delete.guard.share", "", func(p *Policy) *units.Percent { return &p.Delete.Guard.Share }, units.ParsePercent),
	{"delete.guard.objects", setBy(func(p *Policy) *int64 { return &p.Delete.Guard.Objects }, parseGuardObjects), formatGuardObjects},
	textKey("history.keep", none, func(p *Policy) *units.Duration { return &p.Keep }, units.ParseDuration),
}

// Keys returns the keys that Set knows, in full and in the order of Canonical.
func Keys() []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.name
	}
	return out
}

// FullKey returns the full form of a key in which "flush." may be left out. An unknown key is an error that names the
// nearest one.
func FullKey(name string) (string, error) {
	for _, k := range keys {
		if name == k.name || "flush."+name == k.name {
			return k.name, nil
		}
	}
	all := Keys()
	names := slices.Clone(all)
	for _, k := range all {
		if short, ok := strings.CutPrefix(k, "flush."); ok {
			names = append(names, short)
		}
	}
	if near := nearest.Name(name, names); near != "" {
		return "", fmt.Errorf("key %q is not known, did you mean %s?", name, near)
	}
	return "", fmt.Errorf("key %q is not known: the keys are %s", name, strings.Join(all, ", "))
}

// Set changes one setting; on an error p is as before. It does not check relations between settings: set all that belong
// together, then call Validate.
func Set(p *Policy, name, value string) error {
	full, err := FullKey(name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(keys[:], func(k key) bool { return k.name == full })
	if err := keys[i].set(p, strings.TrimSpace(value)); err != nil {
		return fmt.Errorf("%s: %w", full, err)
	}
	return nil
}

// Get returns one setting in canonical form.
func Get(p *Policy, name string) (string, error) {
	full, err := FullKey(name)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(keys[:], func(k key) bool { return k.name == full })
	return keys[i].get(p), nil
}

// Canonical returns all settings, defaults too, as Set reads them.
func Canonical(p *Policy) []KeyValue {
	out := make([]KeyValue, len(keys))
	for i, k := range keys {
		out[i] = KeyValue{k.name, k.get(p)}
	}
	return out
}

// setBy makes a setter out of a parser.
func setBy[T any](field func(*Policy) *T, parse func(string) (T, error)) func(*Policy, string) error {
	return func(p *Policy, value string) error {
		v, err := parse(value)
		if err == nil {
			*field(p) = v
		}
		return err
	}
}

// textKey is a setting whose zero value is called unset; where unset is "", zero is a value like any other.
func textKey[T interface {
	comparable
	String() string
}](name, unset string, field func(*Policy) *T, parse func(string) (T, error)) key {
	var zero T
	return key{name,
		setBy(field, func(s string) (T, error) {
			if unset != "" && (s == unset || s == none || s == "off") {
				return zero, nil
			}
			return parse(s)
		}),
		func(p *Policy) string {
			if v := *field(p); v != zero || unset == "" {
				return v.String()
			}
			return unset
		}}
}

func boolKey(name string, field func(*Policy) *bool) key {
	return key{name, setBy(field, parseBool), func(p *Policy) string { return strconv.FormatBool(*field(p)) }}
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

// count is a number of objects.
type count int64

func (c count) String() string { return strconv.FormatInt(int64(c), 10) }

func parseCount(s string) (count, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no whole number of objects", s)
	}
	return count(n), nil
}

func parsePriority(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < -MaxPriority || n > MaxPriority {
		return 0, fmt.Errorf("%q is no whole number from %d to %d", s, -MaxPriority, MaxPriority)
	}
	return n, nil
}

func parseWeight(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > MaxWeight {
		return 0, fmt.Errorf("%q is no whole number from 1 to %d", s, MaxWeight)
	}
	return n, nil
}

// confirm is a target.ConfirmClass that prints.
type confirm target.ConfirmClass

func (c confirm) String() string { return string(c) }

func parseConfirm(s string) (confirm, error) {
	if target.ConfirmClass(s).Rank() == 0 {
		return "", fmt.Errorf("%q is none of auto, ack, sync, reread", s)
	}
	return confirm(s), nil
}

func parseWhenFull(s string) (WhenFull, error) {
	if w := WhenFull(s); w == Release || w == Hold {
		return w, nil
	}
	return "", fmt.Errorf("%q is neither release nor hold", s)
}

func parseGuardObjects(s string) (int64, error) {
	if s == "off" || s == none {
		return NoGuard, nil
	}
	n, err := parseCount(s)
	if err != nil {
		return 0, errors.New(err.Error() + ", nor off")
	}
	return int64(n), nil
}

func formatGuardObjects(p *Policy) string {
	if n := p.Delete.Guard.Objects; n != NoGuard {
		return strconv.FormatInt(n, 10)
	}
	return "off"
}
