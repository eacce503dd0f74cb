package agent

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/durable"
	"github.com/cetrus/cetrus/agent/fingerprint"
	"github.com/cetrus/cetrus/agent/journal"
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
	managersFile = "managers.json"
	usageDir     = "usage"
	ledgerDir    = "ledger"
	controlFile  = "control.sock" // on Unix
)

// identity is drawn once, when the data directory is first used, and kept twice.
type identity struct {
	AgentID   contract.ID
	MachineID contract.ID
	// Machine tells the machine from a copy of it; nil where that is not known.
	Machine *fingerprint.Print
}

type identityText struct {
	AgentID   string             `json:"agent_id"`
	MachineID string             `json:"machine_id"`
	Machine   *fingerprint.Print `json:"machine,omitempty"`
}

// loadIdentity reads the identity; found is false where there is none.
func loadIdentity(dir string, log *slog.Logger) (id identity, found bool, err error) {
	found, err = readKept(dir, identityFile, log, func(data []byte) (err error) {
		id, err = parseIdentity(data)
		return err
	})
	if err == nil && found && id.Machine != nil {
		if damage := id.Machine.Check(); damage != nil {
			log.Error("which machine the data folder began on is lost; it counts as this one", "damage", damage)
			id.Machine = nil
		}
	}
	return id, found, err
}

// drawIdentity begins as a new agent on the machine that was read. Where the identity is
// lost with its copy, the agent goes on as whom the journal belongs to, or nothing that
// waits there could be sent; the machine counts as another one from then on.
func drawIdentity(dir string, read fingerprint.Traits, deps Deps) (id identity, err error) {
	owner, owned, err := journal.Owner(filepath.Join(dir, usageDir))
	if err != nil {
		return identity{}, err
	}
	for _, drawn := range []*contract.ID{&id.AgentID, &id.MachineID} {
		if _, err := io.ReadFull(deps.Random, drawn[:]); err != nil {
			return identity{}, fmt.Errorf("agent: draw an identity: %w", err)
		}
	}
	if owned {
		id.AgentID = owner
		deps.Log.Error("the agent's identity is lost; it goes on as the journal's agent, on what counts as a new machine", "agent_id", id.AgentID, "machine_id", id.MachineID)
	}
	return id, bind(dir, &id, read, deps)
}

func writeIdentity(dir string, id identity) error {
	return writeKept(dir, identityFile, identityText{AgentID: id.AgentID.String(), MachineID: id.MachineID.String(), Machine: id.Machine})
}

func parseIdentity(data []byte) (id identity, err error) {
	var text identityText
	if err = json.Unmarshal(data, &text); err == nil {
		id.AgentID, err = contract.ParseID(text.AgentID)
	}
	if err == nil {
		id.MachineID, err = contract.ParseID(text.MachineID)
	}
	id.Machine = text.Machine
	if err == nil && (id.AgentID.IsZero() || id.MachineID.IsZero()) {
		err = errors.New("an id is zero")
	}
	return id, err
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
	dir     string
	random  io.Reader
	byKey   map[string]contract.ID
	known   []person
	unsaved bool
	// slotted are aliases that the crash slot knows, of users whom known may lack.
	slotted map[string]contract.ID
}

// loadPersons reads the aliases. Where they are lost with their copy, everybody but
// those whom the crash slot knows gets a new one, and the Manager, which is told of all
// of them, binds it to the same person as the old one.
func loadPersons(dir string, random io.Reader, log *slog.Logger) (*persons, error) {
	p := &persons{dir: dir, random: random, byKey: make(map[string]contract.ID)}
	_, err := readKept(dir, personsFile, log, p.parse)
	return p, err
}

func (p *persons) parse(data []byte) error {
	p.known, p.byKey = nil, make(map[string]contract.ID)
	if err := json.Unmarshal(data, &p.known); err != nil {
		p.known = nil
		return err
	}
	given := make(map[contract.ID]bool)
	for _, k := range p.known {
		alias, err := contract.ParseID(k.Alias)
		if err == nil && (alias.IsZero() || given[alias]) {
			err = fmt.Errorf("alias %s is zero, or given twice", alias)
		}
		if err != nil {
			p.known, p.byKey = nil, make(map[string]contract.ID)
			return err
		}
		given[alias] = true
		p.byKey[k.user().Key()] = alias
	}
	return nil
}

// alias is what activity.Config.Alias asks for. A new alias has to be saved
// before anything that names it is journalled.
func (p *persons) alias(u activity.User) contract.ID {
	if alias, ok := p.byKey[u.Key()]; ok {
		return alias
	}
	alias, there := p.slotted[u.Key()]
	if !there {
		if _, err := io.ReadFull(p.random, alias[:]); err != nil {
			// The system's source of randomness does not fail; a weaker alias would
			// tie two people together, so there is none.
			panic(fmt.Sprintf("agent: draw an alias: %v", err))
		}
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
	if err := writeKept(p.dir, personsFile, p.known); err != nil {
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

// loadPolicy reads the last policy; nil where there is none, or a damaged one, which is set
// aside.
func loadPolicy(dir string, log *slog.Logger) (*policyv1.Policy, error) {
	policy := new(policyv1.Policy)
	sound, err := readSound(dir, policyFile, log, func(data []byte) error {
		if len(data) == 0 {
			return errors.New("it is empty")
		}
		return proto.Unmarshal(data, policy)
	})
	if err != nil || sound == nil {
		return nil, err
	}
	return policy, nil
}

func savePolicy(dir string, policy *policyv1.Policy) error {
	data, err := proto.Marshal(policy)
	if err != nil {
		return fmt.Errorf("agent: write the policy: %w", err)
	}
	return durable.Replace(filepath.Join(dir, policyFile), data)
}

// adoptedManagers are the addresses of Managers that a Manager has named and the agent has
// adopted, as long as the installed ones are those that it had then: who changes the settings
// means it.
type adoptedManagers struct {
	Addresses []string `json:"addresses"`
	Installed []string `json:"installed"`
}

// loadManagers reads what was adopted; none where that is nothing, or cannot be used: the
// installed ones are always there.
func loadManagers(dir string, installed []string, log *slog.Logger) []string {
	var adopted adoptedManagers
	data, err := os.ReadFile(filepath.Join(dir, managersFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &adopted)
	}
	for _, address := range adopted.Addresses {
		err = errors.Join(err, contract.CheckAddress(address))
	}
	if err != nil {
		log.Error("the Managers that were adopted are not known, so the installed ones hold", "reason", err)
		return nil
	}
	if !slices.Equal(adopted.Installed, installed) {
		return nil
	}
	return adopted.Addresses
}

func saveManagers(dir string, adopted adoptedManagers) error {
	data, err := json.Marshal(adopted)
	if err != nil {
		return fmt.Errorf("agent: write the Managers' addresses: %w", err)
	}
	return durable.Replace(filepath.Join(dir, managersFile), append(data, '\n'))
}

// copyOf is the name of the second copy of a file that cannot be made again.
func copyOf(name string) string { return strings.TrimSuffix(name, ".json") + ".copy.json" }

// readKept reads a file that writeKept wrote, or its copy; parse may be called for each
// of them. A damaged one is set aside; the sound one mends the other.
func readKept(dir, name string, log *slog.Logger, parse func([]byte) error) (found bool, err error) {
	var sound []byte
	mend := false
	for _, n := range []string{name, copyOf(name)} {
		data, err := readSound(dir, n, log, parse)
		if err != nil {
			return false, err
		}
		mend = mend || data == nil || sound != nil && !bytes.Equal(data, sound)
		if sound == nil {
			sound = data
		}
	}
	if sound == nil {
		return false, nil
	}
	if mend {
		if err := keep(dir, name, sound); err != nil {
			return false, err
		}
	}
	return true, parse(sound)
}

// readSound reads a file of the data directory; nil where there is none, or none that
// parse takes: that one is set aside.
func readSound(dir, name string, log *slog.Logger, parse func([]byte) error) ([]byte, error) {
	file := filepath.Join(dir, name)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	damage := parse(data)
	if damage == nil {
		return data, nil
	}
	aside := file + damagedSuffix
	for n := 2; exists(aside); n++ {
		aside = file + damagedSuffix + strconv.Itoa(n)
	}
	if err := os.Rename(file, aside); err != nil {
		return nil, fmt.Errorf("agent: %s is damaged (%w) and cannot be set aside: %w", file, damage, err)
	}
	log.Error("a damaged file was set aside", "file", file, "kept_as", aside, "damage", damage)
	return nil, durable.SyncDir(dir)
}

// damagedSuffix ends the name of a damaged file that was set aside; a number may follow.
const damagedSuffix = ".damaged"

func exists(file string) bool {
	_, err := os.Lstat(file)
	return err == nil
}

// setAside are the damaged files that lie in the data directory.
func setAside(dir string) []string {
	var files []string
	for _, pattern := range []string{"*" + damagedSuffix + "*", filepath.Join("*", journal.QuarantineDir, "*")} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return files // the directory's own name is no pattern
		}
		files = append(files, found...)
	}
	return files
}

// writeKept writes a file that cannot be made again, twice.
func writeKept(dir, name string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("agent: write %s: %w", name, err)
	}
	return keep(dir, name, append(data, '\n'))
}

func keep(dir, name string, data []byte) error {
	// One after the other, so that a crash leaves one of them whole.
	if err := durable.Replace(filepath.Join(dir, name), data); err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, copyOf(name)), data)
}

// loadSettings reads what people have chosen; known is false where that is lost.
func loadSettings(dir string, log *slog.Logger) (s settings, known bool, err error) {
	file := filepath.Join(dir, settingsFile)
	there := exists(file)
	data, err := readSound(dir, settingsFile, log, func(data []byte) error { return json.Unmarshal(data, &s) })
	return s, data != nil || !there, err
}

func saveSettings(dir string, s settings) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("agent: write the settings: %w", err)
	}
	return durable.Replace(filepath.Join(dir, settingsFile), append(data, '\n'))
}
