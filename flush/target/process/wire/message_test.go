package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// Each side refuses the other in a sentence where they have no version in common.
func TestVersions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		oldest, newest, want int
		refused              string
	}{
		{1, 1, 1, ""}, {1, 9, 1, ""},
		{2, 9, 0, "the relay speaks versions 2 to 9 of the driver protocol, this driver 1 to 1: use a newer driver"},
		{0, 0, 0, "use a newer relay"},
	} {
		v, err := Hello{Oldest: c.oldest, Newest: c.newest}.Choose()
		require.Equal(t, c.want, v)
		if c.refused != "" {
			require.ErrorContains(t, err, c.refused)
			require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
		}
	}
	good := Welcome{Version: 1, Driver: "d", Chunk: 1024}
	require.NoError(t, good.Check(2048))
	for refused, change := range map[string]func(*Welcome){
		"driver d speaks version 2 of the driver protocol, this relay 1 to 1: use a newer release of the relay": func(w *Welcome) { w.Version = 2 },
		"use a newer driver":                   func(w *Welcome) { w.Version = 0 },
		"does not say its name":                func(w *Welcome) { w.Driver = "" },
		"takes messages with 4096 bytes":       func(w *Welcome) { w.Chunk = 4096 },
		"takes messages with 1 bytes":          func(w *Welcome) { w.Chunk = 1 },
		"the directory is not where it should": func(w *Welcome) { w.Fault = NewFault(errors.New("the directory is not where it should be")) },
	} {
		w := good
		change(&w)
		require.ErrorContains(t, w.Check(2048), refused)
	}
}

// An error keeps over the wire what whoever gets it acts upon.
func TestFaults(t *testing.T) {
	t.Parallel()
	require.Nil(t, NewFault(nil))
	require.NoError(t, (*Fault)(nil).Err())
	over := proto.Errorf(proto.ClassOverload, "full")
	over.RetryAfter = time.Minute
	for _, c := range []struct {
		err   error
		class proto.Class
	}{
		{errors.New("plain"), proto.ClassTransient}, {proto.Errorf(proto.ClassPermanent, "never"), proto.ClassPermanent},
		{fmt.Errorf("doing: %w", over), proto.ClassOverload}, {proto.Errorf(proto.ClassTransient, "x: %w", fs.ErrNotExist), proto.ClassTransient},
	} {
		f := NewFault(c.err)
		var back Fault
		require.NoError(t, proto.Unmarshal(proto.Marshal(f), &back))
		err := back.Err()
		require.Equal(t, c.err.Error(), err.Error())
		require.Equal(t, c.class, proto.ClassOf(err))
		require.Equal(t, errors.Is(c.err, fs.ErrNotExist), errors.Is(err, fs.ErrNotExist))
		var e *proto.Error
		require.ErrorAs(t, err, &e)
		if c.class == proto.ClassOverload {
			require.Equal(t, time.Minute, e.RetryAfter)
		}
	}
	long := NewFault(errors.New(strings.Repeat("ä", MaxText)))
	require.LessOrEqual(t, len(long.Text), MaxText)
	require.True(t, strings.HasSuffix(long.Text, "ä..."))
	odd := Fault{Class: "whatever", Text: strings.Repeat("x", 2*MaxText)}
	require.Equal(t, proto.ClassTransient, proto.ClassOf(odd.Err()))
	require.Len(t, odd.Err().Error(), MaxText)
}

// What Probe found, an entry and a change are the same on both sides, but for extents.
func TestConversions(t *testing.T) {
	t.Parallel()
	i := target.Info{Driver: "d", Where: "w", Confirm: target.ConfirmSync, FreeBytes: -1, MaxName: 5, CaseFolds: true, Move: true, Atomic: true, Holds: 6, HoldsUpTo: 4,
		Carries: target.Carries{Mode: true, Owner: true, Mtime: true, Xattrs: true, Symlinks: true, Hardlinks: true, Sparse: true, EmptyDirs: true, RawNames: true, Shut: true, Coarse: true},
		Clock:   time.Unix(0, 12345), Notes: []string{"n"}}
	var wi Info
	require.NoError(t, proto.Unmarshal(proto.Marshal(NewInfo(i)), &wi))
	require.Equal(t, i, wi.Target("d"))
	require.NoError(t, wi.Check())
	for _, bad := range []Info{{}, {Where: "w"}, {Where: "w", Confirm: "certain"}, {Where: "w", Confirm: "ack", FreeBytes: -2}} {
		require.Error(t, bad.Check())
	}
	c := target.Change{Op: target.OpPut, Path: "p\xff", Stage: "s", NoDir: true, Desc: proto.Desc{Kind: proto.KindFile, Size: 3, Extents: []proto.Extent{{Kind: proto.ExtentHole, Length: 3}}}}
	var wc Change
	require.NoError(t, proto.Unmarshal(proto.Marshal(NewChange(c)), &wc))
	c.Desc.Extents = nil
	require.Equal(t, c, wc.Target())
	e := target.Entry{Path: "p", Desc: c.Desc, Brief: true, Unlisted: "why"}
	require.Equal(t, e, NewEntry(e).Target())
}
