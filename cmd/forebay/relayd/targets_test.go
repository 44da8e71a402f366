package relayd

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"forebay/config"
	"forebay/flush/target/drivers"
	"forebay/proto"
)

// Each row of the table of drivers leads to what opens such a target, and each type of the configuration has a row.
func TestDriversAreFoundByTheTable(t *testing.T) {
	t.Parallel()
	for _, r := range drivers.Table {
		require.NotNil(t, opener(r.Driver), "%+v", r)
		require.Equal(t, r.Driver, drivers.Of(r.Type), "one driver for a type")
	}
	for _, name := range []string{config.TypeDir, config.TypeS3, config.TypeSFTP, config.TypeRclone, config.TypeProcess, config.TypeSerial} {
		require.NotEmpty(t, drivers.Of(name), name)
	}
	_, err := OpenTarget(config.Target{Type: "tape"}, Opening{})
	require.Equal(t, proto.ClassPermanent, proto.ClassOf(err))
	require.ErrorContains(t, err, "target type tape is not known")
}

// What the configuration of a bucket leaves out comes from the variables that Amazon's tools know, over TLS with a CA of one's own.
func TestAmazonsVariables(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var got *http.Request
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		got = r
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	env := map[string]string{
		"AWS_ENDPOINT_URL": "https://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": server.URL, "AWS_CA_BUNDLE": ca, "AWS_DEFAULT_REGION": "nowhere", "AWS_REGION": "eu-test-7",
		"AWS_ACCESS_KEY_ID": "AKTEST", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "for an hour",
	}
	probe := func(cfg config.S3) (*http.Request, error) {
		t.Helper()
		cfg.Bucket = "backup"
		tgt, err := OpenTarget(config.Target{Name: "dr", Type: config.TypeS3, S3: cfg}, Opening{Now: time.Now, Getenv: func(k string) string { return env[k] }})
		require.NoError(t, err)
		defer func() { require.NoError(t, tgt.Close()) }()
		_, err = tgt.Probe(t.Context())
		mu.Lock()
		defer mu.Unlock()
		defer func() { got = nil }()
		return got, err
	}
	r, err := probe(config.S3{})
	require.NotNil(t, r, "%v", err)
	require.Contains(t, r.Header.Get("Authorization"), "Credential=AKTEST/")
	require.Contains(t, r.Header.Get("Authorization"), "/eu-test-7/s3/")
	require.Equal(t, "for an hour", r.Header.Get("X-Amz-Security-Token"))
	require.Equal(t, "/backup/", r.URL.Path[:8])

	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte("other\n"), 0o600))
	r, err = probe(config.S3{Region: "here-1", AccessKey: "AKOTHER", SecretKeyFile: secret})
	require.NotNil(t, r, "%v", err)
	require.Contains(t, r.Header.Get("Authorization"), "Credential=AKOTHER/", "the configuration comes first")
	require.Contains(t, r.Header.Get("Authorization"), "/here-1/s3/")
	require.Empty(t, r.Header.Get("X-Amz-Security-Token"), "the token belongs to the other key")

	delete(env, "AWS_CA_BUNDLE")
	r, err = probe(config.S3{})
	require.Nil(t, r, "nothing is sent to a server that nobody vouches for")
	require.ErrorContains(t, err, "certificate")
	require.Equal(t, proto.ClassTransient, proto.ClassOf(err))
	_, err = probe(config.S3{CAFile: ca})
	require.NotContains(t, err.Error(), "certificate")
}
