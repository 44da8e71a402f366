package relayd

import (
	"forebay/flush"
	"forebay/proto"
)

// What of the memory that the relay may use goes to flushing, where that is limited: shared equally by the links. See
// relay/memory.go for what takes the rest.
const (
	flushPart  = 4 // a quarter for the segments that the links send from
	targetPart = 8 // an eighth for what is on its way in the drivers
)

// flushWorkers is how many contents a link stages at once, each with a segment in memory; 0 leaves it to the flush.
func flushWorkers(memory int64, links int) int {
	if memory == 0 {
		return 0
	}
	return int(min(max(memory/flushPart/proto.MaxPayload/int64(max(links, 1)), 1), flush.DefaultWorkers))
}

// driverMemory is how many bytes the driver of a link may hold; 0 leaves it to the driver.
func driverMemory(memory int64, links int) int64 { return memory / targetPart / int64(max(links, 1)) }
