// Package scale runs a whole primary cluster, a thousand agents with three replicas of everything, against one relay, in one thread
// and in simulated time, and counts what that costs: messages, bytes, CPU, memory, and how long an object waits for its first upload.
//
// The relay is the one that ships (relay.Open, driven by Round), with its ledger and stores on a real file system that skips only
// fsync. What agents decide is decided by the code that ships (agent/settle, agent/pick, agent/scan.Decide, agent/heard, agent/gossip),
// every message is encoded and decoded as on the wire, and the relay's CPU time is the process's own while a handler runs. Models are:
// the loops around those decisions, the network, the disks of the nodes, and the content of objects, which is a few bytes that stand for
// as many as the object is said to have. Objects are at most one segment (8 MiB) each.
//
// All of it is in the tests, so that nothing that ships imports it. Equal seeds give equal counts; times of the CPU are measured and
// differ. docs/scale.md is rendered from what `make scale` finds.
package scale
