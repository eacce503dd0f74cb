package keyring

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// transitWithin bounds one question.
	transitWithin = 5 * time.Second
	// transitAnswer bounds an answer.
	transitAnswer = 64 << 10
)

// TransitConfig says where a transit engine is, as HashiCorp Vault and OpenBao have it.
type TransitConfig struct {
	// URL is https://HOST:PORT/MOUNT/KEY; http for this machine alone.
	URL string
	// TokenFile holds the token; it is read for each question, so that whoever renews it can
	// put another in its place.
	TokenFile string
	// CAFile holds the certificates by which the server is known; empty: the system's.
	CAFile string
}

// Transit has a key-encryption key wrapped by a transit engine, which never gives its own key out.
// Whoever copies the file then needs that engine too, and it can tell who asked, and refuse.
type Transit struct {
	base, name string // of the URL: up to the mount, and the key
	tokenFile  string
	client     *http.Client
}

// NewTransit asks nobody yet.
func NewTransit(cfg TransitConfig) (*Transit, error) {
	problem := func(message string) error { return errs.New(errs.Invalid, "keyring.NewTransit", "", message) }
	u, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, problem("the address of the key-management service cannot be read: write https://HOST:PORT/MOUNT/KEY")
	}
	slash := strings.LastIndexByte(strings.TrimSuffix(u.Path, "/"), '/')
	if slash < 1 || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, problem("the address of the key-management service must be https://HOST:PORT/MOUNT/KEY")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return nil, problem("the address of the key-management service must begin with https: a key would cross the network in clear")
	}
	if cfg.TokenFile == "" {
		return nil, problem("the key-management service needs a file with a token")
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, MaxIdleConns: 1, IdleConnTimeout: time.Minute}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, errs.As(errs.Invalid, "keyring.NewTransit", "", "the certificates of the key-management service cannot be read", err)
		}
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, problem(cfg.CAFile + " holds no certificate")
		}
	}
	path := strings.TrimSuffix(u.Path, "/")
	return &Transit{
		base: u.Scheme + "://" + u.Host + "/v1" + path[:slash], name: path[slash+1:], tokenFile: cfg.TokenFile,
		// A redirection would take the token elsewhere.
		client: &http.Client{Transport: transport, Timeout: transitWithin, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// Kind implements Wrapper.
func (t *Transit) Kind() string { return "transit" }

// Wrap implements Wrapper.
func (t *Transit) Wrap(ctx context.Context, key Key) (string, error) {
	var answer struct {
		Ciphertext string `json:"ciphertext"`
	}
	err := t.ask(ctx, "encrypt", map[string]string{"plaintext": base64.StdEncoding.EncodeToString(key[:])}, &answer)
	if err == nil && (answer.Ciphertext == "" || strings.ContainsAny(answer.Ciphertext, " \t\r\n")) {
		err = t.problem(errs.Unavailable, "answers as no transit engine does", errors.New("no ciphertext"))
	}
	return answer.Ciphertext, err
}

// Unwrap implements Wrapper.
func (t *Transit) Unwrap(ctx context.Context, text string) (key Key, err error) {
	var answer struct {
		Plaintext string `json:"plaintext"`
	}
	if err := t.ask(ctx, "decrypt", map[string]string{"ciphertext": text}, &answer); err != nil {
		return key, err
	}
	if key, err = (InClear{}).Unwrap(ctx, answer.Plaintext); err != nil {
		return key, t.problem(errs.Precondition, "opens what is in the file to no key: is it the right one?", err)
	}
	return key, nil
}

func (t *Transit) problem(kind errs.Kind, what string, err error) error {
	return errs.As(kind, "keyring", "", "the key-management service at "+t.base+" "+what+"; without it the names of people cannot be read", err)
}

// ask asks the engine to do something with its key. Nothing of what it answers is told but its
// status and the words of its refusal.
func (t *Transit) ask(ctx context.Context, verb string, question map[string]string, answer any) error {
	token, err := os.ReadFile(t.tokenFile)
	if err != nil {
		return errs.As(errs.Precondition, "keyring", "", "the token of the key-management service cannot be read", err)
	}
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.base+"/"+verb+"/"+url.PathEscape(t.name), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("keyring: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-Vault-Token", strings.TrimSpace(string(token)))
	request.Header.Set("X-Vault-Request", "true")
	response, err := t.client.Do(request)
	if err != nil {
		return t.problem(errs.Unavailable, "does not answer", err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, transitAnswer))
	if err != nil {
		return t.problem(errs.Unavailable, "does not answer in full", err)
	}
	var told struct {
		Data   json.RawMessage `json:"data"`
		Errors []string        `json:"errors"`
	}
	err = json.Unmarshal(raw, &told)
	switch {
	case response.StatusCode == http.StatusOK && err == nil && json.Unmarshal(told.Data, answer) == nil:
		return nil
	case response.StatusCode == http.StatusOK:
		return t.problem(errs.Unavailable, "answers as no transit engine does", errors.Join(err, errors.New("not the data that was asked for")))
	case response.StatusCode >= 500 || response.StatusCode == http.StatusTooManyRequests:
		return t.problem(errs.Unavailable, fmt.Sprintf("cannot serve (%d: it may be sealed)", response.StatusCode), errors.New(strings.Join(told.Errors, "; ")))
	}
	return t.problem(errs.Precondition, fmt.Sprintf("refuses to %s with key %s (%d): look at the token and its policy", verb, t.name, response.StatusCode), errors.New(strings.Join(told.Errors, "; ")))
}
