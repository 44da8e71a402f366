package child

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// Limits of what a driver says on its standard error.
const (
	maxLine    = 1 << 10 // bytes of a line; what is longer is cut
	lineBurst  = 100     // lines at once
	lineEvery  = 100 * time.Millisecond
	floodBytes = 8 << 20 // within floodTime: it is ended
	floodTime  = 10 * time.Second
)

// said takes in the standard error.
type said struct {
	from *os.File

	mu   sync.Mutex
	last string
}

func (s *said) lastLine() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// listen reads to the end and hands lines on. An error says that there is too much.
func (s *said) listen(deps Deps) error {
	in := bufio.NewReaderSize(s.from, 64<<10)
	var bytes, left int
	room, since, refilled := lineBurst, deps.Now(), deps.Now()
	for {
		line, n, err := readLine(in)
		now := deps.Now()
		if now.Sub(since) >= floodTime {
			bytes, since = 0, now
		}
		if bytes += n; bytes > floodBytes {
			return fmt.Errorf("it floods its standard error: over %d MiB within %s; it was ended", floodBytes>>20, floodTime)
		}
		if more := int(now.Sub(refilled) / lineEvery); more > 0 {
			room, refilled = min(lineBurst, room+more), now
		}
		if line != "" {
			s.mu.Lock()
			s.last = line
			s.mu.Unlock()
		}
		switch {
		case line == "":
		case room == 0:
			left++
		default:
			if left > 0 {
				deps.Say(fmt.Sprintf("(%d lines left out)", left))
				left = 0
			}
			room--
			deps.Say(line)
		}
		if err != nil {
			if left > 0 {
				deps.Say(fmt.Sprintf("(%d lines left out)", left))
			}
			return nil //nolint:nilerr // its end is told by the process
		}
	}
}

// readLine returns the beginning of a line without what would disturb a terminal, and how long it was.
func readLine(in *bufio.Reader) (line string, n int, err error) {
	var b []byte
	for more := true; more; {
		var part []byte
		part, err = in.ReadSlice('\n')
		n += len(part)
		b = append(b, part[:min(len(part), maxLine-len(b))]...)
		more = errors.Is(err, bufio.ErrBufferFull) && n < floodBytes
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		err = nil
	}
	line = strings.Map(func(r rune) rune {
		if r < 0x20 && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(b), "?"))
	return strings.TrimSpace(line), n, err
}
