package main

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// addressesFile tells other programs on this machine where this process really
// listens.
const addressesFile = "addresses.json"

// addresses are where a process listens; empty where it does not.
type addresses struct {
	// REST and ManagerStatus are URLs without a path: http://127.0.0.1:8080.
	REST string `json:"rest,omitempty"`
	// GRPC and ManagerAgents are host:port.
	GRPC string `json:"grpc,omitempty"`
	// NATS is a URL without user: nats://127.0.0.1:4222.
	NATS          string `json:"nats,omitempty"`
	ManagerAgents string `json:"manager_agents,omitempty"`
	ManagerStatus string `json:"manager_status,omitempty"`
	// Postgres is host:port.
	Postgres string `json:"postgres,omitempty"`
	// AccountID is the account of this data directory.
	AccountID string `json:"account_id"`
	// PID is the process that listens.
	PID int `json:"pid"`
}

// write puts the file in place whole.
func (a addresses) write(dir string) error {
	text, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return errs.Wrap("cetrus", addressesFile, err)
	}
	path := filepath.Join(dir, addressesFile)
	if err := os.WriteFile(path+".new", append(text, '\n'), 0o600); err != nil {
		return errs.Wrap("cetrus", addressesFile, err)
	}
	return errs.Wrap("cetrus", addressesFile, os.Rename(path+".new", path))
}
