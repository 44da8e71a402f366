package conformance

import (
	"bytes"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// reuses builds a content on the object that is at its path, with blocks that changed in the middle and at the end of what a target may
// copy as one, others that it may copy whole, and the target opened again in between. A target whose stages are no target.Reuser passes.
func reuses(s *suite) {
	const block = proto.BlockSize
	old := pattern(28*block + 5)
	s.commitAt("k", old)
	next := bytes.Clone(old)
	for _, at := range []int{9*block + 1, 17 * block, 18*block - 1} {
		next[at]++
	}
	id := s.id()
	s.build("k", id, old, next, 13*block)
	if s.caps.Reopen != nil {
		require.NoError(s, s.Close())
		s.reopen()
	}
	s.build("k", id, old, next, len(next))
	assert.Equal(s, string(old), s.content("k"), "nothing shows before it is committed")
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{id}))
	s.commit(target.Change{Op: target.OpPut, Path: "k", Stage: id, Desc: s.own(file(next))})
	assert.True(s, bytes.Equal(next, []byte(s.content("k"))))
}

// commitAt puts a content whose place was known from the first.
func (s *suite) commitAt(path string, content []byte) {
	s.Helper()
	id, d := s.id(), s.own(file(content))
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: d.Size, Path: path, Desc: d})
	require.NoError(s, err)
	_, err = w.Write(content[w.Offset():])
	require.NoError(s, err)
	require.NoError(s, w.Close())
	require.NoError(s, s.Barrier(s.Context(), []target.StageID{id}))
	s.commit(target.Change{Op: target.OpPut, Path: path, Stage: id, Desc: d})
}

// build stages next up to a byte, using again the blocks that old has.
func (s *suite) build(path string, id target.StageID, old, next []byte, upTo int) {
	s.Helper()
	d := s.own(file(next))
	w, err := s.Stage(s.Context(), target.Content{ID: id, Size: d.Size, Path: path, Desc: d, Reuses: true})
	require.NoError(s, err)
	u, able := w.(target.Reuser)
	require.Equal(s, s.info.Reuses, able, "Info.Reuses says whether stages are Reusers")
	was := []proto.Digest{proto.ContentDigest(old)}
	for off := int(w.Offset()); off < upTo; off = int(w.Offset()) {
		block := off / proto.BlockSize * proto.BlockSize
		end := min(block+proto.BlockSize, len(next))
		if able && bytes.Equal(old[block:end], next[block:end]) {
			require.NoError(s, u.Reuse(s.Context(), int64(end-off), proto.BlockDigest(next[block:end]), was))
		} else {
			_, err := w.Write(next[off:end])
			require.NoError(s, err)
		}
		require.EqualValues(s, end, w.Offset())
	}
	_, err = w.Sync()
	require.NoError(s, err)
	require.NoError(s, w.Close())
}

// reusesNothing holds that nothing is used of an object that is not what it was taken for, or is not there.
func reusesNothing(s *suite) {
	old := pattern(12 << 20)
	s.commitAt("k", old)
	sum, was := proto.BlockDigest(old[:proto.BlockSize]), []proto.Digest{proto.ContentDigest(old)}
	next := s.own(file(pattern(13 << 20)))
	for name, c := range map[string]struct {
		path string
		sum  proto.Digest
		was  []proto.Digest
		n    int64
	}{
		"gone":          {"none", sum, was, 1},
		"other bytes":   {"k", proto.BlockDigest(nil), []proto.Digest{proto.BlockDigest([]byte("another content"))}, 1},
		"a longer one":  {"k", sum, was, 13},
		"no place told": {"", sum, was, 1},
	} {
		id := s.id()
		w, err := s.Stage(s.Context(), target.Content{ID: id, Size: 13 << 20, Path: c.path, Desc: next})
		require.NoError(s, err, name)
		if u, able := w.(target.Reuser); able {
			err := error(nil)
			for i := int64(0); i < c.n && err == nil; i++ {
				sum := c.sum
				if c.n > 1 && i < 12 {
					sum = proto.BlockDigest(old[i<<20 : (i+1)<<20])
				}
				err = u.Reuse(s.Context(), proto.BlockSize, sum, c.was)
			}
			assert.ErrorIs(s, err, target.ErrNotReusable, name)
		}
		_ = w.Close() // a part on its way may have failed for the same reason
	}
	assert.True(s, bytes.Equal(old, []byte(s.content("k"))))
}
