package target

import (
	"errors"
	"io"

	"forebay/proto"
)

// Body returns r for those that fill buffers from it: io.ErrUnexpectedEOF, which some clients give for a connection that is cut amid a
// body, would look to them as the end of one that is short. It becomes an error of ClassTransient.
func Body(r io.Reader) io.Reader { return body{r} }

type body struct{ r io.Reader }

// Read implements io.Reader.
func (b body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = proto.Errorf(proto.ClassTransient, "the connection was cut amid a body: try again")
	}
	return n, err
}
