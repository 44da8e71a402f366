package dir

import (
	"os"
	"strings"
	"unicode/utf8"
	"unsafe"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
)

// traits is what is known of a file system.
type traits struct {
	local  bool // a POSIX file system of this machine, of which all is known
	syncfs bool // one syncfs stands for an fsync of everything
	traitsSeen
}

// traitsSeen are those that show in a specimen.
type traitsSeen struct {
	modes     bool // and owners and holes, which FAT and its like do not have either
	folds     bool // names fold case
	raw       bool // names are bytes: all can be
	exact     bool // times are kept to the nanosecond
	symlinks  bool
	hardlinks bool
}

// traitsOf knows file systems by their statfs type. Unknown ones are taken for a POSIX file system without the shortcut, until a
// specimen tells more.
func traitsOf(magic int64) traits {
	posix := traits{traitsSeen: traitsSeen{modes: true, raw: true, exact: true, symlinks: true, hardlinks: true}}
	switch uint32(magic) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		posix.local, posix.syncfs = true, true
	case unix.TMPFS_MAGIC:
		posix.local = true
	case unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC:
		return traits{traitsSeen: traitsSeen{folds: true}}
	case 0xFF534D42, 0xFE534D42: // SMB
		return traits{traitsSeen: traitsSeen{modes: true, folds: true, symlinks: true}}
	case 0x5346544e, 0x7366746e: // NTFS
		return traits{traitsSeen: traitsSeen{modes: true, folds: true, symlinks: true, hardlinks: true}}
	}
	return posix
}

// syncReaches returns the strongest class that fsync on a file system of a statfs type can honestly stand for, and what an operator should
// know of it. Where another machine or program keeps the bytes, reading past this machine's cache shows what that one has in its own.
func syncReaches(magic int64) (class target.ConfirmClass, word string) {
	switch uint32(magic) {
	case unix.NFS_SUPER_MAGIC:
		return target.ConfirmSync, "NFS: what fsync makes durable is the server's word; one that exports with async has it in memory only"
	case 0xFF534D42, 0xFE534D42:
		return target.ConfirmSync, "SMB: fsync asks the server to flush; whether it does is up to its settings (samba: strict sync)"
	case unix.V9FS_MAGIC, 0x786f4256, 0x00c36400, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC: // vboxsf, CephFS
		return target.ConfirmSync, "another machine keeps the bytes: what fsync makes durable is up to it"
	case unix.FUSE_SUPER_MAGIC:
		return target.ConfirmSync, "FUSE: what fsync makes durable is up to the program behind the mount"
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return target.ConfirmAck, "the file system is in memory: nothing in it outlives a restart of the machine"
	}
	return target.ConfirmReread, ""
}

// rights are the capabilities of this process that decide what it can keep.
type rights struct {
	chown    bool // CAP_CHOWN: owners can be given
	override bool // CAP_DAC_OVERRIDE and CAP_FOWNER: directories need not be unlocked
}

func ownRights() rights {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		root := os.Geteuid() == 0
		return rights{chown: root, override: root}
	}
	has := func(c uint) bool { return data[c/32].Effective&(1<<(c%32)) != 0 }
	return rights{chown: has(unix.CAP_CHOWN), override: has(unix.CAP_DAC_OVERRIDE) && has(unix.CAP_FOWNER)}
}

// caseFolds reports whether names in an opened directory fold case: an ext4 or f2fs directory with that attribute.
func caseFolds(t traits, dir *os.File) bool {
	if t.folds {
		return true
	}
	const getFlags, casefold = 0x80086601, 0x40000000 // FS_IOC_GETFLAGS, FS_CASEFOLD_FL
	var flags int64                                   // the kernel writes an int; room for the long that its number promises
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), getFlags, uintptr(unsafe.Pointer(&flags)))
	return errno == 0 && int32(flags)&casefold != 0
}

// holdable reports whether every file system of Windows takes the names in a path. They must be text without what has a meaning there.
func holdable(p string) bool {
	if !utf8.ValidString(p) {
		return false
	}
	for name := range strings.SplitSeq(p, "/") {
		odd := func(r rune) bool { return r < ' ' || strings.ContainsRune(`"*:<>?\|`, r) }
		if strings.ContainsFunc(name, odd) || strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
			return false
		}
	}
	return true
}

// xattrsWork reports whether the file system of an opened directory can hold user attributes, without making one.
func xattrsWork(dir *os.File) bool {
	_, err := unix.Fgetxattr(int(dir.Fd()), "user.forebay", nil)
	return !is(err, unix.ENOTSUP)
}

func (t traits) carries(r rights, xattrs, shut bool) target.Carries {
	return target.Carries{
		Mode: t.modes, Owner: r.chown && t.modes, Mtime: true, Xattrs: xattrs,
		Symlinks: t.symlinks, Hardlinks: t.hardlinks, Sparse: t.modes, EmptyDirs: true, RawNames: t.raw, Coarse: !t.exact, Shut: shut,
	}
}

// bootID returns the kernel's id of this boot, "" where it cannot be read.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
