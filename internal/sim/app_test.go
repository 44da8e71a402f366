package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"forebay/agent/index"
	"forebay/proto"
)

// content is the bytes of a file, made from its number.
type content struct {
	bytes  []byte
	blocks []proto.Digest
	digest proto.Digest
}

func newContent(b []byte) *content {
	c := &content{bytes: b, blocks: proto.BlockDigests(nil, b)}
	h := proto.NewContentHasher()
	for _, d := range c.blocks {
		h.Add(d)
	}
	c.digest = h.Sum()
	return c
}

func (c *content) size() int64 { return int64(len(c.bytes)) }

// rotten returns the content with one bit turned, at a byte of it.
func (c *content) rotten(at int64) *content {
	b := slices.Clone(c.bytes)
	b[at] ^= 1 << (at % 8)
	return newContent(b)
}

// object is what a path is.
type object struct {
	kind   proto.Kind
	data   *content // of a file
	linkTo string   // of a symlink
	mode   uint32
}

// same reports whether two objects are the same for a reader of the backup.
func (o object) same(p object) bool {
	return o.kind == p.kind && o.linkTo == p.linkTo && o.mode == p.mode && (o.data == p.data || o.data != nil && p.data != nil && o.data.digest == p.data.digest)
}

func (o object) digest() proto.Digest {
	if o.data != nil {
		return o.data.digest
	}
	return proto.Digest{}
}

// app is the application whose replicas are backed up: one tree, changed on any node, copied to the others sooner or later. A
// change has a number; of two changes of a path, the one with the higher number stays everywhere.
type app struct {
	w        *world
	seq      uint64
	truth    map[string]change // the newest of each path, deletes too
	old      map[string][]*content
	preserve bool // copies keep their mtimes
}

// change is the newest state of a path.
type change struct {
	seq   uint64
	gone  bool
	obj   object
	mtime int64
}

// file is an object on a disk.
type file struct {
	object
	mtime, ctime int64
	ino          uint64
	eio          bool // cannot be read
}

// disk is a replica: what a node has, whether its agent runs or not.
type disk struct {
	a       *agent
	files   map[string]*file
	seqs    map[string]uint64 // of the newest change of a path that arrived here
	fsid    uint64
	mounted bool
	below   bool // it is what shows where the disk is not mounted: nobody writes there
	ino     uint64
}

func newDisk(a *agent, fsid uint64) *disk {
	return &disk{a: a, files: map[string]*file{}, seqs: map[string]uint64{}, fsid: fsid, mounted: true}
}

// copyOf is what a snapshot of the disk has.
func (d *disk) copyOf() *disk {
	c := *d
	c.files, c.seqs = map[string]*file{}, maps.Clone(d.seqs)
	for p, f := range d.files {
		g := *f
		c.files[p] = &g
	}
	return &c
}

func parentOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

// put changes a path on this disk. In a directory that is missing it is made.
func (d *disk) put(path string, seq uint64, o object, mtime int64) {
	if dir := parentOf(path); dir != "" && d.files[dir] == nil {
		d.put(dir, d.seqs[dir], object{kind: proto.KindDir, mode: 0o755}, mtime)
	}
	now := d.a.clock.now().UnixNano()
	f := d.files[path]
	if f == nil || f.kind != o.kind || o.kind != proto.KindFile {
		d.ino++
		f = &file{ino: d.ino}
		d.files[path] = f
	}
	f.object, f.mtime, f.ctime = o, mtime, now
	d.seqs[path] = max(d.seqs[path], seq)
	d.a.w.oracle.existed(path, o)
	d.a.w.oracle.present(d.a.node, path)
	d.a.hinted(path)
}

// remove deletes a path on this disk; a directory only when it is empty.
func (d *disk) remove(path string, seq uint64) bool {
	if f := d.files[path]; f != nil && f.kind == proto.KindDir {
		for p := range d.files {
			if strings.HasPrefix(p, path+"/") {
				return false
			}
		}
	}
	if d.files[path] != nil {
		delete(d.files, path)
		d.a.w.oracle.removed(d.a.node, path)
		d.a.hinted(path)
	}
	d.seqs[path] = max(d.seqs[path], seq)
	return true
}

// rot turns a bit of a file: nothing tells it but reading it.
func (d *disk) rot(path string) {
	f := d.files[path]
	f.data = f.data.rotten(d.a.w.rng.Int64N(f.data.size()))
	d.a.w.oracle.existed(path, f.object)
}

func (f *file) stat() index.Stat {
	s := index.Stat{MtimeNs: f.mtime, CtimeNs: f.ctime, Ino: f.ino, Mode: f.mode, Nlink: 1}
	if f.kind == proto.KindFile {
		s.Size = f.data.size()
	}
	return s
}

func (f *file) meta() proto.Meta { return proto.Meta{Mode: f.mode, MtimeNs: f.mtime} }

// newContent draws a content, which may be a large one.
func (a *app) newContent() *content {
	rng := a.w.rng
	size := 1 + rng.IntN(2000)
	switch {
	case rng.Float64() < 0.05:
		size = 0
	case rng.Float64() < a.w.cfg.large:
		size = (1+rng.IntN(3))*proto.BlockSize + rng.IntN(3000)
	}
	b := make([]byte, size)
	src := rand.New(rand.NewPCG(rng.Uint64(), 1))
	for at := 0; at < size; at += proto.BlockSize { // what tells contents apart is at the beginning of each block
		for i := at; i < min(at+64, size); i++ {
			b[i] = byte(src.Uint32())
		}
	}
	return newContent(b)
}

// changed draws the next content of a file: another one, or of a large one the same with a block of it changed in place, so that an
// upload of what it was is one of the same size.
func (a *app) changed(was *content) *content {
	if was.size() <= proto.BlockSize || a.w.chance(0.5) {
		return a.newContent()
	}
	return was.rotten(a.w.rng.Int64N(was.size()))
}

// set is a change on one node. The others get it later, or with the next round of all.
func (a *app) set(origin *agent, path string, o object) {
	if dir := parentOf(path); dir != "" && (a.truth[dir].gone || a.truth[dir].seq == 0 || a.truth[dir].obj.kind != proto.KindDir) {
		a.set(origin, dir, object{kind: proto.KindDir, mode: 0o755})
	}
	a.seq++
	c := change{seq: a.seq, obj: o, mtime: origin.clock.now().UnixNano()}
	a.truth[path] = c
	a.w.note("%s writes %s #%d %s", origin.node, path, c.seq, o.kind)
	a.apply(origin.disk, path, c)
	a.spread(origin, path, c)
}

// rewrite gives a file that is there another content.
func (a *app) rewrite(origin *agent, path string, data *content) {
	was := a.truth[path].obj
	a.old[path] = append(a.old[path], was.data)
	a.set(origin, path, object{kind: proto.KindFile, data: data, mode: was.mode})
}

func (a *app) del(origin *agent, path string) {
	a.seq++
	c := change{seq: a.seq, gone: true}
	a.truth[path] = c
	a.w.note("%s deletes %s #%d", origin.node, path, c.seq)
	a.apply(origin.disk, path, c)
	a.spread(origin, path, c)
}

func (a *app) spread(origin *agent, path string, c change) {
	for _, to := range a.w.agents {
		if to == origin || a.w.chance(a.w.cfg.unspread) {
			continue
		}
		d := a.w.between(0, 2*time.Second)
		if a.w.chance(0.2) {
			d = a.w.between(0, a.w.cfg.lag)
		}
		a.w.after(d, fmt.Sprintf("copy %s #%d to %s", path, c.seq, to.node), func() { a.apply(to.disk, path, c) })
	}
}

// apply carries a change out on a disk, unless a newer one came before.
func (a *app) apply(d *disk, path string, c change) {
	if !d.mounted || d.below || d.seqs[path] >= c.seq {
		return
	}
	if c.gone {
		d.remove(path, c.seq)
		return
	}
	if f := d.files[path]; f != nil && f.kind == proto.KindDir && c.obj.kind != proto.KindDir {
		for _, p := range slices.Sorted(maps.Keys(d.files)) {
			if strings.HasPrefix(p, path+"/") {
				return // its entries go first; the round of all does it
			}
		}
		d.remove(path, c.seq)
	}
	mtime := c.mtime
	if !a.preserve {
		mtime = d.a.clock.now().UnixNano()
	}
	d.put(path, c.seq, c.obj, mtime)
}

// roundOf brings a disk up to date, and mends what rotted when it is thorough.
func (a *app) roundOf(d *disk, thorough bool) {
	if !d.mounted || d.below || d != d.a.disk { // one that was exchanged since is nobody's
		return
	}
	paths := slices.Sorted(maps.Keys(a.truth))
	for _, p := range slices.Backward(paths) {
		if c := a.truth[p]; c.gone {
			a.apply(d, p, c)
		}
	}
	for _, p := range paths {
		c := a.truth[p]
		if c.gone {
			continue
		}
		if f := d.files[p]; thorough && (f == nil || f.eio || !f.same(c.obj)) {
			d.seqs[p] = 0
			if f != nil {
				f.eio = false
			}
		}
		a.apply(d, p, c)
	}
	if !thorough {
		return
	}
	for _, p := range slices.Backward(slices.Sorted(maps.Keys(d.files))) {
		if c, ok := a.truth[p]; !ok || c.gone {
			d.remove(p, c.seq)
		}
	}
}

// live returns the paths that are there, in order.
func (a *app) live(want func(object) bool) (out []string) {
	for _, p := range slices.Sorted(maps.Keys(a.truth)) {
		if c := a.truth[p]; !c.gone && want(c.obj) {
			out = append(out, p)
		}
	}
	return out
}

// work is one thing that the application does.
func (a *app) work() {
	w := a.w
	origin := w.agents[w.rng.IntN(len(w.agents))]
	if !origin.disk.mounted || origin.disk.below {
		return
	}
	files := a.live(func(o object) bool { return o.kind == proto.KindFile })
	pick := func() string { return files[w.rng.IntN(len(files))] }
	switch x := w.rng.Float64(); {
	case x < 0.40 || len(files) == 0: // a new object or a new content
		path := fmt.Sprintf("f%02d", w.rng.IntN(w.cfg.paths))
		if w.chance(0.4) {
			path = fmt.Sprintf("d%d/", w.rng.IntN(3)) + path
		}
		if c := a.truth[path]; !c.gone && c.obj.kind == proto.KindFile {
			a.old[path] = append(a.old[path], c.obj.data)
		}
		a.set(origin, path, object{kind: proto.KindFile, data: a.newContent(), mode: 0o644})
	case x < 0.55: // changed: one of the paths again
		p := pick()
		a.rewrite(origin, p, a.changed(a.truth[p].obj.data))
	case x < 0.63: // put back to an older content
		p := pick()
		if olds := a.old[p]; len(olds) > 0 {
			a.set(origin, p, object{kind: proto.KindFile, data: olds[w.rng.IntN(len(olds))], mode: a.truth[p].obj.mode})
		}
	case x < 0.70: // renamed
		p := pick()
		o := a.truth[p].obj
		a.del(origin, p)
		to, was := strings.CutSuffix(p, "rr")
		if !was {
			to = p + "r"
		}
		a.set(origin, to, o)
	case x < 0.78:
		a.del(origin, pick())
	case x < 0.86: // metadata
		p := pick()
		o := a.truth[p].obj
		o.mode ^= 0o111
		a.set(origin, p, o)
	case x < 0.90:
		a.set(origin, fmt.Sprintf("l%d", w.rng.IntN(3)), object{kind: proto.KindSymlink, linkTo: pick(), mode: 0o777})
	case x < 0.905: // most of it goes at once
		for i, p := range files {
			if i%4 != 0 {
				a.del(origin, p)
			}
		}
	case x < 0.93: // a directory goes, with all in it
		dir := fmt.Sprintf("d%d", w.rng.IntN(3))
		for _, p := range slices.Backward(a.live(func(object) bool { return true })) {
			if p == dir || strings.HasPrefix(p, dir+"/") {
				a.del(origin, p)
			}
		}
	case x < 0.95: // written again with the same content
		p := pick()
		a.set(origin, p, a.truth[p].obj)
	default:
		for range 5 { // a burst on one path
			p := pick()
			a.rewrite(origin, p, a.newContent())
		}
	}
	w.count("changes")
}
