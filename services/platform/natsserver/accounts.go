package natsserver

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/cetrus/cetrus/proto/contract"
)

// managersAccount is the NATS account of all Managers. Each part of the platform has another
// (roles.go), and the streams are in the server's global account, where only who runs the server
// is.
//
// Permissions alone do not wall anybody off: JetStream sends its answers with its own rights to
// whatever subject a request names for them, so a Manager, or a service, that shared an account
// with the streams could have an answer of its own making appended to another's aggregate in
// EVENTS. Between NATS accounts an answer goes back to the account that asked, where no stream
// listens.
const managersAccount = "MANAGERS"

// pullThreshold is how long the server keeps the way back of a request for messages; longer than
// any client waits for one (30 s). loadThreshold is that of a request for a batch of a subject,
// of which there are many more.
const pullThreshold, loadThreshold = time.Minute, 10 * time.Second

// managerRequests are what Managers may ask of the streams, before the permissions of the single
// Manager.
func managerRequests() []request {
	const agent, policy, admission = "agent.*.*.*.*", "policy.*.*", "admission.*.*"
	all := []request{
		{subject: agent},
		{subject: contract.PolicyAsks},
		{subject: streamInfo + contract.AgentStream, behind: streamInfoBehind + contract.AgentStream},
	}
	for _, last := range [][2]string{{contract.AgentStream, agent}, {contract.PolicyStream, policy}, {contract.PolicyStream, admission}} {
		all = append(all, request{subject: directGet(last[0], last[1]), behind: lastBehind + last[0] + "." + last[1]})
	}
	return all
}

// directGet is the subject of the request for the last message of a subject.
func directGet(stream, subject string) string {
	return "$JS.API.DIRECT.GET." + stream + "." + subject
}

// linkAccounts makes the accounts of Managers and of the platform's parts, and ties them to one
// another and to the streams.
func linkAccounts(s *server.Server) (map[string]*server.Account, error) {
	streams := s.GlobalAccount()
	accounts := make(map[string]*server.Account)
	register := func(name string) (*server.Account, error) {
		account, err := s.RegisterAccount(name)
		if err != nil {
			return nil, fmt.Errorf("natsserver: account %s: %w", name, err)
		}
		accounts[name] = account
		return account, nil
	}
	managers, err := register(managersAccount)
	if err != nil {
		return nil, err
	}
	if err := passRequests(managers, streams, managerRequests()...); err != nil {
		return nil, err
	}
	for _, subject := range []string{contract.PolicySubjects, contract.AdmissionSubjects} {
		if err := passStreamAs(streams, managers, toldPrefix+subject, subject); err != nil {
			return nil, err
		}
	}
	for _, r := range roles() {
		own, err := register(r.account())
		if err != nil {
			return nil, err
		}
		if err := r.link(own, streams, managers); err != nil {
			return nil, err
		}
	}
	operator := accounts[role{name: Operator}.account()]
	for _, r := range roles() {
		for _, orders := range r.orders {
			if err := passRequests(operator, accounts[r.account()], request{subject: orders}); err != nil {
				return nil, err
			}
		}
		for _, other := range roles() {
			for _, subject := range r.asks {
				if !slices.Contains(other.answers, subject) {
					continue
				}
				if err := passRequests(accounts[r.account()], accounts[other.account()], request{subject: subject}); err != nil {
					return nil, err
				}
			}
			for _, subject := range r.says {
				if other.name == r.name || !slices.Contains(other.listens, subject) {
					continue
				}
				if err := passStream(accounts[r.account()], accounts[other.account()], subject); err != nil {
					return nil, err
				}
			}
		}
	}
	return accounts, nil
}

// link ties a role's account to the streams and to the Managers.
func (r role) link(own, streams, managers *server.Account) error {
	if err := passRequests(own, streams, r.requests()...); err != nil {
		return err
	}
	for _, subject := range r.takes {
		if err := passRequests(managers, own, request{subject: subject}); err != nil {
			return err
		}
	}
	for _, subject := range r.tells {
		if err := passStream(own, managers, subject); err != nil {
			return err
		}
	}
	for _, subject := range r.hears {
		if err := passStream(managers, own, subject); err != nil {
			return err
		}
	}
	return nil
}

// passRequests has requests of one account answered in another.
func passRequests(from, to *server.Account, requests ...request) error {
	for _, q := range requests {
		behind := cmp.Or(q.behind, q.subject)
		if err := to.AddServiceExportWithResponse(behind, q.answers, []*server.Account{from}); err != nil {
			return fmt.Errorf("natsserver: export %s: %w", behind, err)
		}
		if q.answers == server.Streamed {
			threshold := loadThreshold
			if strings.HasPrefix(behind, consumerNext) {
				threshold = pullThreshold
			}
			if err := to.SetServiceExportResponseThreshold(behind, threshold); err != nil {
				return fmt.Errorf("natsserver: export %s: %w", behind, err)
			}
		}
		if err := from.AddServiceImport(to, q.subject, behind); err != nil {
			return fmt.Errorf("natsserver: import %s: %w", q.subject, err)
		}
	}
	return nil
}

// passStream has what is published in one account seen by another's subscribers.
func passStream(from, to *server.Account, subject string) error {
	return passStreamAs(from, to, subject, subject)
}

// passStreamAs is passStream where the subscribers know it by another subject.
func passStreamAs(from, to *server.Account, subject, seen string) error {
	if err := from.AddStreamExport(subject, []*server.Account{to}); err != nil {
		return fmt.Errorf("natsserver: export %s: %w", subject, err)
	}
	if err := to.AddMappedStreamImport(from, subject, seen); err != nil {
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
	// accounts are by their names; nil while the server has only just started.
	accounts map[string]*server.Account
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
	in := d.accounts[user.account]
	d.mu.Unlock()
	if given.Username == d.own.Name {
		user, known = d.own, true
	}
	// Compares even for an unknown name, and in constant time.
	if !samePassword(user.Password, given.Password) || !known || user.Password == "" {
		return false
	}
	if user.account != managersAccount && !withinPlatform(client) {
		return false
	}
	account := user.serverUser()
	if user.account != "" {
		if in == nil {
			return false
		}
		account.Account = in
	}
	client.RegisterUser(account)
	return true
}

// withinPlatform tells whether somebody does not come by the WebSocket, which is open to the Internet: that is of Managers,
// and the password of a part of the platform, were it ever known, opens nothing there. The name that the server has for a
// connection, with cid for the number of one that is no WebSocket, is all that tells.
func withinPlatform(client server.ClientAuthentication) bool {
	named, ok := client.(fmt.Stringer)
	return ok && strings.Contains(named.String(), " - cid:")
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
	managers := d.accounts[managersAccount]
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

// knowsManagers tells whether it was told once which Managers have enrolled.
func (d *doorkeeper) knowsManagers() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.enrolled != nil
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

func (d *doorkeeper) admit(accounts map[string]*server.Account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.accounts = accounts
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
