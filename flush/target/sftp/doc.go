// Package sftp is the driver for servers that are reached by SSH and speak SFTP, such as OpenSSH's. It stands at the end of the flow,
// below the flush workers; it imports target and proto and nothing else of Forebay.
//
//	<path>/.forebay/stage/<prefix key>/<stage id>    a large content; <stage id>.at is its durable length
//	<path>/.forebay/stage/<prefix key>/.dirs         times and modes of directories that a commit is disturbing
//	<path>/.forebay/stage/<prefix key>/.a-*          an object that is being replaced, see replace.go
//	<path>/.forebay/stage/<prefix key>/.t-*          what is about to be moved to its place
//	<path>/.forebay/<record>                         records, for all prefixes
//	<path>/<prefix>/...                              the mirror
//
// Small contents are kept in memory until they are committed, and committed many at a time, for each request is a journey. Data are
// fsynced before they get their name and directories before a commit returns, with fsync@openssh.com; a name is taken over with
// posix-rename@openssh.com. A server without one of them is of class ack, and the notes say so.
//
// SFTP resolves paths on the server. What lies above a path is looked at before it is used, and must be a directory and no link (I12);
// who may write into the target on the server could still exchange it in that moment.
package sftp
