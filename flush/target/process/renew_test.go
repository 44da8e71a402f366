package process_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/target/process"
	"forebay/flush/target/process/serve"
	"forebay/proto"
)

// safe is a place whose password can be exchanged, and who was told what of it.
type safe struct {
	t *testing.T

	mu         sync.Mutex
	told       string // what the settings say
	is         string // what opens it
	unreadable bool
	sessions   []string // the passwords with which sessions began
}

func (s *safe) set(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
}

func (s *safe) settings() (map[string]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unreadable {
		return nil, errors.New("the file with the password is not there")
	}
	return map[string]string{"pass": s.told}, nil
}

func (s *safe) began() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// locked is a directory that has to be opened with the password of the moment.
type locked struct {
	target.Target
	s    *safe
	pass string
}

func (l locked) Probe(ctx context.Context) (target.Info, error) {
	l.s.mu.Lock()
	is := l.s.is
	l.s.mu.Unlock()
	if l.pass != is {
		return target.Info{}, proto.Errorf(proto.ClassTransient, "401 Unauthorized")
	}
	return l.Target.Probe(ctx)
}

func (s *safe) open(path string) *process.Process {
	s.t.Helper()
	driver := serve.Driver{Name: "safe", Open: func(_ context.Context, o serve.Opening) (target.Target, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions = append(s.sessions, o.Settings["pass"])
		d, err := dir.Open(dir.Config{Path: path, Prefix: o.Prefix}, dir.Deps{})
		return locked{d, s, o.Settings["pass"]}, err
	}}
	p, err := process.Open(process.Config{Name: "safe"}, process.Deps{Now: time.Now, Settings: s.settings,
		Start: func(context.Context) (process.Stream, error) {
			here, there := net.Pipe()
			st := &pipe{Conn: here, done: make(chan struct{})}
			go func() { // ends when the pipe is closed
				defer close(st.done)
				_ = serve.Serve(context.Background(), there, there, driver, serve.Options{})
				_ = there.Close()
			}()
			return st, nil
		}})
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, p.Close()) })
	return p
}

// A driver that was told a secret which was exchanged since is told the new one with the next probe, without anybody ending it; once, and
// without what is staged durably being lost. As long as nothing changes, or cannot be read, it is left in peace.
func TestSecretThatIsExchanged(t *testing.T) {
	t.Parallel()
	s := &safe{t: t, told: "old", is: "old"}
	p, ctx := s.open(t.TempDir()), t.Context()
	for range 3 {
		_, err := p.Probe(ctx)
		require.NoError(t, err)
	}
	content := bytes.Repeat([]byte("x"), 100_000)
	w, err := p.Stage(ctx, target.Content{ID: "s", Size: int64(len(content))})
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, p.Barrier(ctx, []target.StageID{"s"}))

	s.set(func() { s.is = "new" })
	for range 3 {
		_, err = p.Probe(ctx)
		require.ErrorContains(t, err, "401")
	}
	s.set(func() { s.unreadable = true }) // while it is exchanged
	_, err = p.Probe(ctx)
	require.ErrorContains(t, err, "401")
	require.Equal(t, []string{"old"}, s.began(), "nothing has changed")

	s.set(func() { s.unreadable, s.told = false, "new" })
	for range 3 {
		_, err = p.Probe(ctx)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"old", "new"}, s.began())
	desc := proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o600, MtimeNs: 1e18}}
	require.NoError(t, p.Commit(ctx, []target.Change{{Op: target.OpPut, Path: "f", Stage: "s", Desc: desc}})[0])
}
