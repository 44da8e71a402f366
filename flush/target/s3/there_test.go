package s3

import (
	"errors"
	"testing"
	"time"

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
		require.NoError(t, d.Records().Remove(ctx, target.MarkDir+"/"+target.PrefixKey("")))
		_, err = d.Probe(ctx)
		require.ErrorContains(t, err, "is not the target it was")
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
