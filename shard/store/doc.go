// Package store keeps shards on disks: a Set of stores, each one pebble instance in a directory of its own, best on a disk
// of its own. In the flow it stands between the relay's ingest and the flush: ingest Puts commit groups of stamped segments,
// the flush Gets them, the sweep Frees and Heals them. What is where is the caller's to remember: Put returns a Placement
// for each segment, which the ledger keeps.
//
// Pebble is used in an unusual way, because a shard is written once, read a few times and freed: one table per segment and
// store, written by us, handed over by one Ingest per commit group and freed by an Excise over exactly that table. Nothing
// goes through the WAL or a memtable, nothing is ever compacted, no payload is cached.
//
// A store on disk:
//
//	PATH/LOCK          held while a process has the store open
//	PATH/store         identity: who this store is (see Identity), replaced atomically
//	PATH/memo          what the relay keeps here besides shards (see WriteMemo), replaced atomically
//	PATH/ballast       space that is let go when the disk is full, so that freeing can go on
//	PATH/stage/*.sst   tables being written; cleared at each opening
//	PATH/db/           pebble
//
// Keys and values of the tables are drawn beside key. With package ledger/disk this is one of the two doors to pebble. It
// must not import ledger, relay or flush.
package store
