package proto

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMetaSum(t *testing.T) {
	t.Parallel()
	m := Meta{Mode: 0o644, UID: 1, GID: 2, User: "a", Group: "b", MtimeNs: 5, Xattrs: []Xattr{{Name: "user.x", Value: []byte{1}}, {Name: "user.y"}}}
	var back Meta
	require.NoError(t, Unmarshal(Marshal(m), &back))
	assert.Equal(t, m.Sums(), back.Sums(), "both ends come to the same")
	none := Meta{Xattrs: []Xattr{}}
	require.NoError(t, Unmarshal(Marshal(none), &back))
	assert.Equal(t, none.Sums(), Meta{}.Sums())
	assert.NotZero(t, MetaSum(none.Sums()))

	touched := m
	touched.MtimeNs++
	assert.Equal(t, MetaSum(m.Sums()), MetaSum(touched.Sums()), "an mtime may be each replica's own")
	for name, change := range map[string]func(*Meta){
		"mode":           func(m *Meta) { m.Mode = 0o600 },
		"uid":            func(m *Meta) { m.UID = 2 },
		"names move":     func(m *Meta) { m.User, m.Group = "ab", "" },
		"an xattr":       func(m *Meta) { m.Xattrs = m.Xattrs[:1] },
		"an xattr value": func(m *Meta) { m.Xattrs = []Xattr{{Name: "user.x", Value: []byte{2}}, m.Xattrs[1]} },
	} {
		other := m
		change(&other)
		assert.NotEqual(t, MetaSum(m.Sums()), MetaSum(other.Sums()), name)
	}
}
