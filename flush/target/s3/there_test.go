package s3

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"forebay/flush/target"
	"forebay/proto"
)

// What keeps a target from being used is said so that an operator knows what to do.
func TestWhatIsWrongIsSaid(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		ctx := t.Context()
		probe := func(cfg Config, deps Deps) error {
			cfg.Endpoint = p.server.Endpoint()
			if cfg.Bucket == "" {
				cfg.Bucket = p.bucket
			}
			d, err := Open(cfg, deps)
			require.NoError(t, err)
			defer func() { require.NoError(t, d.Close()) }()
			_, err = d.Probe(ctx)
			return err
		}
		right := p.deps()
		require.NoError(t, probe(Config{}, right))
		require.ErrorContains(t, probe(Config{Bucket: "nowhere"}, right), "there is no bucket nowhere")
		require.ErrorContains(t, probe(Config{Expect: true}, right), "its owner mark")

		wrong := right
		wrong.Keys = func() (Secrets, error) { return Secrets{Access: p.server.Access, Secret: "not the secret"}, nil }
		require.ErrorContains(t, probe(Config{}, wrong), "access key")
		wrong.Keys = func() (Secrets, error) { return Secrets{}, errors.New("read /etc/forebay/secret: no such file") }
		require.ErrorContains(t, probe(Config{}, wrong), "no such file")
		for _, err := range []error{probe(Config{Bucket: "nowhere"}, right), probe(Config{}, wrong)} {
			require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "it may be mended: nothing is parked for it: %v", err)
		}
	})
}

// shifted signs requests as a machine does whose clock is off (AWS Signature Version 4).
type shifted struct {
	http.RoundTripper
	off    time.Duration
	secret string
}

func (s shifted) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	parts := regexp.MustCompile(`Credential=([^/]+)/[0-9]+/([^/]+)/s3/aws4_request, ?SignedHeaders=([^,]+),`).FindStringSubmatch(r.Header.Get("Authorization"))
	if parts == nil {
		return s.RoundTripper.RoundTrip(r)
	}
	at := time.Now().UTC().Add(s.off)
	day, stamp := at.Format("20060102"), at.Format("20060102T150405Z")
	r.Header.Set("X-Amz-Date", stamp)
	var b strings.Builder
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	fmt.Fprintf(&b, "%s\n%s\n%s\n", r.Method, r.URL.EscapedPath(), query)
	for name := range strings.SplitSeq(parts[3], ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = cmp.Or(r.Host, r.URL.Host)
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		fmt.Fprintf(&b, "%s:%s\n", name, value)
	}
	fmt.Fprintf(&b, "\n%s\n%s", parts[3], r.Header.Get("X-Amz-Content-Sha256"))
	scope := day + "/" + parts[2] + "/s3/aws4_request"
	key := []byte("AWS4" + s.secret)
	for _, part := range append(strings.Split(scope, "/"), fmt.Sprintf("AWS4-HMAC-SHA256\n%s\n%s\n%x", stamp, scope, sha256.Sum256([]byte(b.String())))) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	r.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x", parts[1], scope, parts[3], key))
	return s.RoundTripper.RoundTrip(r)
}

// Servers refuse what is signed a quarter of an hour off. Below that, the difference is noted.
func TestClocksThatAreApart(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		for off, want := range map[time.Duration]string{0: "", 10 * time.Minute: "the server's clock is -10m", 20 * time.Minute: "", time.Hour: ""} {
			deps := p.deps()
			deps.Now = func() time.Time { return time.Now().Add(off) }
			deps.Around = func(rt http.RoundTripper) http.RoundTripper { return shifted{rt, off, p.server.Secret} }
			d, err := Open(Config{Endpoint: p.server.Endpoint(), Bucket: p.bucket}, deps)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, d.Close()) })
			info, err := d.Probe(t.Context())
			perr := d.Records().Put(t.Context(), "clock", []byte("x"))
			if off.Abs() < 15*time.Minute {
				require.NoError(t, err)
				require.NoError(t, perr)
				require.Contains(t, strings.Join(info.Notes, "\n"), want)
				continue
			}
			for _, err := range []error{err, perr} {
				require.Equal(t, proto.ClassTransient, proto.ClassOf(err), "%v", err)
				require.ErrorContains(t, err, "clock")
				require.Regexp(t, regexp.QuoteMeta((-off).Round(time.Minute).String())+"|"+(-off-time.Second).String()+"|"+(-off+time.Second).String(), err.Error())
			}
		}
	})
}

// A session token that is over is one of the keys that are not accepted.
func TestTokenThatIsNotAccepted(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		deps, token := p.deps(), "of yesterday"
		deps.Keys = func() (Secrets, error) {
			return Secrets{Access: p.server.Access, Secret: p.server.Secret, Token: token}, nil
		}
		d, err := Open(Config{Endpoint: p.server.Endpoint(), Bucket: p.bucket}, deps)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		_, err = d.Probe(t.Context())
		t.Logf("%v", err)
		if err != nil { // versitygw looks at no tokens
			require.ErrorContains(t, err, "does not accept the access key")
			require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
		}
		token = ""
		_, err = d.Probe(t.Context())
		require.NoError(t, err)
	})
}

// What the server cannot hold is the object's trouble alone.
func TestNamesThatAreTooLong(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		d := p.open(t, Config{})
		content := []byte("content")
		for _, path := range []string{strings.Repeat("\xff", 255), strings.Repeat("d/", 512) + "x"} {
			stage(t, d, contentOf("long", path, content), content)
			errs := d.Commit(t.Context(), []target.Change{put("long", path, content), {Op: target.OpMkdir, Path: "short", Desc: proto.Desc{Kind: proto.KindDir}}})
			t.Logf("%d bytes: %v", len(path), errs[0])
			require.Equal(t, proto.ClassPermanent, proto.ClassOf(errs[0]), "%v", errs[0])
			require.NoError(t, errs[1])
			require.NoError(t, d.Unstage(t.Context(), func(target.StageID) bool { return false }))
			require.Equal(t, []error{nil}, d.Commit(t.Context(), []target.Change{{Op: target.OpDelete, Path: path}}), "it is not there")
		}
	})
}

// Secrets that were exchanged are read again once the server refuses the old ones.
func TestSecretsAreExchanged(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		deps, secret := p.deps(), "old and expired"
		deps.Keys = func() (Secrets, error) { return Secrets{Access: p.server.Access, Secret: secret}, nil }
		d, err := Open(Config{Endpoint: p.server.Endpoint(), Bucket: p.bucket}, deps)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, d.Close()) })
		_, err = d.Probe(t.Context())
		require.ErrorContains(t, err, "access key")
		secret = p.server.Secret
		_, err = d.Probe(t.Context())
		require.NoError(t, err)
	})
}

// A server that goes away and comes back.
func TestServerThatIsRestarted(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, p *place) {
		ctx, d := t.Context(), p.open(t, Config{})
		require.NoError(t, d.Records().Put(ctx, target.MarkDir+"/"+target.PrefixKey(""), []byte("mark")))
		p.server.Kill()
		_, err := d.Probe(ctx)
		require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
		require.ErrorContains(t, err, p.server.Endpoint())
		p.server.Start()
		require.Eventually(t, func() bool {
			_, err = d.Probe(ctx)
			return err == nil
		}, time.Minute, 20*time.Millisecond)
		// Emptied by somebody: it is not filled as if nothing had been there.
		mark := target.MarkDir + "/" + target.PrefixKey("")
		require.NoError(t, p.client().RemoveObject(ctx, p.bucket, ".forebay/"+mark, minio.RemoveObjectOptions{}))
		_, err = d.Probe(ctx)
		require.ErrorContains(t, err, "is not the target it was")
		// What was withdrawn by the relay itself is not missed.
		require.NoError(t, d.Records().Put(ctx, mark, []byte("mark")))
		require.NoError(t, d.Records().Remove(ctx, mark))
		_, err = d.Probe(ctx)
		require.NoError(t, err)
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	good := Config{Endpoint: "https://s3.example.org", Bucket: "backup"}
	require.NoError(t, good.Validate())
	for name, spoil := range map[string]func(c *Config){
		"endpoint without scheme": func(c *Config) { c.Endpoint = "s3.example.org" },
		"endpoint with a path":    func(c *Config) { c.Endpoint = "https://s3.example.org/backup" },
		"bucket too short":        func(c *Config) { c.Bucket = "ab" },
		"bucket with a folder":    func(c *Config) { c.Bucket = "backup/media" },
		"style":                   func(c *Config) { c.Style = "dns" },
		"prefix outside":          func(c *Config) { c.Prefix = "../x" },
		"path of our own":         func(c *Config) { c.Path = ".forebay" },
	} {
		c := good
		spoil(&c)
		err := c.Validate()
		require.Equal(t, proto.ClassPermanent, proto.ClassOf(err), "%s: %v", name, err)
	}
}
