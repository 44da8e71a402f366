package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// What small objects cost on the wire between agents and relay, as it is counted in between: everything but their content, with the headers of
// HTTP, the segments' and the polls of the time that it took. The bus comes on top; internal/scale counts it (TestSmallObjectsCostLittle).
func TestSmallObjectsOnTheWire(t *testing.T) {
	t.Parallel()
	const objects, size, folders = 20_000, 512, 20
	names := []string{"alpha", "beta", "gamma"}
	sp := spec{proxied: true, links: []link{{name: "media-nas", from: "primary/media", to: "nas"}}}
	for _, n := range names {
		sp.nodes = append(sp.nodes, nodeSpec{name: n, datasets: []string{"media"}})
	}
	s := runs(t, sp, func(s *site) {
		s.fill("media", func(tr *tree) {
			for f := range folders {
				tr.dir(fmt.Sprintf("run-%05d", f), 0o755)
				for i := range objects / folders {
					tr.file(fmt.Sprintf("run-%05d/sample-%08d.dat", f, i), size)
				}
			}
		}, names...)
	})
	s.acknowledged("media-nas")
	s.until("all holders to have told what they have", func() bool {
		for _, n := range names {
			if s.node(n).UnsentObjects != 0 {
				return false
			}
		}
		return true
	})
	control := int64(-objects * size)
	for _, n := range names {
		p := s.nodes[n].proxy
		control += p.sent.Load() + p.got.Load()
	}
	each := float64(control) / float64(objects*len(names))
	t.Logf("%.1f bytes an object and holder", each)
	require.Positive(t, control)
	require.Less(t, each, 150.0)
}
