package process_test

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/flush/target/dir"
	"forebay/flush/target/faulty"
	"forebay/flush/target/process"
	"forebay/flush/target/process/serve"
	"forebay/proto"
)

// pipe is the stream to a driver in this process.
type pipe struct {
	net.Conn
	mu   sync.Mutex
	why  error
	done chan struct{} // closed when the driver has ended
}

func (p *pipe) Kill(why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.why == nil {
		p.why = why
	}
	_ = p.Close()
}

func (p *pipe) End() {
	p.Kill(errors.New("it was told to end"))
	<-p.done
}

func (p *pipe) Ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// within opens a target behind a driver in this process.
func within(t *testing.T, cfg process.Config, open func(o serve.Opening) (target.Target, error)) *process.Process {
	t.Helper()
	cfg.Name = "shelf"
	p, err := process.Open(cfg, process.Deps{
		Now: time.Now, Settings: func() (map[string]string, error) { return nil, nil },
		Start: func(context.Context) (process.Stream, error) {
			here, there := net.Pipe()
			s := &pipe{Conn: here, done: make(chan struct{})}
			go func() { // ends when the pipe is closed
				defer close(s.done)
				_ = serve.Serve(context.Background(), there, there, serve.Driver{Name: "test", Open: func(_ context.Context, o serve.Opening) (target.Target, error) { return open(o) }}, serve.Options{Line: cfg.Line})
				_ = there.Close()
			}()
			return s, nil
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// The contract keeps over the protocol what a driver keeps of it, metadata of all kinds and errors' classes among it.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]bool{"pipe": false, "small frames": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			places := map[target.Target]string{}
			open := func(t *testing.T, path string) target.Target {
				p := within(t, process.Config{Prefix: "some/prefix", Line: line}, func(o serve.Opening) (target.Target, error) {
					return dir.Open(dir.Config{Path: path, Prefix: o.Prefix}, dir.Deps{})
				})
				mu.Lock()
				defer mu.Unlock()
				places[p] = path
				return p
			}
			conformance.Run(t, func(t *testing.T) target.Target { return open(t, t.TempDir()) }, conformance.Caps{Reopen: func(t *testing.T, old target.Target) target.Target {
				mu.Lock()
				path := places[old]
				mu.Unlock()
				require.NoError(t, old.Close())
				return open(t, path)
			}})
		})
	}
}

// liar is a driver whose answers are what its fields say.
type liar struct {
	target.Target
	info    *target.Info
	entries []target.Entry
	stat    *target.Entry
	stage   *lyingStage
	names   []string
}

type lyingStage struct {
	at, grows, durable, unit int64
}

func (l *lyingStage) Write([]byte) (int, error) { l.at += l.grows; return 0, nil }
func (l *lyingStage) Hole(int64) error          { l.at += l.grows; return nil }
func (l *lyingStage) Offset() int64             { return l.at }
func (l *lyingStage) Proved() bool              { return true }
func (l *lyingStage) Unit() int64               { return l.unit }
func (l *lyingStage) Sync() (int64, error)      { return l.durable, nil }
func (l *lyingStage) Close() error              { return nil }

func (l *liar) Probe(ctx context.Context) (target.Info, error) {
	if l.info != nil {
		return *l.info, nil
	}
	return l.Target.Probe(ctx)
}

func (l *liar) Stage(context.Context, target.Content) (target.Stage, error) { return l.stage, nil }

func (l *liar) Stat(context.Context, string) (target.Entry, error) { return *l.stat, nil }

func (l *liar) List(_ context.Context, _ string, fn func(target.Entry) error) error {
	for _, e := range l.entries {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *liar) Records() target.Records { return lyingRecords{l.Target.Records(), l.names} }

type lyingRecords struct {
	target.Records
	names []string
}

func (r lyingRecords) List(context.Context, string) ([]string, error) { return r.names, nil }

func (l *liar) Unstage(_ context.Context, keep func(target.StageID) bool) error {
	keep("../../etc/passwd")
	return nil
}

// What cannot be true is class corrupt and says whose answer it is and what is wrong with it.
func TestLies(t *testing.T) {
	t.Parallel()
	entry := func(p string) target.Entry { return target.Entry{Path: p, Desc: proto.Desc{Kind: proto.KindFile}} }
	list := func(prefix string) func(context.Context, *process.Process) error {
		return func(ctx context.Context, p *process.Process) error {
			return p.List(ctx, prefix, func(target.Entry) error { return nil })
		}
	}
	write := func(ctx context.Context, p *process.Process) error {
		w, err := p.Stage(ctx, target.Content{ID: "s", Size: 10})
		if err != nil {
			return err
		}
		defer w.Close()
		if _, err = w.Write([]byte("abc")); err != nil {
			return err
		}
		_, err = w.Sync()
		return err
	}
	probe := func(ctx context.Context, p *process.Process) error { _, err := p.Probe(ctx); return err }
	for says, c := range map[string]struct {
		lies liar
		do   func(context.Context, *process.Process) error
	}{
		`its listing has "a" after "b"`:                      {liar{entries: []target.Entry{entry("b"), entry("a")}}, list("")},
		`its listing has "a" after "a"`:                      {liar{entries: []target.Entry{entry("a"), entry("a")}}, list("")},
		`its listing of "a" has "ab"`:                        {liar{entries: []target.Entry{entry("a"), entry("ab")}}, list("a")},
		`its listing has what is no path: path "../x"`:       {liar{entries: []target.Entry{entry("../x")}}, list("")},
		`reserved folder .forebay`:                           {liar{entries: []target.Entry{entry(".forebay/stage")}}, list("")},
		`asked for "a" it describes 1 other objects`:         {liar{stat: &target.Entry{Path: "b"}}, func(ctx context.Context, p *process.Process) error { _, err := p.Stat(ctx, "a"); return err }},
		`of 10 bytes of staged content s it has 11`:          {liar{stage: &lyingStage{at: 11, unit: 1}}, write},
		`it has -1, durable in steps of 1`:                   {liar{stage: &lyingStage{at: -1, unit: 1}}, write},
		`it has 0, durable in steps of 0`:                    {liar{stage: &lyingStage{}}, write},
		`of a staged content it has 2 bytes, 3 were written`: {liar{stage: &lyingStage{grows: 2, unit: 1}}, write},
		`of 3 bytes 4 are durable, 0 were before`:            {liar{stage: &lyingStage{grows: 3, durable: 4, unit: 1}}, write},
		`it does not say where its target is`:                {liar{info: &target.Info{Confirm: "ack"}}, probe},
		`it reaches confirm class "certain", which is none`:  {liar{info: &target.Info{Where: "w", Confirm: "certain"}}, probe},
		`folder j of its records has "b" after "c"`:          {liar{names: []string{"a", "c", "b"}}, func(ctx context.Context, p *process.Process) error { _, err := p.Records().List(ctx, "j"); return err }},
		`folder j of its records has "../x", which cannot`:   {liar{names: []string{"../x"}}, func(ctx context.Context, p *process.Process) error { _, err := p.Records().List(ctx, "j"); return err }},
		`stage id "../../etc/passwd"`: {liar{}, func(ctx context.Context, p *process.Process) error {
			return p.Unstage(ctx, func(target.StageID) bool { return true })
		}},
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			at := t.TempDir()
			p := within(t, process.Config{}, func(serve.Opening) (target.Target, error) {
				d, err := dir.Open(dir.Config{Path: at}, dir.Deps{})
				l := c.lies
				l.Target = d
				return &l, err
			})
			err := c.do(t.Context(), p)
			require.ErrorContains(t, err, says)
			require.ErrorContains(t, err, "driver test of target shelf gives a wrong answer")
			require.Equal(t, proto.ClassCorrupt, proto.ClassOf(err))
		})
	}
}

// A remote that can show a part of an object is refused until the operator takes it, and then says so.
func TestPartial(t *testing.T) {
	t.Parallel()
	open := func(serve.Opening) (target.Target, error) {
		return &liar{info: &target.Info{Where: "w", Confirm: target.ConfirmAck, FreeBytes: -1}}, nil
	}
	_, err := within(t, process.Config{}, closable(open)).Probe(t.Context())
	require.ErrorContains(t, err, "a reader could see a part of it. Set allow_partial: true for target shelf to accept that")
	require.Equal(t, proto.ClassConflict, proto.ClassOf(err))
	info, err := within(t, process.Config{Partial: true}, closable(open)).Probe(t.Context())
	require.NoError(t, err)
	require.Contains(t, info.Notes[0], "allow_partial")
}

// closable gives a target without a base one to close.
func closable(open func(serve.Opening) (target.Target, error)) func(serve.Opening) (target.Target, error) {
	return func(o serve.Opening) (target.Target, error) {
		t, err := open(o)
		if l, ok := t.(*liar); ok && l.Target == nil {
			l.Target = noTarget{}
		}
		return t, err
	}
}

type noTarget struct{ target.Target }

func (noTarget) Close() error { return nil }

// A commit of more changes than one message or one commit at the driver takes is carried out whole and in order, and each change has
// its own error.
func TestManyChanges(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]bool{"pipe": false, "small frames": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := t.TempDir()
			p := within(t, process.Config{Line: line}, func(serve.Opening) (target.Target, error) { return dir.Open(dir.Config{Path: at}, dir.Deps{}) })
			var changes []target.Change
			name := func(i int) string { return string(rune('a'+i/26%26)) + string(rune('a'+i%26)) }
			for i := range 1200 {
				ch := target.Change{Op: target.OpMkdir, Path: name(i) + "/" + name(i/676) + "x", Desc: proto.Desc{Kind: proto.KindDir, Meta: proto.Meta{Mode: 0o755}}}
				if i%100 == 7 {
					ch = target.Change{Op: target.OpPut, Path: "p", Stage: "not-there", Desc: proto.Desc{Kind: proto.KindFile, Size: 1}}
				}
				if i%100 == 8 {
					ch.Path = "../out"
				}
				changes = append(changes, ch)
			}
			errs := p.Commit(t.Context(), changes)
			require.Len(t, errs, len(changes))
			for i, err := range errs {
				switch i % 100 {
				case 7:
					require.ErrorContains(t, err, "not-there", "%d", i)
				case 8:
					require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%d", i)
				default:
					require.NoError(t, err, "%d", i)
					e, err := p.Stat(t.Context(), changes[i].Path)
					require.NoError(t, err)
					require.Equal(t, proto.KindDir, e.Desc.Kind)
				}
			}
		})
	}
}

// Faults of all classes at the far side come through as they are, and nothing is left open by them.
func TestFaultsPassThrough(t *testing.T) {
	t.Parallel()
	for _, class := range []proto.Class{proto.ClassTransient, proto.ClassPermanent, proto.ClassOverload, proto.ClassConflict} {
		at := t.TempDir()
		p := within(t, process.Config{}, func(serve.Opening) (target.Target, error) {
			d, err := dir.Open(dir.Config{Path: at}, dir.Deps{})
			return faulty.Wrap(d, faulty.Config{Seed: 1, Rules: []faulty.Rule{{Fault: faulty.Fail, Class: class, Share: 1}}}), err
		})
		_, err := p.Probe(t.Context())
		require.Equal(t, class, proto.ClassOf(err))
		_, err = p.Stage(t.Context(), target.Content{ID: "s", Size: 1})
		require.Equal(t, class, proto.ClassOf(err))
		require.Equal(t, class, proto.ClassOf(p.Barrier(t.Context(), []target.StageID{"s"})))
		require.Equal(t, class, proto.ClassOf(p.Commit(t.Context(), []target.Change{{Op: target.OpMkdir, Path: "d", Desc: proto.Desc{Kind: proto.KindDir}}})[0]))
		require.Equal(t, class, proto.ClassOf(p.List(t.Context(), "", func(target.Entry) error { return nil })))
		require.Equal(t, class, proto.ClassOf(p.Records().Put(t.Context(), "r", []byte("x"))))
	}
}
