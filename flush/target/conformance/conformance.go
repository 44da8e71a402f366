// Package conformance is the suite that every target driver passes: the contract of package target as tests. A driver's own
// tests call Run; the same suite runs through the wrapper of package faulty. It imports target and proto and no driver.
package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// Caps is what the suite cannot find out by Probe.
type Caps struct {
	// Reopen opens the same place again, as after a restart of the relay; nil where a target cannot be opened twice.
	Reopen func(t *testing.T, old target.Target) target.Target
	// Look reads a file of the mirror, or of the records below .forebay, behind the back of the target's server, for servers that mix old
	// and new bytes while they send an object that is replaced; nil to look through the target.
	Look func(t *testing.T, tgt target.Target, name string) (io.ReadCloser, error)
	// Gap is set for servers on which an object that is replaced is away for a moment, as those do that take it away before they move
	// another into its place: who looks then finds none, never a part.
	Gap bool
	// Creates is set where records are made once only, see target.Creator.
	Creates bool
}

// look opens a file of the mirror, or with a record's name below .forebay a record, as a reader who happens by.
func (s *suite) look(ctx context.Context, name string) (io.ReadCloser, error) {
	record, isRecord := strings.CutPrefix(name, proto.ReservedName+"/")
	switch {
	case s.caps.Look != nil:
		return s.caps.Look(s.T, s.Target, name)
	case isRecord:
		return s.Records().Open(ctx, record)
	}
	return s.Open(ctx, name)
}

// Run runs the suite. open returns a target at a new, empty place; the suite closes nothing.
func Run(t *testing.T, open func(t *testing.T) target.Target, caps Caps) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*suite)
	}{
		{"probe", probe}, {"stage resumes", stageResumes}, {"stage again from a restart", stageRestart}, {"holes", holes},
		{"stage bounds", stageBounds}, {"unstage", unstage}, {"barrier", barrier}, {"replace kinds", replaceKinds},
		{"directory not empty", notEmpty}, {"repeat", repeat}, {"stage lost", stageLost}, {"delete", deletes}, {"links", links},
		{"metadata", metadata}, {"directory times", directoryTimes}, {"one failure stops nothing", oneFailure},
		{"records", records}, {"create once", createsOnce}, {"list order", listOrder}, {"not there", notThere}, {"hostile paths", hostilePaths},
		{"odd names", oddNames}, {"concurrent", concurrent}, {"cancel", cancel}, {"no partial object", noPartial},
		{"reuse", reuses}, {"reuse nothing else", reusesNothing},
		{"keep", keeping}, {"kept contents stay", keptStays}, {"nothing to keep", keptNothing}, {"keep without a gap", keptQuietly},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tgt := open(t)
			info, err := tgt.Probe(t.Context())
			require.NoError(t, err)
			c.test(&suite{T: t, Target: tgt, info: info, caps: caps})
		})
	}
}

type suite struct {
	*testing.T
	target.Target
	info  target.Info
	caps  Caps
	stage int
}

func (s *suite) id() target.StageID {
	s.stage++
	return target.StageID(fmt.Sprintf("s-%d", s.stage))
}

const someTime = 1_600_000_000_123_456_789

// file describes a file with content.
func file(content []byte) proto.Desc {
	return proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o640, MtimeNs: someTime}}
}

func folder() proto.Desc {
	return proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o750, MtimeNs: someTime}}
}

func symlink(to string) proto.Desc {
	return proto.Desc{Kind: proto.KindSymlink, LinkTo: to, Digest: proto.BlockDigest([]byte(to)), Meta: proto.Meta{MtimeNs: someTime}}
}

// own sets the numbers of this process's owner, so that nobody needs rights.
func (s *suite) own(d proto.Desc) proto.Desc {
	d.Meta.UID, d.Meta.GID = owner()
	return d
}

// staged writes content into the staging area, with the first barrier.
func (s *suite) staged(content []byte) target.StageID {
	s.Helper()
	id := s.id()
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: int64(len(content))})
	require.NoError(s, err)
	_, err = w.Write(content[w.Offset():])
	require.NoError(s, err)
	require.NoError(s, w.Close())
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{id}))
	return id
}

// sameTime requires that a time is the one that was set, as exactly as the target keeps times.
func (s *suite) sameTime(want, got int64, what string, args ...any) {
	s.Helper()
	if s.info.Carries.Coarse {
		assert.InDeltaf(s, want, got, 2e9, what, args...)
		return
	}
	assert.Equalf(s, want, got, what, args...)
}

func (s *suite) putChange(path string, content []byte) target.Change {
	s.Helper()
	return target.Change{Op: target.OpPut, Path: path, Stage: s.staged(content), Desc: s.own(file(content))}
}

func (s *suite) put(path string, content string) {
	s.Helper()
	s.commit(s.putChange(path, []byte(content)))
}

func (s *suite) mkdirChange(path string) target.Change {
	return target.Change{Op: target.OpMkdir, Path: path, Desc: s.own(folder())}
}

func (s *suite) linkChange(path, to string) target.Change {
	return target.Change{Op: target.OpSymlink, Path: path, Desc: s.own(symlink(to))}
}

func del(path string) target.Change {
	return target.Change{Op: target.OpDelete, Path: path, Desc: proto.Desc{Kind: proto.KindTombstone}}
}

// commit commits changes that must succeed.
func (s *suite) commit(changes ...target.Change) {
	s.Helper()
	errs := s.Commit(s.Context(), changes)
	require.Len(s, errs, len(changes))
	for i, err := range errs {
		require.NoErrorf(s, err, "change %d: %d %q", i, changes[i].Op, changes[i].Path)
	}
}

// commitOne commits a change and returns its error.
func (s *suite) commitOne(c target.Change) error {
	s.Helper()
	errs := s.Commit(s.Context(), []target.Change{c})
	require.Len(s, errs, 1)
	return errs[0]
}

func (s *suite) content(path string) string {
	s.Helper()
	return string(readAll(s, func() (io.ReadCloser, error) { return s.Open(s.Context(), path) }))
}

func readAll(t require.TestingT, open func() (io.ReadCloser, error)) []byte {
	r, err := open()
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return b
}

func (s *suite) list(prefix string) (paths []string) {
	s.Helper()
	require.NoError(s, s.List(s.Context(), prefix, func(e target.Entry) error {
		paths = append(paths, e.Path)
		return nil
	}))
	return paths
}

// reopen returns the target as after a restart, or skips.
func (s *suite) reopen() {
	s.Helper()
	if s.caps.Reopen == nil {
		s.Skip("this target cannot be opened again")
	}
	s.Target = s.caps.Reopen(s.T, s.Target)
}

func (s *suite) class(want proto.Class, err error, what ...any) {
	s.Helper()
	require.Error(s, err, what...)
	require.Equalf(s, want, proto.ClassOf(err), "%v %v", err, what)
}

func pattern(n int) []byte {
	b := bytes.Repeat([]byte("forebay keeps what the river brings\n"), n/36+1)[:n]
	for i := 0; i < n; i += 4096 {
		b[i] = byte(i >> 12)
	}
	return b
}

func sortedCopy(s []string) []string {
	c := slices.Clone(s)
	slices.Sort(c)
	return c
}
