package relay

import (
	"slices"
	"sync"
	"time"

	"forebay/proto"
)

// The times of looks, all of the relay's running time.
const (
	lookAfter = time.Minute      // a delete waits so long for a holder's scan before the holder is asked to look,
	lookEvery = 10 * time.Second // which happens so often at most,
	lookBatch = proto.MaxClaims  // for so many paths at a time
	lacksFor  = 5 * time.Minute  // how long an answer counts
)

// While somebody waits, deletes are not left alone for a minute first.
const (
	hurryEvery = time.Second
	hurryFor   = 10 * time.Second // after the last call of a wait, which comes back every few seconds at least
)

// looks is what holders are asked to look for: paths of which a delete waits for nothing but their word, that they lack them. A full
// scan gives it too, an hour later, or never while something else on the holder is unreadable or unsent. All of it is hearsay of
// sessions: what is lost is asked again.
type looks struct {
	mu sync.Mutex
	by map[proto.HolderID]*holderLooks
}

// holderLooks is that of one holder, in one session.
type holderLooks struct {
	want  []proto.Look // to be asked next, in path order
	last  string       // the last path that was asked for: the next ones come after it, then all again
	at    int64        // when that was; 0: never
	asked map[string]look
}

// look is a path that was asked for.
type look struct {
	version proto.VersionID
	at      int64 // when it was asked for
	lacks   bool  // the answer was that it is not there
}

// maxLooks is about how many looks of a dataset are gathered in a round, of all holders together. What is more gets its turn later.
const maxLooks = 128 * lookBatch

// asks is what a round of judging finds for holders of a dataset to look for. Of each, no more is kept than it may be asked next: what
// comes after the path that it was asked for last, or else from the beginning.
type asks struct {
	most         int // for one holder, in each of the two
	last         map[proto.HolderID]string
	after, start map[proto.HolderID][]proto.Look
}

func (l *looks) begin(holders []proto.HolderID) asks {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := asks{most: max(1, min(lookBatch, maxLooks/max(1, len(holders)))), last: map[proto.HolderID]string{}, after: map[proto.HolderID][]proto.Look{}, start: map[proto.HolderID][]proto.Look{}}
	for _, h := range holders {
		if x := l.by[h]; x != nil {
			a.last[h] = x.last
		}
	}
	return a
}

// add is given the looks of a holder in path order. One without a path, for a scan, is added once.
func (a *asks) add(h proto.HolderID, k proto.Look) {
	to := a.start
	if k.Path > a.last[h] {
		to = a.after
	}
	if list := to[h]; len(list) < a.most && (k.Path != "" || len(list) == 0) {
		to[h] = append(list, k)
	}
}

// found returns them, in path order.
func (a *asks) found() map[proto.HolderID][]proto.Look {
	for h, list := range a.after {
		a.start[h] = append(a.start[h], list...)
	}
	return a.start
}

// gather replaces what is to be asked of the holders of a dataset. found has it in path order.
func (l *looks) gather(holders []proto.HolderID, found map[proto.HolderID][]proto.Look) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range holders {
		if len(found[h]) == 0 {
			if x := l.by[h]; x != nil {
				x.want = nil
			}
			continue
		}
		l.of(h).want = found[h]
	}
}

func (l *looks) of(h proto.HolderID) *holderLooks {
	if l.by == nil {
		l.by = map[proto.HolderID]*holderLooks{}
	}
	if l.by[h] == nil {
		l.by[h] = &holderLooks{asked: map[string]look{}}
	}
	return l.by[h]
}

// take returns what to ask a holder now, if it is time for that; hurry is while somebody waits for the answer.
func (l *looks) take(h proto.HolderID, now int64, hurry bool) []proto.Look {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.by[h]
	if x == nil {
		return nil
	}
	for p, k := range x.asked {
		if now-k.at > int64(lacksFor) {
			delete(x.asked, p)
		}
	}
	every := lookEvery
	if hurry {
		every = hurryEvery
	}
	if len(x.want) == 0 || x.at != 0 && now-x.at < int64(every) {
		return nil
	}
	from, _ := slices.BinarySearchFunc(x.want, x.last, func(k proto.Look, last string) int {
		if k.Path > last {
			return 1
		}
		return -1
	})
	if from == len(x.want) {
		from = 0
	}
	out := slices.Clone(x.want[from:min(from+lookBatch, len(x.want))])
	x.last, x.at, x.want = out[len(out)-1].Path, now, nil
	for _, k := range out {
		x.asked[k.Path] = look{version: k.Version, at: now}
	}
	return out
}

// lack takes a holder's answer to what it was asked at a time. One that comes late, after it was asked again, is none to that.
func (l *looks) lack(h proto.HolderID, list []proto.GoneEntry, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	x := l.by[h]
	if x == nil {
		return
	}
	for _, g := range list {
		if k, ok := x.asked[g.Path]; ok && k.version == g.Version && k.at == at {
			k.lacks = true
			x.asked[g.Path] = k
		}
	}
}

// lacking returns those of holders that were asked for a path in its version since a moment, and said that they lack it.
func (l *looks) lacking(holders []proto.HolderID, path string, v proto.VersionID, since, now int64) (out []proto.HolderID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range holders {
		if x := l.by[h]; x != nil {
			if k := x.asked[path]; k.lacks && k.version == v && k.at >= since && now-k.at <= int64(lacksFor) {
				out = append(out, h)
			}
		}
	}
	return out
}

// forget drops what holders were asked in a session that ended: they may have got since what they lacked.
func (l *looks) forget(h proto.HolderID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.by, h)
}
