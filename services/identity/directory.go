package identity

import (
	"context"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
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
		Links: refsOf(login.Links), LinksByProvider: refsOf(login.LinksByProvider),
		Account: account, ID: id, AccountName: words[0], Name: words[1], DisplayName: words[2], MailAddress: words[3],
		Privileges: login.Privileges, Disabled: login.Disabled, Disablings: login.Disablings,
	}, true, nil
}

func refsOf(links []Link) []signin.Ref {
	refs := make([]signin.Ref, len(links))
	for i, l := range links {
		refs[i] = signin.Ref(l)
	}
	return refs
}

// Link implements signin.Directory. What it decided can be read when it returns.
func (d directory) Link(ctx context.Context, actor string, one, other signin.LinkEnd) error {
	position, err := d.service.commands.linkLogins(ctx, "identity.LinkLogin", eventlog.Command{Actor: actor}, one, other)
	if err != nil {
		return err
	}
	return d.service.wait(ctx, position)
}

// Unlink implements signin.Directory. What it decided can be read when it returns.
func (d directory) Unlink(ctx context.Context, actor string, one, other signin.Ref) error {
	position, err := d.service.commands.unlinkLogins(ctx, "identity.UnlinkLogin", eventlog.Command{Actor: actor}, Link(one), Link(other))
	if err != nil {
		return err
	}
	return d.service.wait(ctx, position)
}

// Vouched implements signin.Directory, from the log itself.
func (d directory) Vouched(ctx context.Context, login signin.Ref, v signin.Voucher) (bool, error) {
	const op = "identity.directory"
	provider, err := sso.ProviderOf(ctx, d.service.commands.together.Log, login.Account)
	if err != nil {
		return false, errs.Wrap(op, "", err)
	}
	if !provider.Enabled || provider.Issuer != v.Issuer {
		return false, nil
	}
	key, err := d.service.commands.nameKeys.of(ctx, login.Account)
	if err != nil {
		return false, err
	}
	guest, found, err := d.service.commands.knownGuest(ctx, login.Account, key, sso.Person{Subject: v.Subject})
	return found && guest.id == login.Login, errs.Wrap(op, "", err)
}
