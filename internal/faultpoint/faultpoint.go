// Package faultpoint names the boundaries between two durable steps of upload, acknowledgement, takeover, flush, confirmation
// and freeing, so that a harness can end everything at each of them and see what a restart makes of it. A hook is handed in
// like a clock; the program that ships hands in none, and passing a point then costs a comparison. It imports nothing.
package faultpoint

// Point is the name of a boundary: PART.STEP.WHERE, where WHERE says what is durable already.
type Point string

// Hook is told of each boundary as it is passed, by the goroutine that passes it. It may block, and may end the process; it
// must not call back into what passes the point.
type Hook func(Point)

// At tells the hook of a point; a nil hook is none.
func (h Hook) At(p Point) {
	if h != nil {
		h(p)
	}
}

// Step is the hook for those who can also be stopped at a point by an error: this one never gives any. It is nil for none.
func (h Hook) Step() func(Point) error {
	if h == nil {
		return nil
	}
	return func(p Point) error {
		h(p)
		return nil
	}
}
