package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"forebay/flush/target"
)

var errPower = errors.New("power cut")

// memRecords keeps records in memory. It fails for good after ops changes when ops is not negative.
type memRecords struct {
	mu    sync.Mutex
	files map[string][]byte
	ops   int
}

func newMemRecords() *memRecords { return &memRecords{files: map[string][]byte{}, ops: -1} }

func (m *memRecords) step() error {
	if m.ops == 0 {
		return errPower
	}
	m.ops--
	return nil
}

func (m *memRecords) Put(_ context.Context, name string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := target.CheckRecord(name); err != nil {
		return err
	}
	if err := m.step(); err != nil {
		return err
	}
	m.files[name] = bytes.Clone(data)
	return nil
}

func (m *memRecords) Open(_ context.Context, name string) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memRecords) List(_ context.Context, dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok && !strings.Contains(rest, "/") {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *memRecords) Remove(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.step(); err != nil {
		return err
	}
	delete(m.files, name)
	return nil
}
