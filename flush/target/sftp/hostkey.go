package sftp

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"forebay/proto"
)

// hostKeys returns the check of a host's key against a known_hosts file, and the algorithms of the keys that the file has for it: else
// the server might show one of another kind, that nobody has ever seen.
func hostKeys(file, addr string) (ssh.HostKeyCallback, []string, error) {
	base, err := knownhosts.New(file)
	if err != nil {
		return nil, nil, proto.Errorf(proto.ClassTransient, "read the known hosts: %w", err)
	}
	var unknown *knownhosts.KeyError
	err = base(addr, &net.TCPAddr{}, noKey{})
	if !errors.As(err, &unknown) {
		return nil, nil, proto.Errorf(proto.ClassTransient, "look for %s in %s: %w", addr, file, err)
	}
	if len(unknown.Want) == 0 {
		host, port, _ := net.SplitHostPort(addr) // it was put together by us
		return nil, nil, proto.Errorf(proto.ClassTransient, "%s has no key of %s: fetch it with ssh-keyscan -p %s %s, compare it with the server's own, and add it", file, addr, port, host)
	}
	var algorithms []string
	for _, k := range unknown.Want {
		if k.Key.Type() == ssh.KeyAlgoRSA {
			algorithms = append(algorithms, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		}
		algorithms = append(algorithms, k.Key.Type())
	}
	check := func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := base(host, remote, key)
		var wrong *knownhosts.KeyError
		var revoked *knownhosts.RevokedError
		switch {
		case errors.As(err, &revoked):
			return proto.Errorf(proto.ClassTransient, "the key %s of %s is revoked in %s", ssh.FingerprintSHA256(key), addr, file)
		case errors.As(err, &wrong):
			var want []string
			for _, k := range wrong.Want {
				want = append(want, fmt.Sprintf("%s (line %d)", ssh.FingerprintSHA256(k.Key), k.Line))
			}
			return proto.Errorf(proto.ClassTransient, "the host key of %s changed: it shows %s, %s has %s. If the server was set up anew, replace it there; else somebody stands between",
				addr, ssh.FingerprintSHA256(key), file, strings.Join(want, ", "))
		}
		return err
	}
	return check, algorithms, nil
}

// noKey is a key that no host has.
type noKey struct{}

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// isAuth reports whether a handshake failed because the server accepted none of our proofs. The package has no error for it.
func isAuth(err error) bool {
	return err != nil && strings.Contains(err.Error(), "unable to authenticate")
}
