package identity

import (
	"context"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// directory is what signing in asks of accounts and logins: the log itself, so that what was
// decided a moment ago counts.
type directory struct{ service *Service }

// Directory is what signing in asks.
func (s *Service) Directory() signin.Directory { return directory{s} }

// OperatorLogin is the login that the first start makes.
func (s *Service) OperatorLogin() contract.ID {
	return resource.DerivedID(s.cfg.Operator, "login", operatorLoginName)
}

// FoldName implements signin.Directory.
func (d directory) FoldName(name string) string { return foldName(name) }

// FindLogin implements signin.Directory.
func (d directory) FindLogin(ctx context.Context, account, login string) (signin.Login, bool, error) {
	link, found, err := d.service.findLogin(ctx, account, login)
	if err != nil || !found {
		return signin.Login{}, false, err
	}
	return d.Login(ctx, link.Account, link.Login)
}

// Login implements signin.Directory.
func (d directory) Login(ctx context.Context, account, id contract.ID) (signin.Login, bool, error) {
	const op = "identity.directory"
	login, _, err := d.service.commands.logins.Load(ctx, loginSubject(account, id))
	if err != nil || !login.there() {
		return signin.Login{}, false, errs.Wrap(op, "", err)
	}
	in, _, err := d.service.commands.accounts.Load(ctx, accountSubject(account))
	if err != nil {
		return signin.Login{}, false, errs.Wrap(op, "", err)
	}
	words, err := d.service.keys.OpenTexts(ctx, account, []keyring.Text{
		{Principal: account, What: whatAccountName, Sealed: in.SealedName},
		{Principal: id, What: whatName, Sealed: login.SealedName},
		{Principal: id, What: whatDisplayName, Sealed: login.SealedDisplayName},
		{Principal: id, What: whatMailAddress, Sealed: login.SealedMailAddress},
	})
	if err != nil {
		return signin.Login{}, false, errs.Wrap(op, "", err)
	}
	return signin.Login{
		Account: account, ID: id, AccountName: words[0], Name: words[1], DisplayName: words[2], MailAddress: words[3],
		Privileges: login.Privileges, Disabled: login.Disabled, Disablings: login.Disablings,
	}, true, nil
}
