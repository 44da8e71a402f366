package relay

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"forebay/ledger"
	"forebay/ledger/disk"
	"forebay/proto"
	"forebay/shard"
	"forebay/shard/store"
)

// RecoverDeps are what rebuilding a ledger needs besides the configuration.
type RecoverDeps struct {
	Now func() time.Time
	FS  disk.FS // of ledger and stores; nil is the operating system's
	// Journal reads what the journal on a link's target says, a path at a time, in any order. It fails when the target is not
	// there, is not this link's, or has a journal that cannot be read whole. marked is false where nothing says that the link
	// was ever there.
	Journal func(ctx context.Context, l Link, relay proto.RelayID, fn func(path string, on ledger.OnTarget) error) (marked bool, err error)
	// FromTargets has the ledger rebuilt from the targets alone: the stores are lost as well, and empty ones are in their places.
	FromTargets bool
	// Owner returns the relay that a link's target is marked as that of, 0 where it has no mark, and which ledger of it (Meta.Rebuilt).
	Owner func(ctx context.Context, l Link) (id proto.RelayID, rebuilt uint32, err error)
	// Progress is told how far a step has come; total 0: not known. Steps have the names of the constants below.
	Progress func(step string, done, total int64)
}

// The steps of a rebuild, as Progress names them.
const (
	StepSegments = "reading segments"
	StepJournals = "reading journals"
	StepRows     = "writing the ledger"
)

// RecoverReport is what a rebuild came to.
type RecoverReport struct {
	Relay      proto.RelayID
	Generation uint32
	Segments   int64  // read
	Unreadable int64  // segments with too few shards, or damaged ones
	Aside      string // where a ledger that could not be opened was moved
	Objects    int64  // live paths
	Tombstones int64
	Uploads    int64 // being received
	// UploadBytes are what is acknowledged of those.
	UploadBytes int64
	Asked       int64 // versions whose bytes are to come from a holder again
	Links       []RecoveredLink
	// Notes are what an operator should know; with Partly set, something could not be recovered or not be looked at.
	Notes  []string
	Partly bool
}

// RecoveredLink is what a link has and owes after a rebuild.
type RecoveredLink struct {
	Name                          string
	Confirmed, Owed, Released     int64 // objects; Released of Owed are not in the cache
	OwedBytes, Deletes, Overrides int64
	Paused                        bool
	Unread                        string // why nothing could be learnt of its target, "" when it was read
}

// margin is by how much the generation goes up where a store is away that may have seen a higher one.
const margin = 1000

// gap is what lies at least between the highest version number that was seen and the first one of the rebuilt ledger: more
// versions than the lost one can have sealed without any store or target having a trace of them.
const gap = 1 << 32

// recovery is one rebuild under way.
type recovery struct {
	cfg     Config
	deps    RecoverDeps
	report  *RecoverReport
	dir     string // where the ledger is built
	stores  *store.Set
	files   int // as Relay.files
	ledger  *disk.Ledger
	memo    *memo
	unread  map[ledger.LinkID]bool
	highest proto.VersionID
	number  uint64 // of the evidence
	// unreadable names segments that cannot be read; scanty is how many have too few shards in stores that are all there.
	unreadable []string
	scanty     int
	entire     bool   // every store that is known is there
	kept       uint64 // segments below are left alone
	missing    []string
}

// Recover rebuilds the ledger of a relay that is not running from its stores and from the journals on its targets (I5). It
// refuses with ClassConflict where a usable ledger is there. What it builds takes its place at the very end: cut short, it is
// done again from the beginning. Relay, stores and targets are as after a crash then: Open goes on from there.
func Recover(ctx context.Context, cfg Config, deps RecoverDeps) (RecoverReport, error) {
	report := RecoverReport{}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return report, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := lockDir(cfg.Data)
	if err != nil {
		return report, err
	}
	if deps.Progress == nil {
		deps.Progress = func(string, int64, int64) {}
	}
	r := &recovery{cfg: cfg, deps: deps, report: &report, dir: filepath.Join(cfg.Data, "ledger.rebuild"), unread: map[ledger.LinkID]bool{}}
	err = r.run(ctx)
	return report, errors.Join(err, r.close(), lock.Close())
}

func (r *recovery) close() error {
	var errs []error
	if r.ledger != nil {
		errs = append(errs, r.ledger.Close())
		r.ledger = nil
	}
	if r.stores != nil {
		errs = append(errs, r.stores.Close())
		r.stores = nil
	}
	return errors.Join(errs...)
}

func (r *recovery) run(ctx context.Context) error {
	place := filepath.Join(r.cfg.Data, "ledger")
	var err error
	if r.files, err = r.cfg.openFiles(); err != nil {
		return err
	}
	broken, err := r.refuseUsable(place)
	if err != nil {
		return err
	}
	if err := disk.Discard(r.deps.FS, r.dir); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{r.begin, r.segments, r.journals, r.conclude, r.finish} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := r.close(); err != nil {
		return err
	}
	if broken {
		r.report.Aside = place + ".lost-" + r.deps.Now().UTC().Format("20060102T150405Z")
		if err := disk.Rename(r.deps.FS, place, r.report.Aside); err != nil {
			return err
		}
	} else if err := disk.Discard(r.deps.FS, place); err != nil { // one in which nothing was ever written
		return err
	}
	return disk.Rename(r.deps.FS, r.dir, place)
}

// refuseUsable looks at what is in the ledger's place: broken is set when it is to be moved aside.
func (r *recovery) refuseUsable(place string) (broken bool, err error) {
	if _, err := os.Stat(place); r.deps.FS == nil && errors.Is(err, os.ErrNotExist) {
		return false, nil // opening it would make one
	}
	l, err := disk.Open(disk.Config{Dir: place, FS: r.deps.FS, OpenFiles: r.files, Blocks: r.cfg.blockCache()})
	if c := proto.ClassOf(err); err != nil && (c == proto.ClassConflict || c == proto.ClassPermanent) {
		return false, err
	} else if err != nil {
		r.note(false, "the ledger that was there cannot be opened: %v", err)
		return true, nil
	}
	lacks := l.Lacks()
	m, err := ledger.ReadMeta(l)
	if err = errors.Join(err, l.Close()); err != nil {
		r.note(false, "the ledger that was there cannot be read: %v", err)
		return true, nil
	}
	if m.Format == 0 && lacks > 0 {
		r.note(false, "the ledger that was there has lost all that was in it")
		return true, nil
	}
	if m.Format != 0 {
		return false, proto.Errorf(proto.ClassConflict, "the ledger in %s is there and can be read (generation %d): start the relay as usual; to rebuild it all the same, for one that is an old copy, move %s away first", place, m.Generation, place)
	}
	return false, nil
}

// note adds something that an operator should know.
func (r *recovery) note(partly bool, format string, args ...any) {
	r.report.Notes = append(r.report.Notes, fmt.Sprintf(format, args...))
	r.report.Partly = r.report.Partly || partly
}

// begin opens the stores that are there, and the new ledger, with all that is known beforehand.
func (r *recovery) begin(ctx context.Context) error {
	known, generation, err := r.known(ctx)
	if err != nil {
		return err
	}
	if r.ledger, err = disk.Open(disk.Config{Dir: r.dir, FS: r.deps.FS, OpenFiles: r.files, Blocks: r.cfg.blockCache()}); err != nil {
		return err
	}
	if len(r.missing) > 0 {
		generation += margin
		r.kept = uint64(generation+1) << 40
	}
	r.report.Generation = generation
	entries := []ledger.Entry{&ledger.Recover{Relay: r.report.Relay, Name: r.cfg.Name, Generation: generation, Stores: proto.Marshal(known), UpNs: r.up()}}
	if m := r.memo; m != nil {
		e := &ledger.RecoverHolders{Nodes: m.Nodes, NowNs: r.deps.Now().UnixNano(), UpNs: r.up()}
		for _, h := range m.Holders {
			e.Names = append(e.Names, h.Dataset)
			e.Holders = append(e.Holders, ledger.HolderRow{Node: h.Node, Root: h.Root})
		}
		entries = append(entries, e)
	}
	for _, l := range r.cfg.Links {
		entries = append(entries, &ledger.SetLink{Name: l.Name, From: l.From, Target: l.Target, Prefix: l.Prefix, Coalesce: l.Coalesce, NowNs: r.deps.Now().UnixNano()})
	}
	if err := r.ledger.Update(entries...); err != nil {
		return err
	}
	return r.tune()
}

// known returns which stores the relay has, and the highest generation that any of them saw.
func (r *recovery) known(ctx context.Context) (known knownStores, generation uint32, err error) {
	if r.deps.FromTargets {
		var rebuilt uint32
		r.report.Relay, rebuilt, err = r.markedRelay(ctx)
		generation = max(startsUntil(r.deps.Now()), rebuilt+1)
		// Stores that were only not mounted may come back: nothing in them is left over before a rebuild has read them.
		r.kept = uint64(generation+1) << 40
		return known, generation, err
	}
	if known, err = r.openStores(); err != nil {
		return known, 0, err
	}
	generation = highestGeneration(r.stores)
	if r.memo != nil {
		generation = max(generation, r.memo.Generation)
	}
	if r.deps.Owner == nil {
		return known, generation, nil
	}
	for _, l := range r.cfg.Links { // a target that cannot be read is told of when its journal is
		if id, rebuilt, err := r.deps.Owner(ctx, l); err == nil && id == r.report.Relay {
			generation = max(generation, rebuilt+1)
		}
	}
	return known, generation, nil
}

// startsUntil is a generation that no relay can have reached by now, unless it was started every minute since there are relays: no trace of
// the lost one's is left. It has 24 bits for 34 years (proto.SegmentID), and grows, so that one rebuild is told from another (Meta.Rebuilt).
func startsUntil(now time.Time) uint32 {
	since, step := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), 64*time.Second
	return uint32(max(now.Sub(since), 0)/step) + 1
}

// markedRelay finds out whose the targets are, and which ledger of it was the last to have one.
func (r *recovery) markedRelay(ctx context.Context) (id proto.RelayID, rebuilt uint32, err error) {
	for _, p := range store.Peek(r.deps.FS, r.cfg.Stores) {
		if p.Found || p.Err != nil {
			return 0, 0, proto.Errorf(proto.ClassConflict, "store %s is not empty: rebuild without --from-targets, which reads it, or give the relay empty stores", p.Path)
		}
	}
	at := ""
	for _, l := range r.cfg.Links {
		is, ledgerOf, err := r.deps.Owner(ctx, l)
		if err != nil {
			r.note(true, "link %s: whose its target is cannot be read (%v): bring it back and rebuild again, for what lies only there", l.Name, err)
			continue
		}
		if is != 0 && id != 0 && is != id {
			return 0, 0, proto.Errorf(proto.ClassConflict, "the targets of links %s and %s belong to different relays (%s and %s): leave those of one in the configuration", at, l.Name, id, is)
		}
		if is != 0 {
			id, at, rebuilt = is, l.Name, max(rebuilt, ledgerOf)
		}
	}
	if id == 0 {
		return 0, 0, proto.Errorf(proto.ClassConflict, "no target that is there has the mark of a relay: there is nothing to rebuild a ledger from")
	}
	r.note(false, "what only the lost stores had is not known any more; holders that have it send it again. Should the stores turn up, stop the relay, move its ledger away and rebuild with them")
	return id, rebuilt, nil
}

// up is the running time as the memo has it, at most about a minute before the lost ledger's; without a memo it begins anew.
func (r *recovery) up() int64 {
	if r.memo == nil || r.memo.UpNs == 0 {
		return r.deps.Now().UnixNano()
	}
	return r.memo.UpNs
}

// peek looks into the configured stores, and into those that were added while the relay ran, as the newest memo tells.
func (r *recovery) peek() (found []store.Peeked, wrong []error) {
	found = store.Peek(r.deps.FS, r.cfg.Stores)
	if r.memo, _ = newestMemo(found); r.memo != nil {
		var added []string
		for _, id := range r.memo.Stores {
			there := slices.ContainsFunc(found, func(p store.Peeked) bool { return p.Path == id.Path || p.Found && p.Identity.ID == id.ID })
			if slices.Contains(r.memo.Roles.Added, id.ID) && !slices.Contains(r.memo.Roles.Drained, id.ID) && !there {
				added = append(added, id.Path)
			}
		}
		found = append(found, store.Peek(r.deps.FS, added)...)
	}
	r.memo, wrong = newestMemo(found)
	return found, wrong
}

// openStores opens the stores that are there; the others are named.
func (r *recovery) openStores() (known knownStores, err error) {
	found, wrong := r.peek()
	var paths []string
	for _, p := range found {
		switch {
		case p.Err != nil && !p.Found:
			r.missing = append(r.missing, p.Path)
			r.note(true, "store %s cannot be read (%v): bring it back and rebuild again, for what lies only there", p.Path, p.Err)
		case !p.Found:
			r.missing = append(r.missing, p.Path)
			r.note(true, "store %s is not there: if it is on a disk that is away, bring it back and rebuild again, for what lies only there", p.Path)
		case r.memo != nil && r.memo.Roles.IsGivenUp(p.Identity.ID):
			r.note(false, "store %s was given up by an operator: nothing in it is looked at", p.Path)
		case r.report.Relay != 0 && p.Identity.Relay != r.report.Relay:
			return known, proto.Errorf(proto.ClassConflict, "stores %s and %s belong to different relays (%s and %s): name those of one relay", paths[0], p.Path, r.report.Relay, p.Identity.Relay)
		default:
			if p.Err != nil {
				r.note(false, "the memo in store %s cannot be read: %v", p.Path, p.Err)
			}
			r.report.Relay = p.Identity.Relay
			paths = append(paths, p.Path)
		}
	}
	if len(paths) == 0 {
		return known, proto.Errorf(proto.ClassConflict, "none of the configured stores is there; are they mounted? If they are lost as well, put empty ones in their places and rebuild from the targets alone, with --from-targets")
	}
	for _, err := range wrong {
		r.note(false, "%v", err)
	}
	r.stores, err = store.Open(store.Config{Paths: paths, Relay: r.report.Relay, Coding: shard.Geometry{Data: 1}, Ballast: r.cfg.Ballast, Tend: -1, OpenFiles: r.files},
		store.Deps{FS: r.deps.FS, Now: r.deps.Now})
	if err != nil {
		return known, fmt.Errorf("open stores: %w", err)
	}
	for _, s := range r.stores.States() {
		if s.State != store.OK && s.State != store.Degraded {
			r.missing = append(r.missing, s.Path)
			r.note(true, "store %s cannot be opened (%s): bring it back and rebuild again, for what lies only there", s.Path, s.LastError)
		}
	}
	known.Stores = r.stores.Identities()
	r.entire = len(r.missing) == 0
	if r.memo != nil { // those that are away are known still: they are never initialised anew
		known.Roles = r.memo.Roles
		for _, id := range r.memo.Stores {
			if !slices.ContainsFunc(known.Stores, func(k store.Identity) bool { return k.ID == id.ID }) {
				known.Stores = append(known.Stores, id)
				r.entire = false
			}
		}
	}
	return known, nil
}

// tune puts back what operators had set by hand.
func (r *recovery) tune() error {
	rows, err := ledger.Links(r.ledger)
	if err != nil {
		return err
	}
	if r.memo == nil && len(rows) > 0 {
		r.note(true, "no store has a memo of what was set by hand: all links are paused, for some may have been; look at each with: forebay policy show LINK, set again what is lacking, then: forebay resume LINK")
	}
	yes := true
	var entries []ledger.Entry
	for _, row := range rows {
		if r.memo == nil {
			entries = append(entries, &ledger.TuneLink{Link: row.ID, Paused: &yes})
			continue
		}
		i := slices.IndexFunc(r.memo.Links, func(l memoLink) bool {
			return l.Name == row.Name && l.From == row.From && l.Target == row.Target && l.Prefix == row.Prefix
		})
		if i < 0 {
			continue // a new one
		}
		l := r.memo.Links[i]
		entries = append(entries, &ledger.TuneLink{Link: row.ID, Paused: &l.Paused, PausedUntil: l.PausedUntil, PausedUp: l.PausedUp, Set: l.Overrides},
			&ledger.RecoverGuard{Link: row.ID, Deletes: l.Deletes, ApprovedNs: l.ApprovedNs}, &ledger.RecoverBudget{Link: row.ID, Windows: l.Budget})
	}
	if r.memo != nil {
		for _, l := range r.memo.Links {
			if !slices.ContainsFunc(rows, func(row ledger.LinkRow) bool { return row.Name == l.Name }) {
				r.note(false, "link %s was known and is not configured: what it owed is not looked for", l.Name)
			}
		}
		entries = append(entries, &ledger.RecoverScan{Token: r.memo.ScanToken})
	}
	if len(entries) == 0 {
		return nil
	}
	return r.ledger.Update(entries...)
}
