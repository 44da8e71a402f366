package client

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"forebay/proto"
)

func TestErrorsKeepTheirClass(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		class  proto.Class
		wait   time.Duration
		says   string
	}{
		{"conflict", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusConflict)
			_, _ = w.Write(proto.Marshal(&proto.Error{Class: proto.ClassConflict, Message: "unknown session"}))
		}, proto.ClassConflict, 0, "unknown session"},
		{"overload without a time", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write(proto.Marshal(&proto.Error{Class: proto.ClassOverload, Message: "full"}))
		}, proto.ClassOverload, overloadPause, "full"},
		{"a proxy's page", func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write([]byte("<html>"))
		}, proto.ClassTransient, 0, "is there a relay"},
		{"a redirect is not followed", func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://example.invalid/")
			w.WriteHeader(http.StatusFound)
		}, proto.ClassTransient, 0, "302"},
		{"garbage", func(w http.ResponseWriter) { _, _ = w.Write([]byte{0xff, 0xff}) }, proto.ClassPermanent, 0, "decode"},
		{"endless", func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, proto.MaxMessage+10)) }, proto.ClassPermanent, 0, "over"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { c.answer(w) }))
			defer s.Close()
			cl := New(s.URL, 2, nil)
			defer cl.Close()
			_, err := cl.Poll(context.Background(), proto.Poll{})
			assert.Equal(t, c.class, proto.ClassOf(err))
			assert.ErrorContains(t, err, c.says)
			assert.Equal(t, c.wait, RetryAfter(err))
		})
	}
}

func TestPollHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	from := map[string]map[string]bool{} // path to addresses
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if from[q.URL.Path] == nil {
			from[q.URL.Path] = map[string]bool{}
		}
		from[q.URL.Path][q.RemoteAddr] = true
		switch q.URL.Path {
		case proto.PathClaim:
			_, _ = w.Write(proto.Marshal(proto.ClaimReply{Answers: make([]proto.ClaimAnswer, 1)}))
		default:
			_, _ = w.Write(proto.Marshal(proto.PollReply{}))
		}
	}))
	defer s.Close()
	cl := New(s.URL+"/", 4, nil)
	defer cl.Close()
	for range 5 {
		_, err := cl.Poll(context.Background(), proto.Poll{})
		require.NoError(t, err)
		_, err = cl.Claim(context.Background(), proto.ClaimBatch{Claims: make([]proto.Claim, 1)})
		require.NoError(t, err)
	}
	_, err := cl.Claim(context.Background(), proto.ClaimBatch{Claims: make([]proto.Claim, 2)})
	assert.ErrorContains(t, err, "1 answers to 2 claims")
	assert.Len(t, from[proto.PathPoll], 1)
	for addr := range from[proto.PathPoll] {
		assert.NotContains(t, from[proto.PathClaim], addr)
	}
}

func TestSegmentIsSentWholeAndRefusedBeforeItTravels(t *testing.T) {
	t.Parallel()
	raw := bytes.Repeat([]byte("segment"), 100_000)
	for _, limit := range []*rate.Limiter{nil, rate.NewLimiter(100<<20, 64<<10)} {
		var got []byte
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Header.Get(proto.HeaderSession) == "2" { // full: nothing is read
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = w.Write(proto.Marshal(&proto.Error{Class: proto.ClassOverload, Message: "full", RetryAfter: time.Minute}))
				return
			}
			b := new(bytes.Buffer)
			_, _ = b.ReadFrom(q.Body)
			got = b.Bytes()
			_, _ = w.Write(proto.Marshal(proto.SegmentReply{Pieces: []proto.PieceResult{{State: proto.PieceAccepted}}}))
		}))
		cl := New(s.URL, 2, limit)
		r, err := cl.Segment(context.Background(), 1, raw)
		require.NoError(t, err)
		assert.Len(t, r.Pieces, 1)
		assert.True(t, bytes.Equal(raw, got))
		_, err = cl.Segment(context.Background(), 2, raw)
		assert.Equal(t, time.Minute, RetryAfter(err))
		cl.Close()
		s.Close()
	}
}
