// Package line is the stream to a driver at the other end of a serial line, or whatever else looks like one. It stands beside package
// process/child; it imports proto alone. The driver there is nobody's child: it is started on its own machine, and serves with
// serve.Options.Line.
package line
