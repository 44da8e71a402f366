// Package fsmeta reads and applies what a file carries besides its bytes (kind, owner, mode, times, extended attributes,
// holes), and opens files below a directory without ever following a link out of it. The agent reads with it, the directory
// target and restore write with it. It knows Linux; it imports proto only.
//
// Nothing here is done by path alone: an object is opened once, without following links, and everything is then read from
// or applied to what was opened, so that an exchange of a file for a symbolic link in between has no effect (I12).
package fsmeta
