package conformance

import "os"

// owner returns whom files of this process belong to.
func owner() (uid, gid uint32) { return uint32(os.Geteuid()), uint32(os.Getegid()) }
