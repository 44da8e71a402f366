package relayd

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"forebay/config"
	"forebay/flush"
	"forebay/flush/target"
	"forebay/flush/target/dir"
	"forebay/flush/target/drivers"
	"forebay/flush/target/s3"
	"forebay/flush/target/sftp"
	"forebay/fsmeta"
	"forebay/internal/faultpoint"
	"forebay/ledger"
	"forebay/proto"
)

// Opening says how to open a target. The zero Opening reads all of it.
type Opening struct {
	Prefix string
	// Marked is set where the target was marked before: it is not there without its mark.
	Marked bool
	// Write is set for who writes the mirror and has to read it again.
	Write  bool
	Names  *fsmeta.Names // may be nil
	Now    func() time.Time
	Getenv func(string) string // nil for an empty environment
	Fault  faultpoint.Hook
	// Log gets what a driver process says on its standard error, and Software is what it is told of this program. The zero logger drops it.
	Log      zerolog.Logger
	Software string
	Memory   int64 // bytes that the driver may hold; 0 leaves it to the driver
}

// openTarget opens a link's target for its flush.
func (d *Daemon) openTarget(l flush.LinkConfig) (target.Target, error) {
	d.mu.Lock()
	t, ok := d.cfg.Target(l.Target)
	memory := driverMemory(d.deps.Memory, len(d.cfg.Links))
	d.mu.Unlock()
	if !ok {
		return nil, proto.Errorf(proto.ClassPermanent, "target %s is no longer configured", l.Target)
	}
	row, err := ledger.Link(d.relay.Ledger(), l.ID)
	if err != nil {
		return nil, err
	}
	return OpenTarget(t, Opening{Prefix: l.Prefix, Marked: row.ConfirmedObjects > 0, Write: true, Now: d.deps.Now, Getenv: d.deps.Getenv, Fault: d.deps.Fault,
		Log: d.deps.Log.With().Str("link", l.Name).Logger(), Software: d.deps.Software, Memory: memory})
}

// OpenTarget is the way from a target's type, by the table of drivers, to its driver.
func OpenTarget(t config.Target, o Opening) (target.Target, error) {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	open := opener(drivers.Of(t.Type))
	if open == nil {
		return nil, proto.Errorf(proto.ClassPermanent, "target type %s is not known", t.Type)
	}
	return open(t, o)
}

// opener is what opens targets by a driver of the table, nil for one that is not built in.
func opener(driver string) func(t config.Target, o Opening) (target.Target, error) {
	switch driver {
	case "flush/target/dir":
		return openDir
	case "flush/target/s3":
		return openS3
	case "flush/target/sftp":
		return openSFTP
	case "flush/target/process", "cmd/forebay-rclone":
		return openDriver
	}
	return nil
}

func openDir(t config.Target, o Opening) (target.Target, error) {
	return dir.Open(dir.Config{Path: t.Path, Prefix: o.Prefix, Expect: o.Marked, Legible: o.Write}, dir.Deps{Names: o.Names, Fault: o.Fault.Step()})
}

// openS3 fills in from the environment what the configuration leaves out, as the tools of Amazon do.
func openS3(t config.Target, o Opening) (target.Target, error) {
	env := o.Getenv
	cfg := s3.Config{
		Endpoint: cmp.Or(t.S3.Endpoint, env("AWS_ENDPOINT_URL_S3"), env("AWS_ENDPOINT_URL"), "https://s3.amazonaws.com"),
		Region:   cmp.Or(t.S3.Region, env("AWS_REGION"), env("AWS_DEFAULT_REGION")),
		Bucket:   t.S3.Bucket, Path: t.Path, Prefix: o.Prefix, Style: t.S3.Style, Expect: o.Marked,
	}
	if o.Memory > 0 { // what is more than a part, or a small content, waits until others are sent
		cfg.Buffers, cfg.Hold = max(min(o.Memory/2, s3.DefaultBuffers), 16<<20), max(min(o.Memory/2, s3.DefaultHold), 4<<20)
	}
	if ca := cmp.Or(t.S3.CAFile, env("AWS_CA_BUNDLE")); ca != "" {
		var err error
		if cfg.CA, err = os.ReadFile(ca); err != nil {
			return nil, fmt.Errorf("read the CA file: %w", err)
		}
	}
	return s3.Open(cfg, s3.Deps{Now: o.Now, Keys: func() (s3.Secrets, error) { return secretsOf(t, env) }})
}

func openSFTP(t config.Target, o Opening) (target.Target, error) {
	h := t.SFTP
	cfg := sftp.Config{Host: h.Host, Port: h.Port, User: h.User, KnownHosts: h.KnownHosts, Path: t.Path, Prefix: o.Prefix, Expect: o.Marked}
	return sftp.Open(cfg, sftp.Deps{Now: o.Now, Secrets: func() (s sftp.Secrets, err error) {
		s.Key = readSecret(t, h.KeyFile, &err)
		s.Passphrase = bytes.TrimRight(readSecret(t, h.PassphraseFile, &err), "\r\n")
		s.Password = strings.TrimRight(string(readSecret(t, h.PasswordFile, &err)), "\r\n")
		return s, err
	}})
}

// readSecret reads a file of a target's secrets, "" for none, unless something failed before.
func readSecret(t config.Target, path string, err *error) []byte {
	if path == "" || *err != nil {
		return nil
	}
	b, rerr := os.ReadFile(path)
	if rerr != nil {
		*err = proto.Errorf(proto.ClassTransient, "target %s: %w", t.Name, rerr)
	}
	return b
}

// secretsOf reads the secrets of an S3 target, each time anew: files may be exchanged.
func secretsOf(t config.Target, env func(string) string) (s s3.Secrets, err error) {
	read := func(path string) string { return strings.TrimSpace(string(readSecret(t, path, &err))) }
	if t.S3.AccessKey != "" {
		s = s3.Secrets{Access: t.S3.AccessKey, Secret: read(t.S3.SecretKeyFile), Token: read(t.S3.SessionTokenFile)}
		return s, err
	}
	s = s3.Secrets{Access: env("AWS_ACCESS_KEY_ID"), Secret: env("AWS_SECRET_ACCESS_KEY"), Token: env("AWS_SESSION_TOKEN")}
	if s.Access == "" || s.Secret == "" {
		return s, proto.Errorf(proto.ClassTransient, "target %s has no access key: set access_key and secret_key_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", t.Name)
	}
	return s, nil
}
