// Package agent is the daemon on a node of a primary cluster. For each root of each dataset it keeps an index, scans, and,
// while a relay knows it, settles with the relay what it found. It is the first stage of the flow: agent -> proto -> relay.
// It imports proto, fsmeta and its own sub-packages, never relay, ledger, shard or flush.
//
//	scan, watch   what is in a root             index    what is known of it
//	session       the relay's word              pick     whose turn it is
//	work          feed, queue, proofs, reports  settle   what becomes of an object
//	upload        bytes                         gossip, heard   hints between holders
//
// This package only builds these parts and passes on what one has to say to another.
package agent
