package authn

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Names of the files in the data directory.
const (
	// AccountFile holds the account's id and the hashes of its keys.
	AccountFile = "account.json"
	// KeyFile holds the bootstrap key itself, for the person who starts Cetrus
	// and programs on the same machine; readable by its owner only.
	KeyFile = "api-key"
)

// Keys are the API keys of one account. It is safe for concurrent use, since it
// does not change.
type Keys struct {
	account contract.ID
	hashes  map[string][32]byte // by key id
}

// accountFile is AccountFile as it is written.
type accountFile struct {
	Version   int         `json:"version"`
	AccountID string      `json:"account_id"`
	Keys      []storedKey `json:"keys"`
}

type storedKey struct {
	ID         string    `json:"id"`
	SHA256     string    `json:"sha256"`
	CreateTime time.Time `json:"create_time"`
}

// Bootstrap opens the account of a data directory, and makes it at first start:
// a random account id and one API key, returned in fresh that one time and kept
// in KeyFile. Nothing is half made: the account file is written last, at once.
func Bootstrap(dir string, now time.Time) (keys *Keys, fresh string, err error) {
	const op = "authn.Bootstrap"
	path := filepath.Join(dir, AccountFile)
	keys, err = Load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return keys, "", err
	}

	var account contract.ID
	_, _ = rand.Read(account[:]) // never fails, says its documentation
	account[6] = account[6]&0x0f | 0x40
	account[8] = account[8]&0x3f | 0x80
	id, key := newKey()
	hash := hashKey(key)
	text, err := json.MarshalIndent(accountFile{
		Version:   1,
		AccountID: account.String(),
		Keys:      []storedKey{{ID: id, SHA256: hex.EncodeToString(hash[:]), CreateTime: now.UTC().Truncate(time.Second)}},
	}, "", "  ")
	if err != nil {
		return nil, "", errs.Wrap(op, path, err)
	}
	if err := writeFile(filepath.Join(dir, KeyFile), []byte(key+"\n")); err != nil {
		return nil, "", errs.Wrap(op, KeyFile, err)
	}
	if err := writeFile(path, append(text, '\n')); err != nil {
		return nil, "", errs.Wrap(op, AccountFile, err)
	}
	keys, err = Load(path)
	return keys, key, err
}

// Load reads an account file. A file that is not there is an error that
// errors.Is fs.ErrNotExist; one that cannot be understood is never replaced.
func Load(path string) (*Keys, error) {
	const op = "authn.Load"
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, errs.As(errs.Precondition, op, path, "cannot be read", err)
	}
	return parse(path, text)
}

func parse(path string, text []byte) (*Keys, error) {
	const op = "authn.Load"
	bad := func(what string, err error) error {
		return &errs.Error{
			Op: op, Subject: path, Kind: errs.Precondition, Err: err,
			Message: what + "; restore the file from a backup: without it nobody can read this account's data",
		}
	}
	var f accountFile
	if err := json.Unmarshal(text, &f); err != nil {
		return nil, bad("is not valid JSON", err)
	}
	if f.Version != 1 {
		return nil, bad("has a version that this build does not know", nil)
	}
	account, err := contract.ParseID(f.AccountID)
	if err != nil || account.IsZero() {
		return nil, bad("account_id is not a UUID", err)
	}
	k := &Keys{account: account, hashes: make(map[string][32]byte, len(f.Keys))}
	for _, s := range f.Keys {
		hash, err := hex.DecodeString(s.SHA256)
		if err != nil || len(hash) != 32 || len(s.ID) != 2*keyIDBytes {
			return nil, bad("key "+s.ID+" is malformed", err)
		}
		k.hashes[s.ID] = [32]byte(hash)
	}
	return k, nil
}

// Account is the account that the keys open.
func (k *Keys) Account() contract.ID { return k.account }

// Authenticate judges an API key. The time that it takes tells nothing of the
// secrets: a key is hashed whether or not its id is known, and hashes are
// compared in constant time.
func (k *Keys) Authenticate(_ context.Context, key string) (Caller, error) {
	id, wellFormed := keyID(key)
	hash := hashKey(key)
	want := k.hashes[id] // all zero where unknown: no key hashes to that
	if subtle.ConstantTimeCompare(hash[:], want[:]) != 1 || !wellFormed {
		return Caller{}, errs.New(errs.Unauthenticated, "authn.Authenticate", "", messageInvalidKey).WithReason(ReasonInvalidKey)
	}
	return Caller{Account: k.account, Actor: "key:" + id}, nil
}

// writeFile puts a file in place whole, durable and readable by its owner only.
func writeFile(path string, content []byte) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // not there any more on success
	if _, err = tmp.Write(content); err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
