package faultpoint

// Opening a relay: who it is, in which generation, with which stores, owing what to which links.
const (
	RelayLedgerOpen       Point = "relay.open.ledger"     // the ledger is open, no store is
	RelayNamed            Point = "relay.open.named"      // a new ledger has the relay's id, no store has
	RelayStoresOpen       Point = "relay.open.stores"     // each store has counted this opening, the ledger has not
	RelayGenerationLedger Point = "relay.open.generation" // the ledger has the new generation, no store has
	RelayGenerationStores Point = "relay.open.fenced"     // ledger and stores have it
	RelayStoresKnown      Point = "relay.open.known"      // the ledger knows the stores
	RelayLinksSet         Point = "relay.open.links"      // configured links are in the ledger, those taken out are not seen to
)

// Taking in.
const (
	RelayGranted        Point = "relay.claim.granted"      // a lease is in memory, nothing is durable
	RelayClaimLearnt    Point = "relay.claim.learnt"       // what claims told is durable, not answered
	RelayIngestTaken    Point = "relay.ingest.taken"       // a commit group is formed, nothing is durable
	RelayIngestStored   Point = "relay.ingest.stored"      // all shards are durable, the rows are not
	RelayIngestRecorded Point = "relay.ingest.recorded"    // the rows are durable, nobody was answered
	RelayUploadDropped  Point = "relay.upload.dropped"     // an upload whose content is no more is forgotten, not answered
	RelayReported       Point = "relay.report.recorded"    // what a holder has and lacks is durable, not answered
	RelayBuried         Point = "relay.tombstones.buried"  // tombstones are durable
	RelayTombstonesGone Point = "relay.tombstones.dropped" // tombstones that all have seen are forgotten
)

// Keeping and letting go.
const (
	RelayFreeChosen     Point = "relay.free.chosen"     // what let go of the segments is durable, they are in the stores
	RelayFreed          Point = "relay.free.freed"      // they are out of the stores, their rows remain
	RelayFreeRecorded   Point = "relay.free.recorded"   // their rows are gone
	RelayOrphansFound   Point = "relay.orphans.found"   // segments without rows are about to be freed
	RelayReleased       Point = "relay.release.done"    // a stalled link owes as released
	RelayStreamFreed    Point = "relay.stream.freed"    // the ledger let go of what a stream's targets have staged
	RelayHealed         Point = "relay.heal.written"    // shards are written anew, the ledger has the old placement
	RelayHealRecorded   Point = "relay.heal.recorded"   // it has the new one
	RelayRepackStored   Point = "relay.repack.stored"   // the new segment is durable, all refers to the old ones
	RelayRepackRecorded Point = "relay.repack.recorded" // all refers to the new one
	RelayLost           Point = "relay.lose.recorded"   // a segment was given up, its objects are asked for
	RelayLinkDropping   Point = "relay.link.dropping"   // a step of giving up a link's debt is durable
)

// One store.
const (
	StoreInitialised Point = "store.open.initialised" // a provisional identity is durable, there is no database
	StoreOpened      Point = "store.open.opened"      // the database is open, the opening is not counted
	StoreCounted     Point = "store.open.counted"     // the opening is counted
	StoreGeneration  Point = "store.generation.written"
	StoreStaged      Point = "store.put.staged"   // tables are written, not handed over
	StoreIngested    Point = "store.put.ingested" // one store has its shards, others may not
	StoreExcised     Point = "store.free.excised" // one store has let go, others may not
	StoreBallast     Point = "store.ballast.made" // the ballast is there, the store does not take data yet
)

// The ledger.
const (
	LedgerApplied Point = "ledger.update.applied" // readable, not durable
	LedgerSynced  Point = "ledger.update.synced"  // durable, the caller does not know
)

// A link's batch, from the cache to "confirmed".
const (
	FlushMarked         Point = "flush.prepare.marked"   // the target has our owner mark
	FlushPrepared       Point = "flush.prepare.cleared"  // leftovers of earlier runs are gone
	FlushContentStaged  Point = "flush.stage.content"    // one content is staged, not durable
	FlushStaged         Point = "flush.stage.all"        // all of the batch are
	FlushDurable        Point = "flush.barrier.durable"  // staged contents are durable
	FlushIntent         Point = "flush.journal.intent"   // the intent is durable
	FlushHistoryOn      Point = "flush.history.on"       // the journal says that versions are kept
	FlushKept           Point = "flush.history.kept"     // what the batch replaces is kept, nothing is replaced
	FlushEnded          Point = "flush.history.ended"    // the journal has what became past, and the intent, not what is there now
	FlushCommitted      Point = "flush.commit.done"      // the batch is durable under its names, the journal has the intent only
	FlushJournalDone    Point = "flush.journal.done"     // the journal has it, the ledger does not
	FlushConfirmed      Point = "flush.confirm.recorded" // confirmed in the ledger
	FlushTidied         Point = "flush.tidy.done"        // journal merged, leftovers removed
	FlushHorizon        Point = "flush.history.horizon"  // versions are given up, their contents are there
	FlushPruned         Point = "flush.history.pruned"   // some of their contents are removed
	FlushSwept          Point = "flush.history.swept"    // all are, the journal still lists them
	FlushJournalMerged  Point = "flush.journal.merged"   // merged journal files are there beside the old ones
	FlushSeeded         Point = "flush.seed.recorded"    // a new link owes some of what was there before it
	FlushReclaimed      Point = "flush.reclaim.recorded" // released debt is owed from the cache again
	FlushReowed         Point = "flush.verify.reowed"    // what verify found different is owed again
	FlushStreamStaged   Point = "flush.stream.staged"    // some of a stream is durable at the target, the ledger does not know
	FlushStreamRecorded Point = "flush.stream.recorded"  // the ledger knows
)

// A commit of the directory driver.
const (
	DirHeld      Point = "dir.keep.held"        // one content of several has its name in the history
	DirKept      Point = "dir.commit.kept"      // times of parents are noted, nothing is changed
	DirDescribed Point = "dir.commit.described" // a staged content has its metadata, not its name
	DirChanged   Point = "dir.commit.changed"   // one change of several is carried out
	DirRestored  Point = "dir.commit.restored"  // parents have their times again, nothing need be durable
)

// An agent, whose index is its memory.
const (
	AgentScanned       Point = "agent.scan.found"     // what a scan found is in the index, that it was completed is not
	AgentClaimAnswered Point = "agent.claim.answered" // the relay answered claims, the index does not know
	AgentClaimNoted    Point = "agent.claim.noted"    // the index knows
	AgentAcked         Point = "agent.segment.acked"  // the relay has a segment, the index has counted nothing of it
	AgentUploadEnded   Point = "agent.upload.ended"   // the relay has the version, the index does not know
	AgentUploadNoted   Point = "agent.upload.noted"   // the index has the version
	AgentGoneReported  Point = "agent.gone.reported"  // the relay knows what is gone, the index has it still
	AgentHaveReported  Point = "agent.have.reported"  // the relay knows what this node has, the index does not know
	AgentScanReported  Point = "agent.scan.reported"  // the relay knows all of a scan, the index does not know that
	AgentFeedFetched   Point = "agent.feed.fetched"   // a page of the feed is here and not in the index
	AgentFeedNoted     Point = "agent.feed.noted"     // it is in the index, with the cursor
)

// Relay lists the points that a relay passes, its flush and its targets included, in the order of an object's way.
func Relay() []Point {
	return []Point{
		RelayLedgerOpen, RelayNamed, RelayStoresOpen, RelayGenerationLedger, RelayGenerationStores, RelayStoresKnown, RelayLinksSet,
		RelayGranted, RelayClaimLearnt, RelayIngestTaken, RelayIngestStored, RelayIngestRecorded, RelayUploadDropped, RelayReported, RelayBuried, RelayTombstonesGone,
		RelayFreeChosen, RelayFreed, RelayFreeRecorded, RelayOrphansFound, RelayReleased, RelayStreamFreed, RelayHealed, RelayHealRecorded,
		RelayRepackStored, RelayRepackRecorded, RelayLost, RelayLinkDropping,
		StoreInitialised, StoreOpened, StoreCounted, StoreGeneration, StoreStaged, StoreIngested, StoreExcised, StoreBallast,
		LedgerApplied, LedgerSynced,
		FlushMarked, FlushPrepared, FlushHistoryOn, FlushContentStaged, FlushStaged, FlushDurable, FlushIntent, FlushKept, FlushEnded, FlushCommitted, FlushJournalDone, FlushConfirmed, FlushTidied,
		FlushHorizon, FlushPruned, FlushSwept, FlushJournalMerged, FlushSeeded, FlushReclaimed, FlushReowed, FlushStreamStaged, FlushStreamRecorded,
		DirHeld, DirKept, DirDescribed, DirChanged, DirRestored,
	}
}

// Agent lists the points that an agent passes.
func Agent() []Point {
	return []Point{
		AgentScanned, AgentClaimAnswered, AgentClaimNoted, AgentAcked, AgentUploadEnded, AgentUploadNoted, AgentGoneReported, AgentHaveReported,
		AgentScanReported, AgentFeedFetched, AgentFeedNoted,
	}
}

// All lists all points.
func All() []Point { return append(Relay(), Agent()...) }
