// Package bus carries hints between agents and relay: heartbeats, progress and nudges. Nothing rests on it (I4): every
// message may be lost, repeated, delayed or reordered, and whoever receives one checks it against the relay over HTTP before
// acting on anything that matters. NATS is imported here and in the relay's start-up only.
package bus

import "forebay/proto"

// Bus is a publish-subscribe medium. Implementations: NATS and the in-memory Memory for tests.
type Bus interface {
	// Publish sends data to all present subscribers of subject, at most once each, without waiting for them. It never
	// blocks for long; the caller may reuse data. An error means only that this message is certainly lost.
	Publish(subject string, data []byte) error
	// Subscribe calls handle for every message on subject until cancel is called. Calls come one at a time in a goroutine of
	// the bus; a handler that is slow loses messages, not memory. data belongs to the handler.
	Subscribe(subject string, handle func(data []byte)) (cancel func(), err error)
	// Connected reports whether messages sent now are likely to arrive.
	Connected() bool
	// Close ends the bus and its subscriptions.
	Close()
}

// SubjectBeat is where the agents of a relay beat.
func SubjectBeat(r proto.RelayID) string { return "forebay.v1." + r.String() + ".beat" }

// SubjectNudge is where the relay nudges the agents of a dataset.
func SubjectNudge(r proto.RelayID, d proto.Dataset) string {
	return "forebay.v1." + r.String() + ".nudge." + token(d)
}

// SubjectProgress is where the holders of a dataset tell each other their progress.
func SubjectProgress(r proto.RelayID, d proto.Dataset) string {
	return "forebay.v1." + r.String() + ".progress." + token(d)
}

// token makes a dataset two tokens of a subject. Names may contain '.', which separates tokens, so it is written "%".
func token(d proto.Dataset) string { return escape(d.Cluster) + "." + escape(d.Name) }

func escape(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '.' {
			b[i] = '%'
		}
	}
	return string(b)
}
