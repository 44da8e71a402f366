package relay

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestLetGo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		used, goal int64
		links      []holding
		want       []int64
	}{
		"nobody is stalled":                      {90, 70, nil, []int64{}},
		"beyond its share":                       {90, 70, []holding{{60, 50}}, []int64{10}},
		"no more than is needed":                 {75, 70, []holding{{60, 50}}, []int64{5}},
		"within its share, and others make room": {90, 70, []holding{{40, 50}}, []int64{0}},
		"a share that is more than may stay":     {90, 70, []holding{{88, 90}}, []int64{18}},
		"a large object needs what it may have":  {45, 10, []holding{{45, 50}}, []int64{35}},
		"several, each within its share":         {66, 50, []holding{{33, 33}, {33, 33}}, []int64{16, 0}},
		"several, one beyond":                    {100, 70, []holding{{30, 33}, {60, 33}}, []int64{0, 27}},
		"nothing is needed":                      {60, 70, []holding{{60, 10}}, []int64{0}},
		"links that share what they have cached": {80, 70, []holding{{80, 50}, {80, 50}}, []int64{10, 0}},
	} {
		assert.Equal(t, c.want, letGo(c.used, c.goal, c.links), name)
	}
}
