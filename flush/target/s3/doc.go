// Package s3 is the driver for object storage that speaks the S3 protocol: Amazon S3, MinIO, versitygw, Ceph RGW and others. It
// stands at the end of the flow, below the flush workers; it imports target and proto and nothing else of Forebay.
//
// Below <path>, the folder in the bucket that is the target's root:
//
//	<path>/.forebay/<record>                       records, for all prefixes
//	<path>/.forebay/stage/<prefix key>/<stage id>  where the multipart upload of a large content is, see upload.go
//	<path>/<prefix>/...                            the mirror
//
// A file is an object of the same name, a directory an empty object with a slash behind its name, a symbolic link an object whose
// content is the link's text. Mode, owner and mtime are user metadata with the names and values that s3fs and rclone use, so that
// a mirror can be mounted or copied without Forebay. Keys are text: other bytes in names are escaped, see keys.go.
//
// Nothing is ever moved. An object appears whole by the one request that puts it, or that completes its multipart upload (I10):
// small contents are kept in memory until they are committed, large ones are uploaded in their place, unseen. What the server
// acknowledged it has, and every payload carries a SHA-256 that the server verifies: confirm class ack.
package s3
