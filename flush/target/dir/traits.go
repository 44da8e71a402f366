package dir

import (
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
)

// traits is what is known of a kind of file system.
type traits struct {
	name      string
	syncfs    bool // one syncfs stands for an fsync of everything
	plain     bool // no owners, modes, links, holes (FAT and its like)
	windows   bool // names fold case and are not bytes
	hardlinks bool // has hard links
}

// traitsOf knows file systems by their statfs type. Unknown ones are taken for a POSIX file system without the shortcut.
func traitsOf(magic int64) traits {
	switch uint32(magic) {
	case unix.EXT4_SUPER_MAGIC:
		return traits{name: "ext4", syncfs: true, hardlinks: true}
	case unix.XFS_SUPER_MAGIC:
		return traits{name: "xfs", syncfs: true, hardlinks: true}
	case unix.BTRFS_SUPER_MAGIC:
		return traits{name: "btrfs", syncfs: true, hardlinks: true}
	case unix.TMPFS_MAGIC:
		return traits{name: "tmpfs", hardlinks: true}
	case unix.NFS_SUPER_MAGIC:
		return traits{name: "nfs", hardlinks: true}
	case unix.MSDOS_SUPER_MAGIC:
		return traits{name: "vfat", plain: true, windows: true}
	case unix.EXFAT_SUPER_MAGIC:
		return traits{name: "exfat", plain: true, windows: true}
	case 0xFF534D42, 0xFE534D42:
		return traits{name: "smb", windows: true}
	case 0x5346544e, 0x7366746e:
		return traits{name: "ntfs", windows: true, hardlinks: true}
	}
	return traits{name: fmt.Sprintf("file system type %#x", uint32(magic)), hardlinks: true}
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
	if t.windows {
		return true
	}
	const getFlags, casefold = 0x80086601, 0x40000000 // FS_IOC_GETFLAGS, FS_CASEFOLD_FL
	var flags int64                                   // the kernel writes an int; room for the long that its number promises
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), getFlags, uintptr(unsafe.Pointer(&flags)))
	return errno == 0 && int32(flags)&casefold != 0
}

// xattrsWork reports whether the file system of an opened directory can hold user attributes, without making one.
func xattrsWork(dir *os.File) bool {
	_, err := unix.Fgetxattr(int(dir.Fd()), "user.forebay", nil)
	return !is(err, unix.ENOTSUP)
}

func (t traits) carries(r rights, xattrs, shut bool) target.Carries {
	return target.Carries{
		Mode: !t.plain, Owner: r.chown && !t.plain, Mtime: true, Xattrs: xattrs,
		Symlinks: !t.plain, Hardlinks: t.hardlinks, Sparse: !t.plain, EmptyDirs: true, RawNames: !t.windows, Coarse: t.windows, Shut: shut,
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
