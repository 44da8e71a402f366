package s3

import (
	"forebay/flush/target"
	"forebay/flush/target/text"
	"forebay/flush/target/tree"
	"forebay/proto"
)

// Keys are text of at most 1,024 bytes, and travel in XML: see package text.

// maxKey is the longest key in bytes.
const maxKey = 1024

// object is the key of a path in the mirror; "" is the mirror itself.
func (d *S3) object(p string) string { return text.Escape(tree.Join(d.cfg.Path, d.cfg.Prefix, p)) }

// record is the key of a record.
func (d *S3) record(name string) string {
	return text.Escape(tree.Join(d.cfg.Path, proto.ReservedName, name))
}

// stageFolder is what the keys of this prefix's stage records begin with.
func (d *S3) stageFolder() string { return d.record(target.StageDir+"/"+d.key) + "/" }

// checkKey refuses a key that no server takes.
func checkKey(key string) error {
	if len(key) > maxKey {
		return proto.Errorf(proto.ClassPermanent, "its key has %d bytes, S3 allows %d: the name is too long for this target", len(key), maxKey)
	}
	return nil
}
