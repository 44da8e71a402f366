package relay

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"forebay/proto"
	"forebay/relay/repair"
	"forebay/shard/store"
)

// AddStore takes a directory into use as a store, or one that was drained back into use.
func (r *Relay) AddStore(path string) (proto.StoreChange, error) {
	if rel, err := filepath.Rel(r.cfg.Data, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return proto.StoreChange{}, proto.Errorf(proto.ClassPermanent, "store %s lies in the data directory %s: give it a directory of its own", path, r.cfg.Data)
	}
	if err := r.stores.Add(path); err != nil {
		return proto.StoreChange{}, err
	}
	return r.storeChanged(path, "store-added", "is in use", nil)
}

// DrainStore has everything moved off a store. With lost the store, which is not in use, is given up instead, with all that it
// holds: what is left of its segments elsewhere is coded anew, what is not is asked for again. With dryRun nothing is done.
func (r *Relay) DrainStore(path string, lost, dryRun bool) (proto.StoreChange, error) {
	if lost {
		return r.giveUp(path, dryRun)
	}
	if dryRun {
		return r.foresee(path, false)
	}
	err := r.markDrain(path, func() error {
		_, err := r.stores.Drain(path)
		return err
	})
	if err != nil {
		return proto.StoreChange{}, err
	}
	return r.storeChanged(path, "store-draining", "is being drained", nil)
}

// markDrain has drain turn new segments away from the store at path, and notes after which sequence they go elsewhere. Until that
// is known the drain counts as settled only when nothing at all is on its way: what was placed before may still go there.
func (r *Relay) markDrain(path string, drain func() error) error {
	u := &r.upkeep
	st, known := r.storeAt(path)
	set := func(seq uint64) (before uint64, was bool) {
		u.mu.Lock()
		defer u.mu.Unlock()
		before, was = u.draining[st.ID]
		u.draining[st.ID] = seq
		return before, was
	}
	if !known {
		return drain()
	}
	before, was := set(math.MaxUint64)
	err := drain()
	switch {
	case err == nil:
		set(r.ingest.Last())
	case was:
		set(before)
	default:
		u.mu.Lock()
		delete(u.draining, st.ID)
		u.mu.Unlock()
	}
	return err
}

func (r *Relay) giveUp(path string, dryRun bool) (proto.StoreChange, error) {
	seen, err := r.foresee(path, true)
	if err != nil || dryRun {
		return seen, err
	}
	if err := r.stores.GiveUp(path); err != nil {
		return proto.StoreChange{}, err
	}
	return r.storeChanged(path, "store-given-up", "was given up by an operator", &seen)
}

// ReplaceStore makes a new store in the empty directory at path, where a store was that is gone for good: that one is given up
// with all that it held.
func (r *Relay) ReplaceStore(path string, dryRun bool) (proto.StoreChange, error) {
	seen, err := r.foresee(path, true)
	if err != nil {
		return proto.StoreChange{}, err
	}
	if err := r.stores.Vacant(path); err != nil || dryRun {
		return seen, err
	}
	if err := r.stores.GiveUp(path); err != nil {
		return proto.StoreChange{}, err
	}
	if err := r.rememberStores(); err != nil { // before there is anything new: a crash in between must not bring the old one back
		return proto.StoreChange{}, err
	}
	if err := r.stores.Renew(path); err != nil {
		return proto.StoreChange{}, err
	}
	return r.storeChanged(path, "store-replaced", "is new, the one before was given up", &seen)
}

// storeChanged records what was decided and tells it.
func (r *Relay) storeChanged(path, event, what string, seen *proto.StoreChange) (proto.StoreChange, error) {
	if err := r.rememberStores(); err != nil {
		return proto.StoreChange{}, err
	}
	var c proto.StoreChange
	if seen != nil {
		c = *seen
	} else {
		c = r.counted(path)
	}
	c.Store = proto.StoreStatus{Path: path}
	for _, st := range r.storeStatus() {
		if st.Path == path {
			c.Store = st
		}
	}
	c.Configure = r.configure()
	r.event(event, fmt.Sprintf("store %s: it %s", path, what), map[string]string{"store": path})
	r.upkeep.changed()
	return c, nil
}

// configure says what the configuration should say about the stores; "" when it need not change.
func (r *Relay) configure() string {
	var paths []string
	for _, st := range r.stores.States() {
		if st.Role != store.RoleDraining && st.Role != store.RoleDrained && st.Role != store.RoleGivenUp {
			paths = append(paths, st.Path)
		}
	}
	same := slices.Equal(slices.Sorted(slices.Values(paths)), slices.Sorted(slices.Values(r.cfg.Stores)))
	if same {
		return ""
	}
	out := fmt.Sprintf("cache.stores: [%s]", strings.Join(paths, ", "))
	if g := r.stores.Coding(); g.Shards() > len(paths) {
		if len(paths) > g.Parity {
			g.Data = len(paths) - g.Parity
		}
		out += fmt.Sprintf(" and cache.coding: %s", g)
	}
	return out
}

func (r *Relay) storeAt(path string) (store.State, bool) {
	states := r.stores.States()
	i := slices.IndexFunc(states, func(s store.State) bool { return s.Path == path })
	if i < 0 {
		return store.State{}, false
	}
	return states[i], true
}

// counted says how many segments have a shard in the store at path.
func (r *Relay) counted(path string) (c proto.StoreChange) {
	if st, ok := r.storeAt(path); ok && !st.ID.IsZero() {
		_, _, on := r.summary()
		c.Segments = on(st.ID)
	}
	return c
}

// foresee says what would become of the segments if the store at path went, for good with gone. Stores that are away for now
// do not count as gone.
func (r *Relay) foresee(path string, gone bool) (proto.StoreChange, error) {
	at, ok := r.storeAt(path)
	if !ok {
		return proto.StoreChange{}, proto.Errorf(proto.ClassPermanent, "there is no store at %s, see forebay stores", path)
	}
	c := r.counted(path)
	c.Store = proto.StoreStatus{Path: path, State: string(at.State)}
	if !gone || at.ID.IsZero() {
		return c, nil
	}
	st := r.standings()
	st.Standing[at.ID] = repair.Gone
	delete(st.Takers, at.ID)
	r.upkeep.mu.Lock()
	defer r.upkeep.mu.Unlock()
	if cat := r.upkeep.catalog; cat != nil {
		c.Lost = cat.Sum(st).Lost
	}
	return c, nil
}

// StorePaths returns the stores that the configuration should name, sorted.
func (r *Relay) StorePaths() []string {
	var paths []string
	for _, st := range r.stores.States() {
		if st.Role == store.RoleNone || st.Role == store.RoleDraining {
			paths = append(paths, st.Path)
		}
	}
	slices.Sort(paths)
	return paths
}

// storeStatus describes the stores for operators.
func (r *Relay) storeStatus() []proto.StoreStatus {
	_, _, on := r.summary()
	out := []proto.StoreStatus{}
	for _, st := range r.stores.States() {
		s := proto.StoreStatus{Path: st.Path, ID: st.ID.String(), State: string(st.State), UsedBytes: st.UsedBytes, FreeBytes: st.FreeBytes,
			LastError: st.LastError, Role: string(st.Role), Unconfigured: st.Unconfigured}
		if !st.ID.IsZero() {
			s.Segments = on(st.ID)
		}
		out = append(out, s)
	}
	return out
}
