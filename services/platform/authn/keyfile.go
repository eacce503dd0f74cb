package authn

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Names of the files in the data directory.
const (
	// AccountFile holds the account's id and the hashes of its keys.
	AccountFile = "account.json"
	// KeyFile holds the bootstrap key itself, for the person who starts Cetrus
	// and programs on the same machine; readable by its owner only.
	KeyFile = "api-key"
	// FirstPasswordFile is where the person who starts Cetrus finds the first
	// administrator's password, which has to be changed at the first sign-in;
	// readable by its owner only. It goes once it was shown on a terminal.
	FirstPasswordFile = "admin-password"
)

// Keys are the API keys of one account, as its file had them when it was last
// read. It is safe for concurrent use.
type Keys struct {
	path    string
	account contract.ID
	known   atomic.Pointer[map[string]knownKey] // by key id
}

type knownKey struct {
	hash    [sha256.Size]byte
	created time.Time
}

// Key is what may be told of a key.
type Key struct {
	// ID stands in the key after its prefix, and names it in logs and events.
	ID string
	// Created is when it was made, to the second.
	Created time.Time
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
	path := filepath.Join(dir, AccountFile)
	keys, err = Load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return keys, "", err
	}

	key, err := issue(dir, newAccount(), now)
	if err != nil {
		return nil, "", err
	}
	keys, err = Load(path)
	return keys, key, err
}

func newAccount() *accountFile {
	var account contract.ID
	_, _ = rand.Read(account[:]) // never fails, says its documentation
	account[6] = account[6]&0x0f | 0x40
	account[8] = account[8]&0x3f | 0x80
	return &accountFile{Version: 1, AccountID: account.String()}
}

// NewAccountFile is what AccountFile of a new account holds that a key opens, one of NewKey.
func NewAccountFile(key string, now time.Time) ([]byte, error) {
	const op = "authn.NewAccountFile"
	id, wellFormed := keyID(key)
	if !wellFormed {
		return nil, errs.New(errs.Invalid, op, "", messageInvalidKey)
	}
	text, err := newAccount().add(id, key, now)
	return text, errs.Wrap(op, "", err)
}

// add adds a key, and answers the text of the file with it.
func (f *accountFile) add(id, key string, now time.Time) ([]byte, error) {
	hash := hashKey(key)
	f.Keys = append(f.Keys, storedKey{ID: id, SHA256: hex.EncodeToString(hash[:]), CreateTime: now.UTC().Truncate(time.Second)})
	text, err := json.MarshalIndent(f, "", "  ")
	return append(text, '\n'), err
}

// issue makes a key, puts it into KeyFile, and writes the account file with it.
func issue(dir string, f *accountFile, now time.Time) (key string, err error) {
	const op = "authn.issue"
	id, key := NewKey()
	text, err := f.add(id, key, now)
	if err != nil {
		return "", errs.Wrap(op, AccountFile, err)
	}
	if err := durable.Replace(filepath.Join(dir, KeyFile), []byte(key+"\n")); err != nil {
		return "", errs.Wrap(op, KeyFile, err)
	}
	return key, errs.Wrap(op, AccountFile, durable.Replace(filepath.Join(dir, AccountFile), text))
}

// Issue makes another API key for the account of a data directory and puts it
// into KeyFile. The keys that there were go on being valid, unless revokeOthers.
// Whoever calls it keeps others from doing so at the same time.
func Issue(dir string, revokeOthers bool, now time.Time) (key string, revoked int, err error) {
	const op = "authn.Issue"
	path := filepath.Join(dir, AccountFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return "", 0, errs.As(errs.Precondition, op, path, "cannot be read", err)
	}
	if _, err := parse(path, text); err != nil {
		return "", 0, err
	}
	var f accountFile
	if err := json.Unmarshal(text, &f); err != nil {
		return "", 0, errs.Wrap(op, path, err)
	}
	if revokeOthers {
		revoked, f.Keys = len(f.Keys), nil
	}
	key, err = issue(dir, &f, now)
	return key, revoked, err
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
	known := make(map[string]knownKey, len(f.Keys))
	for _, s := range f.Keys {
		hash, err := hex.DecodeString(s.SHA256)
		if err != nil || len(hash) != 32 || len(s.ID) != 2*keyIDBytes {
			return nil, bad("key "+s.ID+" is malformed", err)
		}
		known[s.ID] = knownKey{[32]byte(hash), s.CreateTime}
	}
	k := &Keys{path: path, account: account}
	k.known.Store(&known)
	return k, nil
}

// Follow keeps the keys as the file has them, until ctx ends: it looks once a
// second. A file that cannot be understood, or is another account's, changes
// nothing and is told.
func (k *Keys) Follow(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := k.reread(ctx, log)
		if err == nil {
			said = ""
		} else if text := err.Error(); text != said {
			said = text
			log.ErrorContext(ctx, "the API keys cannot be read again and stay as they are", "error", err)
		}
	}
}

func (k *Keys) reread(ctx context.Context, log *slog.Logger) error {
	fresh, err := Load(k.path)
	if err != nil {
		return err
	}
	if fresh.account != k.account {
		return errs.New(errs.Precondition, "authn.Follow", k.path, "is of another account now: "+fresh.account.String()+", not "+k.account.String())
	}
	known := fresh.known.Load()
	if !maps.Equal(*known, *k.known.Load()) {
		k.known.Store(known)
		log.InfoContext(ctx, "the API keys have changed", "keys", len(*known))
	}
	return nil
}

// List tells of the keys, the oldest first.
func (k *Keys) List() []Key {
	var all []Key
	for id, key := range *k.known.Load() {
		all = append(all, Key{ID: id, Created: key.created})
	}
	slices.SortFunc(all, func(a, b Key) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID)) })
	return all
}

// Account is the account that the keys open.
func (k *Keys) Account() contract.ID { return k.account }

// Authenticate judges an API key. The time that it takes tells nothing of the
// secrets: a key is hashed whether or not its id is known, and hashes are
// compared in constant time.
func (k *Keys) Authenticate(_ context.Context, key string) (Caller, error) {
	id, wellFormed := keyID(key)
	hash := hashKey(key)
	want := (*k.known.Load())[id].hash // all zero where unknown: no key hashes to that
	if subtle.ConstantTimeCompare(hash[:], want[:]) != 1 || !wellFormed {
		return Caller{}, errs.New(errs.Unauthenticated, "authn.Authenticate", "", messageInvalidKey).WithReason(ReasonInvalidKey)
	}
	// These keys come with the platform itself: whoever can read them runs it.
	return Caller{Account: k.account, Actor: "key:" + id, Privileges: AllPrivileges(), Operator: true}, nil
}
