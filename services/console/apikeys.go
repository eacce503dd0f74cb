package console

import (
	"cmp"
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// keyActions are what is done with API keys.
var keyActions = []action{
	{path: "/api-keys", page: "/api-keys", may: anybody, do: (*Service).createKey},
	{path: "/api-keys/{id}/revoke", may: anybody, do: (*Service).revokeKey, confirm: (*Service).confirmRevokeKey},
}

// anybody is for what is everybody's own.
func anybody(authn.Privileges) bool { return true }

// keysPage is the keys that somebody may see, with the form for another one.
type keysPage struct {
	listPage[*identityv1.ApiKey]
	// All says that they are everybody's.
	All        bool
	Now        time.Time
	Names      map[string]string
	Create     *form
	Privileges []choice
	Logins     []choice
}

// Over tells whether a key ended by itself.
func (p keysPage) Over(k *identityv1.ApiKey) bool {
	return k.GetExpireTime() != nil && !k.GetExpireTime().AsTime().After(p.Now)
}

func (s *Service) keys(v *visit) (any, error) {
	all, err := list(s, v, func(size int32, token string) ([]*identityv1.ApiKey, string, error) {
		answer, err := s.apiKeys.ListApiKeys(v.ctx, &identityv1.ListApiKeysRequest{PageSize: size, PageToken: token})
		return answer.GetApiKeys(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	page := keysPage{listPage: all, All: administers(v.caller.Privileges), Now: s.deps.Now()}
	offered := v.caller.Privileges & authn.PeoplesPrivileges()
	if page.All {
		if page.Logins, err = s.loginChoices(v); err != nil {
			return nil, err
		}
		var logins []string
		for _, key := range all.Items {
			logins = append(logins, key.GetLoginId())
		}
		if page.Names, err = s.namesOfLogins(v, logins); err != nil {
			return nil, err
		}
		offered = authn.AllPrivileges()
	}
	page.Privileges = privilegeChoices(offered)
	page.Create = v.form("/api-keys", url.Values{"login_id": {v.caller.Login.String()}}, "")
	return page, nil
}

// dayOf reads the day up to whose end something is to be good; none: nil.
func (s *Service) dayOf(v *visit, f *sent, name string) (*timestamppb.Timestamp, error) {
	text := f.text(name)
	if text == "" {
		return nil, nil //nolint:nilnil // no day is no error
	}
	zone, err := s.zoneFor(v)
	if err != nil {
		return nil, err
	}
	on, err := time.Parse(day, text)
	if err != nil {
		return nil, errs.InvalidFields("console.form", "", errs.Field{Path: name, Description: "is no date: write it as 2027-04-01"})
	}
	return timestamppb.New(begins(on.AddDate(0, 0, 1), zone)), nil
}

func (s *Service) createKey(v *visit, f *sent) (outcome, error) {
	until, err := s.dayOf(v, f, "expire_time")
	if err != nil {
		return outcome{}, err
	}
	answer, err := s.apiKeys.CreateApiKey(v.ctx, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{
		DisplayName: f.text("display_name"), LoginId: f.text("login_id"), Privileges: privilegesIn(f), ExpireTime: until,
	}})
	return outcome{next: "/api-keys", once: &once{
		Title: "An API key", Next: "/api-keys",
		Text:   "A program that sends it may do what the key may, in the name of the login. Keep it where you keep passwords.",
		Blocks: []block{{Title: "Key", Code: answer.GetKey()}, {Title: "Try it", Code: "curl -H 'Authorization: Bearer " + answer.GetKey() + "' " + origin(v.r) + "/v1/account"}},
	}}, err
}

func (s *Service) confirmRevokeKey(v *visit) (confirmation, error) {
	got, err := s.apiKeys.GetApiKey(v.ctx, &identityv1.GetApiKeyRequest{ApiKeyId: v.r.PathValue("id")})
	name := cmp.Or(got.GetApiKey().GetDisplayName(), got.GetApiKey().GetPrefix())
	return confirmation{
		Title: "Revoke an API key", Text: "The key “" + name + "” is to end, everywhere within moments and for ever.",
		Consequences: []string{"Programs that use it are refused from then on, until they get another one."},
		Button:       "Revoke the key", Back: "/api-keys",
	}, err
}

func (s *Service) revokeKey(v *visit, f *sent) (outcome, error) {
	_, err := s.apiKeys.RevokeApiKey(v.ctx, &identityv1.RevokeApiKeyRequest{ApiKeyId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: "/api-keys", notice: "The key is revoked."}, err
}
