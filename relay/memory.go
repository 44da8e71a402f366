package relay

import (
	"runtime/metrics"

	"forebay/proto"
)

// What of the memory that the relay may use goes to what, where that is limited. The rest is for their coding, for flush and repair, which hold a
// segment for each of their workers, for targets and for the program itself.
const (
	segmentPart = 4 // a quarter for segments on their way in
	blockPart   = 8 // an eighth for the ledger's blocks

	leastSegments, mostSegments = 2, 24
	leastBlocks, mostBlocks     = 4 << 20, 64 << 20 // with half of the most, taking in 300,000 small objects cost half as much again
)

// Segments is how many segments may be read from the network or wait for their commit group at once. With it, memory is bounded by the relay,
// whatever the number of agents.
func (r *Relay) Segments() int {
	return int(within(r.cfg.Memory/segmentPart/proto.MaxPayload, leastSegments, mostSegments, r.cfg.Memory))
}

// blockCache is how many bytes of the ledger's blocks are held in memory.
func (c Config) blockCache() int64 {
	return within(c.Memory/blockPart, leastBlocks, mostBlocks, c.Memory)
}

// within is n between least and most, and most where memory is not limited.
func within(n, least, most, memory int64) int64 {
	if memory == 0 {
		return most
	}
	return min(max(n, least), most)
}

// From which parts of the limit on what the Go runtime keeps within is shown: of it, what is in use when all else is collected.
const (
	littleMemory, tooLittleMemory = 0.75, 0.9
)

// memory finds a process whose memory is hardly enough: the runtime is busy collecting, and beyond the limit the kernel ends it.
func (f *finder) memory(limit int64) {
	if limit == 0 {
		return
	}
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	used := s[0].Value.Uint64()
	health, short := shortage(float64(used)/float64(limit), littleMemory, tooLittleMemory)
	if !short {
		return
	}
	f.add("little-memory", health, "raise MemoryMax of the relay's unit, the limit of its container, or GOMEMLIMIT, and restart it; links and their targets take some each",
		"memory: the relay holds %d MiB, and may use %d", used>>20, limit>>20)
}
