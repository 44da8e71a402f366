package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"forebay/agent/index"
	"forebay/proto"
)

// indexDir is where the index lies; indexName is what a root is called in it.
func indexDir(cfg Config) string { return filepath.Join(cfg.DataDir, "index") }

func indexName(d Dataset, path string) string { return d.Name + ":" + path }

// ForgetIndex forgets what the index has of the root at path, for an operator whose word it is that what is there now is to be the
// dataset: the next scan makes it anew, under another id, by which the relay knows that what it lacks was not removed. Other roots keep
// theirs. It fails with ClassConflict while an agent runs.
func ForgetIndex(cfg Config, path string) error {
	if err := cfg.Validate(); err != nil {
		return proto.Errorf(proto.ClassPermanent, "agent: %w", err)
	}
	path = filepath.Clean(path)
	var names, roots []string
	for _, d := range cfg.Datasets {
		for _, p := range d.Paths {
			if p = filepath.Clean(p); p == path {
				names = append(names, indexName(d, p))
			}
			roots = append(roots, p)
		}
	}
	if len(names) == 0 {
		return proto.Errorf(proto.ClassPermanent, "no dataset of the configuration has the root %s: they have %q", path, roots)
	}
	dir := indexDir(cfg)
	// What the database writes would belong to another user, and keep the agent from starting.
	st, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look for the agent's index: %w", err)
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return proto.Errorf(proto.ClassPermanent, "the index %s belongs to the user with the number %d: run this as that user", dir, sys.Uid)
	}
	db, err := index.Open(dir)
	if err != nil {
		return err
	}
	known, err := db.Roots()
	for _, name := range names {
		if err == nil && !slices.Contains(known, name) {
			err = proto.Errorf(proto.ClassPermanent, "the index has nothing of %s", path)
		}
		if err == nil {
			err = db.Drop(name)
		}
	}
	return errors.Join(err, db.Close())
}
