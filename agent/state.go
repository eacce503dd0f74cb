package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Names in the data directory.
const (
	identityFile = "identity.json"
	personsFile  = "persons.json"
	settingsFile = "settings.json"
	policyFile   = "policy.pb"
	usageDir     = "usage"
	controlFile  = "control.sock"
)

// identity is drawn once, when the data directory is first used.
type identity struct {
	AgentID   contract.ID
	MachineID contract.ID
}

type identityText struct {
	AgentID   string `json:"agent_id"`
	MachineID string `json:"machine_id"`
}

// loadIdentity reads the identity, or draws one.
func loadIdentity(dir string, random io.Reader) (identity, error) {
	var text identityText
	found, err := readJSON(filepath.Join(dir, identityFile), &text)
	if err != nil {
		return identity{}, err
	}
	var id identity
	if !found {
		for _, drawn := range []*contract.ID{&id.AgentID, &id.MachineID} {
			if _, err := io.ReadFull(random, drawn[:]); err != nil {
				return identity{}, fmt.Errorf("agent: draw an identity: %w", err)
			}
		}
		text = identityText{AgentID: id.AgentID.String(), MachineID: id.MachineID.String()}
		return id, writeJSON(filepath.Join(dir, identityFile), text)
	}
	if id.AgentID, err = contract.ParseID(text.AgentID); err == nil {
		id.MachineID, err = contract.ParseID(text.MachineID)
	}
	if err != nil {
		return identity{}, fmt.Errorf("agent: %s: %w; restore the file, or remove the whole directory to begin as a new agent", filepath.Join(dir, identityFile), err)
	}
	return id, nil
}

// person is an operating-system user with the alias that stands for them.
type person struct {
	Alias             string `json:"alias"`
	SID               string `json:"sid,omitempty"`
	UserPrincipalName string `json:"user_principal_name,omitempty"`
	Domain            string `json:"domain,omitempty"`
	Name              string `json:"name,omitempty"`
	DisplayName       string `json:"display_name,omitempty"`
}

func (p person) user() activity.User {
	return activity.User{SID: p.SID, UserPrincipalName: p.UserPrincipalName, Domain: p.Domain, Name: p.Name, DisplayName: p.DisplayName}
}

// persons gives every user one alias for good. It is used by one goroutine.
type persons struct {
	file    string
	random  io.Reader
	byKey   map[string]contract.ID
	known   []person
	unsaved bool
}

func loadPersons(dir string, random io.Reader) (*persons, error) {
	p := &persons{file: filepath.Join(dir, personsFile), random: random, byKey: make(map[string]contract.ID)}
	if _, err := readJSON(p.file, &p.known); err != nil {
		return nil, err
	}
	for _, k := range p.known {
		alias, err := contract.ParseID(k.Alias)
		if err != nil {
			return nil, fmt.Errorf("agent: %s: %w; restore the file, or remove the whole directory to begin as a new agent", p.file, err)
		}
		p.byKey[k.user().Key()] = alias
	}
	return p, nil
}

// alias is what activity.Config.Alias asks for. A new alias has to be saved
// before anything that names it is journalled.
func (p *persons) alias(u activity.User) contract.ID {
	if alias, ok := p.byKey[u.Key()]; ok {
		return alias
	}
	var alias contract.ID
	if _, err := io.ReadFull(p.random, alias[:]); err != nil {
		// The system's source of randomness does not fail; a weaker alias would
		// tie two people together, so there is none.
		panic(fmt.Sprintf("agent: draw an alias: %v", err))
	}
	p.byKey[u.Key()] = alias
	p.known = append(p.known, person{
		Alias: alias.String(), SID: u.SID, UserPrincipalName: u.UserPrincipalName,
		Domain: u.Domain, Name: u.Name, DisplayName: u.DisplayName,
	})
	p.unsaved = true
	return alias
}

// save writes new aliases down; it tells whether there were any.
func (p *persons) save() (saved bool, err error) {
	if !p.unsaved {
		return false, nil
	}
	if err := writeJSON(p.file, p.known); err != nil {
		return false, err
	}
	p.unsaved = false
	return true, nil
}

// messages are what the Manager is told of the persons.
func (p *persons) messages() []*agentv1.Person {
	list := make([]*agentv1.Person, 0, len(p.known))
	for _, k := range p.known {
		alias := p.byKey[k.user().Key()]
		list = append(list, &agentv1.Person{
			PrincipalAlias: alias[:], Sid: k.SID, UserPrincipalName: k.UserPrincipalName,
			Domain: k.Domain, UserName: k.Name, DisplayName: k.DisplayName,
		})
	}
	slices.SortFunc(list, func(a, b *agentv1.Person) int { return cmp.Compare(a.GetUserName(), b.GetUserName()) })
	return list
}

// settings are what the person has chosen.
type settings struct {
	Paused bool `json:"paused"`
}

// loadPolicy reads the last policy; nil where there is none.
func loadPolicy(dir string) (*policyv1.Policy, error) {
	data, err := os.ReadFile(filepath.Join(dir, policyFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("agent: read the policy: %w", err)
	}
	policy := new(policyv1.Policy)
	if err := proto.Unmarshal(data, policy); err != nil {
		return nil, fmt.Errorf("agent: the policy in %s cannot be read: %w", filepath.Join(dir, policyFile), err)
	}
	return policy, nil
}

func savePolicy(dir string, policy *policyv1.Policy) error {
	data, err := proto.Marshal(policy)
	if err != nil {
		return fmt.Errorf("agent: write the policy: %w", err)
	}
	return replaceFile(filepath.Join(dir, policyFile), data)
}

func readJSON(file string, into any) (found bool, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("agent: %w", err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return false, fmt.Errorf("agent: %s: %w", file, err)
	}
	return true, nil
}

func writeJSON(file string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("agent: write %s: %w", file, err)
	}
	return replaceFile(file, append(data, '\n'))
}

// replaceFile puts a file in the place of another in one step that outlives a
// crash: written beside it, synced, renamed, and the directory synced.
func replaceFile(file string, data []byte) error {
	dir := filepath.Dir(file)
	temporary, err := os.CreateTemp(dir, "."+filepath.Base(file)+"-*")
	if err != nil {
		return fmt.Errorf("agent: write %s: %w", file, err)
	}
	defer os.Remove(temporary.Name()) // fails once it is renamed, as it should
	_, err = temporary.Write(data)
	if err == nil {
		err = temporary.Sync()
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("agent: write %s: %w", file, err)
	}
	return nil
}
