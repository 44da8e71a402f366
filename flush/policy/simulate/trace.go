package simulate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"forebay/units"
)

// Trace is an inflow over time, in slots of Step; those without any are left out.
type Trace struct {
	Step  time.Duration
	Slots []Slot // in the order of time, each at a multiple of Step after the first
}

// Slot is what came in one step of time.
type Slot struct {
	At             time.Time // its beginning
	Bytes, Objects int64
}

// Steady is an inflow of bytes and objects a day, from start on.
func Steady(start time.Time, bytesADay, objectsADay int64) Trace {
	const step = 5 * time.Minute
	t := Trace{Step: step}
	part := func(a int64, i int64) int64 { n := int64(24 * time.Hour / step); return a*(i+1)/n - a*i/n }
	for i := range int64(24 * time.Hour / step) {
		t.Slots = append(t.Slots, Slot{start.Add(time.Duration(i) * step), part(bytesADay, i), part(objectsADay, i)})
	}
	return t
}

// traceHead is the first line of a trace's text; what is newer is refused.
const traceHead = "# forebay trace 1"

// WriteTrace writes a trace as text: a head, a line with the step, and a line for each slot: its beginning (RFC 3339), bytes,
// objects, with blanks between.
func WriteTrace(w io.Writer, t Trace) error {
	out := bufio.NewWriter(w)
	_, _ = fmt.Fprintf(out, "%s\nstep %s\n", traceHead, units.Duration(t.Step)) // an error is Flush's, too
	for _, s := range t.Slots {
		_, _ = fmt.Fprintf(out, "%s %d %d\n", s.At.UTC().Format(time.RFC3339), s.Bytes, s.Objects)
	}
	return out.Flush()
}

// ReadTrace reads what WriteTrace writes, by hand or by other programs too: empty lines and lines that begin with # are passed
// over. Slots of one moment are added up. Errors name the line.
func ReadTrace(r io.Reader) (Trace, error) {
	var t Trace
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		if err := t.readLine(strings.TrimSpace(in.Text()), n); err != nil {
			return Trace{}, fmt.Errorf("trace, line %d: %w", n, err)
		}
	}
	if err := in.Err(); err != nil {
		return Trace{}, fmt.Errorf("trace: %w", err)
	}
	if len(t.Slots) == 0 {
		return Trace{}, errors.New("trace: it has no slots: write lines such as 2026-11-23T00:00:00Z 1048576 3")
	}
	return t, nil
}

func (t *Trace) readLine(line string, n int) error {
	switch {
	case n == 1 && line != traceHead:
		return fmt.Errorf("%q is not %q: it is no trace, or one of a newer release", line, traceHead)
	case line == "" || line[0] == '#':
		return nil
	}
	f := strings.Fields(line)
	if t.Step == 0 {
		if len(f) != 2 || f[0] != "step" {
			return fmt.Errorf("%q: write the length of a slot first, such as: step 5m", line)
		}
		d, err := units.ParseDuration(f[1])
		if err == nil && (d.Std() < time.Second || d.Std() > 24*time.Hour) {
			err = fmt.Errorf("step %s is outside 1s to 1d", d)
		}
		t.Step = d.Std()
		return err
	}
	if len(f) != 3 {
		return fmt.Errorf("%q is not TIME BYTES OBJECTS", line)
	}
	at, err := time.Parse(time.RFC3339, f[0])
	bytes, err1 := strconv.ParseInt(f[1], 10, 64)
	objects, err2 := strconv.ParseInt(f[2], 10, 64)
	if err := errors.Join(err, err1, err2); err != nil || bytes < 0 || objects < 0 {
		return fmt.Errorf("%q is not TIME BYTES OBJECTS, such as 2026-11-23T00:00:00Z 1048576 3", line)
	}
	return t.add(Slot{at.UTC(), bytes, objects})
}

func (t *Trace) add(s Slot) error {
	if len(t.Slots) > 0 {
		last := &t.Slots[len(t.Slots)-1]
		switch d := s.At.Sub(last.At); {
		case d == 0:
			last.Bytes, last.Objects = last.Bytes+s.Bytes, last.Objects+s.Objects
			return nil
		case d < 0:
			return fmt.Errorf("%s is before the line above: sort the lines by time", s.At.Format(time.RFC3339))
		case d%t.Step != 0:
			return fmt.Errorf("%s is no multiple of %s after the line above", s.At.Format(time.RFC3339), units.Duration(t.Step))
		}
	}
	t.Slots = append(t.Slots, s)
	return nil
}

// Span is the time from the first slot to the end of the last.
func (t Trace) Span() time.Duration {
	if len(t.Slots) == 0 {
		return 0
	}
	return t.Slots[len(t.Slots)-1].At.Sub(t.Slots[0].At) + t.Step
}

// Cover returns a trace of a length, and what it is repeated by: the last part of t where t is longer, else t again and again, in
// whole weeks where it has one, else in whole days, else as it is. The repetition is 0 where t is long enough.
func (t Trace) Cover(length time.Duration) (Trace, time.Duration) {
	span := t.Span()
	if span == 0 {
		return t, 0
	}
	if first := t.Slots[0].At.Add(span - length); span >= length {
		i := slices.IndexFunc(t.Slots, func(s Slot) bool { return !s.At.Before(first) })
		return Trace{t.Step, t.Slots[i:]}, 0
	}
	period := span
	for _, unit := range []time.Duration{7 * 24 * time.Hour, 24 * time.Hour} {
		if span >= unit {
			period = span / unit * unit
			break
		}
	}
	first := t.Slots[0].At.Add(span - period)
	i := slices.IndexFunc(t.Slots, func(s Slot) bool { return !s.At.Before(first) })
	out := Trace{Step: t.Step}
	for shift := time.Duration(0); shift < length; shift += period {
		for _, s := range t.Slots[i:] {
			if at := s.At.Add(shift); at.Before(first.Add(length)) {
				out.Slots = append(out.Slots, Slot{at, s.Bytes, s.Objects})
			}
		}
	}
	return out, period
}
