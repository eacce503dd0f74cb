package identity

import (
	"context"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// asked is who asks for a command, and the command that the request is; one without an id gets
// one, so that what is made has an id that follows from it.
func asked(ctx context.Context, op string, req resource.Request) (authn.Caller, eventlog.Command, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return caller, eventlog.Command{}, err
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if command.ID == "" {
		command.ID = resource.NewID().String()
	}
	return caller, command, err
}

// accountAPI serves cetrus.identity.v1.AccountService.
type accountAPI struct {
	identityv1.UnimplementedAccountServiceServer
	service *Service
}

func (a *accountAPI) GetAccount(ctx context.Context, _ *identityv1.GetAccountRequest) (*identityv1.GetAccountResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	account, err := a.service.account(ctx, "identity.GetAccount", caller.Account)
	return &identityv1.GetAccountResponse{Account: account}, err
}

func (a *accountAPI) UpdateAccount(ctx context.Context, req *identityv1.UpdateAccountRequest) (*identityv1.UpdateAccountResponse, error) {
	const op = "identity.UpdateAccount"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.Account{}, "account_id", "create_time", "update_time", "etag")
	if err != nil {
		return nil, err
	}
	if len(paths) > 0 { // the name is all that there is
		position, err := a.service.commands.renameAccount(ctx, op, command, caller.Account, req.GetAccount().GetName(), req.GetAccount().GetEtag())
		if err != nil {
			return nil, err
		}
		if err := a.service.wait(ctx, position); err != nil {
			return nil, err
		}
	}
	account, err := a.service.account(ctx, op, caller.Account)
	return &identityv1.UpdateAccountResponse{Account: account}, err
}

func (a *accountAPI) ListAccounts(ctx context.Context, req *identityv1.ListAccountsRequest) (*identityv1.ListAccountsResponse, error) {
	if _, err := authn.CallerFrom(ctx); err != nil {
		return nil, err
	}
	return a.service.listAccounts(ctx, "identity.ListAccounts", req.GetPageSize(), req.GetPageToken())
}

func (a *accountAPI) CreateAccount(ctx context.Context, req *identityv1.CreateAccountRequest) (*identityv1.CreateAccountResponse, error) {
	const op = "identity.CreateAccount"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	want := newAccount{name: req.GetAccount().GetName()}
	want.id = resource.DerivedID(caller.Account, "account", command.ID)
	want.administrator = resource.DerivedID(want.id, "login", command.ID)
	name, address := req.GetAdministratorName(), req.GetAdministratorMailAddress()
	want.administratorWish = LoginWish{Name: &name, MailAddress: &address}
	position, err := a.service.commands.createAccount(ctx, op, command, want)
	if err != nil {
		return nil, err
	}
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	account, err := a.service.account(ctx, op, want.id)
	return &identityv1.CreateAccountResponse{Account: account}, err
}

// loginAPI serves cetrus.identity.v1.LoginService.
type loginAPI struct {
	identityv1.UnimplementedLoginServiceServer
	service *Service
}

// loginWish is what a request says of the fields that paths name.
func loginWish(op string, m *identityv1.Login, paths []string) (LoginWish, error) {
	wish := LoginWish{Etag: m.GetEtag()}
	for _, path := range paths {
		switch path {
		case "name":
			wish.Name = ref(m.GetName())
		case "display_name":
			wish.DisplayName = ref(m.GetDisplayName())
		case "mail_address":
			wish.MailAddress = ref(m.GetMailAddress())
		case "privileges":
			wish.Privileges = ref(authn.PrivilegesOf(m.GetPrivileges()...))
		case "disabled":
			wish.Disabled = ref(m.GetDisabled())
		case "group_ids":
			ids, err := resource.ParseIDs(op, "login.group_ids", m.GetGroupIds())
			if err != nil {
				return wish, err
			}
			wish.Groups = &ids
		case "denied_application_ids":
			ids, err := resource.ParseIDs(op, "login.denied_application_ids", m.GetDeniedApplicationIds())
			if err != nil {
				return wish, err
			}
			wish.Denied = &ids
		}
	}
	return wish, nil
}

func ref[T any](v T) *T { return &v }

// loginOwn are the fields of a login that the platform sets.
var loginOwn = [...]string{"login_id", "must_change_password", "create_time", "update_time", "etag", "linked_logins"}

func (a *loginAPI) CreateLogin(ctx context.Context, req *identityv1.CreateLoginRequest) (*identityv1.CreateLoginResponse, error) {
	const op = "identity.CreateLogin"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, nil, &identityv1.Login{}, loginOwn[:]...)
	if err != nil {
		return nil, err
	}
	wish, err := loginWish(op, req.GetLogin(), paths)
	if err != nil {
		return nil, err
	}
	id := resource.DerivedID(caller.Account, "login", command.ID)
	position, err := a.service.commands.createLogin(ctx, op, command, caller.Account, id, wish)
	if err != nil {
		return nil, err
	}
	login, err := a.read(ctx, op, caller.Account, id, position)
	return &identityv1.CreateLoginResponse{Login: login}, err
}

// read tells a login as it is after a position.
func (a *loginAPI) read(ctx context.Context, op string, account, id contract.ID, position eventlog.Position) (*identityv1.Login, error) {
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	return a.service.login(ctx, op, account, id)
}

func (a *loginAPI) GetLogin(ctx context.Context, req *identityv1.GetLoginRequest) (*identityv1.GetLoginResponse, error) {
	const op = "identity.GetLogin"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "login_id", req.GetLoginId())
	if err != nil {
		return nil, err
	}
	login, err := a.service.login(ctx, op, caller.Account, id)
	return &identityv1.GetLoginResponse{Login: login}, err
}

func (a *loginAPI) ListLogins(ctx context.Context, req *identityv1.ListLoginsRequest) (*identityv1.ListLoginsResponse, error) {
	const op = "identity.ListLogins"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	var group contract.ID
	if text := req.GetGroupId(); text != "" {
		if group, err = resource.ParseID(op, "group_id", text); err != nil {
			return nil, err
		}
	}
	only, err := resource.ParseIDs(op, "login_ids", req.GetLoginIds())
	if err != nil {
		return nil, err
	}
	return a.service.listLogins(ctx, op, caller.Account, group, only, req.GetPageSize(), req.GetPageToken())
}

func (a *loginAPI) UpdateLogin(ctx context.Context, req *identityv1.UpdateLoginRequest) (*identityv1.UpdateLoginResponse, error) {
	const op = "identity.UpdateLogin"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "login.login_id", req.GetLogin().GetLoginId())
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.Login{}, loginOwn[:]...)
	if err != nil {
		return nil, err
	}
	wish, err := loginWish(op, req.GetLogin(), paths)
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.changeLogin(ctx, op, command, caller.Account, id, wish)
	if err != nil {
		return nil, err
	}
	login, err := a.read(ctx, op, caller.Account, id, position)
	return &identityv1.UpdateLoginResponse{Login: login}, err
}

func (a *loginAPI) DeleteLogin(ctx context.Context, req *identityv1.DeleteLoginRequest) (*identityv1.DeleteLoginResponse, error) {
	const op = "identity.DeleteLogin"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "login_id", req.GetLoginId())
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.deleteLogin(ctx, op, command, caller.Account, id)
	if err != nil {
		return nil, err
	}
	return &identityv1.DeleteLoginResponse{}, a.service.wait(ctx, position)
}

func (a *loginAPI) GetMyLogin(ctx context.Context, _ *identityv1.GetMyLoginRequest) (*identityv1.GetMyLoginResponse, error) {
	const op = "identity.GetMyLogin"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if caller.Login.IsZero() {
		return nil, errs.New(errs.NotFound, op, "", "the key that was sent belongs to the account and to no login")
	}
	login, err := a.service.login(ctx, op, caller.Account, caller.Login)
	if err != nil {
		return nil, err
	}
	login.LinkedLogins, err = a.service.links(ctx, caller.Account, caller.Login)
	return &identityv1.GetMyLoginResponse{Login: login}, errs.Wrap(op, "", err)
}

// groupAPI serves cetrus.identity.v1.GroupService.
type groupAPI struct {
	identityv1.UnimplementedGroupServiceServer
	service *Service
}

// groupWish is what a request says of the fields that paths name.
func groupWish(op string, m *identityv1.Group, paths []string) (GroupWish, error) {
	wish := GroupWish{Etag: m.GetEtag()}
	for _, path := range paths {
		switch path {
		case "display_name":
			wish.DisplayName = ref(m.GetDisplayName())
		case "denied_application_ids":
			ids, err := resource.ParseIDs(op, "group.denied_application_ids", m.GetDeniedApplicationIds())
			if err != nil {
				return wish, err
			}
			wish.Denied = &ids
		}
	}
	return wish, nil
}

func (a *groupAPI) CreateGroup(ctx context.Context, req *identityv1.CreateGroupRequest) (*identityv1.CreateGroupResponse, error) {
	const op = "identity.CreateGroup"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	wish, err := groupWish(op, req.GetGroup(), []string{"display_name", "denied_application_ids"})
	if err != nil {
		return nil, err
	}
	wish.Create = true
	id := resource.DerivedID(caller.Account, "group", command.ID)
	group, err := a.define(ctx, op, command, caller.Account, id, wish)
	return &identityv1.CreateGroupResponse{Group: group}, err
}

func (a *groupAPI) define(ctx context.Context, op string, command eventlog.Command, account, id contract.ID, wish GroupWish) (*identityv1.Group, error) {
	position, err := a.service.commands.defineGroup(ctx, op, command, account, id, wish)
	if err != nil {
		return nil, err
	}
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	return a.service.group(ctx, op, account, id)
}

func (a *groupAPI) GetGroup(ctx context.Context, req *identityv1.GetGroupRequest) (*identityv1.GetGroupResponse, error) {
	const op = "identity.GetGroup"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "group_id", req.GetGroupId())
	if err != nil {
		return nil, err
	}
	group, err := a.service.group(ctx, op, caller.Account, id)
	return &identityv1.GetGroupResponse{Group: group}, err
}

func (a *groupAPI) ListGroups(ctx context.Context, req *identityv1.ListGroupsRequest) (*identityv1.ListGroupsResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	return a.service.listGroups(ctx, "identity.ListGroups", caller.Account, req.GetPageSize(), req.GetPageToken())
}

func (a *groupAPI) UpdateGroup(ctx context.Context, req *identityv1.UpdateGroupRequest) (*identityv1.UpdateGroupResponse, error) {
	const op = "identity.UpdateGroup"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "group.group_id", req.GetGroup().GetGroupId())
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.Group{}, "group_id", "create_time", "update_time", "etag")
	if err != nil {
		return nil, err
	}
	wish, err := groupWish(op, req.GetGroup(), paths)
	if err != nil {
		return nil, err
	}
	group, err := a.define(ctx, op, command, caller.Account, id, wish)
	return &identityv1.UpdateGroupResponse{Group: group}, err
}

func (a *groupAPI) DeleteGroup(ctx context.Context, req *identityv1.DeleteGroupRequest) (*identityv1.DeleteGroupResponse, error) {
	const op = "identity.DeleteGroup"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "group_id", req.GetGroupId())
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.deleteGroup(ctx, op, command, caller.Account, id)
	if err != nil {
		return nil, err
	}
	return &identityv1.DeleteGroupResponse{}, a.service.wait(ctx, position)
}

// apiKeyAPI serves cetrus.identity.v1.ApiKeyService.
type apiKeyAPI struct {
	identityv1.UnimplementedApiKeyServiceServer
	service *Service
}

// visible is the login whose keys alone the caller may see; zero: all of the account. A key that
// belongs to no login has none of its own.
func visible(op string, caller authn.Caller) (contract.ID, error) {
	if caller.Reach != authzv1.Reach_REACH_SELF {
		return contract.ID{}, nil
	}
	if caller.Login.IsZero() {
		return contract.ID{}, errs.New(errs.Denied, op, "", "the key that was sent belongs to no login, and has not the privilege Account Administrator")
	}
	return caller.Login, nil
}

func (a *apiKeyAPI) CreateApiKey(ctx context.Context, req *identityv1.CreateApiKeyRequest) (*identityv1.CreateApiKeyResponse, error) { //nolint:staticcheck // the contract names it
	const op = "identity.CreateApiKey"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	login := caller.Login
	if text := req.GetApiKey().GetLoginId(); text != "" {
		if login, err = resource.ParseID(op, "api_key.login_id", text); err != nil {
			return nil, err
		}
	}
	if err := authn.InPerson(op, caller); err != nil {
		return nil, err
	}
	only, err := visible(op, caller)
	if err != nil {
		return nil, err
	}
	if !only.IsZero() && login != only {
		return nil, errs.New(errs.Denied, op, "", "only an administrator makes keys of another's login")
	}
	if login.IsZero() {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "api_key.login_id", Description: "is needed here: the key that was sent belongs to no login"})
	}
	wish := KeyWish{ID: resource.NewID(), Privileges: authn.PrivilegesOf(req.GetApiKey().GetPrivileges()...), DisplayName: req.GetApiKey().GetDisplayName()}
	if t := req.GetApiKey().GetExpireTime(); t != nil {
		wish.Expires = t.AsTime()
	}
	key, position, err := a.service.commands.createAPIKey(ctx, op, caller.Actor, caller.Account, login, wish)
	if err != nil {
		return nil, err
	}
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	made, err := a.service.apiKey(ctx, op, caller.Account, wish.ID, login)
	return &identityv1.CreateApiKeyResponse{ApiKey: made, Key: key}, err
}

func (a *apiKeyAPI) GetApiKey(ctx context.Context, req *identityv1.GetApiKeyRequest) (*identityv1.GetApiKeyResponse, error) { //nolint:staticcheck // the contract names it
	const op = "identity.GetApiKey"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "api_key_id", req.GetApiKeyId())
	if err != nil {
		return nil, err
	}
	only, err := visible(op, caller)
	if err != nil {
		return nil, err
	}
	key, err := a.service.apiKey(ctx, op, caller.Account, id, only)
	return &identityv1.GetApiKeyResponse{ApiKey: key}, err
}

func (a *apiKeyAPI) ListApiKeys(ctx context.Context, req *identityv1.ListApiKeysRequest) (*identityv1.ListApiKeysResponse, error) { //nolint:staticcheck // the contract names it
	const op = "identity.ListApiKeys"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	of, err := visible(op, caller)
	if err != nil {
		return nil, err
	}
	if text := req.GetLoginId(); text != "" {
		asked, err := resource.ParseID(op, "login_id", text)
		if err != nil {
			return nil, err
		}
		if !of.IsZero() && asked != of {
			return &identityv1.ListApiKeysResponse{}, nil
		}
		of = asked
	}
	only, err := resource.ParseIDs(op, "api_key_ids", req.GetApiKeyIds())
	if err != nil {
		return nil, err
	}
	return a.service.listAPIKeys(ctx, op, caller.Account, keysWanted{of, only, req.GetPrefixes()}, req.GetPageSize(), req.GetPageToken())
}

func (a *apiKeyAPI) RevokeApiKey(ctx context.Context, req *identityv1.RevokeApiKeyRequest) (*identityv1.RevokeApiKeyResponse, error) { //nolint:staticcheck // the contract names it
	const op = "identity.RevokeApiKey"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson(op, caller); err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "api_key_id", req.GetApiKeyId())
	if err != nil {
		return nil, err
	}
	only, err := visible(op, caller)
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.revokeAPIKey(ctx, op, command, caller.Account, id, only)
	if err != nil {
		return nil, err
	}
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	key, err := a.service.apiKey(ctx, op, caller.Account, id, contract.ID{})
	return &identityv1.RevokeApiKeyResponse{ApiKey: key}, err
}
