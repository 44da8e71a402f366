// Command forebay is all of Forebay in one static binary: the relay and agent daemons, the operator's verbs, and the demo.
// Verbs parse, build and run; what they run lies in the packages below. Each verb is a file named after it.
//
// This is the edge of the house: environment, clock, signals, terminals and exit codes are read and set here and nowhere
// below.
package main

import (
	"context"
	"os"
	"time"
	_ "time/tzdata" // flush windows name IANA zones, and a static binary finds none on a small machine
)

func main() {
	c := &cli{
		in: os.Stdin, out: os.Stdout, errs: os.Stderr,
		inTerminal: isTerminal(os.Stdin), outTerminal: isTerminal(os.Stdout), errTerminal: isTerminal(os.Stderr),
		width:     terminalWidth(os.Stdout),
		lookupEnv: os.LookupEnv, now: time.Now, memory: limitMemory(),
	}
	os.Exit(c.run(context.Background(), os.Args[1:]))
}
