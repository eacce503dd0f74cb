package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Where the node finds what it is given: its folder, and the programs that it starts.
const (
	NodeDir = "/mnt/cluster"
	NodeBin = "/mnt/bin"
)

// Programs are those that the project itself has of a cluster, as stack.Build takes them; they belong
// into the folder of the others.
func Programs() []string {
	return []string{"tools/cmd/cetrus-cluster", "tools/cmd/cluster-guest", "tools/cmd/cluster-front"}
}

// Names that both sides know.
const (
	// NodeName is the node's, as Kubernetes knows it.
	NodeName = "cetrus-node"
	// NodeInterface is the node's end of the cable.
	NodeInterface = "eth0"
)

// Spec is what the node is told by the one who starts it.
type Spec struct {
	// Dir and Bin are the folders as the machine names them.
	Dir, Bin string
	// CgroupName is the cgroup that holds the node, below the root of each hierarchy.
	CgroupName string
	Addresses  Addresses
	// Images are files in Dir.
	Images []string
}

const specFile = "spec.json"

func (s Spec) write() error {
	content, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.Dir, specFile), content, 0o600)
}

// ReadSpec reads what Start wrote.
func ReadSpec(dir string) (Spec, error) {
	content, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return Spec{}, err
	}
	var s Spec
	if err := json.Unmarshal(content, &s); err != nil {
		return Spec{}, fmt.Errorf("%s: %w", specFile, err)
	}
	return s, nil
}
