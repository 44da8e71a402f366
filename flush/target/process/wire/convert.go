package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"forebay/flush/target"
	"forebay/proto"
)

// Choose returns the version that both sides speak, or says why there is none.
func (h Hello) Choose() (int, error) {
	v := min(h.Newest, Version)
	switch {
	case h.Oldest > Version:
		return 0, proto.Errorf(proto.ClassPermanent, "the relay speaks versions %d to %d of the driver protocol, this driver %d to %d: use a newer driver", h.Oldest, h.Newest, Oldest, Version)
	case v < Oldest:
		return 0, proto.Errorf(proto.ClassPermanent, "the relay speaks versions %d to %d of the driver protocol, this driver %d to %d: use a newer relay", h.Oldest, h.Newest, Oldest, Version)
	}
	return v, nil
}

// Check says whether a relay of this release can go on with a driver's answer.
func (w Welcome) Check(asked int) error {
	switch {
	case w.Fault != nil:
		return w.Fault.Err()
	case w.Version > Version:
		return proto.Errorf(proto.ClassPermanent, "driver %s speaks version %d of the driver protocol, this relay %d to %d: use a newer release of the relay, or an older driver", w.Driver, w.Version, Oldest, Version)
	case w.Version < Oldest:
		return proto.Errorf(proto.ClassPermanent, "driver %s speaks version %d of the driver protocol, this relay %d to %d: use a newer driver", w.Driver, w.Version, Oldest, Version)
	case w.Driver == "":
		return proto.Errorf(proto.ClassCorrupt, "the driver does not say its name")
	case w.Chunk < MinChunk || w.Chunk > asked:
		return proto.Errorf(proto.ClassCorrupt, "driver %s takes messages with %d bytes of content, it was asked for %d to %d", w.Driver, w.Chunk, MinChunk, asked)
	}
	return nil
}

// NewFault makes an error fit for the wire; nil for nil. Of a text that is too long the beginning is kept.
func NewFault(err error) *Fault {
	if err == nil {
		return nil
	}
	f := &Fault{Class: proto.ClassOf(err), Text: strings.ToValidUTF8(err.Error(), "?"), Absent: errors.Is(err, fs.ErrNotExist)}
	var known *proto.Error
	if errors.As(err, &known) {
		f.RetryAfter = known.RetryAfter
	}
	if len(f.Text) > MaxText {
		f.Text = strings.ToValidUTF8(f.Text[:MaxText-3], "") + "..."
	}
	return f
}

// Err is the error that a fault stands for. A class that is not known counts as transient.
func (f *Fault) Err() error {
	if f == nil {
		return nil
	}
	class := f.Class
	switch class {
	case proto.ClassTransient, proto.ClassPermanent, proto.ClassCorrupt, proto.ClassConflict, proto.ClassOverload:
	default:
		class = proto.ClassTransient
	}
	text := f.Text
	if len(text) > MaxText {
		text = text[:MaxText]
	}
	var e *proto.Error
	if f.Absent {
		e = proto.Errorf(class, "%w", absent(text))
	} else {
		e = proto.Errorf(class, "%s", text)
	}
	e.RetryAfter = max(0, f.RetryAfter)
	return e
}

// absent is an error for which errors.Is(err, fs.ErrNotExist), with its own text.
type absent string

func (a absent) Error() string        { return string(a) }
func (a absent) Is(target error) bool { return target == fs.ErrNotExist }

// NewChange is a change on the wire.
func NewChange(c target.Change) Change {
	c.Desc.Extents = nil
	return Change{c.Op, c.Path, c.Stage, c.Desc, c.NoDir}
}

// Target is the change that it stands for.
func (c Change) Target() target.Change {
	return target.Change{Op: c.Op, Path: c.Path, Stage: c.Stage, Desc: c.Desc, NoDir: c.NoDir}
}

// NewEntry is an entry on the wire.
func NewEntry(e target.Entry) Entry { return Entry{e.Path, e.Desc, e.Brief, e.Unlisted} }

// Target is the entry that it stands for.
func (e Entry) Target() target.Entry {
	return target.Entry{Path: e.Path, Desc: e.Desc, Brief: e.Brief, Unlisted: e.Unlisted}
}

// NewInfo is what Probe found on the wire.
func NewInfo(i target.Info) *Info {
	w := &Info{Where: i.Where, Confirm: i.Confirm, Carries: Carries(i.Carries), FreeBytes: i.FreeBytes, MaxName: i.MaxName, CaseFolds: i.CaseFolds,
		Move: i.Move, Atomic: i.Atomic, Holds: i.Holds, HoldsUpTo: i.HoldsUpTo, Notes: i.Notes}
	if !i.Clock.IsZero() {
		w.ClockNs = i.Clock.UnixNano()
	}
	return w
}

// Target is what it stands for, found by the driver of a name.
func (i *Info) Target(driver string) target.Info {
	t := target.Info{Driver: driver, Where: i.Where, Confirm: i.Confirm, Carries: target.Carries(i.Carries), FreeBytes: i.FreeBytes, MaxName: i.MaxName,
		CaseFolds: i.CaseFolds, Move: i.Move, Atomic: i.Atomic, Holds: i.Holds, HoldsUpTo: i.HoldsUpTo, Notes: i.Notes}
	if i.ClockNs != 0 {
		t.Clock = time.Unix(0, i.ClockNs)
	}
	return t
}

// Check says what of it no driver can mean.
func (i *Info) Check() error {
	switch {
	case i.Where == "":
		return errors.New("it does not say where its target is")
	case i.Confirm.Rank() == 0:
		return fmt.Errorf("it reaches confirm class %q, which is none", i.Confirm)
	case i.FreeBytes < -1 || i.MaxName < 0 || i.Holds < 0 || i.HoldsUpTo < 0:
		return errors.New("it has negative sizes")
	}
	return nil
}
