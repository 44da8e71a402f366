package sftp

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/pkg/sftp"

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
	return r.write(ctx, name, data, (*conn).replace)
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
		err = r.d.writeMoved(c, full, data, move)
	}
	if err != nil {
		return r.d.failed(c, err, "write record %s", name)
	}
	r.noteMark(name, true)
	return nil
}

// noteMark notes that the owner mark was written, or withdrawn: then it is not missed.
func (r records) noteMark(name string, there bool) {
	if name == target.MarkDir+"/"+r.d.key {
		r.d.mu.Lock()
		defer r.d.mu.Unlock()
		r.d.marked = there
	}
}

// Open opens a record.
func (r records) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	c, full, err := r.open(ctx, name)
	if err != nil {
		return nil, err
	}
	var f *sftp.File
	err = c.orRecovered(full, func() (err error) { f, err = c.sftp.Open(full); return err })
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
	var away []string // while they are replaced, or were when that was cut short
	for _, st := range found {
		if !st.Mode().IsRegular() {
			continue
		}
		if !strings.HasPrefix(st.Name(), ".") {
			names = append(names, st.Name())
		} else if name, old := strings.CutSuffix(st.Name()[1:], oldEnd); old {
			away = append(away, name)
		}
	}
	for _, name := range away {
		if slices.Contains(names, name) || target.CheckRecord(name) != nil {
			continue
		}
		if back, err := c.recover(full + "/" + name); err != nil {
			return nil, r.d.failed(c, err, "list records in %s", dir)
		} else if back {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Remove removes a record, and first what may be beside it: it would come back.
func (r records) Remove(ctx context.Context, name string) error {
	c, full, err := r.open(ctx, name)
	if err != nil {
		return err
	}
	if err = c.drop(beside(full)); err == nil {
		err = c.remove(full)
	}
	if err != nil {
		return r.d.failed(c, err, "remove record %s", name)
	}
	r.noteMark(name, false)
	return nil
}
