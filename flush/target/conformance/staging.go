package conformance

import (
	"io"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

func probe(s *suite) {
	assert.NotEmpty(s, s.info.Driver)
	assert.NotEmpty(s, s.info.Where)
	assert.Positive(s, s.info.Confirm.Rank())
	assert.True(s, s.info.Move || s.info.Atomic, "an object must be able to appear whole")
	assert.Empty(s, s.list(""), "probing makes nothing")
	names, err := s.Records().List(s.Context(), target.JournalDir)
	require.NoError(s, err)
	assert.Empty(s, names)
}

func stageResumes(s *suite) {
	content := pattern(300_000)
	id := s.id()
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: int64(len(content))})
	require.NoError(s, err)
	assert.Zero(s, w.Offset())
	_, err = w.Write(content[:100_000])
	require.NoError(s, err)
	durable, err := w.Sync()
	require.NoError(s, err)
	assert.LessOrEqual(s, durable, int64(100_000))
	require.NoError(s, w.Close())

	w, err = s.Stage(s.Context(), target.Content{ID: id, Size: int64(len(content))})
	require.NoError(s, err)
	require.GreaterOrEqual(s, w.Offset(), durable, "what was said to be durable is kept: the cache may have let go of it")
	require.LessOrEqual(s, w.Offset(), int64(100_000))
	s.finish(w, id, content)
}

// finish writes the rest, and follows the content to its name.
func (s *suite) finish(w target.Stage, id target.StageID, content []byte) {
	s.Helper()
	_, err := w.Write(content[w.Offset():])
	require.NoError(s, err)
	assert.Equal(s, int64(len(content)), w.Offset())
	require.NoError(s, w.Close())
	assert.Empty(s, s.list(""), "staged contents are no part of the mirror")
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{id}))
	assert.Equal(s, content, readAll(s, func() (io.ReadCloser, error) { return s.Reread(s.Context(), id) }))
	s.commit(target.Change{Op: target.OpPut, Path: "o", Stage: id, Desc: s.own(file(content))})
	assert.Equal(s, string(content), s.content("o"))
}

func stageRestart(s *suite) {
	content := pattern(200_000)
	id := s.id()
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: int64(len(content))})
	require.NoError(s, err)
	_, err = w.Write(content[:150_000])
	require.NoError(s, err)
	durable, err := w.Sync()
	require.NoError(s, err)
	require.NoError(s, w.Close())
	require.NoError(s, s.Close())
	s.reopen()
	w, err = s.Stage(s.Context(), target.Content{ID: id, Size: int64(len(content))})
	require.NoError(s, err)
	require.GreaterOrEqual(s, w.Offset(), durable)
	require.LessOrEqual(s, w.Offset(), int64(150_000))
	s.finish(w, id, content)
}

func holes(s *suite) {
	const hole = 3 << 20
	id := s.id()
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: hole + 2})
	require.NoError(s, err)
	_, err = w.Write([]byte("a"))
	require.NoError(s, err)
	require.NoError(s, w.Hole(hole))
	assert.Equal(s, int64(hole+1), w.Offset())
	_, err = w.Write([]byte("z"))
	require.NoError(s, err)
	require.NoError(s, w.Close())
	want := make([]byte, hole+2)
	want[0], want[hole+1] = 'a', 'z'
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{id}))
	s.commit(target.Change{Op: target.OpPut, Path: "sparse", Stage: id, Desc: s.own(file(want))})
	assert.Equal(s, string(want), s.content("sparse"))
}

func stageBounds(s *suite) {
	id := s.id()
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: 4})
	require.NoError(s, err)
	_, err = s.Stage(s.Context(), target.Content{ID: id, Size: 4})
	assert.Error(s, err, "one writer at a time")
	_, err = w.Write([]byte("12345"))
	assert.Error(s, err, "more than was announced")
	require.NoError(s, w.Close())
	for _, bad := range []target.StageID{"", "..", "a/b", "a.b", "../../x"} {
		_, err := s.Stage(s.Context(), target.Content{ID: bad, Size: 1})
		s.class(proto.ClassPermanent, err, bad)
		_, err = s.Reread(s.Context(), bad)
		s.class(proto.ClassPermanent, err, bad)
		s.class(proto.ClassPermanent, s.Barrier(s.Context(), []target.StageID{bad}), bad)
		s.class(proto.ClassPermanent, s.commitOne(target.Change{Op: target.OpPut, Path: "p", Stage: bad, Desc: s.own(file(nil))}), bad)
	}
	// Less than was announced does not become an object.
	w, err = s.Stage(s.Context(), target.Content{ID: id, Size: 4})
	require.NoError(s, err)
	require.NoError(s, w.Close())
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{id}))
	assert.Error(s, s.commitOne(target.Change{Op: target.OpPut, Path: "p", Stage: id, Desc: s.own(file([]byte("1234")))}))
	assert.Empty(s, s.list(""))
	// A left-over that is longer than the object is not built upon.
	id = s.staged([]byte("a longer content"))
	w, err = s.Stage(s.Context(), target.Content{ID: id, Size: 3})
	require.NoError(s, err)
	assert.Zero(s, w.Offset())
	require.NoError(s, w.Close())
}

func unstage(s *suite) {
	require.NoError(s, s.Unstage(s.Context(), func(target.StageID) bool { return false }), "nothing is there yet")
	keep, drop := s.staged([]byte("keep")), s.staged([]byte("drop"))
	require.NoError(s, s.Unstage(s.Context(), func(id target.StageID) bool { return id == keep }))
	_, err := s.Reread(s.Context(), drop)
	require.Error(s, err)
	s.commit(target.Change{Op: target.OpPut, Path: "k", Stage: keep, Desc: s.own(file([]byte("keep")))})
	assert.Equal(s, "keep", s.content("k"))
}

func barrier(s *suite) {
	require.NoError(s, s.Barrier(s.Context(), nil))
	a, b := s.staged([]byte("a")), s.staged(nil)
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{a, b}), "again")
	assert.Error(s, s.Barrier(s.Context(), []target.StageID{a, "nothing-there"}))
}
