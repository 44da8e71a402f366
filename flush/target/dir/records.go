package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/fsmeta"
	"forebay/proto"
)

// Records returns the records of the target, which all its prefixes share.
func (d *Dir) Records() target.Records { return records{d} }

type records struct{ d *Dir }

func (r records) full(name string) (string, error) {
	if err := target.CheckRecord(name); err != nil {
		return "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return path.Join(r.d.cfg.Work, name), nil
}

// Put writes a record.
func (r records) Put(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, data, (*place).rename)
}

// Create implements target.Creator.
func (r records) Create(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, data, (*place).renameNew)
}

func (r records) write(ctx context.Context, name string, data []byte, move func(p *place, from, to string) error) error {
	full, err := r.full(name)
	if err != nil {
		return err
	}
	p, err := r.d.write(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if err := p.stageRoot(); err != nil {
		return err
	}
	if err = p.makeDirs(path.Dir(full)); err == nil {
		err = p.writeMoved(full, data, move)
	}
	if err != nil {
		return classify(err, "write record %s", name)
	}
	if name == target.MarkDir+"/"+r.d.key {
		r.d.mu.Lock()
		r.d.mark = slices.Clone(data)
		r.d.mu.Unlock()
	}
	return nil
}

// Open opens a record.
func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	full, err := r.full(name)
	if err != nil {
		return nil, err
	}
	p, err := r.d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	f, err := p.Open(full, unix.O_RDONLY, 0)
	if err != nil {
		return nil, classify(err, "open record %s", name)
	}
	return f, nil
}

// List lists the records in a folder.
func (r records) List(ctx context.Context, dir string) ([]string, error) {
	full, err := r.full(dir)
	if err != nil {
		return nil, err
	}
	p, err := r.d.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Close() }()
	f, err := p.Open(full, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err, "list records in %s", dir)
	}
	defer func() { _ = f.Close() }() // only read from
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, classify(err, "list records in %s", dir)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		if strings.HasPrefix(name, ".") {
			return true
		}
		st, err := fsmeta.StatAt(int(f.Fd()), name)
		return err != nil || st.Kind() != proto.KindFile
	})
	slices.Sort(names)
	return names, nil
}

// Remove removes a record.
func (r records) Remove(ctx context.Context, name string) error {
	full, err := r.full(name)
	if err != nil {
		return err
	}
	p, err := r.d.write(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	if err := p.remove(full); err != nil {
		return classify(err, "remove record %s", name)
	}
	if name == target.MarkDir+"/"+r.d.key { // withdrawn: it is not missed
		r.d.mu.Lock()
		defer r.d.mu.Unlock()
		r.d.mark, r.d.bound = nil, nil
	}
	return nil
}
