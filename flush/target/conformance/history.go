package conformance

import (
	"errors"
	"io"
	"io/fs"
	"slices"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

func keepOf(path, content string) target.Keep {
	digest := proto.ContentDigest([]byte(content))
	return target.Keep{Path: path, Name: target.NameKept(path, digest), Size: int64(len(content)), Digest: digest}
}

// keeps returns the target's history, or skips.
func (s *suite) keeps() target.History {
	s.Helper()
	h := s.History()
	require.Equal(s, s.info.Keeps, h != nil, "Info.Keeps says whether there is a history")
	if h == nil {
		s.Skip("this target keeps nothing of the past")
	}
	return h
}

// keep keeps contents that must be there.
func (s *suite) keep(keeps ...target.Keep) {
	s.Helper()
	errs := s.History().Keep(s.Context(), keeps)
	require.Len(s, errs, len(keeps))
	for i, err := range errs {
		require.NoErrorf(s, err, "keep %q", keeps[i].Path)
	}
}

func (s *suite) forget(names ...target.KeptName) {
	s.Helper()
	for i, err := range s.History().Remove(s.Context(), names) {
		require.NoErrorf(s, err, "remove %s", names[i])
	}
}

func (s *suite) kept(k target.Keep) string {
	s.Helper()
	return string(readAll(s, func() (io.ReadCloser, error) { return s.History().Open(s.Context(), k.Name) }))
}

func (s *suite) keptNames() (names []target.KeptName) {
	s.Helper()
	require.NoError(s, s.History().List(s.Context(), func(k target.Kept) error {
		names = append(names, k.Name)
		return nil
	}))
	slices.Sort(names)
	return names
}

// keeping: what is kept is what was there, whatever comes after, and whoever does it again.
func keeping(s *suite) {
	s.keeps()
	assert.Empty(s, s.keptNames())
	s.put("d/f", "old one")
	s.put("g", "other")
	f, g := keepOf("d/f", "old one"), keepOf("g", "other")
	s.keep(f, g)
	s.keep(f)
	assert.Equal(s, "old one", s.content("d/f"), "it is there still")
	assert.Equal(s, []string{"d", "d/f", "g"}, s.list(""), "what is kept is no part of the mirror")
	replace := s.putChange("d/f", []byte("new one")) // of the same length
	s.commit(replace, del("g"))
	// A batch that was cut short does all of it again.
	s.reopenIfPossible()
	s.keep(f, g)
	s.commit(replace, del("g"))
	assert.Equal(s, "old one", s.kept(f))
	assert.Equal(s, "other", s.kept(g))
	assert.Equal(s, "new one", s.content("d/f"))
	want := []target.KeptName{f.Name, g.Name}
	slices.Sort(want)
	assert.Equal(s, want, s.keptNames())
	require.NoError(s, s.History().List(s.Context(), func(k target.Kept) error {
		if k.Name == f.Name {
			assert.EqualValues(s, len("old one"), k.Size)
		}
		return nil
	}))
	// The next version of the path is another content, the first one again has the same name.
	next := keepOf("d/f", "new one")
	s.keep(next)
	s.put("d/f", "old one")
	s.keep(f)
	assert.Equal(s, "new one", s.kept(next))
	for range 2 {
		s.forget(f.Name)
	}
	_, err := s.History().Open(s.Context(), f.Name)
	require.ErrorIs(s, err, fs.ErrNotExist)
	assert.Equal(s, "old one", s.content("d/f"), "the mirror has its own")
	assert.Equal(s, "new one", s.kept(next))
}

// keptStays: what is kept shares nothing with the mirror that can change its bytes.
func keptStays(s *suite) {
	s.keeps()
	s.commit(s.putChange("leader", []byte("shared")), target.Change{Op: target.OpLink, Path: "link", Desc: s.hardlink("leader", []byte("shared"))})
	k := keepOf("leader", "shared")
	s.keep(k)
	d := s.own(file([]byte("shared")))
	d.Meta.Mode, d.Meta.MtimeNs = 0o400, someTime+5_000_000_000
	s.commit(target.Change{Op: target.OpMeta, Path: "leader", Desc: d}, target.Change{Op: target.OpMeta, Path: "link", Desc: d})
	assert.Equal(s, "shared", s.kept(k))
	s.put("leader", "another")
	assert.Equal(s, "shared", s.kept(k))
	assert.Equal(s, "shared", s.content("link"), "a link whose leader is replaced has its content still")
	s.forget(k.Name)
	assert.Equal(s, "shared", s.content("link"))
}

// keptNothing: a path that does not have what is to be kept is told, and nothing is kept of it.
func keptNothing(s *suite) {
	h := s.keeps()
	s.commit(s.putChange("f", []byte("four")), s.mkdirChange("d"))
	fine := keepOf("f", "four")
	bad := []target.Keep{keepOf("none", "x"), keepOf("none/below", "x"), keepOf("f/below", "x"), keepOf("d", "x"), keepOf("f", "five!")}
	errs := h.Keep(s.Context(), append([]target.Keep{fine}, bad...))
	require.NoError(s, errs[0], "one failure stops nothing")
	for i := range bad {
		require.ErrorIs(s, errs[i+1], target.ErrNotThere, bad[i].Path)
	}
	assert.Equal(s, []target.KeptName{fine.Name}, s.keptNames())
	for _, k := range []target.Keep{{Path: "../x", Name: fine.Name}, {Path: ".forebay/x", Name: fine.Name}, {Path: "f", Name: "../f"}, {Path: "f", Name: "ab/cd"}, {Path: "f"}} {
		s.class(proto.ClassPermanent, h.Keep(s.Context(), []target.Keep{k})[0], k)
	}
	_, err := h.Open(s.Context(), "../../f")
	s.class(proto.ClassPermanent, err)
	errs = h.Remove(s.Context(), []target.KeptName{"../../f", fine.Name})
	s.class(proto.ClassPermanent, errs[0])
	require.NoError(s, errs[1], "one failure stops nothing")
	assert.Empty(s, s.keptNames())
	assert.Equal(s, "four", s.content("f"))
	if s.info.Carries.Symlinks { // what lies above a path is never followed
		s.commit(s.putChange("real/x", []byte("secret")), s.linkChange("way", "real"))
		require.ErrorIs(s, h.Keep(s.Context(), []target.Keep{keepOf("way/x", "secret")})[0], target.ErrNotThere)
	}
}

// keptQuietly: a reader of the mirror sees the old object or the new one, at every moment.
func keptQuietly(s *suite) {
	s.keeps()
	s.put("p", "0000")
	s.watchWhile(func() {
		e, err := s.Stat(s.Context(), "p")
		if s.caps.Gap && errors.Is(err, fs.ErrNotExist) || !assert.NoError(s, err) {
			return
		}
		assert.EqualValues(s, 4, e.Desc.Size)
	}, func() {
		for i, last := 1, "0000"; i <= 10; i++ {
			s.keep(keepOf("p", last))
			last = string([]byte{'0', '0', '0', byte('0' + i%10)})
			s.put("p", last)
		}
	})
	assert.Len(s, s.keptNames(), 10)
}
