package trial_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/target/faulty"
	"forebay/flush/target/trial"
	"forebay/proto"
)

func open(t *testing.T) (tgt target.Target, at string) {
	t.Helper()
	at = t.TempDir()
	d, err := dir.Open(dir.Config{Path: at, Prefix: trial.Prefix, Legible: true}, dir.Deps{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d, at
}

func options() trial.Options { return trial.Options{Now: time.Now, Large: 3 << 20, Small: 5} }

// files are all files below a directory.
func files(t *testing.T, at string) (out []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(at, func(p string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && e.Name() != ".boot" {
			out = append(out, p)
		}
		return err
	}))
	return out
}

// A directory does all, and is as empty as before.
func TestDirectoryIsTried(t *testing.T) {
	t.Parallel()
	tgt, at := open(t)
	for range 2 {
		r := trial.Run(t.Context(), tgt, options())
		for _, s := range r.Steps {
			assert.NoError(t, s.Err, s.Name)
		}
		steps := 12
		if r.Info.Confirm == target.ConfirmReread { // not where TMPDIR is in memory
			steps++
		}
		assert.Len(t, r.Steps, steps)
		assert.Equal(t, r.Info.Confirm, r.Class)
		assert.Positive(t, r.Write)
		assert.Positive(t, r.Read)
		assert.Positive(t, r.Small)
		assert.Empty(t, files(t, at))
	}
}

// liar gives back something else than it was given.
type liar struct{ target.Target }

func (l liar) Open(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("something else")), nil
}

// forgetful loses what is staged when it is opened again, whatever it said of what is durable.
type forgetful struct{ target.Target }

func (f forgetful) Stage(ctx context.Context, c target.Content) (target.Stage, error) {
	if err := f.Unstage(ctx, func(target.StageID) bool { return false }); err != nil {
		return nil, err
	}
	return f.Target.Stage(ctx, c)
}

// past keeps something else than it was told to.
type past struct{ target.Target }

type pastHistory struct{ target.History }

func (p past) History() target.History { return pastHistory{p.Target.History()} }

func (pastHistory) Open(context.Context, target.KeptName) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("another past")), nil
}

// Each thing that a target cannot do is named, ends the trial where others rest on it, and no class is promised.
func TestWhatFailsIsNamed(t *testing.T) {
	t.Parallel()
	rule := func(c faulty.Call) func(target.Target) target.Target {
		return func(tgt target.Target) target.Target {
			return faulty.Wrap(tgt, faulty.Config{Seed: 1, Rules: []faulty.Rule{{Call: c, Fault: faulty.Fail, Class: proto.ClassPermanent, Share: 1}}})
		}
	}
	for step, wrap := range map[string]func(target.Target) target.Target{
		"probe": rule(faulty.CallProbe), "records": rule(faulty.CallRecord), "write": rule(faulty.CallBarrier), "put in place": rule(faulty.CallCommit),
		"read": func(tgt target.Target) target.Target { return liar{tgt} }, "replace": func(tgt target.Target) target.Target { return past{tgt} },
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			tgt, at := open(t)
			r := trial.Run(t.Context(), wrap(tgt), options())
			var failed []string
			for _, s := range r.Steps {
				if s.Err != nil {
					failed = append(failed, s.Name)
				}
			}
			require.NotEmpty(t, failed)
			assert.Equal(t, step, failed[0])
			assert.Empty(t, r.Class)
			assert.Empty(t, files(t, at))
		})
	}
}

// A target that loses what it called durable is found out, although it takes all else.
func TestLostAfterItWasDurable(t *testing.T) {
	t.Parallel()
	tgt, at := open(t)
	r := trial.Run(t.Context(), forgetful{tgt}, options())
	assert.Empty(t, r.Class)
	step := r.Steps[slices.IndexFunc(r.Steps, func(s trial.Step) bool { return s.Err != nil })]
	assert.Equal(t, "write", step.Name)
	assert.ErrorContains(t, step.Err, "and has 0 after a break")
	assert.Empty(t, files(t, at))
}

// A disk that cannot be read past its cache is of the next weaker class.
func TestClassIsWhatWasSeen(t *testing.T) {
	t.Parallel()
	tgt, _ := open(t)
	info, err := tgt.Probe(t.Context())
	require.NoError(t, err)
	if info.Confirm != target.ConfirmReread {
		t.Skipf("the directory's file system is of class %s", info.Confirm)
	}
	r := trial.Run(t.Context(), faulty.Wrap(tgt, faulty.Config{Seed: 1, Rules: []faulty.Rule{{Call: faulty.CallReread, Fault: faulty.Fail, Share: 1}}}), options())
	assert.Equal(t, target.ConfirmSync, r.Class)
}
