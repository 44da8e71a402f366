package scale

import (
	"math"
	"strconv"

	"forebay/agent/pick"
	"forebay/proto"
)

// spread is what each node is first for, of all objects.
type spread struct {
	objects []int64 // how many
	skewed  []int64 // bytes, where sizes are log-normal
	heavy   []int64 // bytes, where they are Pareto's with α = 1.2: a few objects are most of the bytes
	within  float64 // the largest share of a holder in its dataset, of objects, over a third
}

// streamPick asks agent/pick who is first for each of the objects of as many datasets as nodes, three holders each. Sizes follow from the
// seed and the object's number.
func streamPick(seed uint64, nodes, objects int) (s spread) {
	s.objects, s.skewed, s.heavy = make([]int64, nodes), make([]int64, nodes), make([]int64, nodes)
	each := objects / nodes
	members := make([]proto.HolderID, replicas)
	path := make([]byte, 0, 64)
	for d := range nodes {
		for k := range members {
			members[k] = proto.HolderID(replicas*((d+k)%nodes) + (replicas - k)) // as they come to be numbered, node by node
		}
		var by [replicas]int64
		for n := range each {
			path = append(append(path[:0], "projects/"...), strconv.Itoa(d)...)
			path = append(strconv.AppendInt(append(path, "/run/sample-"...), int64(n), 10), ".dat"...)
			name := string(path)
			first := 0
			for first < replicas-1 && pick.Rank(name, members[first], members) != 0 {
				first++
			}
			at := (d + first) % nodes
			u, v := uniform(seed, uint64(d*each+n))
			by[first]++
			s.objects[at]++
			s.skewed[at] += int64(math.Exp(math.Log(16<<10) + 2*math.Sqrt(-2*math.Log(u))*math.Cos(2*math.Pi*v)))
			s.heavy[at] += int64(4096 * math.Pow(u, -1/1.2))
		}
		s.within = max(s.within, imbalance(by[:]))
	}
	return s
}

// uniform gives two numbers in (0, 1] by SplitMix64.
func uniform(seed, n uint64) (u, v float64) {
	next := func(x uint64) float64 {
		x += 0x9e3779b97f4a7c15
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		return (float64((x^x>>31)>>11) + 1) / (1 << 53)
	}
	return next(seed<<40 + 2*n), next(seed<<40 + 2*n + 1)
}
