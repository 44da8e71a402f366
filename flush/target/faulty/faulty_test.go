package faulty_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/flush/target/dir"
	"forebay/flush/target/faulty"
	"forebay/proto"
)

func openDir(t *testing.T, path string) target.Target {
	t.Helper()
	d, err := dir.Open(dir.Config{Path: path}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestWithoutFaultsItIsTheTarget(t *testing.T) {
	t.Parallel()
	conformance.Run(t, func(t *testing.T) target.Target { return faulty.Wrap(openDir(t, t.TempDir()), faulty.Config{}) }, conformance.Caps{Creates: true})
}

func TestFaults(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var slept time.Duration
	f := faulty.Wrap(openDir(t, t.TempDir()), faulty.Config{Seed: 1, Rules: []faulty.Rule{
		{Call: faulty.CallStage, Fault: faulty.Fail, Class: proto.ClassOverload, Share: 1, Times: 1},
		{Call: faulty.CallStage, Fault: faulty.Delay, Share: 1, Times: 1, Delay: time.Hour},
		{Call: faulty.CallWrite, Fault: faulty.Short, Share: 1, Times: 1},
		{Call: faulty.CallCommit, Fault: faulty.Unknown, Class: proto.ClassTransient, Share: 1, Times: 1},
	}, Sleep: func(_ context.Context, d time.Duration) error { slept += d; return nil }})
	_, err := f.Stage(ctx, target.Content{ID: "a", Size: 4})
	require.ErrorIs(t, err, faulty.ErrInjected)
	assert.Equal(t, proto.ClassOverload, proto.ClassOf(err))
	s, err := f.Stage(ctx, target.Content{ID: "a", Size: 4})
	require.NoError(t, err)
	assert.Equal(t, time.Hour, slept)
	n, err := s.Write([]byte("1234"))
	require.ErrorIs(t, err, faulty.ErrInjected)
	assert.Equal(t, 2, n)
	_, err = s.Write([]byte("34"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, f.Barrier(ctx, []target.StageID{"a"}))
	c := []target.Change{{Op: target.OpPut, Path: "p", Stage: "a", Desc: proto.Desc{Kind: proto.KindFile, Size: 4}}}
	require.ErrorIs(t, f.Commit(ctx, c)[0], faulty.ErrInjected)
	_, err = f.Stat(ctx, "p")
	require.NoError(t, err, "an unknown outcome was carried out")
	require.NoError(t, f.Commit(ctx, c)[0])
	assert.Equal(t, 4, f.Hits())
}

func TestSameSeedSameFaults(t *testing.T) {
	t.Parallel()
	run := func() (out []bool) {
		f := faulty.Wrap(openDir(t, t.TempDir()), faulty.Config{Seed: 42, Rules: []faulty.Rule{{Fault: faulty.Fail, Share: 0.5}}})
		for range 64 {
			_, err := f.Probe(t.Context())
			out = append(out, err == nil)
		}
		return out
	}
	a := run()
	assert.Equal(t, a, run())
	assert.Contains(t, a, true)
	assert.Contains(t, a, false)
}
