package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/cetrus/cetrus/services/platform/durable"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// addressesFile is the file in a data directory that tells other programs on this
// machine where a target really listens: addresses.json for all,
// addresses.<target>.json for the others. It is there while the target runs.
func addressesFile(target string) string {
	if target == "all" {
		return "addresses.json"
	}
	return "addresses." + target + ".json"
}

// addresses are where programs on this machine reach a process; empty where it does not listen.
type addresses struct {
	// REST and ManagerStatus are URLs without a path: http://127.0.0.1:8080.
	REST string `json:"rest,omitempty"`
	// GRPC and ManagerAgents are host:port.
	GRPC string `json:"grpc,omitempty"`
	// NATS is a URL without user: nats://127.0.0.1:4222.
	NATS string `json:"nats,omitempty"`
	// NATSWebSocket is a URL without user and path: wss://127.0.0.1:8443.
	NATSWebSocket string `json:"nats_websocket,omitempty"`
	ManagerAgents string `json:"manager_agents,omitempty"`
	ManagerStatus string `json:"manager_status,omitempty"`
	// Health is a URL without a path, as REST.
	Health string `json:"health,omitempty"`
	// Postgres is host:port.
	Postgres string `json:"postgres,omitempty"`
	// NATSURLs, by the names of parts (natsserver.Roles), and PostgresURL let the platform's
	// other processes in: they hold passwords, and so the file is readable by its owner only.
	NATSURLs    map[string]string `json:"nats_urls,omitempty"`
	PostgresURL string            `json:"postgres_url,omitempty"`
	// AccountID is the account of this data directory.
	AccountID string `json:"account_id"`
	// PID is the process that listens.
	PID int `json:"pid"`
}

// onThisMachine is where a program on this machine reaches what listens on an address, host:port or a URL without
// a path. One that stands for all addresses is none to go to, and no certificate is for it.
func onThisMachine(listened string) string {
	scheme, address, isURL := strings.Cut(listened, "://")
	if !isURL {
		address = listened
	}
	host, port, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return listened
	}
	address = net.JoinHostPort("localhost", port)
	if isURL {
		return scheme + "://" + address
	}
	return address
}

// write puts the file of a target in place whole.
func (a addresses) write(dir, target string) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return errs.Wrap("cetrus", "addresses", err)
	}
	path := filepath.Join(dir, addressesFile(target))
	return errs.Wrap("cetrus", path, durable.Replace(path, append(text, '\n')))
}

// addressesOf reads where another target of the same data directory listens; all
// empty where it does not run.
func addressesOf(dir, target string) (addresses, error) {
	var a addresses
	path := filepath.Join(dir, addressesFile(target))
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return a, nil
	case errors.Is(err, fs.ErrPermission):
		return a, errs.As(errs.Precondition, "cetrus", path, "may not be read: give this order as the user that the platform runs as", err)
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	return a, errs.As(errs.Precondition, "cetrus", path, "cannot be read: remove it, and start "+target+" again", err)
}
