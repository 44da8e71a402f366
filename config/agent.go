package config

import (
	"fmt"
	"os"

	"forebay/proto"
	"forebay/units"
)

// Agent is agent.yaml with its defaults filled in.
type Agent struct {
	Node     string
	Cluster  string
	Relays   []string // URLs
	Data     string   // absolute path
	Datasets []Dataset
	Limits   Limits
	Listen   string // host:port of the agent's own health, metrics and status; "" = none
	Insecure bool   // Listen may be off loopback
	Log      Log
}

// Dataset is one dataset that the node holds.
type Dataset struct {
	Name    string
	Paths   []string       // absolute, at least one; each is a holder of its own
	Scan    units.Duration // between scans; 0 = auto
	Include []string       // globs
	Exclude []string
}

// Limits keep the primary from feeling the agent.
type Limits struct {
	Read   units.Rate // from disk; 0 = off
	Upload units.Rate // to the relay; 0 = off
	Nice   int        // 0 to 19
	IO     string     // idle, best-effort, none (as the agent was started)
}

// GlobCheck says what is wrong with a pattern of include or exclude.
type GlobCheck func(glob string) error

// LoadAgent reads and checks an agent.yaml. The error is of type Errors unless the file cannot be read. Patterns are checked
// by checks, when there are any, so that the package which matches them has the say.
func LoadAgent(path string, checks ...GlobCheck) (*Agent, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return ParseAgent(text, path, checks...)
}

// ParseAgent reads and checks the text of an agent.yaml; name is what messages call the file.
func ParseAgent(text []byte, name string, checks ...GlobCheck) (*Agent, error) {
	r := &reader{file: name}
	c := &Agent{Data: "/var/lib/forebay-agent", Limits: Limits{Nice: 10, IO: "idle"}}
	if len(checks) == 0 {
		checks = []GlobCheck{checkGlob}
	}
	if top := r.read(text); top != nil {
		c.read(top, checks)
	}
	if r.errs != nil {
		return nil, r.errs.sorted()
	}
	return c, nil
}

func (c *Agent) read(s *section, checks []GlobCheck) {
	s.need("node", "name this machine as the relay shall know it, such as node-a; no two agents may have one name")
	parsed(s, "node", &c.Node, parseName)
	s.need("cluster", "name the cluster whose replicas this node holds, such as primary")
	parsed(s, "cluster", &c.Cluster, parseName)
	s.list("relays", true, func(key string, n astNode) {
		s.r.scalar(key, n, func(text string) error {
			u, err := parseURL(text, "http", "https")
			if err == nil {
				c.Relays = append(c.Relays, u)
			}
			return err
		})
	})
	if !s.has("relays") {
		c.Relays = []string{proto.DefaultRelay}
	} else if len(c.Relays) == 0 && !s.r.failedAt("relays") {
		s.fail("relays", "the list is empty: name a relay, or leave it out for %s", proto.DefaultRelay)
	}
	parsed(s, "data", &c.Data, parsePath)
	c.readDatasets(s, checks)
	c.readLimits(s.sub("limits"))
	parsed(s, "listen", &c.Listen, unless("none", parseListen))
	s.flag("insecure", &c.Insecure)
	if c.Listen != "" && !c.Insecure && !loopback(c.Listen) {
		s.fail("listen", "%s can be reached from other machines, and this release has neither TLS nor identities: listen on 127.0.0.1, or accept the risk with insecure: true", c.Listen)
	}
	c.Log = readLog(s.sub("log"))
	s.finish()
}

func (c *Agent) readDatasets(top *section, checks []GlobCheck) {
	dirs := []located{{"data", "data directory", c.Data}}
	top.need("datasets", "list at least one dataset with name and path")
	top.list("datasets", false, func(key string, n astNode) {
		dirs = append(dirs, c.readDataset(top.r.section(key, n), checks)...)
	})
	if top.has("datasets") && len(c.Datasets) == 0 && !top.r.failedAt("datasets") {
		top.fail("datasets", "the list is empty: list at least one dataset with name and path")
	}
	top.r.apart(dirs)
}

func (c *Agent) readDataset(s *section, checks []GlobCheck) (dirs []located) {
	var d Dataset
	s.need("name", "a dataset needs a name, such as media")
	if parsed(s, "name", &d.Name, parseName); d.Name != "" {
		for _, other := range c.Datasets {
			if other.Name == d.Name {
				s.fail("name", "two datasets are named %q: for several roots of one dataset use paths, else choose another name", d.Name)
			}
		}
	}
	add := func(key string, n astNode) {
		s.r.scalar(key, n, func(text string) error {
			p, err := parsePath(text)
			if err == nil {
				d.Paths = append(d.Paths, p)
				dirs = append(dirs, located{key, "dataset " + d.Name, p})
			}
			return err
		})
	}
	switch {
	case s.has("path") && s.has("paths"):
		s.fail("paths", "a dataset has path or paths: put all roots into paths")
	case !s.has("path") && !s.has("paths"):
		s.need("path", "name the directory of the dataset on this node")
	}
	if n, ok := s.take("path"); ok {
		add(s.key("path"), n)
	}
	s.list("paths", false, add)
	if s.has("paths") && len(d.Paths) == 0 && !s.r.failedAt(s.key("paths")) {
		s.fail("paths", "the list is empty: name the directory of the dataset on this node")
	}
	parsed(s, "scan", &d.Scan, unless("auto", parseScan))
	d.Include, d.Exclude = s.globs("include", checks), s.globs("exclude", checks)
	s.later("receive")
	s.finish()
	c.Datasets = append(c.Datasets, d)
	return dirs
}

func parseScan(text string) (units.Duration, error) {
	v, err := units.ParseDuration(text)
	if err == nil && v == 0 {
		err = fmt.Errorf("scan %q: write auto, or the time between scans such as 15m", text)
	}
	return v, err
}

func (s *section) globs(name string, checks []GlobCheck) (out []string) {
	s.list(name, false, func(key string, n astNode) {
		s.r.scalar(key, n, func(text string) error {
			for _, check := range checks {
				if err := check(text); err != nil {
					return err
				}
			}
			out = append(out, text)
			return nil
		})
	})
	return out
}

func (c *Agent) readLimits(s *section) {
	parsed(s, "read", &c.Limits.Read, units.ParseRate)
	parsed(s, "upload", &c.Limits.Upload, units.ParseRate)
	s.number("nice", &c.Limits.Nice, 0, 19)
	s.oneOf("io", &c.Limits.IO, "idle", "best-effort", "none")
	s.finish()
}
