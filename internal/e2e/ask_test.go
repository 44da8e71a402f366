package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/internal/operator"
	"forebay/internal/treecmp"
	"forebay/proto"
)

// The deadlines of waits: far beyond what is usual, for machines that are busy with other tests. The flag -slow stretches them.
var (
	patience = 90 * time.Second
	settling = 4 * time.Minute
)

// How often a wait looks: each look is work for the processes that are waited for, and a long wait ends no later for a fifth of a second.
const (
	lookEvery  = 10 * time.Millisecond
	lookSeldom = 200 * time.Millisecond
)

// until polls until ok.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	began := time.Now()
	if !s.poll(patience, ok) {
		require.FailNow(s.t, fmt.Sprintf("waited %s for %s", patience, what))
	}
	if took := time.Since(began); took > 10*time.Second { // where a test's time goes
		s.t.Logf("waited %s for %s", took.Round(time.Second), what)
	}
}

// resting waits as until does, for what takes its time while nothing is to be done: another site may run meanwhile.
func (s *site) resting(what string, ok func() bool) {
	s.t.Helper()
	<-sites
	defer func() { sites <- struct{}{} }()
	s.until(what, ok)
}

// poll polls until ok, and reports whether that came within d.
func (s *site) poll(d time.Duration, ok func() bool) bool {
	began := time.Now()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	for {
		if ok() {
			return true
		}
		select {
		case <-s.t.Context().Done():
			return false
		case <-deadline.C:
			return false
		case <-time.After(min(max(lookEvery, time.Since(began)/100), lookSeldom)):
		}
	}
}

// status asks the relay.
func (s *site) status() proto.Status {
	s.t.Helper()
	st, err := s.op.Status(s.t.Context())
	require.NoError(s.t, err)
	return st
}

// link is the status of a link, and node that of a node.
func (s *site) link(name string) proto.LinkStatus {
	s.t.Helper()
	l, ok := linkOf(s.status(), name)
	require.True(s.t, ok, "link %s is in the status", name)
	return l
}

func (s *site) node(name string) proto.NodeStatus {
	s.t.Helper()
	n, ok := nodeOf(s.status(), name)
	require.True(s.t, ok, "node %s is in the status", name)
	return n
}

func linkOf(st proto.Status, name string) (proto.LinkStatus, bool) {
	i := slices.IndexFunc(st.Links, func(l proto.LinkStatus) bool { return l.Name == name })
	if i < 0 {
		return proto.LinkStatus{}, false
	}
	return st.Links[i], true
}

func nodeOf(st proto.Status, name string) (proto.NodeStatus, bool) {
	i := slices.IndexFunc(st.Nodes, func(n proto.NodeStatus) bool { return n.Node == name })
	if i < 0 {
		return proto.NodeStatus{}, false
	}
	return st.Nodes[i], true
}

// dataset is the status of CLUSTER/DATASET, zero while the relay does not know it.
func (s *site) dataset(name string) proto.DatasetInfo {
	s.t.Helper()
	for _, d := range s.status().Datasets {
		if d.Name == name {
			return d
		}
	}
	return proto.DatasetInfo{}
}

// awaitState waits until the relay has all of the nodes in a state.
func (s *site) awaitState(state string, names ...string) {
	s.t.Helper()
	s.until(fmt.Sprintf("%q to be %s", names, state), func() bool {
		st, err := s.op.Status(s.t.Context())
		if err != nil {
			return false
		}
		for _, name := range names {
			if n, ok := nodeOf(st, name); !ok || n.State != state {
				return false
			}
		}
		return true
	})
}

// awaitLink waits until a link's status is as wanted, and returns it.
func (s *site) awaitLink(name, what string, ok func(proto.LinkStatus) bool) (l proto.LinkStatus) {
	s.t.Helper()
	s.until("link "+name+" to be "+what, func() bool {
		st, err := s.op.Status(s.t.Context())
		if err != nil {
			return false
		}
		l, _ = linkOf(st, name)
		return ok(l)
	})
	return l
}

// problem returns the problem of a code whose text has a part, nil when there is none.
func (s *site) problem(code, part string) *proto.Problem {
	s.t.Helper()
	for _, p := range s.status().Problems {
		if p.Code == code && strings.Contains(p.What, part) {
			return &p
		}
	}
	return nil
}

// awaitProblem waits until there is such a problem.
func (s *site) awaitProblem(code, part string) (p proto.Problem) {
	s.t.Helper()
	s.until(fmt.Sprintf("problem %s with %q", code, part), func() bool {
		found := s.problem(code, part)
		if found != nil {
			p = *found
		}
		return found != nil
	})
	return p
}

// settle waits until everything that agents hold is confirmed on the links, and nothing is left out.
func (s *site) settle(links ...string) {
	s.t.Helper()
	for _, name := range links {
		w := s.wait(name, operator.UntilConfirm)
		if w.Partial {
			s.t.Errorf("link %s: not all of it: %+v", name, s.failures(name))
		}
	}
	if s.t.Failed() {
		s.t.FailNow()
	}
}

// acknowledged waits until the relay has everything that the agents of a link's dataset hold.
func (s *site) acknowledged(link string) {
	s.t.Helper()
	w := s.wait(link, operator.UntilAck)
	require.True(s.t, w.Done, "link %s: not all is acknowledged: %+v", link, w)
}

// wait waits as forebay wait does; until the end of it or of patience.
func (s *site) wait(link, until string) proto.WaitState {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), settling)
	defer cancel()
	w, err := s.op.Wait(ctx, link, until, func(proto.WaitState) {})
	require.NoError(s.t, err, "link %s waits for %q", link, w.WaitingFor)
	return w
}

// failures lists what a link has not.
func (s *site) failures(link string) []proto.FailureInfo {
	s.t.Helper()
	f, err := s.op.Failures(s.t.Context(), link)
	require.NoError(s.t, err)
	return f
}

// lists reports whether an object is among the failures of a link.
func (s *site) lists(link, path string, kind proto.FailureKind) bool {
	s.t.Helper()
	return slices.ContainsFunc(s.failures(link), func(f proto.FailureInfo) bool { return f.Path == path && f.Kind == kind })
}

// where asks where an object, CLUSTER/DATASET/PATH, is; known is false while the relay has never heard of it.
func (s *site) where(object string) (w proto.Where, known bool) {
	s.t.Helper()
	w, err := s.op.Where(s.t.Context(), object)
	return w, err == nil
}

// events returns all events of a kind.
func (s *site) events(kind string) (out []proto.Event) {
	s.t.Helper()
	for after := uint64(0); ; {
		page, err := s.op.Events(s.t.Context(), after, 1000, false)
		require.NoError(s.t, err)
		for _, e := range page {
			after = max(after, e.Seq)
			if e.Kind == kind {
				out = append(out, e)
			}
		}
		if len(page) == 0 {
			return out
		}
	}
}

// forebay runs a verb to its end and returns what it printed and its exit code. Verbs that ask a relay ask the site's.
func (s *site) forebay(args ...string) (out string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), settling)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(s.env(), "FOREBAY_RELAY="+s.url)
	var buf bytes.Buffer
	cmd.Stdout, cmd.Stderr = &buf, &buf
	err := s.runs(cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(s.t, err, "forebay %q", args)
	}
	require.NotContains(s.t, buf.String(), "DATA RACE")
	return buf.String(), cmd.ProcessState.ExitCode()
}

// does runs a verb that must end well.
func (s *site) does(args ...string) string {
	s.t.Helper()
	out, code := s.forebay(args...)
	require.Zero(s.t, code, "forebay %q: %s", args, out)
	return out
}

// equal requires that a link's mirror is the tree want. How is owner checked: where the relay may give files away.
func (s *site) equal(want, link string) {
	s.t.Helper()
	s.same(want, s.mirror(link), s.as == nil && os.Geteuid() == 0)
}

// same requires that two trees are equal.
func (s *site) same(want, got string, owner bool) {
	s.t.Helper()
	s.compare(want, got, treecmp.Options{Owner: owner}, func(treecmp.Difference) bool { return true })
}

// sameContent requires that two trees are equal but for times, where writers were at work.
func (s *site) sameContent(want, got string) {
	s.t.Helper()
	s.compare(want, got, treecmp.Options{}, func(d treecmp.Difference) bool { return d.What != "mtime" })
}

// equalBut is equal but for the time of one directory.
func (s *site) equalBut(want, link, dir string) {
	s.t.Helper()
	s.compare(want, s.mirror(link), treecmp.Options{}, func(d treecmp.Difference) bool { return d.What != "mtime" || d.Path != dir })
}

func (s *site) compare(want, got string, opt treecmp.Options, counts func(treecmp.Difference) bool) {
	s.t.Helper()
	opt.Exclude, opt.List = []string{proto.ReservedName}, 1_000_000
	r, err := treecmp.Compare(s.t.Context(), want, got, opt)
	require.NoError(s.t, err)
	shown := 0
	for _, d := range r.Listed {
		if counts(d) {
			if shown++; shown <= 30 {
				s.t.Errorf("%s and %s differ: %s", want, got, d)
				if s.differ != nil {
					s.differ(d.Path)
				}
			}
		}
	}
	require.Zero(s.t, shown, "differences in %d objects", r.Objects)
}

// restored restores a link's backup from the target alone and requires that it equals want.
func (s *site) restored(want, link string) {
	s.t.Helper()
	to := s.path("restored-" + link)
	s.does("restore", "--from", s.mirror(link), "--to", to)
	s.same(want, to, os.Geteuid() == 0)
}

// sound requires that a deep verify of a link finds nothing, and that nothing staged is left at its target.
func (s *site) sound(link string) {
	s.t.Helper()
	s.does("verify", link, "--deep")
	root := s.mirror(link)
	for _, l := range s.spec.links {
		if l.name == link {
			root = s.target(l.to)
		}
	}
	left, err := filepath.Glob(filepath.Join(root, proto.ReservedName, "stage", "*", "l*"))
	require.NoError(s.t, err)
	assert.Empty(s.t, left, "staged leftovers of link %s", link)
}

// explain logs what the relay says of itself.
func (s *site) explain() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	st, err := s.op.Status(ctx)
	if err != nil {
		s.t.Logf("status: %v", err)
		return
	}
	for name, part := range map[string]any{"problems": st.Problems, "cache": st.Cache, "nodes": st.Nodes, "links": st.Links, "datasets": st.Datasets} {
		raw, _ := json.Marshal(part)
		s.t.Logf("%s: %s", name, raw)
	}
	if f, err := s.op.Failures(ctx, ""); err == nil && len(f) > 0 {
		raw, _ := json.Marshal(f)
		s.t.Logf("failures: %.4000s", raw)
	}
}

// showLogs prints the ends of logs, and keeps the whole where go test -artifacts asks for that.
func (s *site) showLogs(logs map[string]bool) {
	for log := range logs {
		s.t.Logf("the end of %s:\n%s", filepath.Base(log), tail(log, 6<<10))
	}
	for _, name := range []string{"logs", "relay.yaml"} {
		_ = exec.Command("cp", "-r", s.path(name), s.t.ArtifactDir()).Run() // as good as it gets
	}
}
