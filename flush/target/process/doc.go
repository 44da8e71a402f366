// Package process is the driver for targets that are reached through another process: it speaks the driver protocol (process/wire) with
// it, starts it again when it has ended, and does not believe all that it says. It stands at the end of the flow, below the flush workers.
//
//	process        target.Target over a stream; sessions, deadlines, back-off
//	process/child  the stream to a child process, kept within its limits
//	process/line   the stream to a driver at the other end of a serial line
//	process/serve  the other half, for drivers
//
// It imports target, proto and process/wire. What stream it is, is handed in.
package process
