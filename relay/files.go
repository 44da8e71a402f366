package relay

import (
	"forebay/internal/openfiles"
	"forebay/proto"
	"forebay/shard/store"
)

const (
	// restFiles is how many files are left for all but ledger and stores: connections, targets, the bus.
	restFiles = 256
	// From which parts of the limit on the files that are open are shown. What comes beyond it fails: a connection is not taken, a table not
	// opened, and its store counts as failed until it is.
	manyFiles, tooManyFiles = 0.8, 0.95
)

// openFiles is how many files the ledger, and each of the stores, may keep open. It fails with ClassPermanent where the process may not have as
// many as it takes.
func (c Config) openFiles() (int, error) {
	if c.FileLimit == 0 {
		return store.DefaultOpenFiles, nil
	}
	return openfiles.Divide(c.FileLimit, len(c.Stores)+1, store.LeastOpenFiles, store.DefaultOpenFiles, restFiles)
}

// files finds a process that is about to run out of files that it may have open.
func (f *finder) files(limit int) {
	used, err := openfiles.Used()
	if err != nil || limit == 0 { // without /proc nobody knows
		return
	}
	health, short := shortage(float64(used)/float64(limit), manyFiles, tooManyFiles)
	if !short {
		return
	}
	f.add("open-files", health, "raise LimitNOFILE of the relay's unit, or ulimit -n where it is started, and restart it; each agent takes some for its connections",
		"open files: %d of the %d that the relay may have open are", used, limit)
}

// shortage is the health of what has used up a part of a limit: from yellow on it is short, and from red on it is worse.
func shortage(part, yellow, red float64) (health proto.Health, short bool) {
	if part >= red {
		return proto.Red, true
	}
	return proto.Yellow, part >= yellow
}
