package s3

import (
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"forebay/proto"
)

// Secrets are what requests are signed with. Token is "" but for temporary ones.
type Secrets struct{ Access, Secret, Token string }

// Keys gives the secrets of this moment. It is asked again from time to time, and after the server refused them: files may have new
// ones by then.
type Keys func() (Secrets, error)

// keysLife is how long secrets are believed before they are read again.
const keysLife = time.Minute

// keeper hands the secrets to the SDK.
type keeper struct {
	read Keys
	now  func() time.Time

	mu    sync.Mutex
	until time.Time
}

func newKeeper(read Keys, now func() time.Time) *keeper { return &keeper{read: read, now: now} }

func (k *keeper) credentials() *credentials.Credentials { return credentials.New(k) }

// refused has the secrets read again before the next request.
func (k *keeper) refused() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.until = time.Time{}
}

// IsExpired implements credentials.Provider.
func (k *keeper) IsExpired() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return !k.now().Before(k.until)
}

// Retrieve implements credentials.Provider.
func (k *keeper) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext implements credentials.Provider.
func (k *keeper) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	if k.read == nil {
		return credentials.Value{}, proto.Errorf(proto.ClassTransient, "no access key: set access_key and secret_key_file, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	s, err := k.read()
	if err != nil {
		return credentials.Value{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.until = k.now().Add(keysLife)
	return credentials.Value{AccessKeyID: s.Access, SecretAccessKey: s.Secret, SessionToken: s.Token, SignerType: credentials.SignatureV4}, nil
}
