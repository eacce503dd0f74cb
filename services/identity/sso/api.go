package sso

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func timestamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

// api serves cetrus.identity.v1.SingleSignOnService.
type api struct {
	identityv1.UnimplementedSingleSignOnServiceServer
	service *Service
}

// message is the provider as an administrator sees it: never with its secret.
func (s *Service) message(account contract.ID, p Provider) *identityv1.IdentityProvider {
	redirect, err := s.redirectURL(account)
	if err != nil {
		redirect = "" // no gateway runs whose address could stand for it
	}
	return &identityv1.IdentityProvider{
		Enabled: p.Enabled, Issuer: p.Issuer, ClientId: p.ClientID, HasClientSecret: !p.SecretID.IsZero(), Scopes: p.scopes(),
		LoginNameClaim: p.nameClaim(), GroupsClaim: p.groupsClaim(), GroupMappings: p.mappingMessages(), CreateLogins: p.CreateLogins,
		LinkLogins: p.LinkLogin, MailDomains: p.MailDomains, RedirectUrl: redirect, Etag: p.Etag(),
	}
}

func (a *api) GetIdentityProvider(ctx context.Context, _ *identityv1.GetIdentityProviderRequest) (*identityv1.GetIdentityProviderResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	p, _, err := a.service.providers.Load(ctx, subject(caller.Account))
	if err != nil {
		return nil, errs.Wrap("identity.GetIdentityProvider", "", err)
	}
	return &identityv1.GetIdentityProviderResponse{IdentityProvider: a.service.message(caller.Account, p)}, nil
}

// own are the fields that the platform sets.
var own = [...]string{"has_client_secret", "redirect_url", "etag"}

func (a *api) UpdateIdentityProvider(ctx context.Context, req *identityv1.UpdateIdentityProviderRequest) (*identityv1.UpdateIdentityProviderResponse, error) {
	const op = "identity.UpdateIdentityProvider"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.IdentityProvider{}, own[:]...)
	if err != nil {
		return nil, err
	}
	named := slices.Contains(req.GetUpdateMask().GetPaths(), "client_secret")
	if !named && req.GetIdentityProvider().GetClientSecret() == "" {
		paths = slices.DeleteFunc(paths, func(path string) bool { return path == "client_secret" })
	}
	p, err := a.service.update(ctx, op, caller, req.GetIdentityProvider(), paths)
	if err != nil {
		return nil, err
	}
	return &identityv1.UpdateIdentityProviderResponse{IdentityProvider: a.service.message(caller.Account, p)}, nil
}

// update decides on the fields that paths name. A secret is kept before the event names it.
func (s *Service) update(ctx context.Context, op string, caller authn.Caller, m *identityv1.IdentityProvider, paths []string) (Provider, error) {
	var secretID contract.ID
	if slices.Contains(paths, "client_secret") && m.GetClientSecret() != "" {
		secretID = resource.NewID()
		if err := s.keepSecret(ctx, caller.Account, secretID, m.GetClientSecret()); err != nil {
			return Provider{}, errs.Wrap(op, "", err)
		}
	}
	before, _, err := s.providers.Load(ctx, subject(caller.Account))
	if err != nil {
		return Provider{}, errs.Wrap(op, "", err)
	}
	want, err := before.with(op, m, paths, secretID)
	if err != nil {
		return Provider{}, err
	}
	// Before the provider is asked: it may be none.
	if _, err := before.decide(op, m.GetEtag(), want); err != nil {
		return Provider{}, err
	}
	if want.Enabled {
		if err := s.try(ctx, op, caller.Account, want); err != nil {
			return Provider{}, err
		}
	}
	result, err := s.providers.Execute(ctx, subject(caller.Account), eventlog.Command{Actor: caller.Actor}, func(p Provider) ([]proto.Message, error) {
		want, err := p.with(op, m, paths, secretID)
		if err != nil {
			return nil, err
		}
		return p.decide(op, m.GetEtag(), want)
	})
	if err != nil {
		return Provider{}, resource.CommandError(op, err)
	}
	if err := s.dropSecrets(ctx, caller.Account, result.State.SecretID); err != nil {
		s.log.WarnContext(ctx, "former secrets of an identity provider are still kept", "account", caller.Account, "error", err)
	}
	return result.State, nil
}

// with is the provider with the fields that paths name as a request has them.
func (p Provider) with(op string, m *identityv1.IdentityProvider, paths []string, secretID contract.ID) (Provider, error) {
	for _, path := range paths {
		switch path {
		case "enabled":
			p.Enabled = m.GetEnabled()
		case "issuer":
			p.Issuer = m.GetIssuer()
		case "client_id":
			p.ClientID = strings.TrimSpace(m.GetClientId())
		case "client_secret":
			p.SecretID = secretID
		case "scopes":
			p.Scopes = m.GetScopes()
		case "login_name_claim":
			p.NameClaim = m.GetLoginNameClaim()
		case "groups_claim":
			p.GroupsClaim = m.GetGroupsClaim()
		case "group_mappings":
			mappings, err := mappingsOf(m.GetGroupMappings())
			if err != nil {
				return p, errs.InvalidFields(op, "", errs.Field{Path: "identity_provider.group_mappings", Description: err.Error()})
			}
			p.Mappings = mappings
		case "create_logins":
			p.CreateLogins = m.GetCreateLogins()
		case "link_logins":
			p.LinkLogin = m.GetLinkLogins()
		case "mail_domains":
			p.MailDomains = nil
			for _, domain := range m.GetMailDomains() {
				p.MailDomains = append(p.MailDomains, strings.ToLower(domain))
			}
		}
	}
	return p, nil
}

func (a *api) StartSingleSignOn(ctx context.Context, req *identityv1.StartSingleSignOnRequest) (*identityv1.StartSingleSignOnResponse, error) {
	return a.service.start(ctx, req.GetAccountName())
}

func (a *api) CompleteSingleSignOn(ctx context.Context, req *identityv1.CompleteSingleSignOnRequest) (*identityv1.CompleteSingleSignOnResponse, error) {
	account, err := resource.ParseID("identity.CompleteSingleSignOn", "account_id", req.GetAccountId())
	if err != nil {
		return nil, err
	}
	signedIn, err := a.service.complete(ctx, answer{
		account: account, browserKey: req.GetBrowserKey(), plainCookie: req.GetPlainCookie(), state: req.GetState(), code: req.GetCode(), issuer: req.GetIssuer(), error: req.GetError(),
	}, authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &identityv1.CompleteSingleSignOnResponse{SignIn: signedIn}, nil
}
