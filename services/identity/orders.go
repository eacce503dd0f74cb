package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// Order is what an operator asks of an identity service that runs, where the console cannot be
// reached: over NATS, where only the operator may ask.
type Order string

// Orders, with what of an Ask they need.
const (
	// OrderAccounts lists all accounts.
	OrderAccounts Order = "accounts"
	// OrderCreateAccount makes Account with the administrator Login, who gets a one-time password.
	OrderCreateAccount Order = "account.create"
	// OrderLogins lists the logins of Account.
	OrderLogins Order = "logins"
	// OrderCreateLogin makes Login in Account, with Privileges and a one-time password.
	OrderCreateLogin Order = "login.create"
	// OrderDisableLogin and OrderEnableLogin switch Login of Account off and on.
	OrderDisableLogin Order = "login.disable"
	OrderEnableLogin  Order = "login.enable"
	// OrderResetPassword gives Login of Account a one-time password.
	OrderResetPassword Order = "password.reset"
	// OrderEndSessions ends all sessions of Login of Account.
	OrderEndSessions Order = "sessions.end"
	// OrderAllowPasswords lets people in to Account by other ways than its identity provider.
	OrderAllowPasswords Order = "passwords.allow"
	// OrderCreateKey makes an API key of Login of Account, with Privileges; none: all that it has.
	OrderCreateKey Order = "key.create"
	// OrderDeleteLogin deletes Login of Account, and forgets it.
	OrderDeleteLogin Order = "login.delete"
	// OrderSetPrivileges gives Login of Account Privileges, and takes all others.
	OrderSetPrivileges Order = "login.privileges"
	// OrderRemoveSecondFactor takes all second factors of Login of Account away.
	OrderRemoveSecondFactor Order = "second_factor.remove"
	// OrderKeys lists the API keys of Account, and OrderRevokeKey ends that of ID.
	OrderKeys      Order = "keys"
	OrderRevokeKey Order = "key.revoke"
	// OrderManagers lists the Managers of Account, and OrderRevokeManager shuts out that of ID.
	OrderManagers      Order = "managers"
	OrderRevokeManager Order = "manager.revoke"
	// OrderRevokeAgent shuts the agent of ID out of Account, and OrderReadmitAgent lets it enrol again.
	OrderRevokeAgent  Order = "agent.revoke"
	OrderReadmitAgent Order = "agent.readmit"
	// OrderAnnounceMaintenance tells the administrators of Account, or of all, by mail that there is
	// maintenance from Starts to Ends.
	OrderAnnounceMaintenance Order = "maintenance.announce"
)

const (
	orderSubject = "ops." + contextName + "."
	// orderActor stands in events that follow from orders.
	orderActor = "operator"
	// orderWithin bounds one order; a password takes its time to hash.
	orderWithin = 20 * time.Second
	// listedAtOnce is how much of a list is read at a time.
	listedAtOnce = 1000
)

// Ask is an order's object. Accounts and logins may be said by name or by id.
type Ask struct {
	Account     string              `json:"account,omitempty"`
	Login       string              `json:"login,omitempty"`
	MailAddress string              `json:"mail_address,omitempty"`
	DisplayName string              `json:"display_name,omitempty"`
	Privileges  []authzv1.Privilege `json:"privileges,omitempty"`
	Starts      time.Time           `json:"starts,omitzero"`
	Ends        time.Time           `json:"ends,omitzero"`
	What        string              `json:"what,omitempty"`
	// ID is of an API key, a Manager or an agent.
	ID string `json:"id,omitempty"`
}

// Report answers an Order; what does not concern the order is empty.
type Report struct {
	// Problem says why the order was not carried out; empty where it was.
	Problem  string          `json:"problem,omitempty"`
	Accounts []AccountReport `json:"accounts,omitempty"`
	Logins   []LoginReport   `json:"logins,omitempty"`
	Keys     []KeyReport     `json:"keys,omitempty"`
	Managers []ManagerReport `json:"managers,omitempty"`
	// Password is a one-time password, which is kept nowhere in clear.
	Password string `json:"password,omitempty"`
	// Key is an API key, which is kept nowhere in clear.
	Key string `json:"key,omitempty"`
	// Told counts the logins that are told, and ToldBefore those that had been. NoAddress names those
	// that cannot be: they have no mail address.
	Told       int      `json:"told,omitempty"`
	ToldBefore int      `json:"told_before,omitempty"`
	NoAddress  []string `json:"no_address,omitempty"`
}

// AccountReport is an account.
type AccountReport struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
}

// LoginReport is a login.
type LoginReport struct {
	ID          string              `json:"id"`
	Name        string              `json:"name"`
	DisplayName string              `json:"display_name,omitempty"`
	Privileges  []authzv1.Privilege `json:"privileges,omitempty"`
	Disabled    bool                `json:"disabled,omitempty"`
	// HasMailAddress: mails reach its person.
	HasMailAddress bool      `json:"has_mail_address,omitempty"`
	Created        time.Time `json:"created"`
}

// KeyReport is an API key.
type KeyReport struct {
	ID          string    `json:"id"`
	Prefix      string    `json:"prefix"`
	DisplayName string    `json:"display_name,omitempty"`
	LoginID     string    `json:"login_id"`
	Expires     time.Time `json:"expires"`
	Revoked     bool      `json:"revoked,omitempty"`
}

// ManagerReport is a Manager.
type ManagerReport struct {
	ID          string    `json:"id"`
	DisplayName string    `json:"display_name"`
	Created     time.Time `json:"created"`
	Enrolled    bool      `json:"enrolled,omitempty"`
	Revoked     bool      `json:"revoked,omitempty"`
}

// Give gives an order to the identity service on the other side of nc, and waits
// for its report.
func Give(ctx context.Context, nc *nats.Conn, order Order, ask Ask) (Report, error) {
	question, err := json.Marshal(ask)
	if err != nil {
		return Report{}, fmt.Errorf("identity: order %s: %w", order, err)
	}
	m, err := nc.RequestWithContext(ctx, orderSubject+string(order), question)
	if errors.Is(err, nats.ErrNoResponders) {
		return Report{}, errors.New("identity: no identity service runs here: start it first (cetrus all, or cetrus identity)")
	}
	if err != nil {
		return Report{}, fmt.Errorf("identity: order %s: %w", order, err)
	}
	var r Report
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return Report{}, fmt.Errorf("identity: the report on %s cannot be read: %w", order, err)
	}
	if r.Problem != "" {
		return r, errors.New("identity: " + r.Problem)
	}
	return r, nil
}

// SignIn is what orders ask of sign-in.
type SignIn interface {
	// SetOneTimePassword gives a login a password for its next sign-in, and ends its sessions.
	SetOneTimePassword(ctx context.Context, actor string, account, login contract.ID) (string, error)
	// EndSessions ends all sessions of a login.
	EndSessions(ctx context.Context, actor string, account, login contract.ID) error
	// RemoveSecondFactor takes all second factors of a login away, and ends its sessions.
	RemoveSecondFactor(ctx context.Context, actor string, account, login contract.ID) error
	// AllowPasswords ends that an account lets people in by its identity provider only.
	AllowPasswords(ctx context.Context, actor string, account contract.ID) error
}

// TakeOrders carries operators' orders out, one after another, until ctx ends.
func (s *Service) TakeOrders(ctx context.Context, people SignIn) error {
	messages := make(chan *nats.Msg, 64)
	subscription, err := s.nats.ChanQueueSubscribe(orderSubject+">", contextName, messages)
	if err != nil {
		return fmt.Errorf("identity: listen to %s: %w", orderSubject, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			order := Order(m.Subject[len(orderSubject):])
			report, err := s.carryOut(ctx, people, order, m.Data)
			if err != nil {
				// What was wrong with it is for who gave it: it may hold a name.
				s.log.Warn("an order was not carried out", "order", order, "kind", errs.KindOf(err))
				if errs.Is(errs.Internal, err) {
					s.log.Error("an order failed", "order", order, "error", err)
				}
				report = Report{Problem: errs.PublicOf(err).Message}
			}
			body, err := json.Marshal(report) //nolint:gosec // a password that was ordered is for who ordered it
			if err == nil {
				err = m.Respond(body)
			}
			if err != nil {
				s.log.Warn("a report does not reach who asked", "order", order, "error", err)
			}
		}
	}
}

func (s *Service) carryOut(ctx context.Context, people SignIn, order Order, question []byte) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, orderWithin)
	defer cancel()
	op := "identity.order " + string(order)
	var ask Ask
	if err := json.Unmarshal(question, &ask); err != nil {
		return Report{}, errs.As(errs.Invalid, op, "", "the order cannot be read", err)
	}
	if order == OrderAccounts {
		return s.reportAccounts(ctx, op)
	}
	if order == OrderAnnounceMaintenance {
		return s.announce(ctx, op, ask, time.Now())
	}
	if order == OrderCreateAccount {
		return s.orderAccount(ctx, people, op, ask)
	}
	account, err := s.accountNamed(ctx, op, ask.Account)
	if err != nil {
		return Report{}, err
	}
	if order == OrderAllowPasswords {
		return Report{}, people.AllowPasswords(ctx, orderActor, account)
	}
	if order == OrderLogins {
		return s.reportLogins(ctx, op, account)
	}
	if order == OrderCreateLogin {
		return s.orderLogin(ctx, people, op, account, ask)
	}
	if report, known, err := s.orderByID(ctx, op, order, account, ask.ID); known {
		return report, err
	}
	login, err := s.loginNamed(ctx, op, account, ask.Login)
	if err != nil {
		return Report{}, err
	}
	switch order {
	case OrderDisableLogin, OrderEnableLogin:
		return Report{}, s.orderChange(ctx, op, account, login, LoginWish{Disabled: ref(order == OrderDisableLogin)})
	case OrderSetPrivileges:
		return Report{}, s.orderChange(ctx, op, account, login, LoginWish{Privileges: ref(authn.PrivilegesOf(ask.Privileges...))})
	case OrderDeleteLogin:
		position, err := s.commands.deleteLogin(ctx, op, eventlog.Command{Actor: orderActor}, account, login)
		if err != nil {
			return Report{}, err
		}
		return Report{}, s.wait(ctx, position)
	case OrderRemoveSecondFactor:
		return Report{}, people.RemoveSecondFactor(ctx, orderActor, account, login)
	case OrderResetPassword:
		password, err := people.SetOneTimePassword(ctx, orderActor, account, login)
		return Report{Password: password}, err
	case OrderEndSessions:
		return Report{}, people.EndSessions(ctx, orderActor, account, login)
	case OrderCreateKey:
		wish := KeyWish{ID: resource.NewID(), Privileges: authn.PrivilegesOf(ask.Privileges...), DisplayName: ask.DisplayName}
		key, position, err := s.commands.createAPIKey(ctx, op, orderActor, account, login, wish)
		if err != nil {
			return Report{}, err
		}
		return Report{Key: key}, s.wait(ctx, position)
	case OrderAccounts, OrderCreateAccount, OrderLogins, OrderCreateLogin, OrderAnnounceMaintenance, OrderAllowPasswords,
		OrderKeys, OrderRevokeKey, OrderManagers, OrderRevokeManager, OrderRevokeAgent, OrderReadmitAgent: // carried out above
	}
	return Report{}, errs.New(errs.Invalid, op, "", fmt.Sprintf("%q is no order", order))
}

// orderByID carries out orders on what has no name; known is false for all others. They are those of the
// API, given by the operator.
func (s *Service) orderByID(ctx context.Context, op string, order Order, account contract.ID, id string) (report Report, known bool, err error) {
	ctx = authn.WithCaller(ctx, authn.Caller{Account: account, Actor: orderActor, Reach: authzv1.Reach_REACH_ACCOUNT})
	switch order {
	case OrderKeys:
		report, err = s.reportKeys(ctx, op, account)
	case OrderManagers:
		report, err = s.reportManagers(ctx)
	case OrderRevokeKey:
		_, err = (&apiKeyAPI{service: s}).RevokeApiKey(ctx, &identityv1.RevokeApiKeyRequest{ApiKeyId: id})
	case OrderRevokeManager:
		_, err = (&managerAPI{service: s}).RevokeManager(ctx, &identityv1.RevokeManagerRequest{ManagerId: id})
	case OrderRevokeAgent:
		_, err = (&agentAdmissionAPI{service: s}).RevokeAgent(ctx, &identityv1.RevokeAgentRequest{AgentId: id, Copies: true})
	case OrderReadmitAgent:
		_, err = (&agentAdmissionAPI{service: s}).ReadmitAgent(ctx, &identityv1.ReadmitAgentRequest{AgentId: id})
	default:
		return report, false, nil
	}
	return report, true, err
}

func (s *Service) orderChange(ctx context.Context, op string, account, login contract.ID, wish LoginWish) error {
	position, err := s.commands.changeLogin(ctx, op, eventlog.Command{Actor: orderActor}, account, login, wish)
	if err != nil {
		return err
	}
	return s.wait(ctx, position)
}

func (s *Service) reportKeys(ctx context.Context, op string, account contract.ID) (Report, error) {
	var r Report
	for token := ""; ; {
		page, err := s.listAPIKeys(ctx, op, account, keysWanted{}, listedAtOnce, token)
		if err != nil {
			return Report{}, err
		}
		for _, k := range page.GetApiKeys() {
			r.Keys = append(r.Keys, KeyReport{
				ID: k.GetApiKeyId(), Prefix: k.GetPrefix(), DisplayName: k.GetDisplayName(), LoginID: k.GetLoginId(), Expires: k.GetExpireTime().AsTime(), Revoked: k.GetRevokeTime() != nil,
			})
		}
		if token = page.GetNextPageToken(); token == "" {
			return r, nil
		}
	}
}

func (s *Service) reportManagers(ctx context.Context) (Report, error) {
	var r Report
	for token := ""; ; {
		page, err := (&managerAPI{service: s}).ListManagers(ctx, &identityv1.ListManagersRequest{PageSize: listedAtOnce, PageToken: token})
		if err != nil {
			return Report{}, err
		}
		for _, m := range page.GetManagers() {
			r.Managers = append(r.Managers, ManagerReport{
				ID: m.GetManagerId(), DisplayName: m.GetDisplayName(), Created: m.GetCreateTime().AsTime(), Enrolled: m.GetEnrollTime() != nil, Revoked: m.GetRevokeTime() != nil,
			})
		}
		if token = page.GetNextPageToken(); token == "" {
			return r, nil
		}
	}
}

func (s *Service) orderAccount(ctx context.Context, people SignIn, op string, ask Ask) (Report, error) {
	want := newAccount{
		id: resource.NewID(), administrator: resource.NewID(), name: ask.Account,
		administratorWish: LoginWish{Name: &ask.Login, MailAddress: &ask.MailAddress, DisplayName: &ask.DisplayName},
	}
	position, err := s.commands.createAccount(ctx, op, eventlog.Command{Actor: orderActor}, want)
	if err != nil {
		return Report{}, err
	}
	if err := s.wait(ctx, position); err != nil {
		return Report{}, err
	}
	made, err := s.account(ctx, op, want.id)
	if err != nil {
		return Report{}, err
	}
	password, err := people.SetOneTimePassword(ctx, orderActor, want.id, want.administrator)
	return Report{Accounts: []AccountReport{reportAccount(made)}, Password: password}, err
}

func (s *Service) orderLogin(ctx context.Context, people SignIn, op string, account contract.ID, ask Ask) (Report, error) {
	id := resource.NewID()
	position, err := s.commands.createLogin(ctx, op, eventlog.Command{Actor: orderActor}, account, id, LoginWish{
		Name: &ask.Login, DisplayName: &ask.DisplayName, MailAddress: &ask.MailAddress, Privileges: ref(authn.PrivilegesOf(ask.Privileges...)),
	})
	if err != nil {
		return Report{}, err
	}
	if err := s.wait(ctx, position); err != nil {
		return Report{}, err
	}
	made, err := s.login(ctx, op, account, id)
	if err != nil {
		return Report{}, err
	}
	password, err := people.SetOneTimePassword(ctx, orderActor, account, id)
	return Report{Logins: []LoginReport{reportLogin(made)}, Password: password}, err
}

// accountNamed finds an account by its name, or by its id.
func (s *Service) accountNamed(ctx context.Context, op, text string) (contract.ID, error) {
	id, found, err := s.commands.named(ctx, contract.ID{}, accountNames, text)
	if err != nil || found {
		return id, err
	}
	if id, err = contract.ParseID(strings.TrimSpace(text)); err == nil {
		account, _, err := s.commands.accounts.Load(ctx, accountSubject(id))
		if err != nil || !account.ID.IsZero() {
			return id, err
		}
	}
	return id, errs.New(errs.NotFound, op, "", fmt.Sprintf("there is no account %q: `cetrus admin accounts` lists all", text))
}

// loginNamed finds a login by its name, or by its id.
func (s *Service) loginNamed(ctx context.Context, op string, account contract.ID, text string) (contract.ID, error) {
	id, found, err := s.commands.named(ctx, account, loginNames, text)
	if err != nil || found {
		return id, err
	}
	if id, err = contract.ParseID(strings.TrimSpace(text)); err == nil {
		login, _, err := s.commands.logins.Load(ctx, loginSubject(account, id))
		if err != nil || login.there() {
			return id, err
		}
	}
	return id, errs.New(errs.NotFound, op, "", fmt.Sprintf("there is no login %q in this account: `cetrus admin logins` lists all", text))
}

func (s *Service) reportAccounts(ctx context.Context, op string) (Report, error) {
	var r Report
	for token := ""; ; {
		page, err := s.listAccounts(ctx, op, listedAtOnce, token)
		if err != nil {
			return Report{}, err
		}
		for _, a := range page.GetAccounts() {
			r.Accounts = append(r.Accounts, reportAccount(a))
		}
		if token = page.GetNextPageToken(); token == "" {
			return r, nil
		}
	}
}

func (s *Service) reportLogins(ctx context.Context, op string, account contract.ID) (Report, error) {
	var r Report
	for token := ""; ; {
		page, err := s.listLogins(ctx, op, account, contract.ID{}, nil, listedAtOnce, token)
		if err != nil {
			return Report{}, err
		}
		for _, l := range page.GetLogins() {
			r.Logins = append(r.Logins, reportLogin(l))
		}
		if token = page.GetNextPageToken(); token == "" {
			return r, nil
		}
	}
}

func reportAccount(a *identityv1.Account) AccountReport {
	return AccountReport{ID: a.GetAccountId(), Name: a.GetName(), Created: a.GetCreateTime().AsTime()}
}

func reportLogin(l *identityv1.Login) LoginReport {
	return LoginReport{
		ID: l.GetLoginId(), Name: l.GetName(), DisplayName: l.GetDisplayName(), Privileges: l.GetPrivileges(),
		Disabled: l.GetDisabled(), HasMailAddress: l.GetMailAddress() != "", Created: l.GetCreateTime().AsTime(),
	}
}
