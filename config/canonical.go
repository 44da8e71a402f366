package config

import (
	"github.com/goccy/go-yaml"

	"forebay/flush/policy"
	"forebay/units"
)

// Canonical returns the effective values, defaults too, as YAML in canonical form. It reads back as the same
// configuration, with all keys given.
func (c *Relay) Canonical() ([]byte, error) {
	nats := yaml.MapSlice{{Key: "listen", Value: c.NATS.Listen}}
	if len(c.NATS.URLs) > 0 {
		nats = yaml.MapSlice{{Key: "urls", Value: c.NATS.URLs}}
		if f := c.NATS.CredentialsFile; f != "" {
			nats = append(nats, yaml.MapItem{Key: "credentials_file", Value: f})
		}
	}
	targets, links := yaml.MapSlice{}, []yaml.MapSlice{}
	for _, t := range c.Targets {
		targets = append(targets, yaml.MapItem{Key: t.Name, Value: yaml.MapSlice{{Key: "type", Value: t.Type}, {Key: "path", Value: t.Path}}})
	}
	for _, l := range c.Links {
		links = append(links, l.canonical())
	}
	return yaml.Marshal(yaml.MapSlice{
		{Key: "name", Value: c.Name},
		{Key: "data", Value: c.Data},
		{Key: "listen", Value: c.Listen},
		{Key: "insecure", Value: c.Insecure},
		{Key: "nats", Value: nats},
		{Key: "cache", Value: yaml.MapSlice{
			{Key: "stores", Value: c.Cache.Stores},
			{Key: "coding", Value: c.Cache.Coding.String()},
			{Key: "capacity", Value: orWord(c.Cache.Capacity, "auto")},
			{Key: "high_water", Value: c.Cache.HighWater.String()},
			{Key: "low_water", Value: c.Cache.LowWater.String()},
			{Key: "ballast", Value: c.Cache.Ballast.String()},
			{Key: "rebuild_after", Value: c.Cache.RebuildAfter.String()},
			{Key: "rebuild_rate", Value: c.Cache.RebuildRate.String()},
			{Key: "scrub", Value: orWord(c.Cache.Scrub, "off")},
			{Key: "scrub_rate", Value: c.Cache.ScrubRate.String()},
		}},
		{Key: "suspicion", Value: c.Suspicion.String()},
		{Key: "bandwidth", Value: c.Bandwidth.String()},
		{Key: "timezone", Value: c.Zone.String()},
		{Key: "log", Value: c.Log.canonical()},
		{Key: "targets", Value: targets},
		{Key: "links", Value: links},
	})
}

func (l Link) canonical() yaml.MapSlice {
	root := &tree{}
	root.put([]string{"name"}, l.Name)
	root.put([]string{"from"}, l.From.String())
	root.put([]string{"to"}, l.To)
	root.put([]string{"prefix"}, l.Prefix)
	for _, kv := range policy.Canonical(&l.Policy) {
		root.put(splitKey(kv.Key), kv.Value)
	}
	return root.slice()
}

func (l Log) canonical() yaml.MapSlice {
	return yaml.MapSlice{{Key: "level", Value: l.Level}, {Key: "format", Value: l.Format}}
}

// Canonical returns the effective values, defaults too, as YAML in canonical form. It reads back as the same configuration.
func (c *Agent) Canonical() ([]byte, error) {
	datasets := []yaml.MapSlice{}
	for _, d := range c.Datasets {
		one := yaml.MapSlice{{Key: "name", Value: d.Name}, {Key: "paths", Value: d.Paths}, {Key: "scan", Value: orWord(d.Scan, "auto")}}
		if len(d.Include) > 0 {
			one = append(one, yaml.MapItem{Key: "include", Value: d.Include})
		}
		if len(d.Exclude) > 0 {
			one = append(one, yaml.MapItem{Key: "exclude", Value: d.Exclude})
		}
		datasets = append(datasets, one)
	}
	listen := c.Listen
	if listen == "" {
		listen = "none"
	}
	return yaml.Marshal(yaml.MapSlice{
		{Key: "node", Value: c.Node},
		{Key: "cluster", Value: c.Cluster},
		{Key: "relays", Value: c.Relays},
		{Key: "data", Value: c.Data},
		{Key: "datasets", Value: datasets},
		{Key: "limits", Value: yaml.MapSlice{
			{Key: "read", Value: c.Limits.Read.String()},
			{Key: "upload", Value: c.Limits.Upload.String()},
			{Key: "nice", Value: c.Limits.Nice},
			{Key: "io", Value: c.Limits.IO},
		}},
		{Key: "listen", Value: listen},
		{Key: "insecure", Value: c.Insecure},
		{Key: "log", Value: c.Log.canonical()},
	})
}

// orWord prints v, or word for its zero value.
func orWord[T interface {
	units.Size | units.Duration
	String() string
}](v T, word string) string {
	if v == 0 {
		return word
	}
	return v.String()
}
