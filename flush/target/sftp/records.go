package sftp

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"forebay/flush/target"
	"forebay/proto"
)

// Records returns the records of the target, which all its prefixes share.
func (d *SFTP) Records() target.Records { return records{d} }

type records struct{ d *SFTP }

func (r records) open(ctx context.Context, name string) (*conn, string, error) {
	if err := target.CheckRecord(name); err != nil {
		return nil, "", proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	c, err := r.d.use(ctx)
	return c, r.d.work(name), err
}

// Put writes a record.
func (r records) Put(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, data, (*conn).rename)
}

// Create implements target.Creator.
func (r records) Create(ctx context.Context, name string, data []byte) error {
	return r.write(ctx, name, data, (*conn).renameNew)
}

func (r records) write(ctx context.Context, name string, data []byte, move func(c *conn, from, to string) error) error {
	c, full, err := r.open(ctx, name)
	if err != nil {
		return err
	}
	if err := r.d.prepareStage(c); err != nil {
		return err
	}
	if err = r.d.makeDirs(c, full[:lastSlash(full)]); err == nil {
		err = r.d.writeSmall(c, full, data, move)
	}
	if err != nil {
		return r.d.failed(c, err, "write record %s", name)
	}
	if name == target.MarkDir+"/"+r.d.key {
		r.d.mu.Lock()
		defer r.d.mu.Unlock()
		r.d.marked = true
	}
	return nil
}

// Open opens a record.
func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	c, full, err := r.open(ctx, name)
	if err != nil {
		return nil, err
	}
	f, err := c.sftp.Open(full)
	if err != nil {
		return nil, r.d.failed(c, err, "open record %s", name)
	}
	return f, nil
}

// List lists the records in a folder.
func (r records) List(ctx context.Context, dir string) (names []string, err error) {
	c, full, err := r.open(ctx, dir)
	if err != nil {
		return nil, err
	}
	found, err := c.sftp.ReadDirContext(ctx, full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, r.d.failed(c, err, "list records in %s", dir)
	}
	for _, st := range found {
		if st.Mode().IsRegular() && !strings.HasPrefix(st.Name(), ".") {
			names = append(names, st.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Remove removes a record.
func (r records) Remove(ctx context.Context, name string) error {
	c, full, err := r.open(ctx, name)
	if err != nil {
		return err
	}
	return r.d.failed(c, c.remove(full), "remove record %s", name)
}
