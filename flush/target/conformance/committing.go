package conformance

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// replaceKinds puts each kind in the place of each other.
func replaceKinds(s *suite) {
	kinds := map[proto.Kind]func(path, text string) target.Change{
		proto.KindFile: func(path, text string) target.Change { return s.putChange(path, []byte(text)) },
		proto.KindDir:  func(path, _ string) target.Change { return s.mkdirChange(path) },
	}
	if s.info.Carries.Symlinks {
		kinds[proto.KindSymlink] = s.linkChange
	}
	for from, before := range kinds {
		for to, after := range kinds {
			p := fmt.Sprintf("dir/%d-%d", from, to)
			s.commit(before(p, "old"))
			s.commit(after(p, "new"))
			e, err := s.Stat(s.Context(), p)
			require.NoError(s, err)
			require.Equalf(s, to, e.Desc.Kind, "%s in the place of a %s", to, from)
			switch to {
			case proto.KindFile:
				assert.Equal(s, "new", s.content(p))
			case proto.KindSymlink:
				assert.Equal(s, "new", e.Desc.LinkTo)
			}
		}
	}
	assert.NoError(s, s.Unstage(s.Context(), func(target.StageID) bool { return false }))
}

func notEmpty(s *suite) {
	s.commit(s.mkdirChange("d"), s.putChange("d/in", []byte("in")))
	put := s.putChange("d", []byte("file"))
	s.class(proto.ClassTransient, s.commitOne(put))
	s.class(proto.ClassTransient, s.commitOne(del("d")))
	assert.Equal(s, "in", s.content("d/in"))
	s.commit(del("d/in"), put)
	assert.Equal(s, "file", s.content("d"))
	s.commit(del("d"))
	assert.Empty(s, s.list(""), "a file in the place of a directory is deleted like any other")
}

func repeat(s *suite) {
	changes := []target.Change{s.mkdirChange("d"), s.putChange("d/f", []byte("content")), s.putChange("e", nil), s.putChange("g", []byte("g")), del("d/none"), del("nowhere/none"),
		{Op: target.OpMeta, Path: "g", Desc: s.own(file([]byte("g")))}}
	if s.info.Carries.Symlinks {
		changes = append(changes, s.linkChange("l", "../../etc/passwd"))
	}
	changes = append(changes, target.Change{Op: target.OpLink, Path: "h", Desc: s.hardlink("d/f", []byte("content"))})
	for range 3 {
		s.commit(changes...)
	}
	s.reopenIfPossible()
	s.commit(changes...)
	assert.Equal(s, "content", s.content("d/f"))
	assert.Equal(s, "content", s.content("h"))
	for range 2 {
		s.commit(del("d/f"), del("d"), del("e"), del("h"))
	}
	assert.NotContains(s, s.list(""), "d")
}

func (s *suite) reopenIfPossible() {
	if s.caps.Reopen != nil {
		s.Target = s.caps.Reopen(s.T, s.Target)
	}
}

func (s *suite) hardlink(to string, content []byte) proto.Desc {
	d := s.own(file(content))
	d.Kind, d.LinkTo = proto.KindHardlink, to
	return d
}

// stageLost: a put whose content is gone must not pass because the older version is there.
func stageLost(s *suite) {
	s.put("p", "old")
	c := s.putChange("p", []byte("new content"))
	require.NoError(s, s.Unstage(s.Context(), func(target.StageID) bool { return false }))
	assert.Error(s, s.commitOne(c))
	assert.Equal(s, "old", s.content("p"))
}

func deletes(s *suite) {
	s.commit(s.putChange("a/b/c", []byte("c")), s.putChange("a/b/d", []byte("d")), s.mkdirChange("a/e"))
	s.commit(del("a/b/c"), del("a/b/d"), del("a/b"), del("a/e"), del("a"))
	assert.Empty(s, s.list(""))
	// Below a file there is nothing.
	s.put("f", "file")
	s.commit(del("f/x/y"))
	assert.Equal(s, "file", s.content("f"))
	if !s.info.Carries.Symlinks {
		return
	}
	// Below a link neither, wherever it leads.
	s.commit(s.putChange("real/x", []byte("x")), s.linkChange("link", "real"))
	s.commit(del("link/x"))
	assert.Equal(s, "x", s.content("real/x"))
	assert.Error(s, s.commitOne(s.putChange("link/y", []byte("y"))))
	assert.NotContains(s, s.list(""), "real/y")
}

func links(s *suite) {
	content := []byte("shared")
	link := func(path, to string) target.Change {
		return target.Change{Op: target.OpLink, Path: path, Desc: s.hardlink(to, content)}
	}
	assert.Error(s, s.commitOne(link("l", "leader")), "there is nothing to share yet")
	s.commit(s.putChange("d/leader", content), link("l", "d/leader"), link("d/m", "d/leader"), link("d/leader2", "l"))
	for _, p := range []string{"l", "d/m", "d/leader2"} {
		assert.Equal(s, "shared", s.content(p))
		e, err := s.Stat(s.Context(), p)
		require.NoError(s, err)
		assert.Equal(s, proto.KindFile, e.Desc.Kind)
	}
	s.put("l", "own")
	assert.Equal(s, "shared", s.content("d/leader"), "a new object in the place of a link leaves the others alone")
	s.commit(link("l", "d/leader"))
	assert.Equal(s, "shared", s.content("l"))
	for _, bad := range []string{"", "..", "../x", "/etc/passwd", "l", ".forebay/x"} {
		assert.Error(s, s.commitOne(link("l", bad)), bad)
	}
}

func metadata(s *suite) {
	c := s.info.Carries
	want := s.own(file([]byte("m")))
	want.Meta.Mode = 0o604
	if c.Xattrs {
		want.Meta.Xattrs = []proto.Xattr{{Name: "user.forebay.test", Value: []byte{0, 1, 255}}}
	}
	change := s.putChange("m", []byte("m"))
	change.Desc = want
	s.commit(change)
	check := func(path string, want proto.Meta) {
		s.Helper()
		e, err := s.Stat(s.Context(), path)
		require.NoError(s, err)
		if c.Mode {
			assert.Equalf(s, want.Mode, e.Desc.Meta.Mode, "mode of %s", path)
		}
		if c.Mtime {
			s.sameTime(want.MtimeNs, e.Desc.Meta.MtimeNs, "mtime of %s", path)
		}
		if c.Xattrs {
			assert.Equalf(s, want.Xattrs, e.Desc.Meta.Xattrs, "xattrs of %s", path)
		}
	}
	check("m", want.Meta)
	want.Meta.Mode, want.Meta.MtimeNs, want.Meta.Xattrs = 0o400, -1_500_000_001, nil
	if c.Coarse { // and no times before 1970
		want.Meta.MtimeNs = 1_500_000_001
	}
	s.commit(target.Change{Op: target.OpMeta, Path: "m", Desc: want})
	check("m", want.Meta)
	assert.Equal(s, "m", s.content("m"))
	d := s.mkdirChange("d")
	s.commit(d)
	check("d", d.Desc.Meta)
	d.Op, d.Desc.Meta.Mode = target.OpMeta, 0o555
	s.commit(d)
	check("d", d.Desc.Meta)
	s.unlockAtEnd("d")
	assert.Error(s, s.commitOne(target.Change{Op: target.OpMeta, Path: "none", Desc: want}))
	assert.Error(s, s.commitOne(target.Change{Op: target.OpMeta, Path: "d", Desc: want}), "it is no file")
}

// directoryTimes: what happens in a directory does not change what is recorded of the directory, whatever its mode.
func directoryTimes(s *suite) {
	if !s.info.Carries.Mtime {
		s.Skip("this target has no times")
	}
	d := s.mkdirChange("d")
	d.Desc.Meta.Mode = 0o555
	sub := s.mkdirChange("d/sub")
	sub.Desc.Meta.Mode = 0o500
	check := func(when string) {
		s.Helper()
		for _, c := range []target.Change{d, sub} {
			e, err := s.Stat(s.Context(), c.Path)
			require.NoError(s, err)
			s.sameTime(c.Desc.Meta.MtimeNs, e.Desc.Meta.MtimeNs, "mtime of %s after %s", c.Path, when)
			if s.info.Carries.Mode {
				assert.Equalf(s, c.Desc.Meta.Mode, e.Desc.Meta.Mode, "mode of %s after %s", c.Path, when)
			}
		}
	}
	s.unlockAtEnd("d", "d/sub")
	s.commit(d, sub, s.putChange("d/f", []byte("1")), s.putChange("d/sub/g", []byte("2")))
	check("a batch that made them")
	s.commit(s.putChange("d/sub/h", []byte("3")), s.putChange("d/f", []byte("4")))
	check("puts")
	s.commit(s.mkdirChange("d/sub/new"), s.putChange("d/sub/made/for/it", []byte("5")))
	check("directories made in them")
	s.commit(del("d/sub/made/for/it"), del("d/sub/made/for"), del("d/sub/made"), del("d/sub/new"), del("d/f"))
	check("deletes")
	s.commit(del("d/sub/g"), del("d/sub/h"), del("d/sub"), s.putChange("d/sub", []byte("a file now")))
	e, err := s.Stat(s.Context(), "d")
	require.NoError(s, err)
	s.sameTime(d.Desc.Meta.MtimeNs, e.Desc.Meta.MtimeNs, "mtime of d in the end")
}

// unlockAtEnd gives directories a mode with which an ordinary user's test folder can be removed.
func (s *suite) unlockAtEnd(dirs ...string) {
	t := s.Target
	s.Cleanup(func() {
		for _, d := range dirs {
			_ = t.Commit(context.Background(), []target.Change{{Op: target.OpMeta, Path: d, Desc: s.own(folder())}}) // may be no directory any more
		}
	})
}

func oneFailure(s *suite) {
	good := s.putChange("good", []byte("good"))
	errs := s.Commit(s.Context(), []target.Change{
		{Op: target.OpPut, Path: "bad", Stage: "not-there", Desc: s.own(file([]byte("x")))}, good,
		{Op: 99, Path: "odd"}, s.mkdirChange("d"),
	})
	require.Len(s, errs, 4)
	assert.Error(s, errs[0])
	assert.NoError(s, errs[1])
	s.class(proto.ClassPermanent, errs[2])
	assert.NoError(s, errs[3])
	assert.Equal(s, "good", s.content("good"))
}

func notThere(s *suite) {
	s.put("f", "f")
	for _, p := range []string{"none", "none/deeper", "f/below"} {
		_, err := s.Open(s.Context(), p)
		require.ErrorIs(s, err, fs.ErrNotExist, p)
		_, err = s.Stat(s.Context(), p)
		require.ErrorIs(s, err, fs.ErrNotExist, p)
		require.Empty(s, s.list(p))
	}
	s.commit(s.mkdirChange("d"))
	_, err := s.Open(s.Context(), "d")
	require.Error(s, err)
}
