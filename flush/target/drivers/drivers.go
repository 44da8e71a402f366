// Package drivers is the table by which a target's driver is found: what stands on the other side, and the way to it, decide the
// protocol, and that the driver. It is data: what opens targets goes by it, and `forebay targets drivers` prints it. It imports target alone.
package drivers

import "forebay/flush/target"

// Row is one way to one kind of device.
type Row struct {
	Device   string              `json:"device"`
	Way      string              `json:"way"` // of communication
	Protocol string              `json:"protocol"`
	Type     string              `json:"type"`    // of the target in relay.yaml
	Driver   string              `json:"driver"`  // the package that speaks the protocol
	Confirm  target.ConfirmClass `json:"confirm"` // the strongest that it can honestly reach; a check of the target tells what this one does
	Tested   string              `json:"tested"`  // against what, "" for nothing yet
}

// Table has all rows, in the order in which they are shown.
var Table = [...]Row{
	{"disk of this machine", "file system", "POSIX", "dir", "flush/target/dir", target.ConfirmReread, "ext4, xfs"},
	{"NAS", "mount (NFS, SMB)", "POSIX", "dir", "flush/target/dir", target.ConfirmSync, ""},
	{"server with OpenSSH", "SSH", "SFTP 3", "sftp", "flush/target/sftp", target.ConfirmSync, "OpenSSH 9.2, and the same without its extensions (class ack)"},
	{"object storage", "HTTP, HTTPS", "S3", "s3", "flush/target/s3", target.ConfirmAck, "versitygw 1.8.0, MinIO 2026-02-12 on one and four drives"},
	{"WebDAV server", "HTTP, HTTPS", "WebDAV", "rclone", "cmd/forebay-rclone", target.ConfirmAck, "Apache 2.4 (mod_dav), rclone 1.76.0; an object that is replaced is away for a moment"},
	{"Windows share, samba", "SMB", "SMB 2, SMB 3", "rclone", "cmd/forebay-rclone", target.ConfirmAck, "samba 4.17; an object that is replaced may be away for a moment"},
	{"object storage", "HTTP, HTTPS", "S3, by rclone", "rclone", "cmd/forebay-rclone", target.ConfirmAck, "versitygw 1.8.0; type s3 goes on with large objects, this does not"},
	{"Hadoop cluster", "Hadoop RPC", "HDFS", "rclone", "cmd/forebay-rclone", target.ConfirmAck, ""},
	{"OpenStack object storage", "HTTP, HTTPS", "Swift", "rclone", "cmd/forebay-rclone", target.ConfirmAck, ""},
	{"Azure Blob Storage", "HTTPS", "Azure Blob", "rclone", "cmd/forebay-rclone", target.ConfirmAck, ""},
	{"Google Cloud Storage", "HTTPS", "GCS JSON", "rclone", "cmd/forebay-rclone", target.ConfirmAck, ""},
	{"whatever its driver reaches", "driver process", "driver protocol 1", "process", "flush/target/process", target.ConfirmReread, "forebay-sample-driver (class sync)"},
	{"machine with a driver", "serial line", "driver protocol 1", "serial", "flush/target/process", target.ConfirmReread, "forebay-sample-driver over a pty, with damaged bytes (class sync)"},
}

// Of returns the driver of a target's type, "" when no row has it.
func Of(targetType string) string {
	for _, r := range Table {
		if r.Type == targetType {
			return r.Driver
		}
	}
	return ""
}
