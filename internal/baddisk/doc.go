// Package baddisk makes disks for tests that do what disks do to an operator: they are small and fill up, they run out of
// inodes, their fsync fails, the power goes. It needs root and nothing but the kernel, util-linux, e2fsprogs and xfsprogs.
// Everything lies below one directory, a Yard; a yard that a killed test left behind is found by its owner's mark and taken
// away by Sweep. It imports nothing of Forebay and is used by tests only.
//
//	yard (tmpfs, marked with its owner)
//	  |- small tmpfs, mounted elsewhere too        Small: bytes and inodes run out
//	  |- room-N (tmpfs) -> image -> XFS elsewhere  Failing: Break fills the room, and fsync fails
//	  `- host.img -> XFS -> image -> ext4          Cuttable: Cut clones the image at an instant (FICLONE)
package baddisk
