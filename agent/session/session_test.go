package session

import (
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// What holders tell each other is packed once all of them read that: an agent of an older release among them gets plain messages, and so do
// all whose relay does not tell (I19).
func TestCodingIsWhatAllRead(t *testing.T) {
	t.Parallel()
	s := &Session{datasets: map[string]proto.DatasetStatus{}}
	require.Equal(t, proto.CodingPlain, s.Coding("a"))
	member := func(h proto.HolderID, dataset string, alive bool, coding int) proto.Member {
		return proto.Member{Holder: h, Dataset: dataset, Alive: alive, Coding: coding}
	}
	s.take(proto.PollReply{MembersSeq: 1, Members: []proto.Member{
		member(1, "a", true, proto.CodingZstd), member(2, "a", true, proto.CodingZstd), member(3, "a", false, 0),
		member(4, "b", true, proto.CodingZstd), member(5, "b", true, 0), member(6, "b", true, proto.CodingZstd),
	}})
	require.Equal(t, proto.CodingZstd, s.Coding("a"))
	require.Equal(t, proto.CodingPlain, s.Coding("b"))
	require.Equal(t, proto.CodingPlain, s.Coding("c"))
	s.take(proto.PollReply{MembersSeq: 1})
	require.Equal(t, proto.CodingZstd, s.Coding("a"), "the list has not changed")
	s.take(proto.PollReply{MembersSeq: 2, Members: []proto.Member{member(1, "a", true, proto.CodingZstd), member(3, "a", true, 0)}})
	require.Equal(t, proto.CodingPlain, s.Coding("a"))
}
