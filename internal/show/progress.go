package show

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	plainEvery = 2 * time.Second  // between two plain lines of a bar
	plainStill = 30 * time.Second // and when nothing changes
	rateOver   = 10 * time.Second // the rate shown is that of the last while
	maxSamples = 64
)

// Unit says what a bar counts.
type Unit int

// The units.
const (
	InBytes Unit = iota
	InObjects
)

// Progress shows how far long work is: bars with rate and time left on a terminal, a plain line every two seconds
// elsewhere. All methods may be called concurrently.
type Progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu     sync.Mutex
	bars   *screen // while bars are on the terminal
	active map[*Bar]struct{}
}

// NewProgress returns a display on out.
func NewProgress(out io.Writer, terminal bool, now func() time.Time) *Progress {
	return &Progress{out: out, terminal: terminal, now: now, active: map[*Bar]struct{}{}}
}

// Say prints one line, above the bars if there are any.
func (p *Progress) Say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.say(format, args...)
}

func (p *Progress) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...) + "\n"
	if p.bars != nil {
		_, _ = p.bars.mpb.Write([]byte(line)) // a terminal that is gone is no reason to stop
		return
	}
	_, _ = io.WriteString(p.out, line)
}

// Start begins to show something that is to be counted.
func (p *Progress) Start(name string, unit Unit) *Bar {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := &Bar{p: p, name: name, unit: unit, started: p.now()}
	b.said = b.started
	b.samples = []sample{{b.started, 0}}
	p.active[b] = struct{}{}
	if p.terminal {
		if p.bars == nil {
			p.bars = newScreen(p.out)
		}
		b.bar = p.bars.mpb.New(0, mpb.BarStyle(),
			mpb.PrependDecorators(decor.Name(name, decor.WC{W: 14, C: decor.DindentRight})),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.text() })))
	}
	return b
}

// Close ends all bars that are still shown.
func (p *Progress) Close() {
	p.mu.Lock()
	bars := make([]*Bar, 0, len(p.active))
	for b := range p.active {
		bars = append(bars, b)
	}
	p.mu.Unlock()
	for _, b := range bars {
		b.Stop()
	}
}

// Bar counts one thing.
type Bar struct {
	p       *Progress
	name    string
	unit    Unit
	bar     *mpb.Bar // nil in plain lines
	started time.Time

	mu          sync.Mutex
	done, total int64
	samples     []sample
	said        time.Time
	lastLine    string // what was said last
	note        string // what else is to be said
	finished    bool
}

type sample struct {
	at   time.Time
	done int64
}

// Set says how much of how much is done; a total of 0 is unknown.
func (b *Bar) Set(done, total int64) {
	b.mu.Lock()
	b.total = total
	b.step(done)
}

// Add says that n more are done.
func (b *Bar) Add(n int64) {
	b.mu.Lock()
	b.step(b.done + n)
}

// Note is said beside the count from the next step on, such as what of a large object that counts as one is done; "" for nothing.
func (b *Bar) Note(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.note = text
}

// SetTotal says how much there is to do.
func (b *Bar) SetTotal(total int64) {
	b.mu.Lock()
	b.total = total
	b.step(b.done)
}

// step is called with b.mu held, and releases it.
func (b *Bar) step(done int64) {
	now := b.p.now()
	b.done = done
	if b.finished {
		b.mu.Unlock()
		return
	}
	if last := b.samples[len(b.samples)-1]; now.Sub(last.at) >= rateOver/maxSamples {
		b.samples = append(b.samples, sample{now, done})
		for len(b.samples) > 2 && now.Sub(b.samples[1].at) > rateOver {
			b.samples = b.samples[1:]
		}
	}
	line := ""
	if b.bar == nil && now.Sub(b.said) >= plainEvery && (b.line() != b.lastLine || now.Sub(b.said) >= plainStill) {
		b.said, b.lastLine = now, b.line()
		line = b.lastLine
	}
	total := b.total
	b.mu.Unlock()
	if line != "" {
		b.p.Say("%s", line)
	}
	if b.bar != nil {
		b.bar.SetTotal(max(total, done, 1), false)
		b.bar.SetCurrent(done)
	}
}

// Finish ends the bar as complete and says so in one line with the rate over all of it.
func (b *Bar) Finish() { b.end(true) }

// Stop ends the bar where it is, without a word.
func (b *Bar) Stop() { b.end(false) }

func (b *Bar) end(tell bool) {
	b.mu.Lock()
	if b.finished {
		b.mu.Unlock()
		return
	}
	b.finished = true
	took := b.p.now().Sub(b.started)
	line := fmt.Sprintf("%s: %s in %s", b.name, b.amount(b.done), Span(took))
	if b.unit == InBytes && took > 0 {
		line += ", " + Rate(float64(b.done)/took.Seconds())
	}
	b.mu.Unlock()

	b.p.mu.Lock()
	defer b.p.mu.Unlock()
	if tell {
		b.p.say("%s", line)
	}
	delete(b.p.active, b)
	if b.bar == nil {
		return
	}
	if len(b.p.active) > 0 {
		b.bar.Abort(true)
		return
	}
	b.p.bars.close(b.bar)
	b.p.bars = nil
}

func (b *Bar) amount(n int64) string {
	if b.unit == InObjects {
		return Things(n, "object")
	}
	return Bytes(n)
}

// text is what stands behind the bar. It is called by the renderer.
func (b *Bar) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return " " + strings.TrimPrefix(b.line(), b.name+": ")
}

// line says how far it is: amount, rate, time left. b.mu is held.
func (b *Bar) line() string {
	out := b.name + ": " + b.amount(b.done)
	if b.total > b.done {
		out = fmt.Sprintf("%s: %s of %s", b.name, strings.TrimSuffix(b.amount(b.done), " objects"), b.amount(b.total))
	}
	if b.note != "" {
		out += ", " + b.note
	}
	first, last := b.samples[0], b.samples[len(b.samples)-1]
	took := last.at.Sub(first.at).Seconds()
	if took <= 0 || last.done <= first.done {
		return out
	}
	rate := float64(last.done-first.done) / took
	if b.unit == InBytes {
		out += ", " + Rate(rate)
	} else {
		out += fmt.Sprintf(", %s/s", Count(int64(rate)))
	}
	if b.total > b.done {
		out += fmt.Sprintf(", %s left", Seconds(math.Ceil(float64(b.total-b.done)/rate)))
	}
	return out
}
