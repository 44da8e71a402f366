package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// Requests are packed for a relay that says that it reads them, and for no other: one of an older release may follow it at any time, and
// is known by its answer to Hello (I19).
func TestPackedForWhoReadsIt(t *testing.T) {
	t.Parallel()
	var coding atomic.Int64
	encodings := make(chan string, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		encodings <- q.Header.Get("Content-Encoding")
		if q.URL.Path == proto.PathHello {
			_, _ = w.Write(proto.Marshal(proto.HelloReply{Version: 1, Coding: int(coding.Load())}))
			return
		}
		if q.Header.Get("Content-Encoding") == proto.EncodingZstd {
			if body, err = proto.Unpack(body); err != nil {
				return
			}
		}
		var b proto.ClaimBatch
		if proto.Unmarshal(body, &b) != nil { // as a relay of an older release finds it
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		rep := proto.ClaimReply{}
		for _, c := range b.Claims {
			rep.Answers = append(rep.Answers, proto.ClaimAnswer{Verdict: proto.VerdictInvalid, Reason: c.Path})
		}
		out := proto.Marshal(rep)
		if q.Header.Get("Accept-Encoding") == proto.EncodingZstd && coding.Load() > 0 {
			out, _ = proto.Pack(out)
			w.Header().Set("Content-Encoding", proto.EncodingZstd)
		}
		_, _ = w.Write(out)
	}))
	defer s.Close()
	cl := New(s.URL, 2, nil)
	defer cl.Close()
	var batch proto.ClaimBatch
	for i := range 100 {
		batch.Claims = append(batch.Claims, proto.Claim{Path: fmt.Sprintf("folder/object-%04d", i)})
	}
	for _, c := range []struct {
		coding int
		want   string
	}{{0, ""}, {proto.CodingZstd, proto.EncodingZstd}, {7, proto.EncodingZstd}, {0, ""}} {
		coding.Store(int64(c.coding))
		_, err := cl.Hello(context.Background(), proto.Hello{Software: string(make([]byte, 2*proto.PackFrom))})
		require.NoError(t, err)
		require.Empty(t, <-encodings, "hello is what everybody reads")
		rep, err := cl.Claim(context.Background(), batch)
		require.NoError(t, err)
		require.Equal(t, "folder/object-0042", rep.Answers[42].Reason)
		require.Equal(t, c.want, <-encodings, "coding %d", c.coding)
	}
}

// A relay cannot make an agent take more memory than a message may have.
func TestPackedAnswerThatIsTooLarge(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		half, _ := proto.Pack(make([]byte, proto.MaxMessage))
		w.Header().Set("Content-Encoding", proto.EncodingZstd)
		_, _ = w.Write(append(half, half...)) // two frames
	}))
	defer s.Close()
	cl := New(s.URL, 2, nil)
	defer cl.Close()
	_, err := cl.Feed(context.Background(), proto.FeedRequest{})
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	require.ErrorContains(t, err, "unpack")
}
