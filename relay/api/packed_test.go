package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/proto"
)

// Agents of this release and of the one before, which knows nothing of packed messages, are served side by side; each gets what it reads,
// and the others learn who reads what (I19).
func TestPackedAndPlainAgents(t *testing.T) {
	t.Parallel()
	srv, r := serve(t)
	older := hello(t, srv.Client(), srv.URL, "older")
	require.Equal(t, proto.Coding, older.Coding)
	var newer proto.HelloReply
	require.NoError(t, post(t, srv.Client(), srv.URL+proto.PathHello, proto.Hello{Version: 1, Cluster: "primary", Node: "newer", Instance: "newer", Coding: proto.Coding,
		Roots: []proto.Root{{Dataset: "media", Path: "/m", Index: "i"}}, ClockNs: time.Now().UnixNano()}, &newer))
	poll, err := r.Poll(context.Background(), proto.Poll{Session: newer.Session})
	require.NoError(t, err)
	codings := map[string]int{}
	for _, m := range poll.Members {
		codings[m.Node] = m.Coding
	}
	require.Equal(t, map[string]int{"older": proto.CodingPlain, "newer": proto.Coding}, codings)
	r.EndSession(newer.Session, "test")
	require.Equal(t, proto.CodingPlain, func() int {
		poll, err := r.Poll(context.Background(), proto.Poll{Session: older.Session})
		require.NoError(t, err)
		for _, m := range poll.Members {
			if m.Node == "newer" {
				return m.Coding
			}
		}
		return -1
	}(), "of who is not there nothing is told")

	batch := proto.ClaimBatch{Session: older.Session, Holder: older.Holders[0]}
	for i := range 100 {
		batch.Claims = append(batch.Claims, proto.Claim{Path: fmt.Sprintf("folder/object-%04d", i), Kind: proto.KindFile, Size: 4096})
	}
	plain := proto.Marshal(batch)
	packed, ok := proto.Pack(plain)
	require.True(t, ok)
	bomb, _ := proto.Pack(make([]byte, proto.MaxMessage))
	for _, c := range []struct {
		name           string
		body           []byte
		encoding, asks string
		status         int
		answer         string
	}{
		{"an older agent", plain, "", "", http.StatusOK, ""},
		{"packed both ways", packed, proto.EncodingZstd, proto.EncodingZstd, http.StatusOK, proto.EncodingZstd},
		{"plain, and packed back", plain, "", proto.EncodingZstd, http.StatusOK, proto.EncodingZstd},
		{"packed, and plain back", packed, proto.EncodingZstd, "identity", http.StatusOK, ""},
		{"what this relay does not read", plain, "br", "", proto.ClassPermanent.HTTPStatus(), ""},
		{"more than a message may have", append(bomb, bomb...), proto.EncodingZstd, "", proto.ClassPermanent.HTTPStatus(), ""},
		{"packed, and told to be plain", packed, "", "", proto.ClassPermanent.HTTPStatus(), ""},
	} {
		req, err := http.NewRequest(http.MethodPost, srv.URL+proto.PathClaim, bytes.NewReader(c.body))
		require.NoError(t, err)
		if c.encoding != "" {
			req.Header.Set("Content-Encoding", c.encoding)
		}
		req.Header.Set("Accept-Encoding", c.asks)
		resp, err := srv.Client().Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.status, resp.StatusCode, c.name)
		require.Equal(t, c.answer, resp.Header.Get("Content-Encoding"), c.name)
		if c.answer != "" {
			body, err = proto.Unpack(body)
			require.NoError(t, err)
		}
		if c.status == http.StatusOK {
			var rep proto.ClaimReply
			require.NoError(t, proto.Unmarshal(body, &rep), c.name)
			require.Len(t, rep.Answers, len(batch.Claims), c.name)
		}
	}
}
