// Package agenttest has a relay that keeps everything in memory, for tests of the agent: it arbitrates versions and leases as
// the contract in proto/message.go says, proves every segment, and can be made to refuse, lose and forget. It imports proto
// only.
package agenttest

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"time"

	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/segment"
)

// Relay is the fake. Its fields are set before Start, or under Lock.
type Relay struct {
	Now       func() time.Time
	Suspicion time.Duration
	ID        proto.RelayID
	Bus       bus.Bus  // for nudges; nil = none
	BusURLs   []string // what Hello answers
	Wanted    bool
	WantMeta  bool // of each proved copy whose metadata is not what is published
	// Looks are asked of every holder with each poll; their Holder is filled in.
	Looks []proto.Look
	UpNs  int64 // PollReply.UpNs
	// Refuse is asked before each call; a non-nil error is the answer.
	Refuse func(path string) *proto.Error
	// OnSegment sees each proven segment before it counts; a non-nil error is the answer.
	OnSegment func(s *segment.Segment) *proto.Error
	// OnReport sees each report before it counts; a non-nil error is the answer.
	OnReport func(rep proto.Report) *proto.Error
	// OnSlow is asked whether an upload whose read hangs is ended; nil: it is not, nobody else goes on.
	OnSlow func(s proto.Slow) bool

	mu       sync.Mutex
	url      string
	server   *httptest.Server
	seq      uint64 // sessions, uploads, epochs, members
	run      uint32 // its generation
	sessions map[proto.SessionID]*session
	holders  map[string]proto.HolderID // cluster/node/dataset/root
	told     map[proto.HolderID]uint64 // highest Root.Told
	members  []proto.Member
	datasets map[string]*Dataset
	stats    Stats
}

// Stats counts what agents did.
type Stats struct {
	Hellos, Polls, Claims, Segments int
	Payload, Duplicate              int64          // payload bytes accepted, and sent again
	Objects                         map[string]int // versions sealed by path, Meta not counted
	Metas                           map[string]int // metadata versions by path
	ReadErrors                      map[string]int // abandoned with ReadError, by path
	Changed                         map[string]int // abandoned with Changed, by path
	Verdicts                        map[proto.Verdict]int
	Beats                           int
	PutBack                         int            // roots whose index was older than what it had told
	Renewed                         map[string]int // claims for that reason, by path
}

type session struct {
	id       proto.SessionID
	hello    proto.Hello
	holders  []proto.HolderID
	conn     int64
	seen     time.Time
	ended    []proto.LeaseEnded
	statuses []proto.RootStatus
	over     bool
}

// Dataset is what the relay knows of one.
type Dataset struct {
	Name      string
	Head      proto.VersionID
	ScanToken uint64
	Asked     map[string]bool // paths whose content is asked for again
	Rows      map[string]*Row
	leases    map[string]*lease
	partial   map[string]*partial
	byVersion map[proto.VersionID]*Row
}

// Row is a path's current version.
type Row struct {
	Version proto.VersionID
	Desc    proto.Desc
	Content []byte
	Old     []proto.Desc // versions before, newest last
	Holders map[proto.HolderID]proto.VersionID
	Gone    map[proto.HolderID]bool
	Node    proto.HolderID // who sealed it
}

type lease struct {
	upload  proto.UploadID
	epoch   proto.Epoch
	holder  proto.HolderID
	session proto.SessionID
	parent  proto.VersionID
	size    int64
	asked   bool
}

// partial is what was acknowledged of an object that is not sealed.
type partial struct {
	size   int64
	blocks map[int64][]byte
}

// Start serves until the test ends.
func (r *Relay) Start(t interface{ Cleanup(func()) }) *Relay {
	if r.Suspicion == 0 {
		r.Suspicion = time.Second
	}
	if r.ID == 0 {
		r.ID = 0xf0
	}
	if r.Now == nil {
		r.Now = time.Now
	}
	r.sessions, r.holders, r.datasets = map[proto.SessionID]*session{}, map[string]proto.HolderID{}, map[string]*Dataset{}
	r.stats = Stats{Objects: map[string]int{}, Metas: map[string]int{}, ReadErrors: map[string]int{}, Changed: map[string]int{}, Verdicts: map[proto.Verdict]int{}, Renewed: map[string]int{}}
	r.told, r.run = map[proto.HolderID]uint64{}, 1
	r.serve()
	t.Cleanup(func() { r.server.CloseClientConnections(); r.server.Close() })
	return r
}

type connKey struct{}

func (r *Relay) serve() {
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(r.handle))
	if r.url != "" { // a restart: the same address
		l, err := net.Listen("tcp", r.url[len("http://"):])
		if err != nil {
			panic(err)
		}
		_ = r.server.Listener.Close()
		r.server.Listener = l
	}
	var conns sync.Map // net.Conn to number
	var next int64
	var mu sync.Mutex
	r.server.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		mu.Lock()
		next++
		n := next
		mu.Unlock()
		conns.Store(c, n)
		return context.WithValue(ctx, connKey{}, n)
	}
	r.server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			if n, ok := conns.LoadAndDelete(c); ok {
				r.connLost(n.(int64))
			}
		}
	}
	r.server.Start()
	r.url = r.server.URL
}

// URL is the relay's address.
func (r *Relay) URL() string { return r.url }

// Stop makes the relay disappear; Restart brings it back with what was sealed and acknowledged, and without sessions.
func (r *Relay) Stop() {
	r.server.CloseClientConnections()
	r.server.Close()
}

// Restart serves again at the same address.
func (r *Relay) Restart() {
	r.mu.Lock()
	r.sessions = map[proto.SessionID]*session{}
	for _, d := range r.datasets {
		d.leases = map[string]*lease{}
	}
	r.seq += 1000
	r.run++
	r.mu.Unlock()
	r.serve()
}

func (r *Relay) handle(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	refuse := r.Refuse
	r.mu.Unlock()
	if refuse != nil {
		if e := refuse(q.URL.Path); e != nil {
			fail(w, e)
			return
		}
	}
	body, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	out, e := r.dispatch(q, body)
	if e != nil {
		fail(w, e)
		return
	}
	_, _ = w.Write(proto.Marshal(out))
}

func fail(w http.ResponseWriter, e *proto.Error) {
	w.WriteHeader(e.Class.HTTPStatus())
	_, _ = w.Write(proto.Marshal(e))
}

func (r *Relay) dispatch(q *http.Request, body []byte) (any, *proto.Error) {
	conn, _ := q.Context().Value(connKey{}).(int64)
	if q.URL.Path == proto.PathSegment {
		id, _ := strconv.ParseUint(q.Header.Get(proto.HeaderSession), 10, 64)
		if q.Method != http.MethodPut || q.Header.Get("Expect") != "100-continue" {
			return nil, proto.Errorf(proto.ClassPermanent, "a segment is PUT with Expect: 100-continue")
		}
		return r.segment(proto.SessionID(id), body)
	}
	switch q.URL.Path {
	case proto.PathHello:
		return decode(body, r.hello)
	case proto.PathPoll:
		return decode(body, func(p proto.Poll) (proto.PollReply, *proto.Error) { return r.poll(p, conn) })
	case proto.PathClaim:
		return decode(body, r.claims)
	case proto.PathReport:
		return decode(body, r.report)
	case proto.PathFeed:
		return decode(body, r.feed)
	case proto.PathAsked:
		return decode(body, r.asked)
	case proto.PathAbandon:
		return decode(body, r.abandon)
	case proto.PathSlow:
		return decode(body, r.slow)
	}
	return nil, proto.Errorf(proto.ClassPermanent, "no such call: %s", q.URL.Path)
}

func decode[Q, A any](body []byte, fn func(Q) (A, *proto.Error)) (any, *proto.Error) {
	var q Q
	if err := proto.Unmarshal(body, &q); err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "%w", err)
	}
	return fn(q)
}
