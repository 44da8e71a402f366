package journal

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// cutting are records of which one body ends in the middle, as where a server closes the connection, or as where the file is short.
type cutting struct {
	target.Records
	at    int // the opening, counted from 1; 0: none
	after error
	opens int
}

func (c *cutting) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	body, err := c.Records.Open(ctx, name)
	c.opens++
	if err != nil || c.opens != c.at {
		return body, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(body, 300), stops{c.after}), body}, nil
}

type stops struct{ err error }

func (s stops) Read([]byte) (int, error) { return 0, s.err }

// Whatever cannot be read while a sound journal is mended, it is whole afterwards: a cut connection is no damage, and damage that was
// not there when it was looked for is owed to nobody.
func TestMendLosesNothingThatCouldBeRead(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]error{"cut": io.ErrUnexpectedEOF, "short": io.EOF} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for at := 1; ; at++ {
				rec := newMemRecords()
				j := mustOpen(t, rec)
				var es []Entry
				for i := range 50 {
					es = append(es, present(fmt.Sprintf("f%02d", i), proto.VersionID(i+1), 10))
				}
				require.NoError(t, batch(t.Context(), j, es...))
				require.NoError(t, batch(t.Context(), j, present("z", 99, 1)))
				c := &cutting{Records: rec, at: at, after: after}
				j, err := Open(t.Context(), c, "root")
				require.NoError(t, err)
				c.opens = 0
				_, err = j.Mend(t.Context(), nil)
				if c.opens < at {
					require.NoError(t, err)
					require.Greater(t, at, 2, "nothing was cut")
					return
				}
				if err != nil {
					require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
				}
				require.Len(t, dump(t, mustOpen(t, rec), ""), 51, "cut at opening %d: %v", at, err)
			}
		})
	}
}
