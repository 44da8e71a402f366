// Package shard codes segments into Reed-Solomon shards and back. A segment of any length becomes Data equal pieces and
// Parity pieces computed from them; any Data of those give the segment back. Each shard carries a header of its own, so that
// a swapped, truncated, stale or foreign one is recognised before its bytes are used, and never mixed in (I3).
//
// In the flow it stands between the relay's ingest, which hands in whole stamped segments, and package store, which keeps
// the shards on disks. It is pure: bytes in, bytes out, no clock, no I/O, no goroutines that outlive a call. It imports proto
// and proto/segment, and is the only package that may import reedsolomon; it must not import pebble, ledger or relay.
package shard
