package credential

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Cost is what one hash of a password costs. The zero Cost means the default: 64 MiB
// and one pass, above the 46 MiB that OWASP's password storage cheat sheet names.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
	Lanes     uint8
}

const (
	saltBytes = 16
	hashBytes = 32
	// maxMemoryKiB and maxPasses bound what a stored hash may ask for: a damaged row
	// must not take the machine's memory.
	maxMemoryKiB = 1 << 20
	maxPasses    = 100
)

// ErrHash means that a stored text is no hash of this package's.
var ErrHash = errors.New("credential: not an argon2id hash")

// Hasher hashes passwords with argon2id, a bounded number at once, so that many
// sign-ins wait rather than exhaust the memory. It is safe for concurrent use.
type Hasher struct {
	cost  Cost
	slots chan struct{}
	decoy string
}

// NewHasher makes a hasher that computes at most atOnce hashes at the same time.
func NewHasher(cost Cost, atOnce int) *Hasher {
	if cost.MemoryKiB == 0 {
		cost.MemoryKiB = 64 << 10
	}
	if cost.Passes == 0 {
		cost.Passes = 1
	}
	if cost.Lanes == 0 {
		cost.Lanes = 1
	}
	h := &Hasher{cost: cost, slots: make(chan struct{}, max(1, atOnce))}
	// It only has to look like a hash of this cost: what random bytes would have to be
	// guessed to match it nobody knows.
	h.decoy = encode(cost, random(saltBytes), random(hashBytes))
	return h
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says its documentation
	return b
}

// Hash makes a hash to keep: the PHC string, which holds the cost and a random salt.
// The error is that of a ctx that ended while others were hashed.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := random(saltBytes)
	sum, err := h.compute(ctx, password, salt, h.cost, hashBytes)
	if err != nil {
		return "", err
	}
	return encode(h.cost, salt, sum), nil
}

// Verify tells whether the password is the one of the hash, and whether the hash is of
// another cost than today's, so that it should be made anew. An empty hash stands for
// somebody who is not there or has no password: the same work is done, and no password
// is right.
func (h *Hasher) Verify(ctx context.Context, hash, password string) (right, stale bool, err error) {
	asked := hash
	if hash == "" {
		asked = h.decoy
	}
	cost, salt, want, err := decode(asked)
	if err != nil {
		return false, false, err
	}
	got, err := h.compute(ctx, password, salt, cost, uint32(len(want)))
	if err != nil {
		return false, false, err
	}
	right = subtle.ConstantTimeCompare(got, want) == 1 && hash != ""
	return right, right && cost != h.cost, nil
}

func (h *Hasher) compute(ctx context.Context, password string, salt []byte, cost Cost, length uint32) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-h.slots }()
	return argon2.IDKey([]byte(password), salt, cost.Passes, cost.MemoryKiB, cost.Lanes, length), nil
}

func encode(cost Cost, salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, cost.MemoryKiB, cost.Passes, cost.Lanes, b64.EncodeToString(salt), b64.EncodeToString(sum))
}

func decode(hash string) (cost Cost, salt, sum []byte, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return cost, nil, nil, ErrHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &cost.MemoryKiB, &cost.Passes, &cost.Lanes); err != nil {
		return cost, nil, nil, ErrHash
	}
	if salt, err = base64.RawStdEncoding.Strict().DecodeString(parts[4]); err == nil {
		sum, err = base64.RawStdEncoding.Strict().DecodeString(parts[5])
	}
	if err != nil || len(salt) < 8 || len(salt) > 64 || len(sum) < 16 || len(sum) > 64 ||
		cost.MemoryKiB < 8 || cost.MemoryKiB > maxMemoryKiB || cost.Passes < 1 || cost.Passes > maxPasses || cost.Lanes < 1 ||
		encode(cost, salt, sum) != hash {
		return cost, nil, nil, ErrHash
	}
	return cost, salt, sum, nil
}
