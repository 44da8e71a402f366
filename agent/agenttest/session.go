package agenttest

import (
	"forebay/proto"
	"forebay/proto/bus"
)

func (r *Relay) hello(h proto.Hello) (a proto.HelloReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Hellos++
	r.sweep()
	for _, s := range r.sessions {
		if s.over || s.hello.Node != h.Node || s.hello.Cluster != h.Cluster {
			continue
		}
		if s.hello.Instance != h.Instance {
			return a, proto.Errorf(proto.ClassConflict, "node %s is alive as another instance", h.Node)
		}
		r.end(s, "hello again")
	}
	r.seq++
	var putBack []uint64
	s := &session{id: proto.SessionID(r.seq), hello: h, seen: r.Now()}
	for _, root := range h.Roots {
		key := h.Cluster + "/" + h.Node + "/" + root.Dataset + "/" + root.Path
		id, ok := r.holders[key]
		if !ok {
			id = proto.HolderID(len(r.holders) + 1)
			r.holders[key] = id
			r.members = append(r.members, proto.Member{Holder: id, Dataset: root.Dataset, Node: h.Node, Root: root.Path})
		}
		s.holders = append(s.holders, id)
		back := uint64(0)
		if root.Told < r.told[id] {
			back = r.told[id]
			r.stats.PutBack++
		}
		putBack = append(putBack, back)
		r.alive(id, true)
		r.dataset(root.Dataset)
	}
	r.sessions[s.id] = s
	return proto.HelloReply{
		Version: proto.Version, Session: s.id, Relay: r.ID, RelayName: "fake", Generation: r.run, Suspicion: r.Suspicion,
		Holders: s.holders, BusURLs: r.BusURLs, NowNs: r.Now().UnixNano(), PutBack: putBack,
	}, nil
}

func (r *Relay) alive(id proto.HolderID, on bool) {
	for i := range r.members {
		if r.members[i].Holder == id {
			r.members[i].Alive = on
		}
	}
	r.seq++
}

func (r *Relay) dataset(name string) *Dataset {
	d := r.datasets[name]
	if d == nil {
		d = &Dataset{Name: name, Rows: map[string]*Row{}, Asked: map[string]bool{}, leases: map[string]*lease{}, partial: map[string]*partial{}, byVersion: map[proto.VersionID]*Row{}}
		r.datasets[name] = d
	}
	return d
}

// known returns the session, or the conflict that tells the agent to say hello again.
func (r *Relay) known(id proto.SessionID) (*session, *proto.Error) {
	r.sweep()
	s := r.sessions[id]
	if s == nil || s.over {
		return nil, proto.Errorf(proto.ClassConflict, "unknown session %d", id)
	}
	s.seen = r.Now()
	return s, nil
}

// sweep ends sessions that were silent for the suspicion time.
func (r *Relay) sweep() {
	for _, s := range r.sessions {
		if !s.over && r.Now().Sub(s.seen) > r.Suspicion {
			r.end(s, "silence")
		}
	}
}

func (r *Relay) end(s *session, cause string) {
	if s.over {
		return
	}
	s.over = true
	for _, h := range s.holders {
		r.alive(h, false)
	}
	for _, d := range r.datasets {
		for path, l := range d.leases {
			if l.session == s.id {
				r.endLease(d, path, l, cause)
			}
		}
	}
}

func (r *Relay) endLease(d *Dataset, path string, l *lease, cause string) {
	delete(d.leases, path)
	e := proto.LeaseEnded{Dataset: d.Name, Path: path, Upload: l.upload, Size: l.size, Holder: l.holder, Cause: cause}
	if p := d.partial[path]; p != nil {
		for _, have := range p.ranges() {
			e.Acked += have.Length
		}
	}
	for _, s := range r.sessions {
		if !s.over {
			s.ended = append(s.ended, e)
		}
	}
	r.nudge(d, proto.Nudge{Ended: []proto.LeaseEnded{e}})
}

// nudge is best effort.
func (r *Relay) nudge(d *Dataset, n proto.Nudge) {
	if r.Bus == nil {
		return
	}
	for _, cluster := range r.clusters() {
		_ = r.Bus.Publish(bus.SubjectNudge(r.ID, proto.Dataset{Cluster: cluster, Name: d.Name}), proto.Marshal(n))
	}
}

func (r *Relay) clusters() (out []string) {
	seen := map[string]bool{}
	for _, s := range r.sessions {
		if !seen[s.hello.Cluster] {
			seen[s.hello.Cluster] = true
			out = append(out, s.hello.Cluster)
		}
	}
	return out
}

func (r *Relay) connLost(conn int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sessions {
		if s.conn == conn && conn != 0 {
			r.end(s, "connection lost")
		}
	}
}

func (r *Relay) poll(p proto.Poll, conn int64) (a proto.PollReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Polls++
	s, e := r.known(p.Session)
	if e != nil {
		return a, e
	}
	if s.conn != 0 && s.conn != conn {
		r.end(s, "another connection")
		return a, proto.Errorf(proto.ClassConflict, "unknown session %d", p.Session)
	}
	s.conn, s.statuses = conn, p.Roots
	if p.Stopping {
		r.end(s, "stopped")
		return a, nil
	}
	a = proto.PollReply{NowNs: r.Now().UnixNano(), MembersSeq: r.seq, Ended: s.ended, Suspicion: r.Suspicion}
	s.ended, a.UpNs = nil, r.UpNs
	for _, h := range s.holders {
		for _, l := range r.Looks {
			l.Holder = h
			a.Look = append(a.Look, l)
		}
	}
	if p.Members != r.seq {
		a.Members = append(a.Members, r.members...)
	}
	for _, root := range s.hello.Roots {
		d := r.dataset(root.Dataset)
		a.Datasets = append(a.Datasets, proto.DatasetStatus{
			Dataset: d.Name, Head: d.Head, Wanted: r.Wanted, ScanToken: d.ScanToken, Asked: int64(len(d.Asked)),
		})
	}
	return a, nil
}

func (r *Relay) report(rep proto.Report) (a proto.ReportReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, e := r.known(rep.Session)
	if e != nil {
		return a, e
	}
	d := r.datasetOf(s, rep.Holder)
	if d == nil {
		return a, proto.Errorf(proto.ClassPermanent, "holder %d is not of session %d", rep.Holder, rep.Session)
	}
	if r.OnReport != nil {
		if e := r.OnReport(rep); e != nil {
			return a, e
		}
	}
	r.tell(rep.Holder, rep.Told)
	for i, h := range rep.Have {
		if row := d.byVersion[h.Version]; row != nil && row.Version == h.Version {
			row.Holders[rep.Holder] = h.Version
			if r.wantsMeta(row, h.MetaSum) {
				a.WantMeta = append(a.WantMeta, i)
			}
		}
	}
	for _, g := range rep.Gone {
		if row := d.Rows[g.Path]; row != nil {
			row.Gone[rep.Holder] = true
			delete(row.Holders, rep.Holder)
			if len(row.Holders) == 0 && row.Desc.Kind != proto.KindTombstone {
				r.seal(d, g.Path, proto.Desc{Kind: proto.KindTombstone}, nil, 0)
			}
		}
	}
	return a, nil
}

// tell notes how far a holder's index has counted.
func (r *Relay) tell(h proto.HolderID, told uint64) {
	r.told[h] = max(r.told[h], told)
}

func (r *Relay) datasetOf(s *session, h proto.HolderID) *Dataset {
	for i, id := range s.holders {
		if id == h {
			return r.dataset(s.hello.Roots[i].Dataset)
		}
	}
	return nil
}

func (r *Relay) slow(s proto.Slow) (a proto.SlowReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Ended = r.OnSlow != nil && r.OnSlow(s); a.Ended {
		for _, d := range r.datasets {
			for path, l := range d.leases {
				if l.upload == s.Upload {
					delete(d.leases, path)
				}
			}
		}
	}
	return a, e
}

func (r *Relay) abandon(ab proto.Abandon) (a proto.ReportReply, e *proto.Error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, e := r.known(ab.Session)
	if e != nil {
		return a, e
	}
	d := r.datasetOf(s, ab.Holder)
	for _, id := range ab.Uploads {
		for path, l := range d.leases {
			if l.upload != id {
				continue
			}
			switch {
			case ab.ReadError != "":
				r.stats.ReadErrors[path]++
			case ab.Changed:
				r.stats.Changed[path]++
				delete(d.partial, path)
			}
			r.endLease(d, path, l, "abandoned")
		}
	}
	return a, nil
}
