// Package flush empties the cache into the targets. For each link a loop gathers what is owed from the ledger, asks
// flush/policy what to do now, and carries the plan out in batches: stage, barrier, journal, commit, journal, ledger. Each
// step may be repeated: a relay that was killed anywhere in between does the batch again and comes to the same end (I10, I18).
//
// It stands between the ledger with the cache's segments on one side and the target drivers on the other, and meets the
// relay nowhere else: it imports ledger, proto and its own sub-packages, never relay, shard or a driver. A link's loop shares
// nothing with other links but the turns at reading segments, so that a slow or dead target delays no other link (I15).
package flush
