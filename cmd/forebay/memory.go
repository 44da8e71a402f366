package main

import (
	"math"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// memoryShare is the part of what a unit or container may use that the Go runtime keeps within. The rest is for what it does not count, such as
// the kernel's buffers for connections and pages of files on their way to the disk.
const memoryShare = 0.9

// limitMemory has the Go runtime collect sooner where this process may not use all of the machine's memory: by itself it lets the heap grow to twice
// what is in use, and the kernel would end the process. GOMEMLIMIT has the last word. It returns how many bytes the runtime keeps within, 0 for as
// many as there are.
func limitMemory() int64 {
	limit, _ := memlimit.Set(memlimit.WithRatio(memoryShare)) // fails where there are no control groups: nothing is limited by them then
	if limit == math.MaxInt64 {
		return 0
	}
	return limit
}
