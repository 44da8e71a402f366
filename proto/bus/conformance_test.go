package bus_test

import (
	"bytes"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"forebay/proto"
	"forebay/proto/bus"
	"forebay/proto/bus/embedded"
)

const patience = 20 * time.Second

// medium makes ends of one bus.
type medium func(t *testing.T) bus.Bus

// TestConformance holds every implementation to the contract of bus.Bus.
func TestConformance(t *testing.T) {
	t.Parallel()
	media := map[string]func(t *testing.T) medium{
		"memory": func(t *testing.T) medium {
			first := bus.NewMemory(bus.Faults{})
			return func(t *testing.T) bus.Bus { return closeAtEnd(t, first.Peer()) }
		},
		"nats": func(t *testing.T) medium {
			srv := startServer(t, "127.0.0.1:-1")
			return func(t *testing.T) bus.Bus { return closeAtEnd(t, dial(t, srv.URL())) }
		},
	}
	checks := map[string]func(t *testing.T, end medium){
		"every subscriber gets each message once, in order": conformDelivery,
		"subjects are kept apart":                           conformSubjects,
		"publish copies, the handler owns":                  conformBuffers,
		"cancel ends one subscription":                      conformCancel,
		"a slow handler delays nobody":                      conformSlow,
		"closed ends refuse":                                conformClosed,
		"limits are kept":                                   conformLimits,
		"ends are safe for concurrent use":                  conformConcurrent,
	}
	for kind, open := range media {
		for name, check := range checks {
			t.Run(kind+"/"+name, func(t *testing.T) {
				t.Parallel()
				check(t, open(t))
			})
		}
	}
}

const testToken = "s3cret"

func startServer(t *testing.T, listen string) *embedded.Server {
	t.Helper()
	srv, err := embedded.Start(embedded.Config{Listen: listen, Name: "test", Token: testToken}, zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(srv.Close)
	return srv
}

func dial(t *testing.T, url string) *bus.NATS {
	t.Helper()
	b, err := bus.Dial(bus.Config{URLs: []string{url}, Token: testToken, Name: t.Name()}, zerolog.Nop())
	require.NoError(t, err)
	t.Cleanup(b.Close)
	require.Eventually(t, b.Connected, patience, time.Millisecond)
	return b
}

func closeAtEnd(t *testing.T, b bus.Bus) bus.Bus {
	t.Cleanup(b.Close)
	return b
}

// inbox collects messages.
type inbox struct {
	mu   sync.Mutex
	list []string
}

func (i *inbox) handle(data []byte) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.list = append(i.list, string(data))
}

func (i *inbox) got() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]string{}, i.list...)
}

// subscribe subscribes and waits until messages from b arrive: with NATS a subscription takes its way to the server.
func subscribe(t *testing.T, from, at bus.Bus, subject string, handle func([]byte)) (cancel func()) {
	t.Helper()
	const probe = "\x00probe"
	var ready atomic.Bool
	cancel, err := at.Subscribe(subject, func(data []byte) {
		if string(data) == probe {
			ready.Store(true)
			return
		}
		handle(data)
	})
	require.NoError(t, err)
	// Probes that are still on the way arrive before what is published later, since order is kept here.
	require.Eventually(t, func() bool {
		require.NoError(t, from.Publish(subject, []byte(probe)))
		return ready.Load()
	}, patience, 5*time.Millisecond)
	return cancel
}

func conformDelivery(t *testing.T, end medium) {
	from, near, far := end(t), end(t), end(t)
	var boxes [3]inbox
	subscribe(t, from, near, "x.y", boxes[0].handle)
	subscribe(t, from, far, "x.y", boxes[1].handle)
	subscribe(t, from, from, "x.y", boxes[2].handle)
	var want []string
	for n := range 500 {
		want = append(want, strconv.Itoa(n))
		require.NoError(t, from.Publish("x.y", []byte(want[n])))
	}
	for i := range boxes {
		require.Eventually(t, func() bool { return len(boxes[i].got()) >= len(want) }, patience, time.Millisecond)
		require.Equal(t, want, boxes[i].got())
	}
}

func conformSubjects(t *testing.T, end medium) {
	from, to := end(t), end(t)
	relay := proto.RelayID(7)
	var media, other inbox
	subscribe(t, from, to, bus.SubjectNudge(relay, proto.Dataset{Cluster: "c", Name: "media"}), media.handle)
	subscribe(t, from, to, bus.SubjectNudge(relay, proto.Dataset{Cluster: "c", Name: "media.old"}), other.handle)
	require.NoError(t, from.Publish(bus.SubjectBeat(relay), []byte("beat")))
	require.NoError(t, from.Publish(bus.SubjectNudge(relay, proto.Dataset{Cluster: "c", Name: "media"}), []byte("1")))
	require.NoError(t, from.Publish(bus.SubjectNudge(relay, proto.Dataset{Cluster: "c", Name: "media.old"}), []byte("2")))
	require.Eventually(t, func() bool { return len(media.got()) == 1 && len(other.got()) == 1 }, patience, time.Millisecond)
	require.Equal(t, []string{"1"}, media.got())
	require.Equal(t, []string{"2"}, other.got())
}

func conformBuffers(t *testing.T, end medium) {
	from, a, b := end(t), end(t), end(t)
	var first, second inbox
	scribble := func(box *inbox) func([]byte) {
		return func(data []byte) {
			box.handle(data)
			clear(data)
		}
	}
	subscribe(t, from, a, "s", scribble(&first))
	subscribe(t, from, b, "s", scribble(&second))
	buf := []byte("hello")
	require.NoError(t, from.Publish("s", buf))
	copy(buf, "XXXXX")
	for _, box := range []*inbox{&first, &second} {
		require.Eventually(t, func() bool { return len(box.got()) == 1 }, patience, time.Millisecond)
		require.Equal(t, []string{"hello"}, box.got())
	}
}

func conformCancel(t *testing.T, end medium) {
	from, to := end(t), end(t)
	var gone, stays inbox
	cancel := subscribe(t, from, to, "s", gone.handle)
	subscribe(t, from, to, "s", stays.handle)
	cancel()
	cancel() // twice does no harm
	require.NoError(t, from.Publish("s", []byte("1")))
	require.Eventually(t, func() bool { return len(stays.got()) == 1 }, patience, time.Millisecond)
	require.Empty(t, gone.got())
}

func conformSlow(t *testing.T, end medium) {
	from, to := end(t), end(t)
	release := make(chan struct{})
	var calls, running atomic.Int64
	subscribe(t, from, to, "slow", func([]byte) {
		calls.Add(1)
		if running.Add(1) > 1 {
			t.Error("two calls at once")
		}
		<-release
		running.Add(-1)
	})
	var fast inbox
	subscribe(t, from, to, "fast", fast.handle)
	const sent = 10000 // more than any queue holds
	start := time.Now()
	for n := 0; n < sent; n++ {
		_ = from.Publish("slow", []byte("x")) // an error means that this one is lost
	}
	require.Less(t, time.Since(start), patience, "publishing does not wait for the slow one")
	// Publishing again until it arrives: where the way out is bounded, the flood may have taken its place.
	require.Eventually(t, func() bool {
		_ = from.Publish("fast", []byte("y"))
		return len(fast.got()) > 0
	}, patience, 5*time.Millisecond)
	close(release)
	require.Eventually(t, func() bool { return calls.Load() > 1 }, patience, time.Millisecond)
	require.Less(t, calls.Load(), int64(sent), "memory is bounded: some are lost")
}

func conformClosed(t *testing.T, end medium) {
	b, other := end(t), end(t)
	var box inbox
	subscribe(t, other, b, "s", box.handle)
	require.True(t, b.Connected())
	b.Close()
	b.Close()
	require.False(t, b.Connected())
	require.Error(t, b.Publish("s", nil))
	_, err := b.Subscribe("s", func([]byte) {})
	require.Error(t, err)
	require.True(t, other.Connected())
	require.NoError(t, other.Publish("s", []byte("1")), "the others go on")
}

func conformLimits(t *testing.T, end medium) {
	from, to := end(t), end(t)
	var got atomic.Int64
	subscribe(t, from, to, "s", func(data []byte) { got.Store(int64(len(data))) })
	require.NoError(t, from.Publish("s", bytes.Repeat([]byte("x"), proto.MaxBusMessage)))
	require.Eventually(t, func() bool { return got.Load() == proto.MaxBusMessage }, patience, time.Millisecond)
	err := from.Publish("s", make([]byte, proto.MaxBusMessage+1))
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	require.True(t, from.Connected())
}

func conformConcurrent(t *testing.T, end medium) {
	b := end(t)
	var done sync.WaitGroup
	for i := range 8 {
		done.Go(func() {
			for n := range 50 {
				subject := fmt.Sprint("s", (i+n)%4)
				cancel, err := b.Subscribe(subject, func([]byte) {})
				if err != nil {
					t.Error(err)
					return
				}
				_ = b.Publish(subject, []byte("x"))
				cancel()
			}
		})
	}
	done.Wait()
}
