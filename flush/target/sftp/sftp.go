package sftp

import (
	"cmp"
	"context"
	"net"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"forebay/flush/target"
	"forebay/flush/target/held"
	"forebay/flush/target/tree"
	"forebay/flush/target/waves"
	"forebay/proto"
)

// Config says where the target is.
type Config struct {
	Host       string
	Port       int // 22 when 0
	User       string
	KnownHosts string // file in OpenSSH's form; the host's key must be in it
	Path       string // the target's directory on the server, absolute. It must exist
	Prefix     string // folder below Path that the mirror lies in
	// Expect is set when this target was marked before: without its owner mark it is then not there.
	Expect bool
	// Hold bounds the bytes of small contents in memory between Stage and Commit, 64 MiB when 0.
	Hold int64
	// Requests bounds what a commit has under way at once, 32 when 0.
	Requests int
}

// Validate says what is wrong with a configuration (ClassPermanent).
func (c Config) Validate() error {
	switch {
	case c.Host == "" || strings.ContainsAny(c.Host, "/@ "):
		return proto.Errorf(proto.ClassPermanent, "host %q: give a name or an address alone", c.Host)
	case c.User == "":
		return proto.Errorf(proto.ClassPermanent, "sftp target %s: name the user", c.Host)
	case c.Port < 0 || c.Port > 65535:
		return proto.Errorf(proto.ClassPermanent, "port %d is none", c.Port)
	case c.KnownHosts == "":
		return proto.Errorf(proto.ClassPermanent, "sftp target %s: name the file with the host's key (known_hosts)", c.Host)
	case !path.IsAbs(c.Path) || path.Clean(c.Path) != c.Path || strings.ContainsRune(c.Path, 0):
		return proto.Errorf(proto.ClassPermanent, "target path %q: give the absolute path on the server", c.Path)
	}
	if err := target.CheckPrefix(c.Prefix); err != nil {
		return proto.Errorf(proto.ClassPermanent, "target %s: %w", c.Host, err)
	}
	return nil
}

func (c Config) withDefaults() Config {
	c.Port, c.Hold, c.Requests = cmp.Or(c.Port, 22), cmp.Or(c.Hold, 64<<20), cmp.Or(c.Requests, 32)
	return c
}

func (c Config) addr() string { return net.JoinHostPort(c.Host, strconv.Itoa(c.Port)) }

// Secrets are what the user proves itself with: a private key, or a password, or both.
type Secrets struct {
	Key        []byte // PEM or OpenSSH's form
	Passphrase []byte // of the key
	Password   string
}

// Deps is what a driver is given.
type Deps struct {
	// Secrets gives the secrets, at each connection anew.
	Secrets func() (Secrets, error)
	// Now is the time of day, for deadlines.
	Now func() time.Time
	// Dial makes the connection; nil for the network's own.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// smallMax is the size up to which a content is kept in memory.
const smallMax = 4 << 20

// SFTP is a directory on a server as a target.
type SFTP struct {
	cfg  Config
	deps Deps
	key  string // target.PrefixKey of the prefix
	held *held.Contents
	dirs *waves.Paths // in the mirror and above: known to be directories

	commits sync.Mutex // held by Commit
	dialing sync.Mutex // held while a connection is made
	staging sync.Mutex // held by prepareStage

	mu      sync.Mutex
	conn    *conn // nil: none
	staged  bool  // the stage folder is there, and what a commit that was cut short left is mended
	marked  bool  // the owner mark was seen
	durable map[target.StageID]bool
	temps   uint64
}

// Open returns the target. It does not connect; Probe does.
func Open(cfg Config, deps Deps) (*SFTP, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if deps.Dial == nil {
		d := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}}
		deps.Dial = d.DialContext
	}
	return &SFTP{cfg: cfg, deps: deps, key: target.PrefixKey(cfg.Prefix), held: held.New(smallMax, cfg.Hold), dirs: waves.NewPaths(), durable: map[target.StageID]bool{}}, nil
}

func (d *SFTP) where() string {
	return "sftp://" + d.cfg.User + "@" + d.cfg.addr() + path.Join(d.cfg.Path, d.cfg.Prefix)
}

// full is the place of a path in the mirror on the server; "" is the mirror itself.
func (d *SFTP) full(p string) string { return tree.Join(d.cfg.Path, d.cfg.Prefix, p) }

// work is the place of what is not the mirror.
func (d *SFTP) work(name string) string { return tree.Join(d.cfg.Path, proto.ReservedName, name) }

func (d *SFTP) stageDir() string { return d.work(target.StageDir + "/" + d.key) }

// Probe connects, and looks for the directory and the owner mark.
func (d *SFTP) Probe(ctx context.Context) (target.Info, error) {
	c, err := d.use(ctx)
	if err != nil {
		return target.Info{}, err
	}
	defer c.during(ctx)()
	st, err := c.sftp.Stat(d.cfg.Path) // links in the path itself are followed
	if err != nil {
		return target.Info{}, d.failed(c, err, "look for %s on %s", d.cfg.Path, d.cfg.Host)
	}
	if !st.IsDir() {
		return target.Info{}, proto.Errorf(proto.ClassTransient, "%s on %s is no directory", d.cfg.Path, d.cfg.Host)
	}
	if err := d.lookForMark(c); err != nil {
		return target.Info{}, err
	}
	info := target.Info{
		Driver: "sftp", Where: d.where(), Confirm: c.confirm(), FreeBytes: -1, Move: true, Atomic: c.posixRename, Keeps: true, Holds: d.cfg.Hold, HoldsUpTo: smallMax,
		Carries: target.Carries{Mode: true, Owner: c.root(), Mtime: true, Coarse: true, Symlinks: true, Hardlinks: c.hardlink, Sparse: true, EmptyDirs: true, RawNames: true, Shut: c.root()},
		Notes:   c.notes(),
	}
	if c.statvfs {
		if v, err := c.sftp.StatVFS(d.cfg.Path); err == nil {
			info.FreeBytes, info.MaxName = int64(v.Bavail*v.Frsize), namemax(v)
		}
	}
	return info, nil
}

// Close ends the connection.
func (d *SFTP) Close() error {
	d.mu.Lock()
	c := d.conn
	d.conn = nil
	d.mu.Unlock()
	if c != nil {
		c.close()
	}
	return nil
}
