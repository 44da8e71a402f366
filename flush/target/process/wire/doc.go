// Package wire is what a relay and a driver say to each other over a stream of bytes: the frames and the messages in them, without
// anything that acts. It stands between process (the relay's half) and process/serve (the driver's) and imports target and proto.
//
// The relay asks and the driver answers, several requests at a time; nobody sends what was not asked for, so that neither side's memory
// depends on the other's good will. What is too long for one answer is behind a handle and is asked for piece by piece. The whole is told in
// docs/driver-protocol.md.
package wire
