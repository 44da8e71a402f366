// Package sim is the first layer of the fault harness: a whole system in one thread, with time, network, disks and crashes
// drawn from a seed. The relay (ledger, stores, sessions, arbitration, judgement of deletes, sweep) and the flush engine are the
// code that ships, on a file system in memory, driven by Relay.Round and Engine.Step. Agents are models around the decisions
// that ship (agent/settle, agent/pick, agent/scan.Decide, agent/heard, agent/gossip), for their shells are loops around files. Targets, the network and the application that
// changes replicas are models. An oracle that knows the truth checks the invariants after every step.
//
// All of it is in the tests, so that nothing that ships imports it. The same seed and commit give the same trace.
package sim
