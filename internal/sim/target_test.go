package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"forebay/flush/policy"
	"forebay/flush/target"
	"forebay/ledger"
	"forebay/proto"
)

// linkModel is a link of the simulation with its target.
type linkModel struct {
	name   string
	id     ledger.LinkID
	policy policy.Policy
	target *memTarget
	// The policy as the checks need it; none of it is asked of the code that is checked.
	window    [2]int          // hours of the day in UTC, [0, 0]: always
	rate      float64         // bytes per second, 0: unlimited
	budget    int64           // bytes that a day may send, 0: no bound
	spent     map[int64]int64 // by day, what was not forced
	deadline  time.Duration
	propagate bool
	silent    int64 // since when it does not say that its target is away; 0 when it does
	guarded   bool  // by what the default policy allows
}

// memTarget is a backup's disk. It holds what a target must hold: staged contents are durable after a barrier only, records
// and commits when they return.
type memTarget struct {
	w         *world
	link      *linkModel
	mirror    map[string]*mirrored
	staged    map[target.StageID]*staged
	records   map[string][]byte
	down      int64 // until then nothing answers, true time
	downFrom  int64
	full      bool
	dead      bool // for good, as far as the faults go
	failAt    int  // the n-th call from now fails; 0: none
	failHow   int
	connected bool
	highest   map[string]proto.VersionID // committed of each path
	sent      []written
	deletes   []int64 // when something that was there was deleted, true time
}

// mirrored is an object in the mirror.
type mirrored struct {
	desc    proto.Desc
	content []byte
	order   int          // of the version, as the oracle counts a path's versions
	digest  proto.Digest // of content, once somebody asked
}

type staged struct {
	data    []byte
	durable int
	writing bool
}

type written struct {
	at int64
	n  int
}

func newTarget(w *world, l *linkModel) *memTarget {
	return &memTarget{w: w, link: l, mirror: map[string]*mirrored{}, staged: map[target.StageID]*staged{}, records: map[string][]byte{}, highest: map[string]proto.VersionID{}}
}

func (m *memTarget) open() (target.Target, error) {
	if err := m.fault("open"); err != nil {
		return nil, err
	}
	m.connected = true
	return m, nil
}

// The ways in which the call that is to fail does.
const (
	failBefore = iota // it is not carried out
	failAfter         // it is, and reports an error
	failCrash         // the target goes down with it, and what was not durable is lost
	failWays
)

func (m *memTarget) away(what string) error {
	return proto.Errorf(proto.ClassTransient, "target %s: %s: not there", m.link.name, what)
}

// fault says why a call fails.
func (m *memTarget) fault(what string) error {
	if m.dead || m.w.now < m.down {
		return m.away(what)
	}
	if m.failAt > 0 {
		if m.failAt--; m.failAt == 0 && m.failHow != failAfter {
			m.w.count("target calls failed")
			if m.failHow == failCrash {
				m.crash(m.w.between(time.Second, time.Minute))
			}
			return m.away(what + " (injected)")
		}
	}
	return nil
}

// late is the error of a call that was carried out and does not say so.
func (m *memTarget) late(what string) error {
	if m.failHow == failAfter && m.failAt == 0 {
		m.failHow = failBefore
		m.w.count("target calls of unknown outcome")
		return m.away(what + " (outcome unknown)")
	}
	return nil
}

// crash takes the target away for a while; staged bytes that were not made durable are lost.
func (m *memTarget) crash(d time.Duration) {
	m.down, m.downFrom = m.w.now+int64(d), m.w.now
	m.w.count("target crashes")
	for _, id := range slices.Sorted(maps.Keys(m.staged)) {
		s := m.staged[id]
		s.data, s.writing = s.data[:s.durable], false
		if s.durable == 0 && m.w.chance(0.5) {
			delete(m.staged, id)
		}
	}
}

func (m *memTarget) Probe(context.Context) (target.Info, error) {
	if err := m.fault("probe"); err != nil {
		return target.Info{}, err
	}
	return target.Info{Driver: "mem", Where: "mem:" + m.link.name, Confirm: target.ConfirmReread, FreeBytes: -1, Move: true,
		Carries: target.Carries{Mode: true, Mtime: true, Symlinks: true, EmptyDirs: true, RawNames: true, Shut: true}}, nil
}

func (m *memTarget) Records() target.Records { return memRecords{m} }
func (m *memTarget) History() target.History { return nil } // it keeps nothing of the past
func (m *memTarget) Close() error            { return nil }

func (m *memTarget) Stage(_ context.Context, c target.Content) (target.Stage, error) {
	if err := m.fault("stage"); err != nil {
		return nil, err
	}
	if m.full {
		return nil, proto.Errorf(proto.ClassOverload, "target %s is full", m.link.name)
	}
	s := m.staged[c.ID]
	if s == nil {
		s = &staged{}
		m.staged[c.ID] = s
	}
	return &memStage{m, s, c.Size}, nil
}

type memStage struct {
	m    *memTarget
	s    *staged
	size int64
}

func (s *memStage) Write(p []byte) (int, error) {
	if err := s.m.fault("write"); err != nil {
		return 0, err
	}
	s.m.w.oracle.sending(s.m.link, len(p))
	s.s.data = append(s.s.data, p...)
	return len(p), s.m.late("write")
}

func (s *memStage) Hole(n int64) error {
	if err := s.m.fault("hole"); err != nil {
		return err
	}
	s.s.data = append(s.s.data, make([]byte, n)...)
	return nil
}
func (s *memStage) Offset() int64 { return int64(len(s.s.data)) }
func (s *memStage) Proved() bool  { return false }
func (s *memStage) Unit() int64   { return 1 }
func (s *memStage) Sync() (int64, error) {
	if err := s.m.fault("sync"); err != nil {
		return int64(s.s.durable), err
	}
	s.s.durable = len(s.s.data)
	return int64(s.s.durable), nil
}
func (s *memStage) Close() error { return nil }

func (m *memTarget) Barrier(_ context.Context, ids []target.StageID) error {
	if err := m.fault("barrier"); err != nil {
		return err
	}
	for _, id := range ids {
		if s := m.staged[id]; s != nil {
			s.durable = len(s.data)
		}
	}
	return m.late("barrier")
}

func (m *memTarget) Reread(_ context.Context, id target.StageID) (io.ReadCloser, error) {
	if err := m.fault("reread"); err != nil {
		return nil, err
	}
	s := m.staged[id]
	if s == nil {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(s.data)), nil
}

func (m *memTarget) Unstage(_ context.Context, keep func(target.StageID) bool) error {
	if err := m.fault("unstage"); err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(m.staged)) {
		if !keep(id) {
			delete(m.staged, id)
		}
	}
	return nil
}

func (m *memTarget) Commit(_ context.Context, changes []target.Change) []error {
	errs := make([]error, len(changes))
	for i, c := range changes {
		if errs[i] = m.fault("commit"); errs[i] == nil {
			if errs[i] = m.commit(c); errs[i] == nil {
				errs[i] = m.late("commit")
			}
		}
	}
	return errs
}

func (m *memTarget) below(path string) bool {
	for p := range m.mirror {
		if strings.HasPrefix(p, path+"/") {
			return true
		}
	}
	return false
}

func (m *memTarget) commit(c target.Change) error {
	was := m.mirror[c.Path]
	if c.Op == target.OpDelete {
		if m.below(c.Path) {
			return proto.Errorf(proto.ClassTransient, "%q: not empty", c.Path)
		}
		m.w.oracle.committed(m, c, nil)
		if was != nil {
			m.w.oracle.deleted(m)
		}
		delete(m.mirror, c.Path)
		return nil
	}
	if c.Op == target.OpMeta {
		if was == nil {
			return proto.Errorf(proto.ClassTransient, "%q: %w", c.Path, fs.ErrNotExist)
		}
		m.w.oracle.committed(m, c, was.content)
		was.desc.Meta = c.Desc.Meta
		return nil
	}
	if was != nil && was.desc.Kind == proto.KindDir && c.Op != target.OpMkdir && m.below(c.Path) {
		return proto.Errorf(proto.ClassTransient, "%q: not empty", c.Path)
	}
	var data []byte
	if c.Op == target.OpPut {
		s := m.staged[c.Stage]
		if s == nil {
			if was != nil && was.desc.Kind == proto.KindFile && int64(len(was.content)) == c.Desc.Size {
				was.desc.Meta = c.Desc.Meta
				return nil
			}
			return proto.Errorf(proto.ClassTransient, "%q: what was staged is gone: %w", c.Path, fs.ErrNotExist)
		}
		if s.durable < len(s.data) {
			m.w.wrong("I10", "link %s commits %s from a stage of which %d of %d bytes are durable", m.link.name, c.Path, s.durable, len(s.data))
		}
		data = s.data
		delete(m.staged, c.Stage)
	}
	if dir := parentOf(c.Path); dir != "" && (m.mirror[dir] == nil || m.mirror[dir].desc.Kind != proto.KindDir) {
		if m.mirror[dir] != nil {
			return proto.Errorf(proto.ClassTransient, "%q: its parent is no directory", c.Path)
		}
		m.mirror[dir] = &mirrored{desc: proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o755}}}
	}
	m.w.oracle.committed(m, c, data)
	m.mirror[c.Path] = &mirrored{desc: c.Desc, content: data, order: int(m.highest[c.Path])}
	return nil
}

func (m *memTarget) Open(_ context.Context, path string) (io.ReadCloser, error) {
	if err := m.fault("open"); err != nil {
		return nil, err
	}
	o := m.mirror[path]
	if o == nil || o.desc.Kind != proto.KindFile {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(o.content)), nil
}

func (m *memTarget) Stat(_ context.Context, path string) (target.Entry, error) {
	if err := m.fault("stat"); err != nil {
		return target.Entry{}, err
	}
	o := m.mirror[path]
	if o == nil {
		return target.Entry{}, fs.ErrNotExist
	}
	e := target.Entry{Path: path, Desc: o.desc}
	e.Desc.Digest = proto.Digest{}
	return e, nil
}

func (m *memTarget) List(_ context.Context, prefix string, fn func(target.Entry) error) error {
	if err := m.fault("list"); err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(m.mirror)) {
		if prefix == "" || p == prefix || strings.HasPrefix(p, prefix+"/") {
			if err := fn(target.Entry{Path: p, Desc: m.mirror[p].desc}); err != nil {
				return err
			}
		}
	}
	return nil
}

// memRecords are the records of a target.
type memRecords struct{ m *memTarget }

func (r memRecords) Put(_ context.Context, name string, data []byte) error {
	if err := r.m.fault("record"); err != nil {
		return err
	}
	r.m.records[name] = slices.Clone(data)
	return r.m.late("record")
}

func (r memRecords) Open(_ context.Context, name string) (io.ReadCloser, error) {
	if err := r.m.fault("read record"); err != nil {
		return nil, err
	}
	b, ok := r.m.records[name]
	if !ok {
		return nil, fmt.Errorf("record %s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (r memRecords) List(_ context.Context, dir string) (out []string, err error) {
	if err := r.m.fault("list records"); err != nil {
		return nil, err
	}
	for _, n := range slices.Sorted(maps.Keys(r.m.records)) {
		if rest, ok := strings.CutPrefix(n, dir+"/"); ok && !strings.Contains(rest, "/") {
			out = append(out, rest)
		}
	}
	return out, nil
}

func (r memRecords) Remove(_ context.Context, name string) error {
	if err := r.m.fault("remove record"); err != nil {
		return err
	}
	delete(r.m.records, name)
	return nil
}
