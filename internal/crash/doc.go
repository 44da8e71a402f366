// Package crash ends a relay at each named boundary between two durable steps, and at each pair of them, and sees what the
// next start makes of it. The relay, its stores, its ledger and its flush are the real ones, on a file system in memory that
// forgets what was not synced; the target is a real directory. It also has that file system fail at one operation after
// another. It has tests only. See docs/reliability.md.
package crash
