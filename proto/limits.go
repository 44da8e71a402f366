package proto

import "time"

// Limits of the protocol. Both sides check them; a message over a limit is refused with ClassPermanent.
const (
	MaxPath        = 4096      // bytes of an object's path
	SegmentTarget  = 8 << 20   // payload bytes at which a segment is sent
	MaxPayload     = 8 << 20   // payload bytes of a segment at most; objects up to this size travel whole
	MaxHeader      = 8 << 20   // header bytes of a segment at most
	MaxPieces      = 65536     // pieces of a segment at most
	MaxClaims      = 1000      // claims in one message
	MaxClaimBytes  = 512 << 10 // encoded bytes of a claim message after which the rest goes into the next
	MaxMessage     = 4 << 20   // encoded bytes of any message but a segment
	MaxBusMessage  = 512 << 10 // bytes of a message on the bus
	DefaultWindow  = 32 << 20  // payload bytes that an agent may have unacknowledged
	MaxXattrBytes  = 1 << 20   // bytes of all extended attributes of one object
	DefaultRelay   = "http://127.0.0.1:7480"
	DefaultListen  = "127.0.0.1:7480"
	DefaultBusAddr = "127.0.0.1:7422"
)

// Default times. Suspicion is the silence after which a lease ends; the relay tells agents the value in force.
const (
	DefaultSuspicion = 3 * time.Second
	GossipInterval   = 250 * time.Millisecond
	SettleTime       = 2 * time.Second // a file is sealed only when its ctime is this old
)

// Lull is how long news gather while there are many: no longer than from one poll to the next, so that whoever waits for its turn, a
// suspicion time, knows by then what was sealed.
func Lull(suspicion time.Duration) time.Duration { return min(suspicion/3, time.Second) }
