package work

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"forebay/proto"
)

// Look takes what the relay asks this root to look for, at its running time up, in place of what it asked before.
func (w *Worker) Look(list []proto.Look, up int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks, w.looksUp = list, up
}

// lookFor looks for what the relay asks, and tells what is surely not here: neither in the index nor in the root. What is in the index is
// told in its own way; what is in the root alone is to be found soon.
func (w *Worker) lookFor(ctx context.Context) error {
	w.mu.Lock()
	list, up := w.looks, w.looksUp
	w.looks = nil
	w.mu.Unlock()
	if scans, _, _ := w.Root.Scans(); len(list) == 0 || scans == 0 || w.Root.Problem() != "" {
		return nil // of an unmounted root nothing is said; the relay asks again
	}
	tree, done, err := w.Root.Open()
	if err != nil {
		return nil // the scan finds out what is wrong with it
	}
	defer done()
	r := proto.Report{Session: w.SessionID, Holder: w.Holder, LackUp: up}
	for _, l := range list {
		if proto.CheckPath(l.Path) != nil {
			continue
		}
		if _, ok, err := w.Index.Get(l.Path); err != nil || ok {
			if err != nil {
				return err
			}
			continue
		}
		switch _, _, err := tree.Look(l.Path); {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			r.Lack = append(r.Lack, proto.GoneEntry{Path: l.Path, Version: l.Version})
		case err == nil:
			w.Root.Rescan(l.Path)
		}
	}
	if len(r.Lack) == 0 {
		return nil
	}
	if _, err := w.Relay.Report(ctx, r); err != nil {
		w.failed(ctx, "reporting what is not here", err)
	}
	return nil
}
