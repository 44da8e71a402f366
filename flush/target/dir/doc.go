// Package dir is the driver for disks and mounted network storage: a target that is a directory. It stands at the end of
// the flow, below the flush workers, and restore writes its tree with it too. It knows Linux; it imports target, fsmeta and
// proto, and nothing else of Forebay.
//
// Everything below the target's directory is opened through fsmeta.Root: no symbolic link is followed, no mount point is
// crossed, whatever lies in the tree (I12). What makes an entry does so by a name in an opened directory.
//
//	<path>/.forebay/stage/<prefix key>/<stage id>    a staged content; <stage id>.at is its durable length
//	<path>/.forebay/stage/<prefix key>/.boot         the kernel's boot id when contents were staged last
//	<path>/.forebay/stage/<prefix key>/.dirs         modes and times of directories that a commit is disturbing
//	<path>/.forebay/stage/<prefix key>/.t-*          what is about to be moved to its place
//	<path>/.forebay/<record>                         records, for all prefixes
//	<path>/<prefix>/...                              the mirror
//
// Durable means: one syncfs for a whole batch on ext4, xfs and btrfs, where it is known to wait for the data and report
// errors; an fsync of each file and directory elsewhere.
package dir
