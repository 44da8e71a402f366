package main

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/flush/target/conformance"
	"forebay/flush/target/process"
	"forebay/flush/target/process/child"
)

// asDriver is the first argument with which the test's own program is the driver.
const asDriver = "as-driver"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asDriver {
		os.Exit(run(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// command is how the driver is started.
func command(t *testing.T, args ...string) []string {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return append([]string{self, asDriver}, args...)
}

// open opens a directory by a driver process of its own.
func openProcess(t *testing.T, path, prefix string) *process.Process {
	t.Helper()
	deps := child.Deps{Now: time.Now, Say: func(line string) { t.Log("the driver said:", line) }}
	p, err := process.Open(process.Config{Name: "shelf", Prefix: prefix, Writes: true}, process.Deps{
		Now:      time.Now,
		Settings: func() (map[string]string, error) { return map[string]string{"path": path}, nil },
		Start: func(context.Context) (process.Stream, error) {
			return child.Start(child.Config{Command: command(t)}, deps)
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func TestProcess(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"", "some/pre fix"} {
		t.Run("prefix "+prefix, func(t *testing.T) {
			t.Parallel()
			places := map[target.Target]string{}
			guard := make(chan struct{}, 1)
			open := func(t *testing.T, path string) target.Target {
				p := openProcess(t, path, prefix)
				guard <- struct{}{}
				places[p] = path
				<-guard
				return p
			}
			conformance.Run(t, func(t *testing.T) target.Target { return open(t, t.TempDir()) }, conformance.Caps{
				Reopen: func(t *testing.T, old target.Target) target.Target {
					guard <- struct{}{}
					path := places[old]
					<-guard
					return open(t, path)
				},
			})
		})
	}
}
