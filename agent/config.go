package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"forebay/agent/scan"
	"forebay/proto"
)

// Config is what an agent does.
type Config struct {
	Node    string // unique in the cluster
	Cluster string
	Relays  []string // addresses of the relay, asked in order
	DataDir string   // the agent's own: index, instance
	// Software is the program's version, shown by the relay.
	Software string
	Datasets []Dataset
	Limits   Limits
	// Listen is the address of the agent's own health, metrics and status; "" = none.
	Listen string
}

// Dataset is one dataset as this node holds it.
type Dataset struct {
	Name             string
	Paths            []string // absolute; each is a holder of its own
	Scan             time.Duration
	Include, Exclude []string
}

// Limits keep the primary undisturbed. Zero values mean no limit.
type Limits struct {
	Read, Upload int64  // bytes a second
	Nice         int    // of the process, 0 to 19
	IO           string // idle, best-effort, or "" to leave it as it is
}

// minScan keeps an operator's scan interval from turning scans into a load.
const minScan = time.Second

// Validate says what is wrong with a configuration, all of it at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if err := proto.CheckName(c.Node); err != nil {
		bad("node: %w", err)
	}
	if err := proto.CheckName(c.Cluster); err != nil {
		bad("cluster: %w", err)
	}
	if len(c.Relays) == 0 {
		bad("relays: name at least one, such as %s", proto.DefaultRelay)
	}
	if !filepath.IsAbs(c.DataDir) {
		bad("data %q: want an absolute path", c.DataDir)
	}
	if c.Limits.Read < 0 || c.Limits.Upload < 0 {
		bad("limits: rates must not be negative")
	}
	if c.Limits.Nice < 0 || c.Limits.Nice > 19 {
		bad("limits: nice %d: want 0 to 19", c.Limits.Nice)
	}
	if len(c.Datasets) == 0 {
		bad("datasets: name at least one")
	}
	names, paths := map[string]bool{}, map[string]string{}
	for _, d := range c.Datasets {
		if names[d.Name] {
			bad("dataset %s is named twice: give it several paths instead", d.Name)
		}
		names[d.Name] = true
		errs = append(errs, d.validate(paths)...)
	}
	return errors.Join(errs...)
}

// validate checks one dataset; paths are those of the ones before, with the dataset's name.
func (d Dataset) validate(paths map[string]string) (errs []error) {
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("dataset %s: "+format, append([]any{d.Name}, args...)...))
	}
	if err := proto.CheckName(d.Name); err != nil {
		bad("%w", err)
	}
	if len(d.Paths) == 0 {
		bad("no path")
	}
	if d.Scan != 0 && d.Scan < minScan {
		bad("scan every %s: want at least %s, or auto", d.Scan, minScan)
	}
	if _, err := scan.NewRules(d.Include, d.Exclude); err != nil {
		bad("%w", err)
	}
	for _, p := range d.Paths {
		if !filepath.IsAbs(p) {
			bad("path %q: want an absolute path", p)
			continue
		}
		p = filepath.Clean(p)
		for other, name := range paths {
			if within(p, other) || within(other, p) {
				bad("path %s and path %s of dataset %s lie within one another", p, other, name)
			}
		}
		paths[p] = d.Name
	}
	return errs
}

// within reports whether p is dir or lies below it; both are clean and absolute.
func within(p, dir string) bool {
	rel, err := filepath.Rel(dir, p)
	return err == nil && rel != ".." && !(len(rel) > 2 && rel[:3] == "../")
}
