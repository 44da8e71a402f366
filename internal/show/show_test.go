package show

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 30: "1.0 GiB",
		-2048: "-2.0 KiB", 1<<63 - 1: "8.0 EiB",
	} {
		assert.Equal(t, want, Bytes(n), n)
	}
}

func TestCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1234567: "-1,234,567"} {
		assert.Equal(t, want, Count(n))
	}
	assert.Equal(t, "1 object", Things(1, "object"))
	assert.Equal(t, "0 objects", Things(0, "object"))
}

func TestSpan(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "0 ms", 350 * time.Millisecond: "350 ms", 4 * time.Second: "4 s", 4260 * time.Millisecond: "4.2 s",
		59999 * time.Millisecond: "59.9 s", 200 * time.Second: "3 min 20 s", 5 * time.Hour: "5 h",
		47 * time.Hour: "47 h", 50 * time.Hour: "2 d 2 h", -time.Second: "-1 s",
	} {
		assert.Equal(t, want, Span(d))
	}
	assert.Equal(t, "very long", Seconds(1e300))
}

func TestNames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a/b c":      "a/b c",
		"größe/日本":   "größe/日本",
		"a\nb":       `"a\nb"`,
		"\x1b[2J":    `"\x1b[2J"`,
		"\xff":       `"\xff"`,
		"\u202egnp":  `"\u202egnp"`, // would print backwards
		`"quoted"`:   `"\"quoted\""`,
		" ":          `" "`,
		"":           `""`,
		"it \"is\" ": `"it \"is\" "`,
	} {
		assert.Equal(t, want, Name(in))
	}
	assert.Equal(t, `no "x"`, Text(`no "x"`))
	assert.Equal(t, `no "x\x1b" 'y'`, Text("no \"x\x1b\" 'y'"))
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func TestPlainLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	c := &clock{t: time.Unix(1e9, 0)}
	p := NewProgress(&out, false, c.now)
	b := p.Start("copying", InBytes)
	for i := int64(1); i <= 10; i++ {
		c.pass(500 * time.Millisecond)
		b.Set(i<<20, 100<<20)
	}
	p.Say("by the way")
	b.Finish()
	b.Finish()
	b.Set(1, 2) // too late, harmless
	p.Close()
	assert.Equal(t, []string{
		"copying: 4.0 MiB of 100.0 MiB, 2.0 MiB/s, 48 s left",
		"copying: 8.0 MiB of 100.0 MiB, 2.0 MiB/s, 46 s left",
		"by the way",
		"copying: 10.0 MiB in 5 s, 2.0 MiB/s",
	}, strings.Split(strings.TrimSpace(out.String()), "\n"))
}

func TestRateIsThatOfTheLastWhile(t *testing.T) {
	t.Parallel()
	c := &clock{t: time.Unix(1e9, 0)}
	p := NewProgress(&bytes.Buffer{}, false, c.now)
	b := p.Start("checking", InObjects)
	c.pass(time.Second)
	b.Set(1_000_000, 1_002_000)
	for range 20 {
		c.pass(time.Second)
		b.Add(10)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	assert.Equal(t, "checking: 1,000,200 of 1,002,000 objects, 10/s, 3 min left", b.line())
	assert.LessOrEqual(t, len(b.samples), maxSamples+2)
}

func TestBarsEnd(t *testing.T) {
	t.Parallel()
	var out syncBuffer
	p := NewProgress(&out, true, time.Now)
	var wg sync.WaitGroup
	for i := range 3 {
		b := p.Start(fmt.Sprint("bar ", i), InBytes)
		wg.Add(1)
		go func() { // ends after its hundred steps
			defer wg.Done()
			for n := range int64(100) {
				b.Set(n, 100)
			}
			if i > 0 {
				b.Finish()
			}
		}()
	}
	wg.Wait()
	p.Say("a line above")
	p.Close() // ends bar 0
	p.Say("after")
	assert.Contains(t, out.String(), "a line above")
	assert.Contains(t, out.String(), "bar 1: 99 B in")
	assert.True(t, strings.HasSuffix(out.String(), "after\n"))
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
