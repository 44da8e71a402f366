package sftp

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/pkg/sftp"

	"forebay/proto"
)

// A name or a path that is too long for a server will be so for ever, and SFTP has no word for that: OpenSSH answers "bad message", which
// stands for other things too, others "failure", which stands for everything. So it is found out what the reason is: by what the server
// tells of its names, else by asking it about a name of the same length that has nothing else to it.

// Statuses that a server may answer with for a name that is too long for it.
const (
	statusFailure    = 4
	statusBadMessage = 5
)

// refuses reports whether an error is a server's word that may be about a name. An error with a class is about something else.
func refuses(err error) bool {
	var known *proto.Error
	var status *sftp.StatusError
	return !errors.As(err, &known) && errors.As(err, &status) && (status.Code == statusFailure || status.Code == statusBadMessage)
}

// tooLong says what of a full name is too long for the server, where that is why a request about it failed with err; else "".
func (d *SFTP) tooLong(c *conn, err error, full string) string {
	if !refuses(err) {
		return ""
	}
	longest := 0
	for name := range strings.SplitSeq(full, "/") {
		longest = max(longest, len(name))
	}
	if most := d.maxName(c); most > 0 && longest > most {
		return fmt.Sprintf("a name of %d bytes, where %d are the most", longest, most)
	}
	base := strings.TrimSuffix(d.cfg.Path, "/")
	same := base + strings.Repeat("/.", max(0, len(full)-len(base))/2) // the same directory, by a path as long
	if len(same) < len(full) {
		same += "/"
	}
	switch {
	case c.unheld(same, d.cfg.Path):
		return fmt.Sprintf("a path of %d bytes on the server", len(full))
	case c.unheld(base+"/"+strings.Repeat("x", longest), base+"/x"):
		return fmt.Sprintf("a name of %d bytes", longest)
	}
	return ""
}

// unheld reports whether the server refuses a long name and not a short one for the same place.
func (c *conn) unheld(long, short string) bool {
	if _, err := c.lstat(long); !refuses(err) {
		return false
	}
	_, err := c.lstat(short)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// maxName is the longest name of the file system of the target in bytes, 0 where the server does not tell.
func (d *SFTP) maxName(c *conn) int {
	if !c.statvfs {
		return 0
	}
	v, err := c.sftp.StatVFS(d.cfg.Path)
	if err != nil {
		return 0
	}
	return namemax(v)
}

// namemax is what a server says of its names; what is more than any name has is no limit.
func namemax(v *sftp.StatVFS) int {
	if v.Namemax > 1<<16 {
		return 0
	}
	return int(v.Namemax)
}

// textTooLong reports whether the server refused a symbolic link for its text: one with another text it makes.
func (c *conn) textTooLong(err error, tmp string) bool {
	if !refuses(err) || c.sftp.Symlink("x", tmp) != nil {
		return false
	}
	return c.sftp.Remove(tmp) == nil
}
