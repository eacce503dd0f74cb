package natsserver

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

// User may connect, and do what its role needs.
type User struct {
	Name     string
	Password string

	permissions *server.Permissions
	inbox       string
}

// NewPassword draws a password of 128 random bits.
func NewPassword() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}

// PlatformUser is the platform itself, which may do everything.
func PlatformUser(password string) User {
	return User{Name: "platform", Password: password}
}

// ManagerUser is one Manager. It may publish under its own account and its own
// id only; read the last message of each of its own subjects in AGENT, and its
// account's policy; and nothing else: no stream's state (which would list other
// accounts' subjects), no other inbox. Its connection must use
// contract.ManagerInbox; User.Options sees to it.
//
// The last message of a subject is had by a request without body on
// $JS.API.DIRECT.GET.<stream>.<subject>; the policy by a consumer on POLICY that
// names the account's one subject as its filter.
func ManagerUser(account, manager contract.ID, password string) User {
	inbox := contract.ManagerInbox(manager)
	own := fmt.Sprintf("agent.%d.%s.%s.*", contract.Partition(account), account, manager)
	policy := contract.PolicySubject(account)
	return User{
		Name:     "manager-" + manager.String(),
		Password: password,
		inbox:    inbox,
		permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{
				own,
				contract.LiveSubject(account, manager),
				contract.SightingSubject(account, manager),
				contract.KeyringSubject(account, manager),
				directGet(contract.AgentStream, own),
				directGet(contract.PolicyStream, policy),
				// The filter is part of the subject, and the server holds the
				// request's body to it.
				"$JS.API.CONSUMER.CREATE." + contract.PolicyStream + ".*." + policy,
				// Consumers' names are random, and nothing lists them.
				"$JS.API.CONSUMER.MSG.NEXT." + contract.PolicyStream + ".*",
				"$JS.API.CONSUMER.DELETE." + contract.PolicyStream + ".*",
			}},
			Subscribe: &server.SubjectPermission{Allow: []string{inbox + ".>", policy}},
		},
	}
}

// directGet is the subject of the request for the last message of a subject.
func directGet(stream, subject string) string {
	return "$JS.API.DIRECT.GET." + stream + "." + subject
}

// Options are what a connection of this user needs.
func (u User) Options() []nats.Option {
	var options []nats.Option
	if u.Name != "" {
		options = append(options, nats.UserInfo(u.Name, u.Password))
	}
	if u.inbox != "" {
		options = append(options, nats.CustomInboxPrefix(u.inbox))
	}
	return options
}

func serverUsers(users []User) []*server.User {
	var list []*server.User
	for _, u := range users {
		list = append(list, &server.User{Username: u.Name, Password: u.Password, Permissions: u.permissions})
	}
	return list
}
