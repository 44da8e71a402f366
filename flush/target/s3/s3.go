package s3

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/semaphore"

	"forebay/flush/target"
	"forebay/flush/target/held"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// The ways to name a bucket in a request.
const (
	StyleAuto = ""     // as the endpoint has it: host for Amazon, path elsewhere
	StylePath = "path" // http://host/bucket/key
	StyleHost = "host" // http://bucket.host/key
)

// Config says where the target is.
type Config struct {
	Endpoint string // http:// or https:// URL without a path
	Region   string // "" asks the server
	Bucket   string // must exist
	Path     string // folder in the bucket that is the target's root, "" for the bucket itself
	Prefix   string // folder below Path that the mirror lies in
	Style    string // StyleAuto, StylePath or StyleHost
	CA       []byte // PEM certificates that are trusted besides the system's
	// Expect is set when this target was marked before: without its owner mark it is then not there.
	Expect bool
	// Hold bounds the bytes of small contents in memory between Stage and Commit, DefaultHold when 0; Buffers those of parts on their
	// way, DefaultBuffers when 0.
	Hold, Buffers int64
	// Part is the least size of a part of a multipart upload, 8 MiB when 0; a multiple of proto.BlockSize.
	Part int64
	// Requests bounds what a commit has under way at once, 16 when 0.
	Requests int
}

// The defaults of Config.Hold and Config.Buffers, in bytes.
const (
	DefaultHold    = 64 << 20
	DefaultBuffers = 96 << 20
)

// Validate says what is wrong with a configuration (ClassPermanent).
func (c Config) Validate() error {
	u, err := url.Parse(c.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return proto.Errorf(proto.ClassPermanent, "endpoint: give the server's address alone, such as https://s3.example.org:9000")
	}
	if len(c.Bucket) < 3 || len(c.Bucket) > 63 || strings.ContainsAny(c.Bucket, "/ ") {
		return proto.Errorf(proto.ClassPermanent, "bucket %q: a name has 3 to 63 letters, digits, dots and dashes", c.Bucket)
	}
	switch c.Style {
	case StyleAuto, StylePath, StyleHost:
	default:
		return proto.Errorf(proto.ClassPermanent, "style %q: use path or host, or leave it out", c.Style)
	}
	for _, p := range []string{c.Path, c.Prefix} {
		if err := target.CheckPrefix(p); err != nil {
			return proto.Errorf(proto.ClassPermanent, "target %s: %w", c.Bucket, err)
		}
	}
	if c.Part%proto.BlockSize != 0 {
		return proto.Errorf(proto.ClassPermanent, "part size %d is no multiple of %d", c.Part, proto.BlockSize)
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Hold, c.Buffers, c.Part = cmp.Or(c.Hold, DefaultHold), cmp.Or(c.Buffers, DefaultBuffers), cmp.Or(c.Part, 8<<20)
	c.Requests = cmp.Or(c.Requests, 16)
	return c
}

// Deps is what a driver is given.
type Deps struct {
	Keys Keys             // who asks
	Now  func() time.Time // the time of day, for signatures' skew and deadlines
	// Around wraps the transport; nil but in tests.
	Around func(http.RoundTripper) http.RoundTripper
}

// S3 is a bucket, or a folder in one, as a target.
type S3 struct {
	cfg  Config
	core minio.Core
	wire *wire
	keys *keeper
	key  string // target.PrefixKey of the prefix
	room *semaphore.Weighted
	held *held.Contents
	// copies bounds the parts that the server copies at a time.
	copies *semaphore.Weighted
	// clear are paths that are known to be no objects but, if anything, directories.
	clear *waves.Paths

	commits sync.Mutex // held by Commit

	mu      sync.Mutex
	uploads map[target.StageID]*upload // multipart uploads that are known
	doubted map[string]bool            // paths for which a request ended without an answer
	marked  bool                       // the owner mark was seen
	loaded  bool                       // uploads has those of earlier runs
	// versions says whether the bucket keeps versions of its objects; nil while that was not asked.
	versions *bool

	copyPart uint64 // how much is copied in one request; less in tests
}

// Open returns the target. It does not ask the server; Probe does.
func Open(cfg Config, deps Deps) (*S3, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	d := &S3{
		cfg: cfg, key: target.PrefixKey(cfg.Prefix), room: semaphore.NewWeighted(cfg.Buffers), copies: semaphore.NewWeighted(maxCopies),
		held: held.New(cfg.Part, cfg.Hold), uploads: map[target.StageID]*upload{},
		copyPart: copyPart, doubted: map[string]bool{}, clear: waves.NewPaths(),
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "endpoint: %w", err)
	}
	var trust *x509.CertPool
	if len(cfg.CA) > 0 {
		if trust, err = x509.SystemCertPool(); err != nil {
			trust = x509.NewCertPool()
		}
		if !trust.AppendCertsFromPEM(cfg.CA) {
			return nil, proto.Errorf(proto.ClassPermanent, "the CA file has no PEM certificate")
		}
	}
	d.wire = newWire(deps.Now, &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}, cfg.Requests+8)
	var transport http.RoundTripper = d.wire
	if deps.Around != nil {
		transport = deps.Around(transport)
	}
	d.keys = newKeeper(deps.Keys, deps.Now)
	lookup := minio.BucketLookupAuto
	switch {
	case cfg.Style == StyleHost:
		lookup = minio.BucketLookupDNS
	case cfg.Style == StylePath:
		lookup = minio.BucketLookupPath
	}
	client, err := minio.NewCore(u.Host, &minio.Options{
		Creds: d.keys.credentials(), Secure: u.Scheme == "https", Transport: transport, Region: cfg.Region, BucketLookup: lookup,
		MaxRetries: 1, // what failed is tried again by the flush, which knows what it means
	})
	if err != nil {
		return nil, proto.Errorf(proto.ClassPermanent, "endpoint %s: %w", cfg.Endpoint, err)
	}
	d.core = *client
	return d, nil
}

// where is the target for people.
func (d *S3) where() string {
	return strings.TrimSuffix(d.cfg.Endpoint, "/") + "/" + path.Join(d.cfg.Bucket, d.cfg.Path, d.cfg.Prefix)
}

// maxClockSkew is how far clocks may be apart: S3 refuses requests that are signed more than 15 minutes off.
const maxClockSkew = 5 * time.Minute

// Probe asks for the owner mark, which needs the bucket, the network, the clock and the keys.
func (d *S3) Probe(ctx context.Context) (target.Info, error) {
	if err := ctx.Err(); err != nil {
		return target.Info{}, err
	}
	mark := d.record(target.MarkDir + "/" + d.key)
	_, herr := d.core.StatObject(ctx, d.cfg.Bucket, mark, minio.StatObjectOptions{})
	err := d.failed(herr, "look for the owner mark %s", mark)
	switch {
	case err == nil:
		d.mu.Lock()
		d.marked = true
		d.mu.Unlock()
	case !silent(herr):
		// The answer to a HEAD has no text: a missing key and a missing bucket look alike, and so do a wrong secret, a wrong clock and
		// a missing right.
		_, lerr := d.core.ListObjectsV2(d.cfg.Bucket, mark, "", "", "", 1)
		if lerr = d.failed(lerr, "look into bucket %s", d.cfg.Bucket); lerr != nil {
			return target.Info{}, lerr
		}
		if !gone(err) {
			return target.Info{}, err
		}
		d.mu.Lock()
		expected := d.cfg.Expect || d.marked
		d.mu.Unlock()
		if expected {
			return target.Info{}, proto.Errorf(proto.ClassTransient, "%s is not the target it was: its owner mark %s is gone: was the bucket emptied or exchanged? %s", d.where(), mark, target.WipedHint)
		}
	default:
		return target.Info{}, err
	}
	info := target.Info{
		Driver: "s3", Where: d.where(), Confirm: target.ConfirmAck, FreeBytes: -1, Atomic: true, Keeps: true, Reuses: true, Holds: d.cfg.Hold, HoldsUpTo: d.cfg.Part,
		Carries: target.Carries{Mode: true, Owner: true, Mtime: true, Symlinks: true, EmptyDirs: true, RawNames: true, Shut: true},
		Clock:   d.wire.clock(),
		Notes: []string{
			"extended attributes are kept under .forebay/ only",
			"hard links become copies, and holes zeros",
		},
	}
	if skew := d.wire.skew(); skew.Abs() > maxClockSkew {
		info.Notes = append(info.Notes, fmt.Sprintf("the server's clock is %s off ours: from 15 minutes on it refuses what is signed here", skew.Round(time.Second)))
	}
	return info, nil
}

// Close gives up connections, and what is in memory.
func (d *S3) Close() error {
	d.wire.close()
	return nil
}
