package api

import (
	"errors"
	"io"
	"net/http"
	"time"

	"forebay/proto"
)

// maxProbes is how many bodies of probes are read at once: none of them keeps a segment's place.
const maxProbes = 4

// probe reads a body that means nothing and says how long it was, so that who sends it learns what the way here carries. Nothing of it is
// kept, and nothing of the relay is touched.
func (a *API) probe(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 || r.ContentLength > proto.MaxProbe {
		refuse(w, proto.Errorf(proto.ClassPermanent, "probe: want a length of at most %d bytes", proto.MaxProbe))
		return
	}
	select {
	case a.probes <- struct{}{}:
		defer func() { <-a.probes }()
	default:
		refuse(w, &proto.Error{Class: proto.ClassOverload, Message: "the network is being measured by others: try again later",
			RetryAfter: time.Second})
		return
	}
	body := watchBody(r.Body, http.NewResponseController(w), nil, func() {})
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, make([]byte, 256<<10))
	body.stop()
	if err == nil && n != r.ContentLength {
		err = errors.New("it is shorter than it said")
	}
	if err != nil {
		refuse(w, proto.Errorf(proto.ClassTransient, "read the probe: %w", err))
		return
	}
	write(w, http.StatusOK, proto.ProbeReply{Bytes: n})
}
