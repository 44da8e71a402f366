package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"forebay/cmd/forebay/relayd"
	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/internal/show"
	"forebay/proto"
)

// rememberedNames is how many names of users and groups a verb remembers.
const rememberedNames = 4096

// source is a mirror that list and restore read, without a relay.
type source struct {
	target  target.Target
	journal *journal.Journal
	owner   journal.Owner
	at      time.Time // as of when; zero: as it is now
}

// sourceFlags say which mirror.
type sourceFlags struct {
	from   string
	config string
	path   string
	at     string
	json   bool
}

// addPlace gives cmd the flags that say where.
func (f *sourceFlags) addPlace(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.from, "from", "", "a path with a slash, s3://BUCKET/FOLDER, sftp://USER@HOST/FOLDER, or the name of a target in --config")
	cmd.Flags().StringVar(&f.config, "config", defaultConfig, "the relay.yaml that describes the target, or a file with its targets alone, `F`")
}

func (f *sourceFlags) add(cmd *cobra.Command) *cobra.Command {
	f.addPlace(cmd)
	cmd.Flags().StringVar(&f.path, "path", "", "only the object or directory `PREFIX`")
	cmd.Flags().StringVar(&f.at, "at", "", "as it was at `TIME`: RFC 3339, a local time with its zone, or how long ago (2h)")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// open finds the mirror that --from names. The place may be a target, or the folder of one prefix in it.
func (f *sourceFlags) open(ctx context.Context, c *cli) (*source, error) {
	at := time.Time{}
	if f.at != "" {
		var err error
		if at, err = parseAt(f.at, c.now()); err != nil {
			return nil, err
		}
	}
	p, err := f.place()
	if err != nil {
		return nil, err
	}
	names := fsmeta.NewNames(rememberedNames)
	o := relayd.Opening{Names: names, Now: c.now, Getenv: os.Getenv, Software: build().Version}
	marks, err := p.marks(ctx, o)
	if err != nil {
		return nil, err
	}
	owner, err := p.choose(marks)
	if err != nil {
		return nil, err
	}
	t := p.target
	s := &source{owner: owner, at: at}
	o.Prefix = string(owner.Prefix)
	if s.target, err = relayd.OpenTarget(t, o); err != nil {
		return nil, err
	}
	if s.journal, err = journal.Open(ctx, s.target.Records(), target.PrefixKey(string(owner.Prefix))); err != nil {
		return nil, errors.Join(err, s.target.Close())
	}
	return s, nil
}

// place is where --from leads: a target and, if it says so, a prefix in it; "*" is any.
type place struct {
	target config.Target
	prefix string
	// above says that the target may as well be above its Path, which leads to a prefix in it then.
	above bool
	// name is how one backup of the target is named in --from.
	name func(journal.Owner) string
}

// place resolves --from.
func (f *sourceFlags) place() (*place, error) {
	switch {
	case f.from == "":
		return nil, usagef("name where from: --from /mnt/nas, --from s3://BUCKET/FOLDER, --from sftp://USER@HOST/FOLDER, or --from NAME with --config relay.yaml")
	case strings.Contains(f.from, "://"):
		t, err := parseTarget(f.from)
		p := &place{target: t, prefix: "*", above: true}
		p.name = func(o journal.Owner) string { return nameInURL(f.from, p.target.Path, string(o.Prefix)) }
		return p, err
	case strings.Contains(f.from, "/"):
		root, prefix, err := findRoot(f.from)
		name := func(o journal.Owner) string { return filepath.Join(root, string(o.Prefix)) }
		return &place{target: config.Target{Type: config.TypeDir, Path: root}, prefix: prefix, name: name}, err
	}
	relay, err := config.LoadTargets(f.config)
	if err != nil {
		return nil, err
	}
	name := func(o journal.Owner) string { return o.Link }
	if t, ok := relay.Target(f.from); ok {
		return &place{target: t, prefix: "*", name: name}, nil
	}
	for _, l := range relay.Links { // where a target has several links, the link's name tells which
		if t, ok := relay.Target(l.To); ok && l.Name == f.from {
			return &place{target: t, prefix: l.Prefix, name: name}, nil
		}
	}
	return nil, usagef("%s has no target %q (it has %s); a path needs a slash, such as ./%s", f.config, f.from, strings.Join(relay.TargetNames(), ", "), f.from)
}

// marks returns the owner marks of the target, and finds the target where it may be above.
func (p *place) marks(ctx context.Context, o relayd.Opening) ([]journal.Owner, error) {
	for t := p.target; ; {
		root, err := relayd.OpenTarget(t, o)
		if err != nil {
			return nil, err
		}
		marks, err := journal.Marks(ctx, root.Records())
		if err = errors.Join(err, root.Close()); err != nil {
			return nil, err
		}
		if len(marks) > 0 && t.Path != p.target.Path {
			p.prefix = strings.TrimPrefix(strings.TrimPrefix(p.target.Path, t.Path), "/")
			p.target = t
		}
		if len(marks) > 0 || !p.above || t.Path == "" || t.Path == "/" {
			return marks, nil
		}
		if t.Path = path.Dir(t.Path); t.Path == "." {
			t.Path = ""
		}
	}
}

// findRoot looks for the target that a path is, or is a prefix's folder of.
func findRoot(from string) (root, prefix string, err error) {
	abs, err := filepath.Abs(from)
	if err != nil {
		return "", "", err
	}
	if _, err := os.Stat(abs); err != nil {
		return "", "", err
	}
	for at := abs; ; at = filepath.Dir(at) {
		st, err := os.Lstat(filepath.Join(at, proto.ReservedName))
		if err == nil && st.IsDir() {
			if at == abs {
				return at, "*", nil
			}
			rel, err := filepath.Rel(at, abs)
			return at, rel, err
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
		if at == filepath.Dir(at) {
			return "", "", usagef("%s is no backup of Forebay: there is no %s in it or above it", from, proto.ReservedName)
		}
	}
}

// choose picks the mirror of a target; it has one for each prefix.
func (p *place) choose(marks []journal.Owner) (journal.Owner, error) {
	if p.prefix == "*" && len(marks) == 1 {
		return marks[0], nil
	}
	var places []string
	for _, m := range marks {
		if p.prefix != "*" && string(m.Prefix) == p.prefix {
			return m, nil
		}
		places = append(places, show.Name(p.name(m))+" ("+m.Dataset.String()+")")
	}
	slices.Sort(places)
	switch {
	case len(marks) == 0:
		return journal.Owner{}, usagef("nothing was ever backed up to %s", p.target.Where())
	case p.prefix == "*":
		return journal.Owner{}, usagef("%s holds several backups: name one of %s", p.target.Where(), strings.Join(places, ", "))
	}
	return journal.Owner{}, usagef("%s is not where a backup begins: name %s, and choose a part of it with --path", p.name(journal.Owner{Prefix: []byte(p.prefix)}), strings.Join(places, " or "))
}
