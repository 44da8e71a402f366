package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"forebay/flush/target"
	"forebay/proto"
)

// Reuse appends what the object in the mirror has. It is read and proved; then the file system copies it, which on one with reflinks
// (xfs, btrfs) shares the blocks and writes none.
func (s *stage) Reuse(ctx context.Context, n int64, sum proto.Digest, _ []proto.Digest) error {
	if err := s.room(n); err != nil {
		return err
	}
	if s.before == nil {
		in, err := s.d.Open(ctx, s.path)
		if errors.Is(err, fs.ErrNotExist) || proto.ClassOf(err) == proto.ClassPermanent {
			return fmt.Errorf("%w: %w", target.ErrNotReusable, err)
		}
		if err != nil {
			return err
		}
		s.before = in.(*os.File) //nolint:forcetypeassert // it is what Open opens
	}
	block := s.off / proto.BlockSize * proto.BlockSize
	buf := make([]byte, s.off+n-block)
	switch _, err := s.before.ReadAt(buf, block); {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: it ends before byte %d", target.ErrNotReusable, s.off+n)
	case is(err, unix.EIO): // what replaces it mends that
		return fmt.Errorf("%w: read %q at byte %d: %w", target.ErrNotReusable, s.path, block, err)
	case err != nil:
		return classify(err, "read %q at byte %d", s.path, block)
	}
	if proto.BlockDigest(buf) != sum {
		return fmt.Errorf("%w: it has other bytes at %d", target.ErrNotReusable, block)
	}
	data := buf[s.off-block:]
	data = data[s.share(int64(len(data))):]
	if len(data) == 0 {
		return nil
	}
	_, err := s.Write(data)
	return err
}

// share copies up to n bytes within the file system and returns how many it took: none where it cannot.
func (s *stage) share(n int64) (done int64) {
	for done < n {
		from, to := s.off, s.off
		k, err := unix.CopyFileRange(int(s.before.Fd()), &from, int(s.f.Fd()), &to, int(n-done), 0)
		if err != nil || k <= 0 { // written like all else, which tells what is wrong
			return done
		}
		done, s.off = done+int64(k), s.off+int64(k)
	}
	return done
}
