package journal

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"forebay/proto"
)

// The kinds of files.
const (
	kindIntent = "intent"
	kindDone   = "done"
	kindPast   = "past" // versions that have ended; see history.go
)

// file is what a journal file's name says.
type file struct {
	kind   string
	lo, hi uint64 // the batches whose entries it has
	part   int    // from 0
	count  int    // entries
	last   bool   // no part follows
}

func (f file) name() string {
	more := "more"
	if f.last {
		more = "last"
	}
	return fmt.Sprintf("%s-%016d-%016d-%05d-%d-%s", f.kind, f.lo, f.hi, f.part, f.count, more)
}

// parseFile reads what name wrote. A name of another form comes from a newer release.
func parseFile(name string) (file, error) {
	unknown := proto.Errorf(proto.ClassPermanent, "journal: file %q has a name that this program does not know: use a newer release, or remove the file if it is not Forebay's", name)
	p := strings.Split(name, "-")
	if len(p) != 6 {
		return file{}, unknown
	}
	f := file{kind: p[0], last: p[5] == "last"}
	var errs [4]error
	f.lo, errs[0] = strconv.ParseUint(p[1], 10, 64)
	f.hi, errs[1] = strconv.ParseUint(p[2], 10, 64)
	f.part, errs[2] = strconv.Atoi(p[3])
	f.count, errs[3] = strconv.Atoi(p[4])
	for _, err := range errs {
		if err != nil {
			return file{}, unknown
		}
	}
	if f.name() != name || f.kind != kindIntent && f.kind != kindDone && f.kind != kindPast || f.lo > f.hi {
		return file{}, unknown
	}
	return f, nil
}

// run is a sorted sequence of entries in one or more files.
type run struct {
	lo, hi   uint64
	files    []file
	complete bool // all parts are there
	torn     bool // a part is missing before one that is there
}

func (r run) count() (n int) {
	for _, f := range r.files {
		n += f.count
	}
	return n
}

// layout is what a listing means.
type layout struct {
	done    []run  // ascending, disjoint; torn ones, that nothing replaces, lack entries
	intents []run  // of batches that are not done
	past    []run  // as done, of versions that have ended
	garbage []file // left over from a crash: replaced, unfinished, or of a batch that is done
	next    uint64 // number of the next batch
}

// arrange finds out what a listing means. It is pure.
//
// A done run of several batches is complete or worthless: its inputs are removed only when its last part is durable. Then
// the inputs are worthless. A done run of one batch counts part by part: what it lists was committed. Past runs are as done ones.
func arrange(files []file) layout {
	l := layout{next: 1}
	runs := gather(files)
	var done, intents, past []run
	for _, r := range runs {
		l.next = max(l.next, r.hi+1)
		switch {
		case r.files[0].kind == kindIntent:
			intents = append(intents, r)
		case r.lo < r.hi && !r.complete && !r.torn:
			l.garbage = append(l.garbage, r.files...)
		case r.files[0].kind == kindPast:
			past = append(past, r)
		default:
			done = append(done, r)
		}
	}
	// Only the run of the batch itself says that it ended: a merged run also spans batches that never did.
	finished := func(n uint64) bool {
		return slices.ContainsFunc(done, func(d run) bool { return d.complete && d.lo == n && n == d.hi })
	}
	l.done, l.past = l.uncovered(done), l.uncovered(past)
	for _, r := range intents {
		if finished(r.lo) {
			l.garbage = append(l.garbage, r.files...)
			continue
		}
		l.intents = append(l.intents, r)
	}
	return l
}

// uncovered returns the runs that no other covers; the rest is garbage.
func (l *layout) uncovered(runs []run) (out []run) {
	for i, r := range runs {
		if inside(r, runs, i) {
			l.garbage = append(l.garbage, r.files...)
			continue
		}
		out = append(out, r)
	}
	return out
}

// inside reports whether another complete run covers runs[i].
func inside(r run, runs []run, i int) bool {
	for k, o := range runs {
		if k != i && o.complete && o.lo <= r.lo && r.hi <= o.hi && (o.lo < r.lo || r.hi < o.hi) {
			return true
		}
	}
	return false
}

// gather groups files into runs, ascending by their batches.
func gather(files []file) []run {
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.lo, b.lo), cmp.Compare(a.hi, b.hi), cmp.Compare(a.part, b.part))
	})
	var runs []run
	for _, f := range files {
		n := len(runs) - 1
		if n < 0 || runs[n].files[0].kind != f.kind || runs[n].lo != f.lo || runs[n].hi != f.hi {
			runs = append(runs, run{lo: f.lo, hi: f.hi})
			n++
		}
		r := &runs[n]
		r.torn = r.torn || f.part != len(r.files) || r.complete
		r.complete = f.last && !r.torn
		r.files = append(r.files, f)
	}
	return runs
}
