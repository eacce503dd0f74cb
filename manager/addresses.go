package manager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// addressesFile is there while a Manager runs on the folder.
const addressesFile = "addresses"

// IDHeader of every answer names the Manager that gives it: after a crash another program
// may listen where a folder's Manager did.
const IDHeader = "Cetrus-Manager"

// Addresses say where the Manager of a data folder listens.
type Addresses struct {
	ManagerID string `json:"manager_id"`
	// Agents and Status are host:port.
	Agents string `json:"agents"`
	Status string `json:"status"`
}

// AddressesOf reads where the Manager of a data folder listens: fs.ErrNotExist where none
// runs. One that was killed has left its addresses.
func AddressesOf(dataDir string) (a Addresses, err error) {
	text, err := durable.Read(filepath.Join(dataDir, addressesFile))
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	if err != nil {
		return Addresses{}, fmt.Errorf("manager: %w", err)
	}
	return a, nil
}

// tellAddresses lets commands find this Manager. It works without them: by its address.
func (m *Manager) tellAddresses() {
	text, err := json.Marshal(Addresses{ManagerID: m.id.String(), Agents: m.AgentsAddress(), Status: m.StatusAddress()})
	if err == nil {
		err = durable.Replace(filepath.Join(m.config.DataDir, addressesFile), text)
	}
	if err != nil {
		m.log.Warn("commands find this Manager by --status-address only", "error", err)
	}
	m.told = true
}

// withdrawAddresses comes before the folder is free for another.
func (m *Manager) withdrawAddresses() {
	if !m.told {
		return
	}
	if err := os.Remove(filepath.Join(m.config.DataDir, addressesFile)); err != nil && !errors.Is(err, fs.ErrNotExist) { //nolint:gosec // The folder that whoever starts the Manager names.
		m.log.Warn("the folder goes on saying where this Manager listened, and commands find nobody there", "error", err)
	}
}
