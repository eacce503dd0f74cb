package natsserver

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/cetrus/cetrus/proto/contract"
)

// managersAccount is the NATS account of all Managers. The platform is in the
// server's global account, which has the streams.
//
// Permissions alone do not wall a Manager off: JetStream sends its answers with
// its own rights to whatever subject a request names for them, so a Manager that
// shared the platform's NATS account could have an answer of its own making
// appended to another account's aggregate in EVENTS. Between NATS accounts an
// answer goes back to the account that asked, where no stream listens.
const managersAccount = "MANAGERS"

// services are what Managers may ask of the platform's account, before the
// permissions of the single Manager.
func services() map[string]server.ServiceRespType {
	const agent, policy, admission = "agent.*.*.*.*", "policy.*.*", "admission.*.*"
	return map[string]server.ServiceRespType{
		agent:                                       server.Singleton,
		"keyring.*.*.*":                             server.Singleton,
		contract.PolicyAsks:                         server.Singleton,
		directGet(contract.AgentStream, agent):      server.Singleton,
		directGet(contract.PolicyStream, policy):    server.Singleton,
		directGet(contract.PolicyStream, admission): server.Singleton,
	}
}

// directGet is the subject of the request for the last message of a subject.
func directGet(stream, subject string) string {
	return "$JS.API.DIRECT.GET." + stream + "." + subject
}

// linkAccounts makes the Managers' account and ties it to the platform's.
func linkAccounts(s *server.Server) (*server.Account, error) {
	platform := s.GlobalAccount()
	managers, err := s.RegisterAccount(managersAccount)
	if err != nil {
		return nil, fmt.Errorf("natsserver: the Managers' account: %w", err)
	}
	for subject, answer := range services() {
		if err := platform.AddServiceExportWithResponse(subject, answer, []*server.Account{managers}); err != nil {
			return nil, fmt.Errorf("natsserver: export %s: %w", subject, err)
		}
		if err := managers.AddServiceImport(platform, subject, subject); err != nil {
			return nil, fmt.Errorf("natsserver: import %s: %w", subject, err)
		}
	}
	if err := platform.AddServiceExportWithResponse(streamInfoBehind, server.Singleton, []*server.Account{managers}); err != nil {
		return nil, fmt.Errorf("natsserver: export %s: %w", streamInfoBehind, err)
	}
	if err := managers.AddServiceImport(platform, streamInfo, streamInfoBehind); err != nil {
		return nil, fmt.Errorf("natsserver: import %s: %w", streamInfo, err)
	}
	for _, subject := range []string{contract.LiveSubjects, contract.SightingSubjects, contract.HealthSubjects, contract.SiteSubjects} {
		if err := passStream(managers, platform, subject); err != nil {
			return nil, err
		}
	}
	for _, subject := range []string{
		contract.PolicySubjects, contract.AdmissionSubjects, contract.ConflictSubjects, contract.SightingAskSubject, contract.HealthAskSubject, contract.SiteAskSubject,
	} {
		if err := passStream(platform, managers, subject); err != nil {
			return nil, err
		}
	}
	return managers, nil
}

// passStream has what is published in one account seen by another's subscribers.
func passStream(from, to *server.Account, subject string) error {
	if err := from.AddStreamExport(subject, []*server.Account{to}); err != nil {
		return fmt.Errorf("natsserver: export %s: %w", subject, err)
	}
	if err := to.AddStreamImport(from, subject, ""); err != nil {
		return fmt.Errorf("natsserver: import %s: %w", subject, err)
	}
	return nil
}

// doorkeeper says who may connect, and as what. It is asked by the server.
type doorkeeper struct {
	// own is the server's own user, that answers Managers.
	own User

	mu       sync.Mutex
	users    map[string]User
	enrolled map[string]User // by public key
	managers *server.Account
}

func newDoorkeeper(users []User) *doorkeeper {
	d := &doorkeeper{own: User{Name: "natsserver", Password: NewPassword()}}
	d.replace(users)
	return d
}

// Check implements server.Authentication.
func (d *doorkeeper) Check(client server.ClientAuthentication) bool {
	given := client.GetOpts()
	if given.Nkey != "" {
		return d.checkSigned(client, given)
	}
	d.mu.Lock()
	user, known := d.users[given.Username]
	managers := d.managers
	d.mu.Unlock()
	if given.Username == d.own.Name {
		user, known = d.own, true
	}
	// Compares even for an unknown name, and in constant time.
	if !samePassword(user.Password, given.Password) || !known || user.Password == "" {
		return false
	}
	account := user.serverUser()
	if user.manager {
		if managers == nil {
			return false // the server has only just started
		}
		account.Account = managers
	}
	client.RegisterUser(account)
	return true
}

// checkSigned lets a Manager in that signs the server's question with its own key.
func (d *doorkeeper) checkSigned(client server.ClientAuthentication, given *server.ClientOpts) bool {
	d.mu.Lock()
	user, known := d.enrolled[given.Nkey]
	// One that has a password has its id, and so its inbox, to itself: another account's Manager
	// of that id would hear its answers.
	if before, taken := d.users[user.Name]; taken && !before.sameManager(user) {
		known = false
	}
	managers := d.managers
	d.mu.Unlock()
	if !known || managers == nil || len(client.GetNonce()) == 0 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(given.Sig)
	if err != nil {
		return false
	}
	key, err := nkeys.FromPublicKey(given.Nkey)
	if err != nil || key.Verify(client.GetNonce(), signature) != nil {
		return false
	}
	account := user.serverUser()
	account.Account = managers
	client.RegisterUser(account)
	return true
}

// enroll takes other Managers that are known by keys, and returns the keys that are not
// known any more, or are of another Manager.
func (d *doorkeeper) enroll(managers []User) map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := make(map[string]User, len(managers))
	for _, u := range managers {
		next[u.publicKey] = u
	}
	gone := make(map[string]bool)
	for key, before := range d.enrolled {
		if now, ok := next[key]; !ok || !now.sameManager(before) {
			gone[key] = true
		}
	}
	d.enrolled = next
	return gone
}

func samePassword(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// replace takes other users and returns the names of those that are gone or not
// the same any more.
func (d *doorkeeper) replace(users []User) map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := make(map[string]User, len(users))
	for _, u := range users {
		next[u.Name] = u
	}
	gone := make(map[string]bool)
	for name, before := range d.users {
		if now, ok := next[name]; !ok || now.Password != before.Password || now.inbox != before.inbox {
			gone[name] = true
		}
	}
	d.users = next
	return gone
}

func (d *doorkeeper) admitManagers(managers *server.Account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.managers = managers
}

// disconnect closes the connections of the named users.
func disconnect(s *server.Server, names map[string]bool) error {
	const page = 1000
	for offset := 0; len(names) > 0; offset += page {
		list, err := s.Connz(&server.ConnzOptions{Username: true, Offset: offset, Limit: page})
		if err != nil {
			return err
		}
		for _, c := range list.Conns {
			if names[c.AuthorizedUser] {
				// An error says that it has gone by itself.
				_ = s.DisconnectClientByID(c.Cid)
			}
		}
		if len(list.Conns) < page {
			break
		}
	}
	return nil
}
