package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"forebay/config"
	"forebay/flush/journal"
	"forebay/flush/target"
	"forebay/flush/target/dir"
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
}

// sourceFlags say which mirror.
type sourceFlags struct {
	from   string
	config string
	path   string
	at     string
	json   bool
}

func (f *sourceFlags) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&f.from, "from", "", "a path with a slash, or the name of a target in --config")
	cmd.Flags().StringVar(&f.config, "config", "/etc/forebay/relay.yaml", "the relay.yaml that describes the target `F`")
	cmd.Flags().StringVar(&f.path, "path", "", "only the object or directory `PREFIX`")
	cmd.Flags().StringVar(&f.at, "at", "", "as it was at `TIME`; comes with a later release")
	cmd.Flags().BoolVar(&f.json, "json", false, "print JSON")
	return cmd
}

// open finds the mirror that --from names. The place may be a target, or the folder of one prefix in it.
func (f *sourceFlags) open(ctx context.Context) (*source, error) {
	if f.at != "" {
		return nil, usagef("--at comes with a later release: a target keeps the newest version only")
	}
	place, prefix, err := f.place()
	if err != nil {
		return nil, err
	}
	names := fsmeta.NewNames(rememberedNames)
	root, err := dir.Open(dir.Config{Path: place}, dir.Deps{Names: names})
	if err != nil {
		return nil, err
	}
	marks, err := journal.Marks(ctx, root.Records())
	if err = errors.Join(err, root.Close()); err != nil {
		return nil, err
	}
	owner, err := choose(marks, place, prefix)
	if err != nil {
		return nil, err
	}
	s := &source{owner: owner}
	if s.target, err = dir.Open(dir.Config{Path: place, Prefix: string(owner.Prefix)}, dir.Deps{Names: names}); err != nil {
		return nil, err
	}
	if s.journal, err = journal.Open(ctx, s.target.Records(), target.PrefixKey(string(owner.Prefix))); err != nil {
		return nil, errors.Join(err, s.target.Close())
	}
	return s, nil
}

// place resolves --from to a target's directory and, if it says so, a prefix in it; "*" is any.
func (f *sourceFlags) place() (root, prefix string, err error) {
	switch {
	case f.from == "":
		return "", "", usagef("name where from: --from /mnt/nas, or --from NAME with --config relay.yaml")
	case strings.Contains(f.from, "://"):
		return "", "", usagef("--from %s: target URLs come with a later release; this one reads directories", f.from)
	case strings.Contains(f.from, "/"):
		return findRoot(f.from)
	}
	relay, err := config.LoadRelay(f.config)
	if err != nil {
		return "", "", err
	}
	if t, ok := relay.Target(f.from); ok {
		return t.Path, "*", nil
	}
	for _, l := range relay.Links { // where a target has several links, the link's name tells which
		if t, ok := relay.Target(l.To); ok && l.Name == f.from {
			return t.Path, l.Prefix, nil
		}
	}
	var known []string
	for _, t := range relay.Targets {
		known = append(known, t.Name)
	}
	return "", "", usagef("%s has no target %q (it has %s); a path needs a slash, such as ./%s", f.config, f.from, strings.Join(known, ", "), f.from)
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
func choose(marks []journal.Owner, root, prefix string) (journal.Owner, error) {
	if prefix == "*" && len(marks) == 1 {
		return marks[0], nil
	}
	var places []string
	for _, m := range marks {
		if prefix != "*" && string(m.Prefix) == prefix {
			return m, nil
		}
		places = append(places, show.Name(filepath.Join(root, string(m.Prefix)))+" ("+m.Dataset.String()+")")
	}
	slices.Sort(places)
	switch {
	case len(marks) == 0:
		return journal.Owner{}, usagef("nothing was ever backed up to %s", root)
	case prefix == "*":
		return journal.Owner{}, usagef("%s holds several backups: name one of %s", root, strings.Join(places, ", "))
	}
	return journal.Owner{}, usagef("%s is not where a backup begins: name %s, and choose a part of it with --path", filepath.Join(root, prefix), strings.Join(places, " or "))
}
