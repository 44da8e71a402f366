// Package embedded runs a NATS server inside the relay, for hints only: no JetStream, nothing on disk. It is used by the
// relay's start-up and by tests, and imports nats-server, which nothing else does.
package embedded

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"forebay/proto"
)

// startTimeout is how long the server may take until it accepts connections.
const startTimeout = 10 * time.Second

// Config says where to listen and whom to let in.
type Config struct {
	Listen string // host:port; port 0 or -1 takes a free one, for tests
	Name   string // of the server
	Token  string // clients have to show it; "" lets anyone in
}

// Server is a running NATS server.
type Server struct {
	nats *server.Server
	url  string
	addr string
	once sync.Once
}

// Start runs a server. It returns when connections are accepted; a port in use is an error of ClassPermanent.
func Start(cfg Config, log zerolog.Logger) (*Server, error) {
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "nats.listen %q is not host:port: %w", cfg.Listen, err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "nats.listen %q: the port is no number", cfg.Listen)
	}
	if port == 0 {
		port = server.RANDOM_PORT // to the server 0 means its own default
	}
	if err := checkFree(cfg.Listen, port); err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName: cfg.Name, Host: host, Port: port, Authorization: cfg.Token,
		NoSigs: true, MaxPayload: 2 * proto.MaxBusMessage, WriteDeadline: 2 * time.Second,
		PingInterval: 5 * time.Second, MaxPingsOut: 2, DisableShortFirstPing: true,
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "set up the embedded nats server: %w", err)
	}
	adapter := &logger{log: log}
	srv.SetLoggerV2(adapter, false, false, false)
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		srv.WaitForShutdown()
		if why := adapter.fatal(); why != "" {
			return nil, fmt.Errorf("start the embedded nats server on %s: %s", cfg.Listen, why)
		}
		return nil, fmt.Errorf("start the embedded nats server on %s: not ready after %s", cfg.Listen, startTimeout)
	}
	return &Server{nats: srv, url: srv.ClientURL(), addr: srv.Addr().String()}, nil
}

// checkFree listens and stops listening: the server itself would only log that it cannot.
func checkFree(listen string, port int) error {
	if port == server.RANDOM_PORT {
		return nil
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return proto.Errorf(proto.ClassPermanent, "nats.listen %s cannot be used (is another relay or NATS server running? choose another nats.listen): %w", listen, err)
	}
	return l.Close()
}

// URL is where clients connect.
func (s *Server) URL() string { return s.url }

// Addr is where the server listens.
func (s *Server) Addr() string { return s.addr }

// Close ends all connections and waits until the server is down.
func (s *Server) Close() {
	s.once.Do(func() {
		s.nats.Shutdown()
		s.nats.WaitForShutdown()
	})
}

// logger passes the server's log on. Its notices are of no interest to operators of a relay, so they are debug messages;
// what the server calls fatal must not end the relay: it works without hints.
type logger struct {
	log  zerolog.Logger
	mu   sync.Mutex
	last string
}

func (l *logger) Noticef(format string, v ...any) { l.log.Debug().Msgf("nats: "+format, v...) }
func (l *logger) Warnf(format string, v ...any)   { l.log.Warn().Msgf("nats: "+format, v...) }
func (l *logger) Errorf(format string, v ...any)  { l.log.Error().Msgf("nats: "+format, v...) }
func (l *logger) Debugf(format string, v ...any)  { l.log.Trace().Msgf("nats: "+format, v...) }
func (l *logger) Tracef(format string, v ...any)  { l.log.Trace().Msgf("nats: "+format, v...) }

// Fatalf keeps the message for Start.
func (l *logger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	l.last = fmt.Sprintf(format, v...)
	l.mu.Unlock()
	l.Errorf(format, v...)
}

func (l *logger) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
