package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/internal/servers"
	"forebay/proto"
)

// both runs a test on each server.
func both(t *testing.T, test func(t *testing.T, p *place)) {
	t.Helper()
	for name, start := range map[string]func(t *testing.T) *servers.S3{
		"versitygw": servers.Versitygw,
		"minio":     func(t *testing.T) *servers.S3 { return servers.MinIO(t, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newPlace(t, start(t)))
		})
	}
}

// counter counts what goes to a server, and can lose answers.
type counter struct {
	http.RoundTripper
	mu    sync.Mutex
	sent  int64
	calls map[string]int // by method and what it is about
	lose  func(r *http.Request) bool
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	what := r.Method
	for _, q := range []string{"uploads", "partNumber", "uploadId"} {
		if r.URL.Query().Has(q) {
			what += " " + q
			break
		}
	}
	c.mu.Lock()
	c.sent += max(r.ContentLength, 0)
	c.calls[what]++
	lose := c.lose
	c.mu.Unlock()
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil && lose != nil && lose(r) {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return nil, errors.New("connection reset by peer")
	}
	return resp, err
}

func (c *counter) take() (sent int64, calls map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	sent, calls = c.sent, c.calls
	c.sent, c.calls = 0, map[string]int{}
	return sent, calls
}

func (c *counter) losing(f func(r *http.Request) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lose = f
}

func (p *place) count() *counter {
	c := &counter{calls: map[string]int{}}
	p.around = func(base http.RoundTripper) http.RoundTripper {
		c.RoundTripper = base
		return c
	}
	return c
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	_, _ = r.Read(b)
	return b
}

func descOf(content []byte) proto.Desc {
	return proto.Desc{Kind: proto.KindFile, Size: int64(len(content)), Digest: proto.ContentDigest(content), Meta: proto.Meta{Mode: 0o640, MtimeNs: 1_700_000_000_123_456_789}}
}

func contentOf(id target.StageID, path string, content []byte) target.Content {
	return target.Content{ID: id, Size: int64(len(content)), Path: path, Desc: descOf(content)}
}

func put(id target.StageID, path string, content []byte) target.Change {
	return target.Change{Op: target.OpPut, Path: path, Stage: id, Desc: descOf(content)}
}

// stage writes a whole content.
func stage(t *testing.T, d *S3, c target.Content, content []byte) {
	t.Helper()
	w, err := d.Stage(t.Context(), c)
	require.NoError(t, err)
	_, err = w.Write(content)
	require.NoError(t, err)
	require.NoError(t, w.Close())
}

// completed completes an upload behind the back of the driver, as a kill between that and its record does, and opens the target again.
func (p *place) completed(t *testing.T, d *S3, id target.StageID) *S3 {
	t.Helper()
	d.mu.Lock()
	up := d.uploads[id]
	d.mu.Unlock()
	require.NoError(t, d.complete(t.Context(), up))
	return p.open(t, Config{})
}

func read(t *testing.T, d *S3, path string) []byte {
	t.Helper()
	r, err := d.Open(t.Context(), path)
	require.NoError(t, err)
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return b
}

// uploads lists the multipart uploads of a bucket.
func (p *place) uploads() (keys []string) {
	for u := range p.client().ListIncompleteUploads(context.Background(), p.bucket, "", true) {
		require.NoError(p.t, u.Err)
		keys = append(keys, u.Key)
	}
	return keys
}

// records lists what is staged.
func (p *place) staged() (keys []string) {
	for o := range p.client().ListObjects(context.Background(), p.bucket, minio.ListObjectsOptions{Recursive: true}) {
		require.NoError(p.t, o.Err)
		if strings.Contains(o.Key, ".forebay/stage/") {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// A large content goes on from the parts that the server has, after a restart too, and none of them is sent again.
func TestUploadGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		c, ctx := p.count(), t.Context()
		content := noise(t, 45<<20+17)
		d := p.open(t, Config{})
		w, err := d.Stage(ctx, contentOf("big", "dir/big", content))
		require.NoError(t, err)
		_, err = w.Write(content[:30<<20])
		require.NoError(t, err)
		durable, err := w.Sync()
		require.NoError(t, err)
		require.EqualValues(t, 24<<20, durable, "three whole parts")
		require.NoError(t, w.Close())
		require.Len(t, p.staged(), 1)
		require.Equal(t, []string{"dir/big"}, p.uploads(), "it is uploaded in its place")
		require.NoError(t, d.List(ctx, "", func(e target.Entry) error {
			require.Equal(t, proto.KindDir, e.Desc.Kind, "unseen: %q", e.Path)
			return nil
		}))

		d = p.open(t, Config{})
		c.take()
		require.NoError(t, d.Unstage(ctx, func(id target.StageID) bool { return id == "big" }))
		w, err = d.Stage(ctx, contentOf("big", "dir/big", content))
		require.NoError(t, err)
		require.EqualValues(t, 24<<20, w.Offset())
		require.True(t, w.Proved())
		_, err = w.Write(content[24<<20:])
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.NoError(t, d.Barrier(ctx, []target.StageID{"big"}))
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("big", "dir/big", content)}))
		sent, calls := c.take()
		require.Less(t, sent, int64(len(content)-24<<20+8<<10), "the parts that were there are not sent again: %v", calls)
		require.Equal(t, 3, calls["PUT partNumber"])
		require.Zero(t, calls["GET uploads"], "nothing is looked for")
		require.True(t, bytes.Equal(content, read(t, d, "dir/big")))
		e, err := d.Stat(ctx, "dir/big")
		require.NoError(t, err)
		require.Equal(t, descOf(content).Meta, e.Desc.Meta)
		require.Empty(t, p.staged())
		require.Empty(t, p.uploads())
	})
}

// A content whose place and metadata were not known when it was staged gets them in one step.
func TestUploadWithoutAPlace(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		ctx, content := t.Context(), noise(t, 17<<20)
		d := p.open(t, Config{Prefix: "p"})
		stage(t, d, target.Content{ID: "stream", Size: int64(len(content))}, content)
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("stream", "s", content)}))
		require.True(t, bytes.Equal(content, read(t, d, "s")))
		e, err := d.Stat(ctx, "s")
		require.NoError(t, err)
		require.Equal(t, descOf(content).Meta, e.Desc.Meta)
		require.Empty(t, p.staged())
		require.Empty(t, p.uploads())
	})
}

// Requests whose answer is lost are looked for, not sent again.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		c, ctx := p.count(), t.Context()
		big, small := noise(t, 9<<20), []byte("small")
		d := p.open(t, Config{})
		for id, content := range map[target.StageID][]byte{"big": big, "small": small} {
			stage(t, d, contentOf(id, string(id), content), content)
		}
		c.losing(func(r *http.Request) bool {
			return r.Method == http.MethodPost || r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/small")
		})
		c.take()
		require.Equal(t, []error{nil, nil}, d.Commit(ctx, []target.Change{put("big", "big", big), put("small", "small", small)}))
		_, calls := c.take()
		require.Equal(t, 1, calls["PUT"], "%v", calls)
		require.Equal(t, 1, calls["POST uploadId"], "%v", calls)
		c.losing(nil)
		require.True(t, bytes.Equal(big, read(t, d, "big")))
		require.Equal(t, small, read(t, d, "small"))
	})
}

// An upload that was completed before the relay was killed is there: nothing of it is sent again.
func TestCompletedBeforeTheKill(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		c, ctx, content := p.count(), t.Context(), noise(t, 9<<20)
		d := p.open(t, Config{})
		stage(t, d, contentOf("big", "big", content), content)
		d = p.completed(t, d, "big")
		c.take()
		w, err := d.Stage(ctx, contentOf("big", "big", content))
		require.NoError(t, err)
		require.Equal(t, int64(len(content)), w.Offset())
		require.NoError(t, w.Close())
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("big", "big", content)}))
		sent, _ := c.take()
		require.Less(t, sent, int64(4<<10))
		require.Empty(t, p.staged())
	})
}

// An upload that the server ended by itself, as a bucket's lifecycle does, is begun anew: an older object of its size is not taken for it.
func TestUploadThatTheServerEnded(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		ctx, older, content := t.Context(), noise(t, 9<<20), noise(t, 9<<20)
		d := p.open(t, Config{})
		stage(t, d, contentOf("older", "big", older), older)
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("older", "big", older)}))
		stage(t, d, contentOf("newer", "big", content), content)
		require.NoError(t, p.client().RemoveIncompleteUpload(ctx, p.bucket, "big"))
		require.Empty(t, p.uploads())

		d = p.open(t, Config{})
		w, err := d.Stage(ctx, contentOf("newer", "big", content))
		require.NoError(t, err)
		require.Zero(t, w.Offset())
		_, err = w.Write(content)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("newer", "big", content)}))
		require.True(t, bytes.Equal(content, read(t, d, "big")))
	})
}

// So is a content without a place: of a stream it is all that there is.
func TestStreamCompletedBeforeTheKill(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		ctx, content := t.Context(), noise(t, 17<<20)
		d := p.open(t, Config{})
		stage(t, d, target.Content{ID: "stream", Size: int64(len(content)), Path: "s"}, content)
		d = p.completed(t, d, "stream")
		require.NoError(t, d.Unstage(ctx, func(target.StageID) bool { return true }))
		w, err := d.Stage(ctx, contentOf("stream", "s", content))
		require.NoError(t, err)
		require.Equal(t, int64(len(content)), w.Offset())
		require.NoError(t, w.Close())
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("stream", "s", content)}))
		require.True(t, bytes.Equal(content, read(t, d, "s")))
		require.Empty(t, p.staged())
	})
}

// Uploads that nobody wants any more are aborted, also one that was begun and never recorded; those of others stay.
func TestUnwantedUploadsAreAborted(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		c, ctx, content := p.count(), t.Context(), noise(t, 9<<20)
		d := p.open(t, Config{})
		theirs := minio.Core{Client: p.client()}
		_, err := theirs.NewMultipartUpload(ctx, p.bucket, "elsewhere", minio.PutObjectOptions{})
		require.NoError(t, err)
		w, err := d.Stage(ctx, contentOf("one", "one", content))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		c.losing(func(r *http.Request) bool { return r.Method == http.MethodPost })
		_, err = d.Stage(ctx, contentOf("two", "two", content))
		require.Error(t, err, "the answer that has the upload's id is lost")
		c.losing(nil)
		require.ElementsMatch(t, []string{"one", "two", "elsewhere"}, p.uploads())
		d = p.open(t, Config{})
		require.NoError(t, d.Unstage(ctx, func(target.StageID) bool { return false }))
		require.Equal(t, []string{"elsewhere"}, p.uploads())
		require.Empty(t, p.staged())
	})
}

// A content whose upload could not be begun is not held by that: the next try begins it.
func TestUploadThatCouldNotBeBegunIsTriedAgain(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		c, ctx, content := p.count(), t.Context(), noise(t, 9<<20)
		d := p.open(t, Config{})
		c.losing(func(r *http.Request) bool { return r.Method == http.MethodPost })
		for range 2 {
			_, err := d.Stage(ctx, contentOf("big", "big", content))
			require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
		}
		c.losing(nil)
		stage(t, d, contentOf("big", "big", content), content)
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("big", "big", content)}))
		require.True(t, bytes.Equal(content, read(t, d, "big")))
		require.Empty(t, p.uploads(), "what was begun without our knowing is aborted")
	})
}

// A content whose bytes change on the way is not taken.
func TestDamageOnTheWay(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		ctx := t.Context()
		flip := false
		p.around = func(base http.RoundTripper) http.RoundTripper {
			return roundTrip(func(r *http.Request) (*http.Response, error) {
				if flip && r.Method == http.MethodPut && r.Body != nil {
					b, err := io.ReadAll(r.Body)
					require.NoError(t, err)
					if len(b) > 0 {
						b[len(b)/2] ^= 1
					}
					r.Body = io.NopCloser(bytes.NewReader(b))
				}
				return base.RoundTrip(r)
			})
		}
		d := p.open(t, Config{})
		stage(t, d, contentOf("s", "s", []byte("content")), []byte("content"))
		big := noise(t, 9<<20)
		w, err := d.Stage(ctx, contentOf("b", "b", big))
		require.NoError(t, err)
		flip = true
		_, err = w.Write(big)
		require.Error(t, errors.Join(err, w.Close()))
		err = d.Commit(ctx, []target.Change{put("s", "s", []byte("content"))})[0]
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
		flip = false
		require.Equal(t, []error{nil}, d.Commit(ctx, []target.Change{put("s", "s", []byte("content"))}))
		require.Equal(t, "content", string(read(t, d, "s")))
	})
}

type roundTrip func(r *http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// What a completion that came after its abort made of a content without a place goes too: nobody else would ever remove it.
func TestDataWithoutARecordIsRemoved(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		content := noise(t, 9<<20)
		d := p.open(t, Config{})
		stage(t, d, target.Content{ID: "stream", Size: int64(len(content)), Path: "s"}, content)
		d = p.completed(t, d, "stream")
		require.NoError(t, p.client().RemoveObject(t.Context(), p.bucket, d.stageFolder()+"stream", minio.RemoveObjectOptions{}))
		require.Len(t, p.staged(), 1)
		require.NoError(t, d.Unstage(t.Context(), func(target.StageID) bool { return false }))
		require.Empty(t, p.staged())
	})
}
