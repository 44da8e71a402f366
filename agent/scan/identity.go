package scan

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"forebay/agent/index"
	"forebay/fsmeta"
)

// How a root is recognised again. Its file system's id and its directory's inode tell it from an empty mount point and from
// most of what may be put in its place. But where the id is the device's number (fsmeta.Volume), it does not last: after a
// start of the machine the same file system may have another, and another file system the same. There it is
//
//   - another one when the file systems' UUIDs or the directories' births differ, whatever the number;
//   - the same when they are equal; or, where they are not both known, when at least half of a sample of what the index has
//     is there with the very inodes and ctimes, which only a copy of the whole device brings about;
//   - and for a new number, not an older copy of itself (a snapshot, a copy of the disk) mounted in its place: what changed
//     last, as the index knows, is as it was or has changed since. In an older copy all ctimes are before that change.
//
// A power cut takes the last changes from a file system that had not written them yet, and the index may have them: what is
// not older than settledBy, counted from the last time that something was found, proves nothing.

// settledBy is how long a change may take to get to the disk: XFS writes its log twice a minute.
const settledBy = 2 * time.Minute

// sampleSize is how many objects are looked at, of those that changed last and of all.
const sampleSize = 64

// identify says how a root is recognised, and whether its file system's id is nothing but a device's number.
func identify(r *fsmeta.Root) (seen index.Identity, numbered bool, err error) {
	if seen.FSType, seen.FSID, seen.Ino, err = r.FSIdentity(); err != nil {
		return seen, false, err
	}
	v, err := r.Volume()
	seen.UUID, seen.BornNs = v.UUID, v.BornNs
	return seen, v.Numbered, err
}

// Knows reports whether a root is the one that the index belongs to. One whose device has another number is not, until a scan
// has looked at it.
func (s *Scanner) Knows(r *fsmeta.Root) (bool, error) {
	found, _, err := s.identify(r)
	if err != nil {
		return false, fmt.Errorf("identify root %s: %w", s.cfg.Root, err)
	}
	known, ok := s.index.Identity()
	return ok && known.Same(found), nil
}

// checkIdentity compares a root with what is remembered. An index without objects has nothing to lose: it takes what is
// there, so that a file system mounted after the agent's first start is no exchange.
func (s *Scanner) checkIdentity(r *fsmeta.Root) error {
	found, numbered, err := s.identify(r)
	if err != nil {
		return fmt.Errorf("identify root %s: %w", s.cfg.Root, err)
	}
	known, ok := s.index.Identity()
	if c := s.index.Counts(); ok && !known.Same(found) && c.Objects+c.Gone+c.Skipped > 0 {
		proof, err := s.renumbered(r, known, found, numbered)
		if err != nil {
			return err
		}
		s.moved(proof)
	}
	if ok && known.Like(found) { // what was known and is not told now stays
		if found.UUID == [16]byte{} {
			found.UUID = known.UUID
		}
		if found.BornNs == 0 {
			found.BornNs = known.BornNs
		}
	}
	if ok && found == known {
		return nil
	}
	return s.index.SetIdentity(found)
}

// renumbered returns what proves that a root is the one that the index knows although its file system's id differs, or Refused.
func (s *Scanner) renumbered(r *fsmeta.Root, known, found index.Identity, numbered bool) (proof string, err error) {
	if !numbered || !known.Like(found) {
		return "", s.exchanged(known, found, "")
	}
	p, err := s.prove(r)
	switch {
	case err != nil:
		return "", err
	case p.older != "":
		return "", s.exchanged(known, found, "an older copy of what was there: "+p.older)
	case known.UUID != [16]byte{} && known.UUID == found.UUID && known.BornNs == found.BornNs && found.BornNs != 0:
		return fmt.Sprintf("UUID %x", found.UUID), nil
	case p.same > 0 && 2*p.same >= p.looked:
		return fmt.Sprintf("%d of %d objects have their inodes and ctimes", p.same, p.looked), nil
	}
	return "", s.exchanged(known, found, fmt.Sprintf("%d of %d objects have their inodes and ctimes", p.same, p.looked))
}

func (s *Scanner) exchanged(known, found index.Identity, why string) error {
	err := fmt.Errorf("%s, and was %s", called(found), called(known))
	if why != "" {
		err = fmt.Errorf("%w; %s", err, why)
	}
	return &Refused{Cause: RootExchanged, Root: s.cfg.Root, err: err, Do: "mount what was there; or, if this is to be the dataset " +
		"from now on (a new disk, a copy that was restored), stop the agent, run \"forebay agent --forget-index " + s.cfg.Root +
		"\" as its user, and start it: what is here is then compared with the relay's, what another " +
		"node has in a newer version is not sent, and what is missing here is not taken for deleted"}
}

// called names an identity for people.
func called(i index.Identity) string {
	s := fmt.Sprintf("file system %x, inode %d", i.FSID, i.Ino)
	if i.UUID != [16]byte{} {
		s += fmt.Sprintf(", UUID %x", i.UUID)
	}
	return s
}

// proof is what the objects of a root say of it.
type proof struct {
	looked, same int    // of a sample of all: could be looked at or are gone; have their inodes and ctimes
	older        string // what shows that the root is older than the index; "" for nothing
}

// prove looks at objects that the index has: those that changed last, and some of all.
func (s *Scanner) prove(r *fsmeta.Root) (p proof, err error) {
	newest, spread, err := s.sample()
	if err != nil {
		return proof{}, err
	}
	seen := 0
	for _, e := range newest {
		l := lookAt(r, e)
		if l == looksOlder {
			p.older = fmt.Sprintf("%q had changed at %s", e.Path, time.Unix(0, e.Stat.CtimeNs).UTC().Format(time.RFC3339))
			return p, nil
		}
		if l != looksNot {
			seen++
		}
	}
	if len(newest) > 0 && seen == 0 {
		return proof{older: "nothing of what changed last can be looked at"}, nil
	}
	for _, e := range spread {
		switch lookAt(r, e) {
		case looksNot:
			continue
		case looksSame:
			p.same++
		}
		p.looked++
	}
	return p, nil
}

// sample reads the index for the entries that changed last, of those that were surely on the disk, and for some of all.
func (s *Scanner) sample() (newest, spread []index.Entry, err error) {
	c := s.index.Counts()
	alive := c.LastScanNs // the last time that the machine surely ran
	if err := s.each(func(e index.Entry) { alive = max(alive, e.FirstSeen) }); err != nil {
		return nil, nil, err
	}
	until := int64(math.MaxInt64)
	if c.LastScanNs > 0 {
		until = alive - int64(settledBy)
	}
	step, n := max(c.Objects/sampleSize, 1), int64(0)
	err = s.each(func(e index.Entry) {
		if n++; n%step == 0 && len(spread) < 2*sampleSize {
			spread = append(spread, e)
		}
		if e.Stat.CtimeNs > until {
			return
		}
		if newest = append(newest, e); len(newest) == 2*sampleSize {
			newest = lastChanged(newest)
		}
	})
	return lastChanged(newest), spread, err
}

// each calls fn for every object of the index that is there.
func (s *Scanner) each(fn func(index.Entry)) error {
	for after := ""; ; {
		page, err := s.index.Below("", after, pageSize)
		if err != nil || len(page) == 0 {
			return err
		}
		for _, e := range page {
			if e.Present() && e.State != index.StateSkipped {
				fn(e)
			}
		}
		after = page[len(page)-1].Path
	}
}

// lastChanged keeps the sampleSize entries that changed last.
func lastChanged(es []index.Entry) []index.Entry {
	slices.SortFunc(es, func(a, b index.Entry) int { return cmp.Compare(b.Stat.CtimeNs, a.Stat.CtimeNs) })
	return es[:min(len(es), sampleSize)]
}

// looks is how an object is now, against what the index has of it.
type looks int

const (
	looksNot   looks = iota // it cannot be looked at
	looksSame               // inode and ctime are the same
	looksLater              // it was changed, removed or replaced since
	looksOlder              // neither: it was not yet as the index has it
)

// lookAt looks at the object of an entry. Whatever removes or replaces it sets the ctime of a directory above it.
func lookAt(r *fsmeta.Root, e index.Entry) looks {
	st, err := r.Stat(e.Path)
	if err == nil && st.MountRoot {
		return looksNot // what the index has lies below what is mounted there
	}
	if err == nil && st.Ino == e.Stat.Ino && st.Mode&unix.S_IFMT == e.Stat.Mode&unix.S_IFMT {
		switch {
		case st.CtimeNs == e.Stat.CtimeNs:
			return looksSame
		case st.CtimeNs > e.Stat.CtimeNs:
			return looksLater
		}
		return looksOlder
	}
	if err != nil && !notThere(err) {
		return looksNot
	}
	for dir := parent(e.Path); ; dir = parent(dir) {
		st, err := r.Stat(dir)
		switch {
		case err == nil && st.CtimeNs >= e.Stat.CtimeNs:
			return looksLater
		case err != nil && !notThere(err):
			return looksNot
		case dir == "":
			return looksOlder
		}
	}
}
