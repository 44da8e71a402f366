// Package proto is Forebay's vocabulary: the ids, descriptions, messages, error classes and limits that agents, relay and
// flush share. It stands at the bottom of the house: it imports no other package of Forebay, opens nothing and keeps no
// state.
//
// Every message and format carries a version; what is newer than Version is refused, never guessed at.
package proto

// Version is the version of the agent API (the path prefix /v1/), of the messages on the bus and of the segment format.
// Agents may be one minor release older than their relay; the relay answers a newer Version with ClassPermanent.
const Version = 1
