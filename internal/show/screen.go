package show

import (
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
)

// drawEvery is how often bars are drawn.
const drawEvery = 150 * time.Millisecond

// screen is a set of bars on a terminal. It draws by its own tick: left to itself, mpb loses lines that were written
// since its last tick when the bars end.
type screen struct {
	mpb  *mpb.Progress
	draw chan any
	gone chan any // closed by mpb when it has ended, by us or because the terminal is gone
	stop chan struct{}
	wg   sync.WaitGroup
}

func newScreen(out io.Writer) *screen {
	s := &screen{draw: make(chan any), gone: make(chan any), stop: make(chan struct{})}
	s.mpb = mpb.New(mpb.WithOutput(out), mpb.WithWidth(28), mpb.WithManualRefresh(s.draw), mpb.WithShutdownNotifier(s.gone))
	s.wg.Add(1)
	go func() { // ends at close
		defer s.wg.Done()
		tick := time.NewTicker(drawEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.redraw()
			case <-s.stop:
				return
			}
		}
	}()
	return s
}

func (s *screen) redraw() {
	select {
	case s.draw <- nil:
	case <-s.gone:
	}
}

// close takes the last bar from the screen and ends; everything written before is on the screen then.
func (s *screen) close(last *mpb.Bar) {
	close(s.stop)
	s.wg.Wait()
	last.Abort(true)
	s.redraw()
	s.redraw() // is taken only after the one before was passed on
	s.mpb.Wait()
}
