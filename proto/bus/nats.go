package bus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"forebay/proto"
)

// Times and bounds of the NATS connection. They are short, since a hint that comes late is worth nothing.
const (
	connectTimeout = 2 * time.Second
	writeTimeout   = 2 * time.Second
	pingInterval   = 5 * time.Second // two unanswered ones end the connection
	reconnectWait  = 500 * time.Millisecond
	reconnectSpan  = 500 * time.Millisecond // random addition to the wait

	maxSendCount    = 1024    // messages that wait to be written
	maxSendBytes    = 4 << 20 // bytes of them
	maxPendingCount = 4096    // messages that wait for one slow subscriber
	maxPendingBytes = 8 << 20 // bytes of them
)

// Config says where NATS is and who connects.
type Config struct {
	URLs            []string // nats://host:port; at least one
	CredentialsFile string   // a .creds file, "" = none
	Token           string   // "" = none
	Name            string   // of the connection, shown by the server
}

// NATS is a Bus over a NATS server or cluster.
type NATS struct {
	conn *nats.Conn
	send chan message
	size atomic.Int64 // bytes in send
	// up follows the connection. Asking the connection itself waits for its lock, which a write to a server that no longer
	// reads may hold for writeTimeout.
	up   atomic.Bool
	done chan struct{}
	once sync.Once
	sent sync.WaitGroup
}

type message struct {
	subject string
	data    []byte
}

var _ Bus = (*NATS)(nil)

// Dial connects and keeps connecting for ever. A server that is not there is no error: hints are lost until it is. An
// error means that the configuration is wrong. It returns within connectTimeout for each URL; Connected becomes true a moment
// after it.
func Dial(cfg Config, log zerolog.Logger) (*NATS, error) {
	if len(cfg.URLs) == 0 {
		return nil, proto.Errorf(proto.ClassPermanent, "connect to nats: no url is given")
	}
	b := &NATS{send: make(chan message, maxSendCount), done: make(chan struct{})}
	conn, err := nats.Connect(strings.Join(cfg.URLs, ","), b.options(cfg, log)...)
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "connect to nats at %s: %w", strings.Join(cfg.URLs, ", "), err)
	}
	b.conn = conn
	b.sent.Add(1)
	go b.write() // ends with Close
	return b, nil
}

func (b *NATS) options(cfg Config, log zerolog.Logger) []nats.Option {
	opts := []nats.Option{
		nats.Name(cfg.Name),
		nats.Timeout(connectTimeout),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // a relay that starts anew may refuse for a while
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectSpan, reconnectSpan),
		nats.ReconnectBufSize(-1), // nothing is kept for later
		nats.FlusherTimeout(writeTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(2),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) { logAsync(log, s, err) }),
		// The handlers are called one at a time, in the order of events.
		nats.ConnectHandler(func(c *nats.Conn) {
			b.up.Store(true)
			log.Info().Str("url", c.ConnectedUrlRedacted()).Msg("bus connected")
		}),
		nats.ReconnectHandler(func(c *nats.Conn) {
			b.up.Store(true)
			log.Info().Str("url", c.ConnectedUrlRedacted()).Msg("bus connected again")
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			b.up.Store(false)
			if err != nil {
				log.Warn().Err(err).Msg("bus lost its connection; the work goes on without hints")
			}
		}),
	}
	if cfg.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(cfg.CredentialsFile))
	}
	if cfg.Token != "" {
		opts = append(opts, nats.Token(cfg.Token))
	}
	return opts
}

func logAsync(log zerolog.Logger, s *nats.Subscription, err error) {
	event := log.Warn().Err(err)
	if s != nil {
		event = event.Str("subject", s.Subject)
	}
	if errors.Is(err, nats.ErrSlowConsumer) {
		event.Msg("bus lost hints: a subscriber is slow")
		return
	}
	event.Msg("bus error")
}

// Publish implements Bus. A goroutine writes to the connection, so that a server which no longer reads delays nobody.
func (b *NATS) Publish(subject string, data []byte) error {
	if err := checkSize(subject, data); err != nil {
		return err
	}
	select {
	case <-b.done:
		return errClosed
	default:
	}
	if !b.up.Load() {
		return errDisconnected
	}
	n := int64(len(data))
	if b.size.Add(n) <= maxSendBytes {
		select {
		case b.send <- message{subject, slices.Clone(data)}:
			return nil
		default:
		}
	}
	b.size.Add(-n)
	return proto.Errorf(proto.ClassOverload, "publish to %s: too many messages wait to be written", subject)
}

// write hands messages to the connection until Close.
func (b *NATS) write() {
	defer b.sent.Done()
	for {
		select {
		case <-b.done:
			return
		case m := <-b.send:
			b.size.Add(-int64(len(m.data)))
			_ = b.conn.Publish(m.subject, m.data) // lost with the connection, as hints may be
		}
	}
}

// Subscribe implements Bus. It works while not connected: the subscription is made with the connection.
func (b *NATS) Subscribe(subject string, handle func([]byte)) (func(), error) {
	sub, err := b.conn.Subscribe(subject, func(m *nats.Msg) { handle(m.Data) })
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	if err := sub.SetPendingLimits(maxPendingCount, maxPendingBytes); err != nil {
		_ = sub.Unsubscribe()
		return nil, fmt.Errorf("bound the subscription to %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails only when it has ended already
}

// Connected implements Bus. It follows the connection by a moment.
func (b *NATS) Connected() bool {
	select {
	case <-b.done:
		return false
	default:
		return b.up.Load()
	}
}

// Close implements Bus. Messages that still wait to be written are lost.
func (b *NATS) Close() {
	b.once.Do(func() {
		close(b.done)
		b.conn.Close()
		b.sent.Wait()
	})
}

// checkSize refuses messages over the limit of the protocol.
func checkSize(subject string, data []byte) error {
	if len(data) > proto.MaxBusMessage {
		return proto.Errorf(proto.ClassPermanent, "publish to %s: message of %d bytes, at most %d are allowed", subject, len(data), proto.MaxBusMessage)
	}
	return nil
}
