// Package journal is the record, kept on a target itself, of what is on it: enough to restore, to verify and to rebuild a
// lost ledger from the target alone. It stands between the flush workers, which write it around each commit, and
// target.Records, where it lies; it knows no driver and imports target and proto only.
//
// A batch writes an intent before it touches the mirror and a done run after. Both are immutable, numbered and sorted by
// path; a done run may be several files (parts). Compact merges runs, so that their number grows with the logarithm of
// the number of batches. For each path the highest version wins, wherever it is written: no order of files, repeats or
// crashes makes the journal go back to an older version (I18).
//
//	.forebay/journal/<prefix key>/intent-0000000000000007-0000000000000007-00000-120-last
//	.forebay/journal/<prefix key>/done-0000000000000001-0000000000000006-00000-30211-more
//	                              kind lowest batch      highest batch    part  entries  more parts follow, or last
package journal
