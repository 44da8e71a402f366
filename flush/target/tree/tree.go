// Package tree walks the mirror of a target that lists one directory at a time. It imports target and proto.
package tree

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"forebay/flush/target"
	"forebay/proto"
)

// Walk calls fn for all that is below the directory name ("" for the mirror), in byte order of full paths: what is in "a" comes after
// "a-b", because '-' sorts before '/'. read returns the entries of one directory, with full paths, in any order; what is named
// .forebay it leaves out. Memory is the entries of one directory for each level.
func Walk(ctx context.Context, name string, read func(dir string) ([]target.Entry, error), fn func(target.Entry) error) error {
	entries, err := read(name)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b target.Entry) int { return strings.Compare(a.Path, b.Path) })
	var waiting []string // directories whose turn is to come: a stack, for a later one's name begins with an earlier one's
	descend := func(before string) error {
		for n := len(waiting) - 1; n >= 0 && (before == "" || waiting[n]+"/" < before); n-- {
			sub := waiting[n]
			waiting = waiting[:n]
			if err := Walk(ctx, sub, read, fn); err != nil {
				return err
			}
		}
		return nil
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := descend(e.Path); err != nil {
			return err
		}
		if err := fn(e); err != nil {
			return err
		}
		if e.Desc.Kind == proto.KindDir {
			waiting = append(waiting, e.Path)
		}
	}
	return descend("")
}

// List is what a driver's List does: prefix itself, as stat describes it, and all that is below it, or all of the mirror for "".
func List(ctx context.Context, prefix string, stat func(context.Context, string) (target.Entry, error), read func(dir string) ([]target.Entry, error), fn func(target.Entry) error) error {
	if prefix == "" {
		return Walk(ctx, "", read, fn)
	}
	e, err := stat(ctx, prefix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fn(e)
	}
	if err != nil || e.Desc.Kind != proto.KindDir {
		return err
	}
	return Walk(ctx, prefix, read, fn)
}

// Join puts a slash between the parts that are not empty. The bytes stay as they are.
func Join(parts ...string) string {
	out := parts[:0:0]
	for _, p := range parts {
		if p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, "/")
}
