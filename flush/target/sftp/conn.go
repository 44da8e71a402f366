package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"forebay/flush/target"
	"forebay/proto"
)

// Deadlines. A server that does not answer a keepalive is given up, and with it every request that waits for it.
const (
	dialTimeout = 10 * time.Second
	aliveEvery  = 15 * time.Second
	aliveWithin = 2 * time.Minute
)

// How often a server that closes the connection during the handshake is asked, and after how long again, each time so much later.
const (
	greetings  = 4
	greetAgain = 500 * time.Millisecond
)

// conn is a connection and what the server can do.
type conn struct {
	ssh  *ssh.Client
	sftp *sftp.Client

	fsync, posixRename, hardlink, statvfs bool
	uid                                   atomic.Int64 // whose files ours are, by what we made; -1: unknown
}

// use returns the connection, or makes one.
func (d *SFTP) use(ctx context.Context) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	d.dialing.Lock()
	defer d.dialing.Unlock()
	d.mu.Lock()
	c := d.conn
	d.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	d.dirs.Clear()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn, d.staged = c, false
	return c, nil
}

func (d *SFTP) connect(ctx context.Context) (*conn, error) {
	secrets, err := d.deps.Secrets()
	if err != nil {
		return nil, err
	}
	auth, err := methods(secrets)
	if err != nil {
		return nil, err
	}
	check, algorithms, err := hostKeys(d.cfg.KnownHosts, d.cfg.addr())
	if err != nil {
		return nil, err
	}
	raw, client, err := d.greet(ctx, &ssh.ClientConfig{User: d.cfg.User, Auth: auth, HostKeyCallback: check, HostKeyAlgorithms: algorithms})
	if err != nil {
		return nil, err
	}
	s, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true))
	if err == nil {
		err = raw.SetDeadline(time.Time{})
	}
	if err != nil {
		_ = client.Close() // nothing was asked of it
		return nil, proto.Errorf(proto.ClassTransient, "%s has no SFTP for user %s: %w", d.cfg.addr(), d.cfg.User, err)
	}
	c := &conn{ssh: client, sftp: s}
	c.uid.Store(-1)
	has := func(name string) bool { _, ok := s.HasExtension(name); return ok }
	c.fsync, c.posixRename = has("fsync@openssh.com"), has("posix-rename@openssh.com")
	c.hardlink, c.statvfs = has("hardlink@openssh.com"), has("statvfs@openssh.com")
	go c.keepAlive() // ends with the connection
	if err := d.lookForMark(c); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// greet connects and proves who either side is. A server that closes the connection before that is asked again soon: OpenSSH turns
// away, at random, some of those that come while too many others have not proved who they are yet (MaxStartups).
func (d *SFTP) greet(ctx context.Context, how *ssh.ClientConfig) (net.Conn, *ssh.Client, error) {
	for try := 1; ; try++ {
		raw, err := d.dial(ctx)
		if err != nil {
			return nil, nil, proto.Errorf(proto.ClassTransient, "connect to %s: %w", d.cfg.addr(), err)
		}
		sc, chans, reqs, err := ssh.NewClientConn(raw, d.cfg.addr(), how)
		if err == nil {
			return raw, ssh.NewClient(sc, chans, reqs), nil
		}
		_ = raw.Close() // the handshake failed
		if turnedAway := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET); !turnedAway || try == greetings {
			return nil, nil, d.refused(err)
		}
		again := time.NewTimer(time.Duration(try) * greetAgain)
		select {
		case <-ctx.Done():
			again.Stop()
			return nil, nil, d.refused(err)
		case <-again.C:
		}
	}
}

// dial connects; the handshake has until the connection's deadline.
func (d *SFTP) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	raw, err := d.deps.Dial(ctx, "tcp", d.cfg.addr())
	if err != nil {
		return nil, err
	}
	if err := raw.SetDeadline(d.deps.Now().Add(2 * dialTimeout)); err != nil {
		_ = raw.Close() // nothing was said
		return nil, err
	}
	return raw, nil
}

// lookForMark looks for the owner mark, and sees that it is there where it was once: a server may have been started without the disk.
func (d *SFTP) lookForMark(c *conn) error {
	mark := d.work(target.MarkDir + "/" + d.key)
	var st os.FileInfo
	err := c.orRecovered(mark, func() (err error) { st, err = c.lstat(mark); return err })
	d.mu.Lock()
	expected := d.cfg.Expect || d.marked
	d.marked = d.marked || err == nil
	d.mu.Unlock()
	switch {
	case err == nil:
		c.uid.Store(int64(attrs(st).UID)) // we made it
	case errors.Is(err, fs.ErrNotExist) && !expected:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return proto.Errorf(proto.ClassTransient, "%s is not the target it was: its owner mark %s is gone: is the right disk mounted on the server? %s", d.where(), mark, target.WipedHint)
	}
	return d.failed(c, err, "look for the owner mark %s", mark)
}

// methods are the ways to prove who asks.
func methods(s Secrets) (auth []ssh.AuthMethod, err error) {
	if len(s.Key) > 0 {
		var signer ssh.Signer
		if len(s.Passphrase) > 0 {
			signer, err = ssh.ParsePrivateKeyWithPassphrase(s.Key, s.Passphrase)
		} else {
			signer, err = ssh.ParsePrivateKey(s.Key)
		}
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) {
			return nil, proto.Errorf(proto.ClassTransient, "the private key has a passphrase: name the file with it, or use a key without")
		}
		if err != nil {
			return nil, proto.Errorf(proto.ClassTransient, "read the private key: %w", err)
		}
		auth = append(auth, ssh.PublicKeys(signer))
	}
	if s.Password != "" {
		auth = append(auth, ssh.Password(s.Password), ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i := range answers {
				answers[i] = s.Password
			}
			return answers, nil
		}))
	}
	if len(auth) == 0 {
		return nil, proto.Errorf(proto.ClassTransient, "no private key and no password: name the file with one")
	}
	return auth, nil
}

// refused explains a handshake that failed.
func (d *SFTP) refused(err error) error {
	var known *proto.Error
	if errors.As(err, &known) {
		return known
	}
	var auth *ssh.ServerAuthError
	if errors.As(err, &auth) || isAuth(err) {
		return proto.Errorf(proto.ClassTransient, "%s does not accept user %s with that key or password: %w", d.cfg.addr(), d.cfg.User, err)
	}
	return proto.Errorf(proto.ClassTransient, "connect to %s: %w", d.cfg.addr(), err)
}

// keepAlive ends a connection whose server is silent.
func (c *conn) keepAlive() {
	over := make(chan struct{})
	go func() { // ends with the connection
		_ = c.ssh.Wait() // says only that it ended
		close(over)
	}()
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	for {
		select {
		case <-over:
			return
		case <-tick.C:
		}
		answer := make(chan error, 1)
		go func() { // ends with the answers or the connection
			_, _, err := c.ssh.SendRequest("keepalive@openssh.com", true, nil)
			if err == nil { // sshd lives; so must what serves the files, whose disk may hang
				_, err = c.sftp.RealPath(".")
			}
			answer <- err
		}()
		limit := time.NewTimer(aliveWithin)
		select {
		case <-over:
		case err := <-answer:
			if err != nil {
				c.close()
			}
		case <-limit.C:
			c.close()
		}
		limit.Stop()
	}
}

// close ends the connection first: the client of SFTP waits for that.
func (c *conn) close() {
	_ = c.ssh.Close() // both end in any case
	_ = c.sftp.Close()
}

// during gives the connection up when ctx ends: requests of SFTP cannot be withdrawn otherwise. The caller calls done in the end.
func (c *conn) during(ctx context.Context) (done func()) {
	stop := context.AfterFunc(ctx, c.close)
	return func() { stop() }
}

// confirm is the strongest class that the server can reach.
func (c *conn) confirm() target.ConfirmClass {
	if c.fsync && c.posixRename { // without the latter, a power cut can leave an object that is replaced without its name
		return target.ConfirmSync
	}
	return target.ConfirmAck
}

func (c *conn) root() bool { return c.uid.Load() == 0 }

// notes are what an operator should know of the server.
func (c *conn) notes() (notes []string) {
	notes = append(notes, "times are kept to the second, extended attributes under .forebay/ only")
	if !c.fsync {
		notes = append(notes, "the server has no fsync@openssh.com: what it acknowledges is lost if it loses power soon after (class ack)")
	}
	if !c.posixRename {
		notes = append(notes, "the server has no posix-rename@openssh.com: an object that is replaced is away for a moment, "+
			"and until the next connection where the relay or the server ends in it (class ack)")
	}
	if !c.hardlink {
		notes = append(notes, "the server has no hardlink@openssh.com: hard links become copies")
	}
	if !c.root() {
		notes = append(notes, "owners, and the setuid and setgid bits that need them, are kept under .forebay/ only, unless the user is root")
	}
	return notes
}

// broken gives a connection up on which a request failed for its end.
func (d *SFTP) broken(c *conn, err error) {
	var netErr net.Error
	lost := errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, sftp.ErrSSHFxNoConnection) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) || errors.As(err, &netErr)
	if !lost {
		return
	}
	c.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn == c {
		d.conn = nil
	}
}

// failed wraps err with what was being done, and gives it its class. An error with a class keeps it.
func (d *SFTP) failed(c *conn, err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	d.broken(c, err)
	doing := fmt.Sprintf(what, args...)
	var known *proto.Error
	switch {
	case errors.As(err, &known):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, fs.ErrNotExist):
		return proto.Errorf(proto.ClassTransient, "%s: %w", doing, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return proto.Errorf(proto.ClassTransient, "%s: %w (user %s on %s needs the right)", doing, err, d.cfg.User, d.cfg.Host)
	}
	var status *sftp.StatusError
	if errors.As(err, &status) && d.noRoom(c) {
		e := proto.Errorf(proto.ClassOverload, "%s: the target is full: %w", doing, err)
		e.RetryAfter = fullRetry
		return e
	}
	return proto.Errorf(proto.ClassTransient, "%s on %s: %w", doing, d.cfg.Host, err)
}

// fullRetry is when a full disk is looked at again.
const fullRetry = 10 * time.Second

// noRoom reports whether the server's file system has no room: SFTP has no word for that, a write just fails.
func (d *SFTP) noRoom(c *conn) bool {
	if !c.statvfs {
		return false
	}
	v, err := c.sftp.StatVFS(d.cfg.Path)
	return err == nil && (v.Bavail*v.Frsize < 1<<20 || v.Files > 0 && v.Favail == 0)
}
