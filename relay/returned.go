package relay

import (
	"slices"
	"sync"

	"forebay/proto"
)

// returned remembers who gave back the lease on an object, so that the others do not wait for their turns: with the disks of several
// holders failing, each of them would cost a suspicion time. Who is granted it again is no longer among them. Bounded: the oldest are
// forgotten, which costs that time.
type returned struct {
	mu    sync.Mutex
	by    map[objectKey][]proto.HolderID
	order []objectKey
}

type objectKey struct {
	dataset proto.DatasetID
	path    string
}

// maxReturned is how many objects are remembered.
const maxReturned = 4096

func (r *returned) add(k objectKey, h proto.HolderID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[objectKey][]proto.HolderID{}
	}
	if _, ok := r.by[k]; !ok {
		r.order = append(r.order, k)
	}
	if !slices.Contains(r.by[k], h) {
		r.by[k] = append(r.by[k], h)
	}
	if len(r.order) > maxReturned {
		delete(r.by, r.order[0])
		r.order = r.order[1:]
	}
}

// granted is told that a holder has the lease again.
func (r *returned) granted(k objectKey, h proto.HolderID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if hs, ok := r.by[k]; ok {
		r.by[k] = slices.DeleteFunc(hs, func(x proto.HolderID) bool { return x == h })
	}
}

// sealed is told that the object is a version.
func (r *returned) sealed(k objectKey) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.by[k]; ok {
		delete(r.by, k)
		r.order = slices.DeleteFunc(r.order, func(x objectKey) bool { return x == k })
	}
}

func (r *returned) of(k objectKey) []proto.HolderID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.by[k])
}
