package main

import (
	"context"
	"io"
	"os"
	"path"
	"slices"

	"forebay/flush/target"
	"forebay/proto"
)

// Records returns the records, which all prefixes of the target share.
func (m *mirror) Records() target.Records { return records{m} }

// History returns nil: the protocol has no place for it.
func (m *mirror) History() target.History { return nil }

type records struct{ m *mirror }

func (records) place(ctx context.Context, name string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := target.CheckRecord(name); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return path.Join(proto.ReservedName, name), nil
}

// newPrefix marks a record that is being written; no record's name begins with a dot.
const newPrefix = ".new-"

// Put writes a record aside, makes it durable, and gives it its name.
func (r records) Put(ctx context.Context, name string, data []byte) error {
	to, err := r.place(ctx, name)
	if err != nil {
		return err
	}
	dir := path.Dir(to)
	if err := r.m.makeDirs(dir); err != nil {
		return failed(err, "write record %s", name)
	}
	tmp := path.Join(dir, newPrefix+target.PrefixKey(r.m.o.Prefix)+"-"+path.Base(to)[:min(100, len(path.Base(to)))])
	return failed(r.write(tmp, to, dir, data), "write record %s", name)
}

func (r records) write(tmp, to, dir string, data []byte) error {
	f, err := r.m.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = r.m.root.Rename(tmp, to)
	}
	if err == nil {
		err = r.m.syncDir(dir)
	}
	return err
}

// Open opens a record.
func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	at, err := r.place(ctx, name)
	if err != nil {
		return nil, err
	}
	f, err := r.m.root.Open(at)
	if err != nil {
		return nil, failed(err, "open record %s", name)
	}
	return f, nil
}

// List lists the records in a folder.
func (r records) List(ctx context.Context, dir string) (names []string, err error) {
	at, err := r.place(ctx, dir)
	if err != nil {
		return nil, err
	}
	f, err := r.m.root.Open(at)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err, "list records in %s", dir)
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	for _, e := range entries {
		if e.Type().IsRegular() && target.CheckRecord(e.Name()) == nil {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, failed(err, "list records in %s", dir)
}

// Remove removes a record.
func (r records) Remove(ctx context.Context, name string) error {
	at, err := r.place(ctx, name)
	if err != nil {
		return err
	}
	if err := r.m.root.Remove(at); err != nil && !gone(err) {
		return failed(err, "remove record %s", name)
	} else if err == nil {
		return failed(r.m.syncDir(path.Dir(at)), "remove record %s", name)
	}
	return nil
}
