package config

import (
	"fmt"
	"os"
	"time"

	"forebay/flush/policy"
	"forebay/proto"
	"forebay/units"
)

// Relay is relay.yaml with its defaults filled in.
type Relay struct {
	Name      string
	Data      string // absolute path
	Listen    string // host:port
	Insecure  bool   // listeners off loopback are allowed without TLS
	NATS      NATS
	Cache     Cache
	Suspicion units.Duration
	Bandwidth policy.Timetable // of all links together
	Zone      policy.Zone      // of Bandwidth
	Log       Log
	Targets   []Target // in the order of the file
	Links     []Link   // in the order of the file
}

// NATS says where the bus is: embedded at Listen, or, when URLs are set, elsewhere.
type NATS struct {
	Listen          string // "" when URLs are set
	URLs            []string
	CredentialsFile string
}

// Cache describes the stores.
type Cache struct {
	Stores    []string // absolute paths, at least one
	Coding    Coding
	Capacity  units.Size // raw bytes over all stores; 0 = 90 % of their file systems
	HighWater units.Percent
	LowWater  units.Percent
	Ballast   units.Size // per store
	// RebuildAfter is how long a store may be away before its segments are coded anew, RebuildRate how fast that goes; Scrub is
	// how often all shards are read (0 = never), ScrubRate how fast. A rate of 0 is no limit.
	RebuildAfter units.Duration
	RebuildRate  units.Rate
	Scrub        units.Duration
	ScrubRate    units.Rate
}

// LoadRelay reads and checks a relay.yaml. The error is of type Errors unless the file cannot be read.
func LoadRelay(path string) (*Relay, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return ParseRelay(text, path)
}

// LoadTargets reads the targets of a relay.yaml, and its links where it has any. Nothing else has to be there, or to be right: who brings a
// backup back on a new machine has little more.
func LoadTargets(path string) (*Relay, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	r, c := &reader{file: path}, &Relay{}
	if top := r.read(text); top != nil {
		c.readTargets(top.sub("targets"))
		c.readLinks(top)
	}
	if r.errs != nil {
		return nil, r.errs.sorted()
	}
	return c, nil
}

// ParseRelay reads and checks the text of a relay.yaml; name is what messages call the file.
func ParseRelay(text []byte, name string) (*Relay, error) {
	r := &reader{file: name}
	c := &Relay{
		Data: "/var/lib/forebay", Listen: proto.DefaultListen, Suspicion: units.Duration(proto.DefaultSuspicion),
		Cache: Cache{HighWater: 85 * units.Hundred / 100, LowWater: 70 * units.Hundred / 100, Ballast: 256 * units.MiB,
			RebuildAfter: units.Duration(10 * time.Minute), RebuildRate: 64 * units.Rate(units.MiB), Scrub: 7 * units.Day, ScrubRate: 16 * units.Rate(units.MiB)},
	}
	if top := r.read(text); top != nil {
		c.read(top)
	}
	if r.errs != nil {
		return nil, r.errs.sorted()
	}
	return c, nil
}

func (c *Relay) read(s *section) {
	s.need("name", "give the relay a name, such as relay-1")
	parsed(s, "name", &c.Name, parseName)
	parsed(s, "data", &c.Data, parsePath)
	parsed(s, "listen", &c.Listen, parseListen)
	s.flag("insecure", &c.Insecure)
	c.readNATS(s.sub("nats"))
	dirs := []located{{"data", "data directory", c.Data}}
	dirs = append(dirs, c.readCache(s)...)
	parsed(s, "suspicion", &c.Suspicion, parseSuspicion)
	parsed(s, "bandwidth", &c.Bandwidth, policy.ParseTimetable)
	parsed(s, "timezone", &c.Zone, policy.ParseZone)
	c.Log = readLog(s.sub("log"))
	dirs = append(dirs, c.readTargets(s.sub("targets"))...)
	c.readLinks(s)
	s.finish()
	s.r.apart(dirs)
	c.checkListen(s)
}

func parseSuspicion(text string) (units.Duration, error) {
	const least, most = units.Duration(100 * time.Millisecond), units.Duration(10 * time.Minute)
	v, err := units.ParseDuration(text)
	if err == nil && (v < least || v > most) {
		err = fmt.Errorf("suspicion %s is outside %s to %s: too short ends leases of healthy agents, too long delays takeovers", v, least, most)
	}
	return v, err
}

func (c *Relay) readNATS(s *section) {
	n := &c.NATS
	parsed(s, "listen", &n.Listen, parseListen)
	s.list("urls", true, func(key string, node astNode) {
		s.r.scalar(key, node, func(text string) error {
			u, err := parseURL(text, "nats", "tls")
			n.URLs = append(n.URLs, u)
			return err
		})
	})
	parsed(s, "credentials_file", &n.CredentialsFile, parsePath)
	s.finish()
	switch {
	case n.Listen != "" && s.has("urls"):
		s.fail("listen", "listen is for the embedded server and urls for another one: keep one of them")
	case n.CredentialsFile != "" && !s.has("urls"):
		s.fail("credentials_file", "the embedded server needs no credentials: set urls too, or take it out")
	case n.Listen == "" && !s.has("urls"):
		n.Listen = proto.DefaultBusAddr
	}
}

// checkListen refuses plain text over a network unless the operator accepts it.
func (c *Relay) checkListen(s *section) {
	const text = "%s can be reached from other machines, and this release has neither TLS nor identities: listen on 127.0.0.1, or accept the risk with insecure: true"
	if c.Insecure {
		return
	}
	if !loopback(c.Listen) {
		s.fail("listen", text, c.Listen)
	}
	if l := c.NATS.Listen; l != "" && !loopback(l) {
		s.fail("nats.listen", text, l)
	}
}

func (c *Relay) readCache(top *section) (dirs []located) {
	s, k := top.sub("cache"), &c.Cache
	s.list("stores", false, func(key string, n astNode) {
		s.r.scalar(key, n, func(text string) error {
			p, err := parsePath(text)
			if err == nil {
				k.Stores = append(k.Stores, p)
				dirs = append(dirs, located{key, fmt.Sprintf("store %d", len(k.Stores)), p})
			}
			return err
		})
	})
	if len(k.Stores) == 0 && top.values != nil && !s.r.failedAt("cache") {
		s.fail("stores", "no store is given: list at least one directory, best one on each disk")
	}
	hasCoding := s.has("coding")
	parsed(s, "coding", &k.Coding, ParseCoding)
	if !hasCoding {
		k.Coding = defaultCoding(len(k.Stores))
	} else if need := k.Coding.Data + k.Coding.Parity; need > len(k.Stores) && len(k.Stores) > 0 {
		s.fail("coding", "coding %s needs %d stores and there are %d: add stores, or use %s", k.Coding, need, len(k.Stores), defaultCoding(len(k.Stores)))
	}
	parsed(s, "capacity", &k.Capacity, unless("auto", parseCapacity))
	parsed(s, "high_water", &k.HighWater, units.ParsePercent)
	parsed(s, "low_water", &k.LowWater, units.ParsePercent)
	if k.LowWater >= k.HighWater {
		s.fail("low_water", "low_water %s must be below high_water %s, which stops accepting until low_water is reached", k.LowWater, k.HighWater)
	}
	parsed(s, "ballast", &k.Ballast, units.ParseSize)
	parsed(s, "rebuild_after", &k.RebuildAfter, units.ParseDuration)
	parsed(s, "rebuild_rate", &k.RebuildRate, parseUpkeepRate)
	parsed(s, "scrub", &k.Scrub, unless("off", parseScrub))
	parsed(s, "scrub_rate", &k.ScrubRate, parseUpkeepRate)
	s.finish()
	return dirs
}
