package manager

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
	"github.com/cetrus/cetrus/proto/proxy"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// Keys never leave the folder.
const (
	// platformKeyFile holds the key by which the platform knows this Manager.
	platformKeyFile = "platform-key"
	// askedKeyFile holds one by which the platform was asked to know it, until it has answered: it
	// may have heard, and then takes no other for the same token.
	askedKeyFile = "platform-key-asked"
)

const (
	joinPatience   = time.Minute
	maxJoinAnswer  = 64 << 10
	joinPath       = "/v1/managers:enroll"
	plainOnlyLocal = "the platform's address begins with https://, or names this machine: the token would be read on the way"
)

// JoinConfig is what a Manager enrols at the platform with.
type JoinConfig struct {
	DataDir string
	// API is the platform's REST address, as https://platform.example.com.
	API string
	// Token is what CreateManager has answered.
	Token string
	// Proxy is as the setting has it.
	Proxy string
	// CAFile is a PEM file of the authorities by which the platform is known; empty: the system's.
	CAFile string
}

// Join enrols the Manager of a folder at the platform, which knows it by a key of its own from
// then on. A new folder becomes that of the Manager that the token is for. Repeated, it
// changes nothing.
func Join(ctx context.Context, config JoinConfig) (manager, account contract.ID, err error) {
	token, err := enrollment.ParseManagerToken(config.Token)
	if err != nil {
		return manager, account, err
	}
	api, err := url.Parse(config.API)
	if err != nil || api.Host == "" || api.Scheme != "https" && api.Scheme != "http" {
		return manager, account, fmt.Errorf("%q is no address: give the platform's REST address, as https://platform.example.com", config.API)
	}
	if api.Scheme == "http" && loopback(net.JoinHostPort(api.Hostname(), "0")) != nil {
		return manager, account, errors.New(plainOnlyLocal)
	}
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return manager, account, wrap(err)
	}
	was, found, err := whoIs(config.DataDir)
	if err != nil {
		return manager, account, err
	}
	if found && (was.ManagerID != token.Manager.String() || was.AccountID != token.Account.String()) {
		return manager, account, fmt.Errorf("%s is the folder of Manager %s of account %s, and the token is for Manager %s of account %s: create the Manager with manager_id %s, or take an empty folder",
			config.DataDir, was.ManagerID, was.AccountID, token.Manager, token.Account, was.ManagerID)
	}
	key, err := keyToAskWith(config.DataDir)
	if err != nil {
		return manager, account, err
	}
	public, err := key.PublicKey()
	if err != nil {
		return manager, account, wrap(err)
	}
	if err := config.ask(ctx, api, map[string]string{"token": token.Text(), "public_key": public}); err != nil {
		return manager, account, err
	}
	if err := keepKey(config.DataDir, key); err != nil {
		return manager, account, err
	}
	if !found {
		err = writeSelf(config.DataDir, token.Manager, token.Account)
	}
	return token.Manager, token.Account, wrap(err)
}

// keyToAskWith is the key by which the platform knows the Manager, or that it was asked for, or a new one.
func keyToAskWith(dir string) (nkeys.KeyPair, error) {
	for _, file := range []string{platformKeyFile, askedKeyFile} {
		if key, err := readKey(dir, file); !errors.Is(err, fs.ErrNotExist) {
			return key, err
		}
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, wrap(err)
	}
	return key, writeKey(dir, askedKeyFile, key)
}

// keepKey has the platform know the Manager by a key from now on.
func keepKey(dir string, key nkeys.KeyPair) error {
	if err := writeKey(dir, platformKeyFile, key); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, askedKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		return wrap(err)
	}
	return nil
}

func readKey(dir, file string) (nkeys.KeyPair, error) {
	seed, err := durable.Read(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, wrap(err)
	}
	if err != nil {
		return nil, fmt.Errorf("manager: %w: remove the file, and have the Manager's token renewed", err)
	}
	key, err := nkeys.FromSeed(seed)
	return key, wrap(err)
}

func writeKey(dir, file string, key nkeys.KeyPair) error {
	seed, err := key.Seed()
	if err == nil {
		err = durable.Replace(filepath.Join(dir, file), seed)
	}
	return wrap(err)
}

// PlatformKey is the option of a connection to the platform by the key of a folder; found is
// false where that Manager has none.
func PlatformKey(dir string) (option nats.Option, found bool, err error) {
	key, err := readKey(dir, platformKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	public, err := key.PublicKey()
	return nats.Nkey(public, key.Sign), true, wrap(err)
}

// Joined is the account for which the Manager of a folder is enrolled; enrolled is false where it is not.
func Joined(dir string) (account contract.ID, enrolled bool, err error) {
	account, known, err := AccountOf(dir)
	if err != nil || !known {
		return account, false, err
	}
	_, enrolled, err = PlatformKey(dir)
	return account, enrolled, err
}

// AccountOf is the account that the Manager of a folder serves; found is false where it is not
// known yet.
func AccountOf(dir string) (account contract.ID, found bool, err error) {
	was, found, err := whoIs(dir)
	if err != nil || !found {
		return account, false, err
	}
	account, err = contract.ParseID(was.AccountID)
	return account, err == nil, wrap(err)
}

// ask puts the wish to be enrolled to the platform.
func (c JoinConfig) ask(ctx context.Context, api *url.URL, wish map[string]string) error {
	body, err := json.Marshal(wish)
	if err != nil {
		return wrap(err)
	}
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, api.JoinPath(joinPath).String(), bytes.NewReader(body))
	if err != nil {
		return wrap(err)
	}
	request.Header.Set("Content-Type", "application/json")
	authorities, err := Authorities(c.CAFile)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return proxy.Dial(ctx, c.Proxy, "cetrus-manager", address)
		},
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("manager: the platform cannot be reached: %w", ExplainTLS(err))
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxJoinAnswer))
	if err != nil {
		return fmt.Errorf("manager: the platform's answer: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return nil
	}
	var refused struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(answer, &refused) != nil || refused.Message == "" {
		refused.Message = response.Status
	}
	return fmt.Errorf("manager: %s does not take this Manager: %s", api.Host, refused.Message)
}
