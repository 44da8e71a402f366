package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"forebay/proto"
	"forebay/shard"
)

// Roles are what operators decided about stores, beside the configuration. The ledger remembers them.
type Roles struct {
	// Draining take nothing new, and what they hold is moved away. Drained are empty and closed: their paths may be taken out
	// of the configuration.
	Draining []StoreID `cbor:"1,keyasint,omitempty"`
	Drained  []StoreID `cbor:"2,keyasint,omitempty"`
	// Added were taken into use, or back into use, while the relay ran; the configuration need not name them.
	Added []StoreID `cbor:"3,keyasint,omitempty"`
	// GivenUp are gone for good, with what they held. They are refused when they turn up again. Path is empty once another
	// store was put in that place.
	GivenUp []Identity `cbor:"4,keyasint,omitempty"`
}

// Role is what an operator decided about a store.
type Role string

// The roles; most stores have none.
const (
	RoleNone     Role = ""
	RoleDraining Role = "draining"
	RoleDrained  Role = "drained"
	RoleGivenUp  Role = "given-up"
)

var (
	errGivenUp = errors.New("an operator gave the store up")
	errDrained = errors.New("the store is drained: take it out of cache.stores, or use it again with: forebay stores add")
)

// IsGivenUp reports whether an operator gave a store up.
func (r Roles) IsGivenUp(id StoreID) bool {
	return slices.ContainsFunc(r.GivenUp, func(k Identity) bool { return k.ID == id })
}

// givenUpAt reports whether the store that was given up last at path left its place empty.
func (r Roles) givenUpAt(path string) bool {
	return slices.ContainsFunc(r.GivenUp, func(k Identity) bool { return k.Path == path })
}

func (s *Set) givenUp(id StoreID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.roles.IsGivenUp(id)
}

// Roles returns what operators decided, for the ledger to record.
func (s *Set) Roles() Roles {
	s.mu.RLock()
	out := s.roles
	out.Draining, out.Drained = nil, nil
	disks := s.disks
	s.mu.RUnlock()
	for _, d := range disks {
		d.mu.Lock()
		switch d.role {
		case RoleDraining:
			out.Draining = append(out.Draining, d.lastID())
		case RoleDrained:
			out.Drained = append(out.Drained, d.lastID())
		}
		d.mu.Unlock()
	}
	return out
}

// lastID is the store's id, also before its first opening in this run. d.mu is held.
func (d *disk) lastID() StoreID {
	if !d.id.ID.IsZero() {
		return d.id.ID
	}
	if i := slices.IndexFunc(d.known, func(k Identity) bool { return k.Path == d.path }); i >= 0 {
		return d.known[i].ID
	}
	return StoreID{}
}

// leaving reports whether the store is being drained.
func (d *disk) leaving() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.role == RoleDraining
}

func (s *Set) at(path string) *disk {
	for _, d := range s.all() {
		if d.path == path {
			return d
		}
	}
	return nil
}

// unknownPath is the error for a path at which no store is known.
func (s *Set) unknownPath(path string) error {
	var known []string
	for _, st := range s.States() {
		known = append(known, st.Path)
	}
	return proto.Errorf(proto.ClassPermanent, "there is no store at %s; stores are at %s", path, strings.Join(known, ", "))
}

// Add takes the directory at path, an absolute path, into use as a store, or a store that was drained, or is being drained,
// back into use. It fails with ClassPermanent when that is not possible: the path is in use, lies in another store, or holds
// something else. The caller records Identities and Roles.
func (s *Set) Add(path string) error {
	s.change.Lock()
	defer s.change.Unlock()
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return proto.Errorf(proto.ClassPermanent, "store %q: want an absolute path without detours", path)
	}
	if d := s.at(path); d != nil {
		return s.useAgain(d)
	}
	for _, st := range s.States() {
		if within(path, st.Path) || within(st.Path, path) {
			return proto.Errorf(proto.ClassPermanent, "store %s and store %s lie in each other: each needs a directory of its own", path, st.Path)
		}
	}
	d := newDisk(path, s.cfg, s.deps)
	d.unconfigured = true
	d.generation = max(d.generation, s.generation.Load())
	s.mu.Lock()
	d.known = slices.Concat(s.identities(), s.gone)
	s.forgetPlace(path) // a new store may be made where one was given up
	d.roles = s.roles
	s.mu.Unlock()
	s.tend.Lock()
	d.tend()
	s.tend.Unlock()
	if err := d.trouble(); err != nil {
		return errors.Join(proto.Errorf(proto.ClassPermanent, "add store %s: %w", path, err), d.shut())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := d.storeID()
	s.gone = slices.DeleteFunc(slices.Clone(s.gone), func(k Identity) bool { return k.ID == id })
	s.disks = append(slices.Clone(s.disks), d)
	s.roles.Added = append(slices.Clone(s.roles.Added), id)
	return nil
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// useAgain ends the draining of a store.
func (s *Set) useAgain(d *disk) error {
	d.mu.Lock()
	was := d.role
	if was == RoleDraining || was == RoleDrained {
		d.role, d.again = RoleNone, d.now()
	}
	d.mu.Unlock()
	switch was {
	case RoleGivenUp:
		return proto.Errorf(proto.ClassPermanent, "the store at %s was given up: mount an empty disk there and use: forebay stores replace %s", d.path, d.path)
	case RoleNone:
		return proto.Errorf(proto.ClassPermanent, "%s is a store of this relay already", d.path)
	case RoleDraining, RoleDrained:
	}
	s.Tend()
	if err := d.trouble(); err != nil {
		return fmt.Errorf("use store %s again: %w", d.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if id := d.storeID(); !slices.Contains(s.roles.Added, id) { // whoever drained it may have taken it out of the configuration
		s.roles.Added = append(slices.Clone(s.roles.Added), id)
	}
	return nil
}

// Drain makes the store at path take nothing new, for what it holds to be moved away by Recode. It returns the geometry that
// new segments then get. It fails with ClassPermanent when the store is not in use, or when the others are too few for the
// configured parity. The caller records Roles.
func (s *Set) Drain(path string) (shard.Geometry, error) {
	s.change.Lock()
	defer s.change.Unlock()
	d := s.at(path)
	if d == nil {
		return shard.Geometry{}, s.unknownPath(path)
	}
	if err := d.trouble(); err != nil {
		return shard.Geometry{}, proto.Errorf(proto.ClassPermanent,
			"store %s is not in use (%w): bring it back first, or, when it is gone for good, use: forebay stores drain --lost %s", path, err, path)
	}
	left := 0
	for _, o := range s.all() {
		o.mu.Lock()
		if o != d && o.role == RoleNone && o.current != nil {
			left++
		}
		o.mu.Unlock()
	}
	g, ok := shard.Narrow(s.Coding(), left)
	if !ok {
		need := s.Coding().Parity + 1
		if s.Coding().Parity == 0 {
			need = s.Coding().Data
		}
		return g, proto.Errorf(proto.ClassPermanent, "store %s cannot be drained: %d other stores are in use, and coding %s needs %d of them: add a store first (forebay stores add)",
			path, left, s.Coding(), need)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.role == RoleNone {
		d.role = RoleDraining
	}
	return g, nil
}

// Drained closes a store that is being drained and holds nothing any more. It reports false when there is no such store. The
// caller records Roles.
func (s *Set) Drained(id StoreID) (path string, ok bool, err error) {
	s.change.Lock()
	defer s.change.Unlock()
	i := slices.IndexFunc(s.all(), func(d *disk) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.role == RoleDraining && d.lastID() == id
	})
	if i < 0 {
		return "", false, nil
	}
	d := s.all()[i]
	s.tend.Lock()
	defer s.tend.Unlock()
	d.mu.Lock()
	d.role = RoleDrained
	d.mu.Unlock()
	err = d.shut()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.err = Drained, errDrained
	return d.path, true, err
}

// GiveUp declares the store at path, which is not in use, gone for good, with all that it holds: its shards count as lost from
// now on, and it is refused when it turns up again. Nothing is put in its place. It fails with ClassPermanent when no store is
// known there, or when it is in use. The caller records Roles before it does anything else.
func (s *Set) GiveUp(path string) error {
	s.change.Lock()
	defer s.change.Unlock()
	s.mu.Lock()
	if i := slices.IndexFunc(s.gone, func(k Identity) bool { return k.Path == path }); i >= 0 {
		s.roles.GivenUp = append(slices.Clone(s.roles.GivenUp), s.gone[i])
		s.gone = slices.Delete(slices.Clone(s.gone), i, i+1)
		s.mu.Unlock()
		s.spreadRoles()
		return nil
	}
	s.mu.Unlock()
	d := s.at(path)
	if d == nil {
		return s.unknownPath(path)
	}
	s.tend.Lock() // it must not come back under us
	defer s.tend.Unlock()
	d.mu.Lock()
	if d.role == RoleGivenUp {
		d.mu.Unlock()
		return nil
	}
	if d.current != nil {
		d.mu.Unlock()
		return proto.Errorf(proto.ClassPermanent, "the store at %s is in use: drain it instead (forebay stores drain %s)", path, path)
	}
	i := slices.IndexFunc(d.known, func(k Identity) bool { return k.ID == d.lastID() || k.Path == path })
	if i < 0 {
		d.mu.Unlock()
		return proto.Errorf(proto.ClassPermanent, "there never was a store of this relay at %s (%w)", path, d.err)
	}
	old := d.known[i]
	old.Path = path
	d.known = slices.Delete(slices.Clone(d.known), i, i+1)
	d.role, d.id, d.state, d.err, d.again = RoleGivenUp, Identity{}, Missing, errGivenUp, d.now()
	d.mu.Unlock()
	s.mu.Lock()
	s.roles.GivenUp = append(slices.Clone(s.roles.GivenUp), old)
	s.mu.Unlock()
	s.spreadRoles()
	return nil
}

// Vacant reports, by nil, that a new store could be made at path: the directory is empty, or can be made. Else it fails with
// ClassPermanent.
func (s *Set) Vacant(path string) error {
	d := s.at(path)
	if d == nil {
		return proto.Errorf(proto.ClassPermanent, "the configuration does not name %s: give the store there up (forebay stores drain --lost %s) and add another (forebay stores add)", path, path)
	}
	if d.trouble() == nil {
		return proto.Errorf(proto.ClassPermanent, "the store at %s is in use: drain it instead (forebay stores drain %s)", path, path)
	}
	var id Identity
	var found bool
	err := await(start(func() (err error) {
		id, found, err = readIdentity(d.raw, path)
		return err
	}, func(error) {}), d.deadline)
	switch {
	case err != nil:
		return proto.Errorf(proto.ClassPermanent, "no new store can be made at %s: %w", path, err)
	case found:
		return proto.Errorf(proto.ClassPermanent, "%s holds store %s: mount an empty disk there, or move that one away", path, id.ID)
	}
	return nil
}

// Renew makes a new store at the path of one that was given up, in a directory that is empty. It fails with ClassPermanent
// when it is not. The caller records Identities and Roles.
func (s *Set) Renew(path string) error {
	s.change.Lock()
	defer s.change.Unlock()
	d := s.at(path)
	if d == nil {
		return s.unknownPath(path)
	}
	s.tend.Lock()
	defer s.tend.Unlock()
	d.mu.Lock()
	if d.role != RoleGivenUp {
		d.mu.Unlock()
		return proto.Errorf(proto.ClassPermanent, "the store at %s was not given up", path)
	}
	d.renewing, d.again = true, d.now()
	d.mu.Unlock()
	d.tend()
	d.mu.Lock()
	d.renewing = false
	up, err := d.current != nil, d.err
	if up {
		d.role = RoleNone
	}
	d.mu.Unlock()
	if !up {
		return proto.Errorf(proto.ClassPermanent, "no new store could be made at %s (mount an empty disk there): %w", path, err)
	}
	s.mu.Lock()
	s.forgetPlace(path)
	s.mu.Unlock()
	s.spreadRoles()
	return nil
}

// forgetPlace makes the place of a store that was given up free for another. s.mu is held.
func (s *Set) forgetPlace(path string) {
	s.roles.GivenUp = slices.Clone(s.roles.GivenUp)
	for i := range s.roles.GivenUp {
		if s.roles.GivenUp[i].Path == path {
			s.roles.GivenUp[i].Path = ""
		}
	}
}

// spreadRoles tells the disks what was decided.
func (s *Set) spreadRoles() {
	s.mu.RLock()
	roles, disks := s.roles, s.disks
	s.mu.RUnlock()
	for _, d := range disks {
		d.mu.Lock()
		d.roles = roles
		d.mu.Unlock()
	}
}

// Forget drops a store that the configuration no longer names and in which no segment lies. It reports whether there was one.
// The caller records Identities.
func (s *Set) Forget(id StoreID) (path string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.gone, func(k Identity) bool { return k.ID == id })
	if i < 0 {
		return "", false
	}
	path = s.gone[i].Path
	s.gone = slices.Delete(slices.Clone(s.gone), i, i+1)
	return path, true
}

// begin sorts the stores that the ledger knows by what operators decided about them, before anything is opened.
func (s *Set) begin() {
	configured := slices.Clone(s.cfg.Paths)
	paths := configured
	for _, id := range s.roles.Added {
		i := slices.IndexFunc(s.cfg.Known, func(k Identity) bool { return k.ID == id })
		if i >= 0 && !slices.Contains(paths, s.cfg.Known[i].Path) && !slices.Contains(s.roles.Drained, id) {
			paths = append(paths, s.cfg.Known[i].Path)
		}
	}
	for _, path := range paths {
		d := newDisk(path, s.cfg, s.deps)
		d.roles = s.roles
		d.unconfigured = !slices.Contains(configured, path)
		id := d.lastID()
		switch {
		case slices.Contains(s.roles.Drained, id):
			d.role, d.state, d.err = RoleDrained, Drained, errDrained
		case slices.Contains(s.roles.Draining, id):
			d.role = RoleDraining
		case id.IsZero() && s.roles.givenUpAt(path):
			d.role, d.state, d.err = RoleGivenUp, Missing, errGivenUp
		}
		s.disks = append(s.disks, d)
	}
}

// settle finds, once the stores are open, those that are known and not configured any more, and those added that are
// configured by now.
func (s *Set) settle() {
	s.roles.Added = nil
	for _, d := range s.disks {
		if d.unconfigured {
			s.roles.Added = append(s.roles.Added, d.lastID())
		}
	}
	for _, k := range s.cfg.Known {
		here := func(d *disk) bool { return d.storeID() == k.ID || d.path == k.Path }
		if slices.ContainsFunc(s.disks, here) || slices.Contains(s.roles.Drained, k.ID) {
			continue // drained and no longer configured: forgotten
		}
		s.gone = append(s.gone, k)
		s.deps.Event(Event{Kind: StoreMissing, Path: k.Path, Store: k.ID, Err: errUnconfigured})
	}
}

// describe is the error for a role, for States. d.mu is held.
func (d *disk) describe() string {
	switch {
	case d.role == RoleGivenUp && errors.Is(d.err, errGivenUp):
		return fmt.Sprintf("%v; mount an empty disk and use forebay stores replace %s, or take it out of cache.stores", errGivenUp, d.path)
	case d.err != nil:
		return d.err.Error()
	}
	return ""
}
