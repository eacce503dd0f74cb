package console

import (
	"cmp"
	"net/http"
	"net/url"
	"time"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/enrollment"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// managerActions are what is done with Managers, and with what lets agents in at them.
var managerActions = []action{
	{path: "/managers", page: "/managers", may: administers, do: (*Service).createManager},
	{path: "/managers/{id}/renew-token", may: administers, do: (*Service).renewManagerToken, confirm: (*Service).confirmRenewToken},
	{path: "/managers/{id}/revoke", may: administers, do: (*Service).revokeManager, confirm: (*Service).confirmRevokeManager},
	{path: "/managers/{id}/tokens", page: "/managers/{id}", may: administers, do: (*Service).createEnrolment},
	{path: "/managers/{id}/tokens/{token}/revoke", may: administers, do: (*Service).revokeEnrolment, confirm: (*Service).confirmRevokeEnrolment},
}

// managersPage is the list of Managers, with the form for another one.
type managersPage struct {
	listPage[*identityv1.Manager]
	Create *form
	states map[string]*meteringv1.ManagerState
}

// HowIsIt is how a Manager is doing, as it told last; nil where it has told nothing.
func (p managersPage) HowIsIt(id string) *meteringv1.ManagerState { return p.states[id] }

// managerState is a Manager, and how it is doing.
type managerState struct {
	Manager *identityv1.Manager
	How     *meteringv1.ManagerState
}

// State is for templates.
func (p managersPage) State(m *identityv1.Manager) managerState {
	return managerState{m, p.states[m.GetManagerId()]}
}

// managerStates are how Managers are doing. That it cannot be told keeps no list from being shown.
func (s *Service) managerStates(v *visit) map[string]*meteringv1.ManagerState {
	answer, err := s.agents.ListManagerStates(v.ctx, &meteringv1.ListManagerStatesRequest{})
	if err != nil {
		s.deps.Logger.WarnContext(v.ctx, "how Managers are doing is not shown", "error", err)
	}
	states := map[string]*meteringv1.ManagerState{}
	for _, state := range answer.GetManagers() {
		states[state.GetManagerId()] = state
	}
	return states
}

func (s *Service) managerList(v *visit) (any, error) {
	all, err := list(s, v, func(size int32, token string) ([]*identityv1.Manager, string, error) {
		answer, err := s.managers.ListManagers(v.ctx, &identityv1.ListManagersRequest{PageSize: size, PageToken: token})
		return answer.GetManagers(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	return managersPage{listPage: all, Create: v.form("/managers", nil, ""), states: s.managerStates(v)}, nil
}

// origin is how the browser reaches this platform, for commands to paste.
func origin(r *http.Request) string {
	host := r.Host
	if !enrollment.IsHost(host) {
		host = "platform.example.com"
	}
	if secure(r) {
		return "https://" + host
	}
	return "http://" + host
}

func (s *Service) createManager(v *visit, f *sent) (outcome, error) {
	answer, err := s.managers.CreateManager(v.ctx, &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{
		DisplayName: f.text("display_name"), ManagerId: f.text("manager_id"),
	}})
	return managerToken(v, answer.GetManager().GetManagerId(), answer.GetToken()), err
}

// managerToken shows how the Manager is set up that a token is for.
func managerToken(v *visit, id, token string) outcome {
	next := of("/managers", id)
	return outcome{next: next, once: &once{
		Title: "A Manager's token", Next: next,
		Text:   "It admits one Manager, once, within a week. Install the package of the Manager on a Linux machine of the site, which agents reach on TCP 10041 and which reaches this platform; then paste what follows there.",
		Blocks: blocks(enrollment.InstallManager(origin(v.r), token), token),
	}}
}

// blocks are texts to paste, and the token by itself.
func blocks(installs []enrollment.Install, token string) []block {
	var all []block
	for _, i := range installs {
		all = append(all, block{Title: i.System, Text: i.How, Code: i.Text})
	}
	return append(all, block{Title: "The token alone", Code: token})
}

func (s *Service) managerOf(v *visit) (*identityv1.Manager, error) {
	got, err := s.managers.GetManager(v.ctx, &identityv1.GetManagerRequest{ManagerId: v.r.PathValue("id")})
	return got.GetManager(), err
}

func nameOf(m *identityv1.Manager) string { return cmp.Or(m.GetDisplayName(), m.GetManagerId()) }

func (s *Service) confirmRenewToken(v *visit) (confirmation, error) {
	m, err := s.managerOf(v)
	return confirmation{
		Title: "Another token", Text: "The Manager “" + nameOf(m) + "” is to get another token, for one that has lost its key or never came.",
		Consequences: []string{"A token that it was given before is good for nothing any more.", "The key that it has is good until the new token is used."},
		Button:       "Make another token", Back: of("/managers", m.GetManagerId()),
	}, err
}

func (s *Service) renewManagerToken(v *visit, _ *sent) (outcome, error) {
	id := v.r.PathValue("id")
	answer, err := s.managers.RenewManagerToken(v.ctx, &identityv1.RenewManagerTokenRequest{ManagerId: id})
	return managerToken(v, id, answer.GetToken()), err
}

func (s *Service) confirmRevokeManager(v *visit) (confirmation, error) {
	m, err := s.managerOf(v)
	return confirmation{
		Title: "Revoke a Manager", Text: "The Manager “" + nameOf(m) + "” is to be cut off, within moments and for ever. It cannot be undone.",
		Consequences: []string{
			"What it has not forwarded stays in its buffer, and with its agents.",
			"Its agents go on recording, and send nothing until they have another Manager.",
			"What has arrived here stays.",
		},
		Button: "Revoke the Manager", Back: of("/managers", m.GetManagerId()),
	}, err
}

func (s *Service) revokeManager(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	_, err := s.managers.RevokeManager(v.ctx, &identityv1.RevokeManagerRequest{ManagerId: id, RequestId: f.requestID})
	return outcome{next: of("/managers", id), notice: "The Manager is cut off."}, err
}

// managerPage is one Manager, with what lets agents in at it.
type managerPage struct {
	Zone    *time.Location
	Now     time.Time
	Manager *identityv1.Manager
	// How is how it is doing; nil where it has told nothing.
	How    *meteringv1.ManagerState
	Tokens []*identityv1.EnrollmentToken
	Enrol  *form
	// Agents are how many were last heard of through it, of those that are listed; Connected of
	// these are.
	Agents, Connected int64
	// More says that there are more tokens than are shown.
	More bool
}

// Runs tells whether it has come: enrolled, or by a key that it had before it was told of here.
func (p managerPage) Runs() bool { return p.Manager.GetEnrollTime() != nil || p.How != nil }

// Over tells whether a token admits nobody any more by itself.
func (p managerPage) Over(t *identityv1.EnrollmentToken) bool {
	return t.GetExpireTime() != nil && !t.GetExpireTime().AsTime().After(p.Now) || t.GetMaxUses() > 0 && t.GetUsed() >= t.GetMaxUses()
}

func (s *Service) manager(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	m, err := s.managerOf(v)
	if err != nil {
		return nil, err
	}
	tokens, err := s.enrolments.ListEnrollmentTokens(v.ctx, &identityv1.ListEnrollmentTokensRequest{ManagerId: m.GetManagerId(), PageSize: searchPageSize})
	if err != nil {
		return nil, err
	}
	page := managerPage{Zone: zone, Now: s.deps.Now(), Manager: m, How: s.managerStates(v)[m.GetManagerId()], Tokens: tokens.GetEnrollmentTokens(), More: tokens.GetNextPageToken() != ""}
	agents, err := s.agents.ListAgents(v.ctx, &meteringv1.ListAgentsRequest{PageSize: searchPageSize})
	if err != nil {
		return nil, err
	}
	for _, a := range agents.GetAgents() {
		if a.GetManagerId() == m.GetManagerId() {
			page.Agents++
			if a.GetConnected() {
				page.Connected++
			}
		}
	}
	address, err := s.agentsAddress(v)
	if err != nil {
		return nil, err
	}
	page.Enrol = v.form(of("/managers", m.GetManagerId(), "tokens"), url.Values{"max_uses": {"1"}, "address": {address}}, "")
	return page, nil
}

// agentsAddress is where agents reach their Manager, as far as it is known here.
func (s *Service) agentsAddress(v *visit) (string, error) {
	got, err := s.settings.GetSettings(v.ctx, &meteringv1.GetSettingsRequest{})
	for _, address := range got.GetSettings().GetManagers() {
		return address, err
	}
	return "", err
}

func (s *Service) createEnrolment(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	address, ok := enrollment.ManagerAddress(f.text("address"))
	if !ok {
		return outcome{}, errs.InvalidFields("console.enrolment", "", errs.Field{Path: "address", Description: "is to be a host name, and a port where that is not 10041: manager.example.com:10041"})
	}
	uses, err := f.number("max_uses")
	if err != nil {
		return outcome{}, err
	}
	until, err := s.dayOf(v, f, "expire_time")
	if err != nil {
		return outcome{}, err
	}
	answer, err := s.enrolments.CreateEnrollmentToken(v.ctx, &identityv1.CreateEnrollmentTokenRequest{ManagerId: id, EnrollmentToken: &identityv1.EnrollmentToken{
		DisplayName: f.text("display_name"), MaxUses: uses, ExpireTime: until,
	}})
	next, token := of("/managers", id), answer.GetToken()
	return outcome{next: next, once: &once{
		Title: "An enrolment token", Next: next,
		Text:   "Whoever has it can add agents to your site until it is used up or expires, and can read nothing. Install the package of the agent on each machine, with one of these.",
		Blocks: blocks(enrollment.InstallAgent(address, token), token),
	}}, err
}

func (s *Service) confirmRevokeEnrolment(v *visit) (confirmation, error) {
	got, err := s.enrolments.GetEnrollmentToken(v.ctx, &identityv1.GetEnrollmentTokenRequest{ManagerId: v.r.PathValue("id"), EnrollmentTokenId: v.r.PathValue("token")})
	return confirmation{
		Title: "Revoke an enrolment token", Text: "The token “" + cmp.Or(got.GetEnrollmentToken().GetDisplayName(), v.r.PathValue("token")) + "” is to admit nobody any more.",
		Consequences: []string{"Agents that are enrolled go on.", "Machines that have it and have not come yet need another one."},
		Button:       "Revoke the token", Back: of("/managers", v.r.PathValue("id")),
	}, err
}

func (s *Service) revokeEnrolment(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	_, err := s.enrolments.RevokeEnrollmentToken(v.ctx, &identityv1.RevokeEnrollmentTokenRequest{ManagerId: id, EnrollmentTokenId: v.r.PathValue("token"), RequestId: f.requestID})
	return outcome{next: of("/managers", id), notice: "The token admits nobody any more, as soon as its Manager hears of it."}, err
}
