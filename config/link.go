package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"forebay/flush/policy"
	"forebay/proto"
	"forebay/units"
	"forebay/units/nearest"
)

// Link is one dataset to one target.
type Link struct {
	Name   string
	From   proto.Dataset
	To     string // a target's name
	Prefix string // folder under the target, relative and clean; "" = the target itself
	Policy policy.Policy
	Given  []string // the keys of Policy that the file sets, as in policy.Keys
}

func (c *Relay) readLinks(top *section) {
	top.list("links", false, func(key string, n astNode) {
		c.readLink(top.r.section(key, n))
	})
	c.checkPlaces(top.r)
	for i := range c.Links {
		for _, p := range c.CheckPolicy(&c.Links[i].Policy) {
			top.fail(fmt.Sprintf("links[%d].%s", i, p.Key), "%s", p.Text)
		}
	}
	var shares int64
	for i, l := range c.Links {
		shares += int64(l.Policy.Share)
		unset := slices.ContainsFunc(c.Links, func(l Link) bool { return l.Policy.Share == 0 })
		whole := int64(units.Hundred)
		if last := i == len(c.Links)-1; last && (shares > whole || shares == whole && unset) {
			top.fail("links", "the shares of the links add up to %s, which leaves nothing for others: lower them to less than 100%% together", units.Percent(shares))
		}
	}
}

func (c *Relay) readLink(s *section) {
	l := Link{Policy: policy.Default()}
	for _, name := range []string{"name", "from", "to"} {
		s.need(name, "a link needs name, from (CLUSTER/DATASET) and to (a target)")
	}
	if parsed(s, "name", &l.Name, parseName); l.Name != "" {
		for _, other := range c.Links {
			if other.Name == l.Name {
				s.fail("name", "two links are named %q: links are told apart by name, choose another", l.Name)
			}
		}
	}
	parsed(s, "from", &l.From, proto.ParseDataset)
	parsed(s, "to", &l.To, c.parseTo)
	parsed(s, "prefix", &l.Prefix, parsePrefix)
	l.readPolicy(s)
	s.later("copies", "encrypt")
	s.finish()
	c.Links = append(c.Links, l)
}

func (c *Relay) parseTo(text string) (string, error) {
	if strings.HasPrefix(text, "cluster:") {
		return "", fmt.Errorf("a cluster as a target (%s) is not built yet; this release has targets of type dir, s3 and sftp", text)
	}
	if _, ok := c.Target(text); ok {
		return text, nil
	}
	names := make([]string, len(c.Targets))
	for i, t := range c.Targets {
		names[i] = t.Name
	}
	if near := nearest.Name(text, names); near != "" {
		return "", fmt.Errorf("there is no target %q, did you mean %s?", text, near)
	}
	if len(names) == 0 {
		return "", fmt.Errorf("there is no target %q: describe it under targets", text)
	}
	return "", fmt.Errorf("there is no target %q: the targets are %s", text, strings.Join(names, ", "))
}

func parsePrefix(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	if strings.HasPrefix(text, "/") {
		return "", fmt.Errorf("prefix %q is absolute: it is a folder under the target, write it without the first /", text)
	}
	clean := strings.TrimSuffix(text, "/")
	if err := proto.CheckPath(clean); err != nil {
		return "", fmt.Errorf("prefix: %w", err)
	}
	return clean, nil
}

// readPolicy hands every key below a link that can change at run time to package policy, so that file and command line
// read alike.
func (l *Link) readPolicy(s *section) {
	subs := map[string]*section{"": s}
	for _, key := range policy.Keys() {
		dir, name := "", key
		if i := strings.LastIndexByte(key, '.'); i >= 0 {
			dir, name = key[:i], key[i+1:]
		}
		in := subs[dir]
		if in == nil {
			parent, last := "", dir
			if i := strings.LastIndexByte(dir, '.'); i >= 0 {
				parent, last = dir[:i], dir[i+1:]
			}
			in = subs[parent].sub(last)
			subs[dir] = in
		}
		set := func(text string) error {
			err := policy.Set(&l.Policy, key, text)
			return trimKey(err, key)
		}
		taken := false
		if key == "flush.window" {
			taken = in.windows(name, set)
		} else {
			taken = in.set(name, set)
		}
		if taken {
			l.Given = append(l.Given, key)
		}
	}
	for dir, in := range subs {
		if dir != "" {
			in.finish()
		}
	}
	var found policy.Problems
	if errors.As(policy.Validate(&l.Policy), &found) {
		for _, p := range found {
			s.fail(p.Key, "%s", p.Text)
		}
	}
}

// CheckPolicy says what of a link's policy does not go together with the rest of the configuration. What a policy says about
// itself is policy.Validate's.
func (c *Relay) CheckPolicy(p *policy.Policy) (found policy.Problems) {
	k := c.Cache
	if k.Capacity == 0 || k.Coding.Data == 0 || p.Age > 0 {
		return nil // unknown, or the age is reached before the cache is full, or after
	}
	// What fits under the high water mark, of contents.
	room := units.Size(k.HighWater.Of(int64(k.Capacity)) / int64(k.Coding.Data+k.Coding.Parity) * int64(k.Coding.Data))
	for _, one := range []struct {
		key  string
		size units.Size
	}{{"flush.size", p.Size}, {"flush.batch_min", p.BatchMin}} {
		if one.size <= room || one.key == "flush.size" && p.Objects > 0 {
			continue
		}
		name := strings.TrimPrefix(one.key, "flush.")
		found = append(found, policy.Problem{Key: one.key, Text: fmt.Sprintf("%s %s is never reached: the cache holds %s of contents before it is full (capacity %s, of it %s up to high_water, at coding %s), "+
			"so that each flush would be forced: lower %s, raise cache.capacity, or set age", name, one.size, room.Human(), k.Capacity, k.HighWater, k.Coding, name)})
	}
	return found
}

// trimKey takes the key off an error of policy.Set: the place of the error shows it already.
func trimKey(err error, key string) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.TrimPrefix(err.Error(), key+": "))
}

// windows sets one window or a list of them.
func (s *section) windows(name string, set func(string) error) (taken bool) {
	var all []string
	s.list(name, true, func(key string, n astNode) {
		taken = true
		s.r.scalar(key, n, func(text string) error {
			all = append(all, text)
			_, err := policy.ParseWindows(text)
			return err
		})
	})
	if !taken || s.r.failedAt(s.key(name)) {
		return false
	}
	if err := set(strings.Join(all, ", ")); err != nil {
		s.fail(name, "%s", err)
		return false
	}
	return true
}

// checkPlaces refuses links that would write into each other's files.
func (c *Relay) checkPlaces(r *reader) {
	for i, a := range c.Links {
		if key := fmt.Sprintf("links[%d].prefix", i); a.To == "" || r.failedAt(key) {
			continue
		}
		for j, b := range c.Links[:i] {
			if a.To != b.To {
				continue
			}
			key := fmt.Sprintf("links[%d].prefix", i)
			pa, pb := "/"+a.Prefix, "/"+b.Prefix
			switch {
			case pa == pb && a.Prefix == "":
				r.fail(key, "links %s and %s both write to the target %s: give at least one of them, best both, a prefix of its own", nameOf(b, j), nameOf(a, i), a.To)
			case pa == pb:
				r.fail(key, "links %s and %s both write to prefix %s of the target %s: choose another", nameOf(b, j), nameOf(a, i), a.Prefix, a.To)
			case within(pa, pb) || within(pb, pa):
				r.fail(key, "links %s and %s write into each other on the target %s (prefixes %q and %q): choose prefixes that do not contain each other", nameOf(b, j), nameOf(a, i), a.To, b.Prefix, a.Prefix)
			}
		}
	}
}

func nameOf(l Link, i int) string {
	if l.Name == "" {
		return fmt.Sprintf("number %d", i+1)
	}
	return l.Name
}
