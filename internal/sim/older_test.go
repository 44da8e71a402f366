package sim

import (
	"slices"

	"forebay/ledger"
	"forebay/proto"
)

// The contents of a path in time (I18), from what was acknowledged and what nodes said of themselves. A number always grows, so that it
// tells nothing: what must not happen is that a content which a path had before comes back, while a node that has what came after it
// is there. Whoever offers it then lags, or was put back to an older copy of itself; that it was put back on purpose shows when the
// last node has it. See docs/decisions/0003-reverted-content.md.

// telling is what a node said that it has at a path: a content, of the index that it said so of, as a version.
type telling struct {
	index  string
	digest proto.Digest
	ver    proto.VersionID // 0 for a content that is no version: a fork
}

// saysHas notes that a node said it has a version, or a later one of the same content.
func (o *oracle) saysHas(a *agent, path string, v proto.VersionID) {
	if last := o.latest[path]; last != 0 && o.versions[last].desc.SameContent(o.versions[v].desc) {
		v = last
	}
	o.says(a, path, telling{a.ix.id, o.versions[v].desc.Digest, v})
}

// saysOther notes that a node said it has something else than the path's version: an older content of it, or one of its own.
func (o *oracle) saysOther(a *agent, path string, fork proto.Digest) {
	o.says(a, path, telling{index: a.ix.id, digest: fork})
}

func (o *oracle) says(a *agent, path string, t telling) {
	if o.told[a.node] == nil {
		o.told[a.node] = map[string]telling{}
	}
	o.told[a.node][path] = t
}

// run is the version with which the content began that a path has now: from it on nothing but metadata changed.
func (o *oracle) run(path string) proto.VersionID {
	vs := o.byPath[path]
	i := len(vs) - 1
	for i > 0 && o.versions[vs[i-1]].desc.SameContent(o.versions[vs[i]].desc) {
		i--
	}
	return vs[i]
}

// older reports whether a path had a content before the one that it has. The relay remembers the last ledger.MaxRecent, and
// nothing of before a delete that everybody has seen.
func (o *oracle) older(path string, d proto.Desc) bool {
	vs := o.byPath[path]
	if len(vs) == 0 {
		return false
	}
	var known []proto.Desc
	for _, v := range slices.Backward(vs) {
		was := o.versions[v].desc
		if was.Kind == proto.KindTombstone || len(known) > ledger.MaxRecent {
			return false
		}
		if !slices.ContainsFunc(known, was.SameContent) {
			known = append(known, was)
		}
		if len(known) > 1 && was.SameContent(d) {
			return true
		}
	}
	return false
}

// agrees reports whether a node said, of its present index, that it has the content that a path has now.
func (o *oracle) agrees(a *agent, path string) bool {
	t, ok := o.told[a.node][path]
	return ok && t.index == a.ix.id && t.ver >= o.run(path) && t.digest == o.versions[o.latest[path]].desc.Digest
}

// others are the nodes but one that have what a path has now, and those of them that are there.
func (o *oracle) others(but *agent, path string) (all, there []string) {
	for _, a := range o.w.agents {
		if a != but && o.agrees(a, path) {
			all = append(all, a.node)
		}
	}
	if len(all) == 0 {
		return nil, nil
	}
	at, err := o.w.relay.r.Where(media.String() + "/" + path)
	o.w.must(err)
	for _, h := range at.Holders {
		if h.Alive && slices.Contains(all, h.Node) {
			there = append(there, h.Node)
		}
	}
	return all, there
}

// mayOffer holds the grant of a claim against what others have (I18): an older content is not sent, and of a fork what most have stays.
func (o *oracle) mayOffer(a *agent, c proto.Claim) {
	cur := o.versions[o.latest[c.Path]].desc
	mine := proto.Desc{Kind: c.Kind, Size: c.Size, Digest: c.Digest, LinkTo: c.LinkTo}
	if !c.HasDigest || cur.Kind != proto.KindFile || c.Kind != proto.KindFile || cur.SameContent(mine) {
		return
	}
	all, there := o.others(a, c.Path)
	knew := c.Parent == o.latest[c.Path]
	switch old := o.older(c.Path, mine); {
	case old && len(there) > 0:
		o.w.wrong("I18", "%s is to send %q with a content of before version %d, which %v have", a.node, c.Path, o.run(c.Path), there)
	case old && !knew && len(all) > 0:
		o.w.wrong("I18", "%s, which never had version %d of %q, is to send a content of before it, while %v are away", a.node, o.run(c.Path), c.Path, all)
	case !old && !knew && len(there) > 1+o.sameFork(a, c):
		o.w.wrong("I18", "%s is to send a content of its own of %q, and %v have version %d", a.node, c.Path, there, o.run(c.Path))
	case old:
		o.w.count("older contents offered that nobody else had grown out of")
	}
}

// sameFork counts the nodes that said they have the same content of their own.
func (o *oracle) sameFork(but *agent, c proto.Claim) (n int) {
	for _, a := range o.w.agents {
		if a != but && o.told[a.node][c.Path].digest == c.Digest {
			n++
		}
	}
	return n
}

// mayFollow holds a new version against what the path had (I18), before it is noted.
func (o *oracle) mayFollow(a *agent, path string, d proto.Desc) {
	cur := o.versions[o.latest[path]].desc
	if cur.Kind != proto.KindFile || cur.SameContent(d) || !o.older(path, d) {
		return
	}
	if _, there := o.others(a, path); len(there) > 0 {
		o.w.wrong("I18", "%q goes back to a content of before version %d, sent by %s, and %v have that version", path, o.run(path), a.node, there)
		return
	}
	o.w.count("older contents that came back for good")
}
