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
	local     bool // a POSIX file system of this machine, of which all is known
	syncfs    bool // one syncfs stands for an fsync of everything
	plain     bool // no owners, modes, holes (FAT and its like)
	folds     bool // names fold case
	unraw     bool // names are not bytes: some cannot be
	coarse    bool // times are not kept to the nanosecond
	symlinks  bool
	hardlinks bool
}

// traitsOf knows file systems by their statfs type. Unknown ones are taken for a POSIX file system without the shortcut, until a
// specimen tells more.
func traitsOf(magic int64) traits {
	posix := traits{symlinks: true, hardlinks: true}
	fat := traits{plain: true, folds: true, unraw: true, coarse: true}
	switch uint32(magic) {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		posix.local, posix.syncfs = true, true
	case unix.TMPFS_MAGIC:
		posix.local = true
	case unix.MSDOS_SUPER_MAGIC, unix.EXFAT_SUPER_MAGIC:
		return fat
	case 0xFF534D42, 0xFE534D42: // SMB
		return traits{folds: true, unraw: true, coarse: true, symlinks: true}
	case 0x5346544e, 0x7366746e: // NTFS
		return traits{folds: true, unraw: true, coarse: true, symlinks: true, hardlinks: true}
	}
	return posix
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
		Mode: !t.plain, Owner: r.chown && !t.plain, Mtime: true, Xattrs: xattrs,
		Symlinks: t.symlinks, Hardlinks: t.hardlinks, Sparse: !t.plain, EmptyDirs: true, RawNames: !t.unraw, Coarse: t.coarse, Shut: shut,
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
