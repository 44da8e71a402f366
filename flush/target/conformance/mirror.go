package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// createsOnce has eight make a record at once, where the target can do that.
func createsOnce(s *suite) {
	rec, ctx := s.Records(), s.Context()
	errs := make([]error, 8)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() { errs[i] = target.Create(ctx, rec, "once/x", fmt.Appendf(nil, "by %d", i)) })
	}
	all.Wait()
	if errors.Is(errs[0], errors.ErrUnsupported) {
		require.False(s, s.caps.Creates)
		return
	}
	require.True(s, s.caps.Creates)
	var made []int
	for i, err := range errs {
		if err == nil {
			made = append(made, i)
			continue
		}
		require.ErrorIs(s, err, fs.ErrExist)
		s.class(proto.ClassConflict, err)
	}
	require.Len(s, made, 1)
	has := func() string {
		return string(readAll(s, func() (io.ReadCloser, error) { return rec.Open(ctx, "once/x") }))
	}
	require.Equal(s, fmt.Sprintf("by %d", made[0]), has())
	require.NoError(s, rec.Put(ctx, "once/x", []byte("over it")))
	require.ErrorIs(s, target.Create(ctx, rec, "once/x", []byte("late")), fs.ErrExist)
	require.Equal(s, "over it", has())
	require.NoError(s, rec.Remove(ctx, "once/x"))
	require.NoError(s, target.Create(ctx, rec, "once/x", []byte("again")))
	names, err := rec.List(ctx, "once")
	require.NoError(s, err)
	require.Equal(s, []string{"x"}, names)
}

func records(s *suite) {
	rec, ctx := s.Records(), s.Context()
	_, err := rec.Open(ctx, "a/none")
	require.ErrorIs(s, err, fs.ErrNotExist)
	names, err := rec.List(ctx, "a")
	require.NoError(s, err)
	require.Empty(s, names, "a missing folder is empty")
	big := pattern(3 << 20)
	require.NoError(s, rec.Put(ctx, "a/z", []byte("old")))
	require.NoError(s, rec.Put(ctx, "a/z", big))
	require.NoError(s, rec.Put(ctx, "a/b.1_x-y", nil))
	require.NoError(s, rec.Put(ctx, "a/deep/er", []byte("x")))
	s.reopenIfPossible()
	rec = s.Records()
	assert.True(s, bytes.Equal(big, readAll(s, func() (io.ReadCloser, error) { return rec.Open(ctx, "a/z") })))
	names, err = rec.List(ctx, "a")
	require.NoError(s, err)
	assert.Equal(s, []string{"b.1_x-y", "z"}, names)
	for range 2 {
		require.NoError(s, rec.Remove(ctx, "a/z"))
	}
	_, err = rec.Open(ctx, "a/z")
	require.ErrorIs(s, err, fs.ErrNotExist)
	for _, bad := range []string{"", "..", "a/../b", "/a", "a//b", ".a", "a/.b", "stage/x", "a b", "a\x00"} {
		s.class(proto.ClassPermanent, rec.Put(ctx, bad, nil), bad)
		_, err := rec.Open(ctx, bad)
		s.class(proto.ClassPermanent, err, bad)
		s.class(proto.ClassPermanent, rec.Remove(ctx, bad), bad)
	}
	assert.Empty(s, s.list(""), "records are no part of the mirror")
	// A reader sees one whole record or the other.
	a, b := pattern(100_000), bytes.Repeat([]byte("b"), 150_000)
	require.NoError(s, rec.Put(ctx, "swap", a))
	s.watchWhile(func() {
		r, err := s.look(ctx, proto.ReservedName+"/swap")
		if s.caps.Gap && errors.Is(err, fs.ErrNotExist) {
			return
		}
		got := readAll(s, func() (io.ReadCloser, error) { return r, err })
		assert.True(s, bytes.Equal(a, got) || bytes.Equal(b, got), "a torn record")
	}, func() {
		for range 20 {
			assert.NoError(s, rec.Put(ctx, "swap", b))
			assert.NoError(s, rec.Put(ctx, "swap", a))
		}
	})
}

// watchWhile calls look again and again while do runs.
func (s *suite) watchWhile(look, do func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // ends when do has returned
		for {
			select {
			case <-done:
				return
			default:
				look()
			}
		}
	})
	do()
	close(done)
	wg.Wait()
}

func listOrder(s *suite) {
	for _, p := range []string{"a/x", "a-b", "a0", "a/x-y", "a/x/1", "b/c/d", "a/", "Z"} {
		switch p {
		case "a/x":
			s.commit(s.mkdirChange(p))
		case "a/":
			s.commit(s.mkdirChange("a-"), s.putChange("a-/in", []byte("1")))
		default:
			s.put(p, p)
		}
	}
	want := []string{"Z", "a", "a-", "a-/in", "a-b", "a/x", "a/x-y", "a/x/1", "a0", "b", "b/c", "b/c/d"}
	require.True(s, slices.IsSorted(want))
	assert.Equal(s, want, s.list(""))
	assert.Equal(s, []string{"a", "a/x", "a/x-y", "a/x/1"}, s.list("a"))
	assert.Equal(s, []string{"a/x-y"}, s.list("a/x-y"))
	stop := errors.New("enough")
	n := 0
	require.ErrorIs(s, s.List(s.Context(), "", func(target.Entry) error { n++; return stop }), stop)
	assert.Equal(s, 1, n)
}

func hostilePaths(s *suite) {
	ctx := s.Context()
	for _, bad := range []string{"", ".", "..", "../x", "a/../../x", "/etc/x", "a//b", "a/./b", "a/", "nul\x00x", ".forebay", ".forebay/stage/x", "a/.forebay", strings.Repeat("n", 256), strings.Repeat("p/", 3000) + "x"} {
		for _, c := range []target.Change{
			{Op: target.OpMkdir, Path: bad, Desc: s.own(folder())}, {Op: target.OpSymlink, Path: bad, Desc: s.own(symlink("x"))}, del(bad),
			{Op: target.OpMeta, Path: bad, Desc: s.own(folder())}, {Op: target.OpLink, Path: bad, Desc: s.hardlink("x", nil)},
		} {
			s.class(proto.ClassPermanent, s.commitOne(c), bad)
		}
		c := s.putChange("x", []byte("x"))
		c.Path = bad
		s.class(proto.ClassPermanent, s.commitOne(c), bad)
		_, err := s.Open(ctx, bad)
		s.class(proto.ClassPermanent, err, bad)
		_, err = s.Stat(ctx, bad)
		s.class(proto.ClassPermanent, err, bad)
		if bad != "" {
			s.class(proto.ClassPermanent, s.List(ctx, bad, func(target.Entry) error { return nil }), bad)
		}
	}
	assert.Empty(s, s.list(""))
}

func oddNames(s *suite) {
	if !s.info.Carries.RawNames {
		s.Skip("this target's names are not bytes")
	}
	names := []string{"new\nline", "\xff\xfe", "back\\slash", "sp ace", "-rf", "~", "…", "*", "\x01\x7f", strings.Repeat("n", 255), "Case", "case"}
	if s.info.CaseFolds {
		names = names[:len(names)-1]
	}
	for i, n := range names {
		s.put("d/"+n, fmt.Sprint(i))
		s.put("e"+fmt.Sprint(i)+"/"+n+"/f", fmt.Sprint(i))
	}
	var want []string
	for i, n := range names {
		assert.Equal(s, fmt.Sprint(i), s.content("d/"+n))
		want = append(want, "d/"+n)
	}
	assert.Equal(s, sortedCopy(append(want, "d")), s.list("d"))
}

func concurrent(s *suite) {
	const workers, each = 8, 10
	var changes [workers][]target.Change
	for w := range workers {
		for i := range each {
			c := []byte(strings.Repeat(fmt.Sprintf("%d.%d ", w, i), 1000))
			changes[w] = append(changes[w], target.Change{Op: target.OpPut, Path: fmt.Sprintf("d%d/f%d-%d", i%3, w, i),
				Stage: target.StageID(fmt.Sprintf("w%d-%d", w, i)), Desc: s.own(file(c))})
		}
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { // ends when its objects are committed
			var ids []target.StageID
			for i, c := range changes[w] {
				st, err := s.Stage(s.Context(), target.Content{ID: c.Stage, Size: c.Desc.Size})
				if !assert.NoError(s, err) {
					return
				}
				_, err = st.Write([]byte(strings.Repeat(fmt.Sprintf("%d.%d ", w, i), 1000)))
				assert.NoError(s, err)
				assert.NoError(s, st.Close())
				ids = append(ids, c.Stage)
			}
			assert.NoError(s, s.Barrier(s.Context(), ids))
			for _, err := range s.Commit(s.Context(), changes[w]) {
				assert.NoError(s, err)
			}
		})
	}
	wg.Wait()
	for w := range workers {
		for i, c := range changes[w] {
			assert.Equal(s, strings.Repeat(fmt.Sprintf("%d.%d ", w, i), 1000), s.content(c.Path))
		}
	}
}

func cancel(s *suite) {
	c := s.putChange("f", []byte("f"))
	ctx, stop := context.WithCancel(s.Context())
	stop()
	require.ErrorIs(s, s.Commit(ctx, []target.Change{c})[0], context.Canceled)
	_, err := s.Stage(ctx, target.Content{ID: "other", Size: 1})
	require.ErrorIs(s, err, context.Canceled)
	_, err = s.Probe(ctx)
	require.ErrorIs(s, err, context.Canceled)
	require.ErrorIs(s, s.List(ctx, "", func(target.Entry) error { return nil }), context.Canceled)
	require.ErrorIs(s, s.Barrier(ctx, []target.StageID{c.Stage}), context.Canceled)
	require.ErrorIs(s, s.Records().Put(ctx, "x", nil), context.Canceled)
	assert.Empty(s, s.list(""))
	s.commit(c)
	assert.Equal(s, "f", s.content("f"))
}

// noPartial: whoever looks at an object while it is replaced sees the one or the other (I10).
func noPartial(s *suite) {
	a, b := pattern(1_000_000), bytes.Repeat([]byte("b"), 700_000)
	s.commit(s.putChange("o", a))
	ctx := context.WithoutCancel(s.Context())
	s.watchWhile(func() {
		r, err := s.look(ctx, "o")
		if s.caps.Gap && errors.Is(err, fs.ErrNotExist) || !assert.NoError(s, err) {
			return
		}
		got, err := io.ReadAll(r)
		assert.NoError(s, err)
		assert.NoError(s, r.Close())
		assert.True(s, bytes.Equal(a, got) || bytes.Equal(b, got), "a partial object of %d bytes", len(got))
		e, err := s.Stat(ctx, "o")
		if s.caps.Gap && errors.Is(err, fs.ErrNotExist) || !assert.NoError(s, err) {
			return
		}
		if s.info.Carries.Mtime {
			s.sameTime(someTime, e.Desc.Meta.MtimeNs, "metadata came later than the content")
		}
	}, func() {
		for range 10 {
			s.commit(s.putChange("o", b))
			s.commit(s.putChange("o", a))
		}
	})
}
