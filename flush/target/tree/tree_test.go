package tree

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"forebay/flush/target"
	"forebay/proto"
)

// Whatever is in a tree, it is told whole and in the order of its paths' bytes.
func TestWalkIsInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(rapid.StringMatching(`[a-b]([-./0]?[a-b]){0,3}`), 0, 12).Draw(t, "paths")
		all := map[string]proto.Kind{}
		for _, p := range names {
			for i := range p {
				if p[i] == '/' {
					all[p[:i]] = proto.KindDir
				}
			}
			if all[p] == proto.KindNone {
				all[p] = proto.KindFile
			}
		}
		read := func(dir string) (out []target.Entry, err error) {
			for p, kind := range all {
				if rest, ok := strings.CutPrefix(p, Join(dir, "x")[:len(Join(dir, "x"))-1]); ok && rest != "" && !strings.Contains(rest, "/") {
					out = append(out, target.Entry{Path: p, Desc: proto.Desc{Kind: kind}})
				}
			}
			return out, nil
		}
		var got []string
		require.NoError(t, Walk(context.Background(), "", read, func(e target.Entry) error {
			got = append(got, e.Path)
			return nil
		}))
		require.True(t, slices.IsSorted(got), "%q", got)
		require.Len(t, got, len(all))
	})
}

func TestWalkStops(t *testing.T) {
	t.Parallel()
	enough := errors.New("enough")
	read := func(string) ([]target.Entry, error) { return []target.Entry{{Path: "b"}, {Path: "a"}}, nil }
	var got []string
	require.ErrorIs(t, Walk(t.Context(), "", read, func(e target.Entry) error {
		got = append(got, e.Path)
		return enough
	}), enough)
	require.Equal(t, []string{"a"}, got)
	require.ErrorIs(t, Walk(t.Context(), "", func(string) ([]target.Entry, error) { return nil, enough }, nil), enough)
}
