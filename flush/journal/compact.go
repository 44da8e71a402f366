package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"forebay/internal/faultpoint"
	"forebay/proto"
)

// fanIn is how many runs are merged at least, so that an entry is written a logarithmic number of times.
const fanIn = 8

// plan returns the index of the first run to merge, with all after it; ok false when nothing is worth it. counts are the
// runs' entries, oldest first. It is pure. The runs that stay are each more than twice as large as all younger ones
// together, so there are at most fanIn + log2(entries) of them.
func plan(counts []int) (from int, ok bool) {
	from, sum := len(counts), 0
	for from > 0 && counts[from-1] <= 2*max(sum, 1) || from == len(counts) && from > 0 {
		from--
		sum += counts[from]
	}
	return from, len(counts)-from >= fanIn
}

// Compact merges runs when that is worth it; call it after every batch. dropBelow is the version below which deleted paths
// need not be remembered, because every node of the dataset has seen their tombstones; 0 keeps all. They are dropped only
// in a merge of everything. It needs memory for one part and one record a run. Interrupted, it leaves what was there.
func (j *Journal) Compact(ctx context.Context, dropBelow proto.VersionID) error {
	return j.compact(ctx, dropBelow, false)
}

// CompactAll merges everything into one run.
func (j *Journal) CompactAll(ctx context.Context, dropBelow proto.VersionID) error {
	return j.compact(ctx, dropBelow, true)
}

func (j *Journal) compact(ctx context.Context, dropBelow proto.VersionID, all bool) error {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	if err := j.mergeRuns(ctx, dropBelow, all); err != nil {
		return fmt.Errorf("merge journal: %w", err)
	}
	return j.sweep(ctx)
}

func (j *Journal) mergeRuns(ctx context.Context, dropBelow proto.VersionID, all bool) error {
	done, _ := j.hold()
	defer j.release()
	done = j.mergeable(done)
	from, ok := plan(counts(done))
	if all {
		from, ok = 0, len(done) > 1
	}
	if !ok {
		return nil
	}
	drop := proto.VersionID(0)
	if from == 0 {
		drop = dropBelow
		if err := j.settle(ctx); err != nil {
			return err
		}
	}
	merged, err := j.merge(ctx, done[from:], drop, nil)
	if err != nil {
		return err
	}
	j.Fault.At(faultpoint.FlushJournalMerged)
	j.replace(merged, done[from:])
	return nil
}

// Mend writes anew what can be read of a damaged journal, and lets go of the damaged files. What they alone said is lost: have it
// owed again before. known are the names of the files that were damaged when that was found out: another one that cannot be read now fails
// it, for what that says is owed to nobody. Files of the past are not among them. It returns the first damage that it met. It fails with
// ClassTransient while a batch is under way, and may be called again after any error.
func (j *Journal) Mend(ctx context.Context, known map[string]bool) (damage, err error) {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	// A number of its own for the end of the merged run: one run alone would else be written over itself.
	if err := j.Raise(ctx, 0); err != nil {
		return nil, fmt.Errorf("mend journal: %w", err)
	}
	err = j.mend(ctx, known, func(err error) {
		if damage == nil {
			damage = err
		}
	})
	if err != nil {
		return damage, fmt.Errorf("mend journal: %w", err)
	}
	return damage, j.sweep(ctx)
}

// mend is Mend without its locks; damaged is told of all damage.
func (j *Journal) mend(ctx context.Context, known map[string]bool, damaged func(error)) error {
	done, intents := j.hold()
	defer j.release()
	if len(j.mergeable(done)) < len(done) {
		return proto.Errorf(proto.ClassTransient, "a batch is under way: try again")
	}
	var unknown error
	merged, err := j.merge(ctx, done, 0, func(err error) error {
		damaged(err)
		var c *CorruptError
		if unknown == nil && !(errors.As(err, &c) && known[c.File]) {
			unknown = proto.Errorf(proto.ClassTransient, "it could be read a moment ago: %w", err)
		}
		return unknown
	})
	if err != nil {
		return err
	}
	j.Fault.At(faultpoint.FlushJournalMerged)
	j.replace(merged, done)
	for _, r := range intents { // their versions are owed still
		bad := false
		for _, err := range j.groups(ctx, []run{r}, selection{}, func(err error) { bad = true; damaged(err) }) {
			if err != nil {
				return err
			}
		}
		if bad {
			j.dropIntent(r.lo)
		}
	}
	h, ok := j.History()
	if !ok {
		return nil
	}
	return j.mergePast(ctx, h.Swept, true, damaged)
}

func counts(runs []run) []int {
	out := make([]int, len(runs))
	for i, r := range runs {
		out[i] = r.count()
	}
	return out
}

// mergeable leaves out the runs from the first open batch on: a run that spans the number of an open batch would make its
// end look as if it had been merged already.
func (j *Journal) mergeable(done []run) []run {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, r := range done {
		for n := range j.open {
			if n <= r.hi {
				return done[:i]
			}
		}
	}
	return done
}

// merge writes the merged run. Its last part is written only when all entries have been read. damaged is as EachReadable's, and what it
// returns ends the merge.
func (j *Journal) merge(ctx context.Context, in []run, dropBelow proto.VersionID, damaged func(error) error) (run, error) {
	var refused error
	var tell func(error)
	if damaged != nil {
		tell = func(err error) { refused = damaged(err) }
	}
	return j.write(ctx, kindDone, in[0].lo, in[len(in)-1].hi, func(yield func(Entry, error) bool) {
		for g, err := range j.groups(ctx, in, selection{}, tell) {
			e, _ := g.present()
			if err == nil {
				err = refused
			}
			if err == nil && e.State == StateDeleted && e.Version < dropBelow {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
		if refused != nil { // met at the very end
			yield(Entry{}, refused)
		}
	})
}

func (j *Journal) replace(merged run, covered []run) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.l.done = j.substitute(j.l.done, merged, covered)
}

// substitute puts a merged run in the place of those that it covers. j.mu is held.
func (j *Journal) substitute(runs []run, merged run, covered []run) []run {
	lo, hi := covered[0].lo, covered[len(covered)-1].hi
	runs = slices.DeleteFunc(slices.Clone(runs), func(r run) bool {
		if r.lo < lo || r.hi > hi {
			return false
		}
		j.obsolete = append(j.obsolete, r.files...)
		return true
	})
	return insert(runs, merged)
}

// settle lets go of the intents of batches that never ended, once later batches have carried out all they announced.
func (j *Journal) settle(ctx context.Context) error {
	done, intents := j.hold()
	defer j.release()
	for _, r := range intents {
		j.mu.Lock()
		_, open := j.open[r.lo]
		j.mu.Unlock()
		if open {
			continue
		}
		pending, err := j.anyPending(ctx, done, r)
		if err != nil {
			return err
		}
		if !pending {
			j.dropIntent(r.lo)
		}
	}
	return nil
}

func (j *Journal) anyPending(ctx context.Context, done []run, intent run) (bool, error) {
	for g, err := range j.groups(ctx, append(slices.Clip(done), intent), selection{}, nil) {
		if err != nil {
			return false, err
		}
		if _, pending := g.present(); pending != nil {
			return true, nil
		}
	}
	return false, nil
}

func (j *Journal) dropIntent(n uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.l.intents = slices.DeleteFunc(slices.Clone(j.l.intents), func(i run) bool {
		if i.lo != n {
			return false
		}
		j.obsolete = append(j.obsolete, i.files...)
		return true
	})
}
