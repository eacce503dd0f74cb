package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/manager"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/api"
)

// coldStart is how long the platform may take to answer: its first start makes a
// database, and a machine may be busy compiling.
const coldStart = 5 * time.Minute

// Addresses are where a target of cetrus listens, as it writes them into its folder.
type Addresses struct {
	REST          string `json:"rest"`           // URL
	GRPC          string `json:"grpc"`           // host:port
	NATS          string `json:"nats"`           // URL
	ManagerAgents string `json:"manager_agents"` // host:port
	ManagerStatus string `json:"manager_status"` // URL
	AccountID     string `json:"account_id"`
}

// ReadAddresses reads what a target says of itself: "all", or one of the others.
func ReadAddresses(dir, target string) (a Addresses, err error) {
	file := filepath.Join(dir, "addresses."+target+".json")
	if target == "all" {
		file = filepath.Join(dir, "addresses.json")
	}
	text, err := os.ReadFile(file)
	if err == nil {
		if err = json.Unmarshal(text, &a); err != nil {
			err = fmt.Errorf("%s: %w", file, err)
		}
	}
	return a, err
}

// Listen are the arguments of `cetrus all` that give it these addresses.
func (a Addresses) Listen() []string {
	return []string{
		"--rest-listen=" + strings.TrimPrefix(a.REST, "http://"), "--grpc-listen=" + a.GRPC, "--nats-listen=" + strings.TrimPrefix(a.NATS, "nats://"),
		"--manager-agents-listen=" + a.ManagerAgents, "--manager-status-listen=" + strings.TrimPrefix(a.ManagerStatus, "http://"),
	}
}

// Plaintext is the argument of `cetrus all` that has agents speak to its Manager in plain,
// for tests of something else.
const Plaintext = "--manager-agents-security=plaintext"

// Anywhere are the addresses that take free ports.
func Anywhere() Addresses {
	const free = "127.0.0.1:0"
	return Addresses{REST: free, GRPC: free, NATS: free, ManagerAgents: free, ManagerStatus: free}
}

// Platform is a running `cetrus all`.
type Platform struct {
	*Process
	Addresses
	// Dir is its data directory.
	Dir string
	// Key is the API key in it; API asks with that.
	Key string
	API *api.Client
}

// StartPlatform starts `cetrus all` on a data directory and waits until its API
// answers.
func StartPlatform(ctx context.Context, binary, dir, log string, args ...string) (*Platform, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil { // the platform opens it as far as it must
		return nil, err
	}
	// Of a platform that was killed.
	if err := os.Remove(filepath.Join(dir, "addresses.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	p := &Platform{Dir: dir}
	if _, err := os.Stat(filepath.Join(dir, "account.json")); err == nil {
		if _, err := p.key(binary); err != nil {
			return nil, err
		}
	}
	var err error
	p.Process, err = Start(Command{Name: "the platform", Path: binary, Args: append([]string{"all", "--data-dir", dir}, args...), Log: log, Orphaned: syscall.SIGTERM})
	if err != nil {
		return nil, err
	}
	if err := Wait(ctx, coldStart, "the platform to answer (its log: "+log+")", p.Running(func() error { return p.look(ctx, binary) })); err != nil {
		return nil, errors.Join(err, p.Stop(5*time.Second))
	}
	return p, nil
}

func (p *Platform) look(ctx context.Context, binary string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if p.Addresses, err = ReadAddresses(p.Dir, "all"); err != nil {
		return err
	}
	if p.Key, err = p.key(binary); err != nil {
		return err
	}
	p.API = api.New(p.REST, p.Key)
	err = p.API.Get(ctx, "/v1/usage:dataQuality", nil, &meteringv1.GetDataQualityResponse{})
	if refused := new(api.Error); errors.As(err, &refused) && refused.HTTPStatus == http.StatusUnauthorized {
		return Hopeless(p.needsKey(binary, "the API key in %s is not one of this account's"))
	}
	return err
}

func (p *Platform) key(binary string) (string, error) {
	key, err := Key(p.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", Hopeless(p.needsKey(binary, "the file of the API key, %s, is gone, and only a hash of it is kept elsewhere"))
	}
	return key, err
}

// Key is the API key made last for the platform of a data directory.
func Key(dir string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "api-key"))
	return strings.TrimSpace(string(text)), err
}

// needsKey says how to come by a key.
func (p *Platform) needsKey(binary, wrong string) error {
	return fmt.Errorf(wrong+"; make a new one, then repeat:\n\n    %s key new --data-dir %s", filepath.Join(p.Dir, "api-key"), binary, p.Dir)
}

// AdmitManager lets a Manager forward to the platform of a data directory, as an
// administrator would, and gives the URL that it forwards to at a host:port.
func AdmitManager(ctx context.Context, cetrus, dir, managerID, host string) (string, error) {
	out, err := exec.CommandContext(ctx, cetrus, "manager", "add", "--data-dir", dir, "--manager-id", managerID).Output()
	var access struct{ User, Password string }
	if err == nil {
		err = json.Unmarshal(out, &access)
	}
	if err != nil {
		return "", fmt.Errorf("cetrus manager add: %w", err)
	}
	return (&url.URL{Scheme: "nats", User: url.UserPassword(access.User, access.Password), Host: host}).String(), nil
}

// EnrollmentToken has the platform's Manager make a token for so many agents.
func (p *Platform) EnrollmentToken(ctx context.Context, uses int) (string, error) {
	return EnrollmentToken(ctx, filepath.Join(p.Dir, "manager"), p.Addresses.ManagerStatus, uses)
}

// EnrollmentToken has the Manager of a folder, whose status page is at a URL, make a token
// for so many agents, good for a day.
func EnrollmentToken(ctx context.Context, dir, status string, uses int) (string, error) {
	secret, err := os.ReadFile(filepath.Join(dir, manager.ControlTokenFile))
	if err != nil {
		return "", fmt.Errorf("stack: an enrolment token: %w", err)
	}
	body, err := json.Marshal(manager.TokenOrder{Label: "made at the start", Uses: uses, ValidSeconds: int64(24 * time.Hour / time.Second)})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, status+"/api/v1/tokens", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set(manager.TokenHeader, string(secret))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("stack: an enrolment token: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(answer)))
	}
	var made manager.NewToken
	if err == nil {
		err = json.Unmarshal(answer, &made)
	}
	if err != nil {
		return "", fmt.Errorf("stack: an enrolment token: %w", err)
	}
	return made.Text, nil
}

// ManagerStatus asks the Manager whose status page is at a host:port.
func ManagerStatus(ctx context.Context, host string) (status manager.Status, err error) {
	return ManagerStatusOver(ctx, http.DefaultClient, host)
}

// ManagerStatusOver asks by a client, for a Manager on a network of its own.
func ManagerStatusOver(ctx context.Context, client *http.Client, host string) (status manager.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+"/api/v1/status", nil)
	if err != nil {
		return status, err
	}
	response, err := client.Do(request)
	if err != nil {
		return status, err
	}
	defer func() { _ = response.Body.Close() }()
	return status, json.NewDecoder(response.Body).Decode(&status)
}
