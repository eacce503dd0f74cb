package command

import (
	"cmp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"

	"github.com/cetrus/cetrus/ctl/manifest"
)

var applicationsResource = resource[*meteringv1.Application]{
	name: "applications", aliases: []string{"application", "apps", "app"}, short: "List the applications that are metered",
	example: "  cetrusctl get applications\n  cetrusctl get application Firefox -o yaml > firefox.yaml",
	columns: []column[*meteringv1.Application]{
		flex("NAME", func(a *meteringv1.Application) any { return a.GetDisplayName() }),
		flex("RULES", func(a *meteringv1.Application) any { return rulesInWords(a.GetRules()) }),
		col("GAP", func(a *meteringv1.Application) any { return a.GetActivityGap() }),
		col("TIMEOUT", func(a *meteringv1.Application) any { return a.GetTimeout() }),
		col("DOCUMENTS", func(a *meteringv1.Application) any {
			if !a.GetDocuments() {
				return ""
			}
			return enumWord(a.GetDocumentReduction())
		}),
		col("ASKS", func(a *meteringv1.Application) any {
			if !a.GetProjectPrompt().GetEnabled() {
				return ""
			}
			return cmp.Or(enumWord(a.GetProjectPrompt().GetSubject()), "application")
		}),
		wide("SCOPE", func(a *meteringv1.Application) any { return a.GetInstanceScope() }),
		wide("REMOTE", func(a *meteringv1.Application) any { return a.GetRemoteClient() }),
		wide("CHANGED", func(a *meteringv1.Application) any { return a.GetUpdateTime() }),
		wide("REVISION", func(a *meteringv1.Application) any { return a.GetPolicyRevision() }),
		wide("ID", func(a *meteringv1.Application) any { return a.GetApplicationId() }),
	},
	each: func(q *question, yield func([]*meteringv1.Application) error) error {
		return pages(q, func(size int32, token string) ([]*meteringv1.Application, string, error) {
			answer, err := q.a.applications.ListApplications(q.ctx, &meteringv1.ListApplicationsRequest{PageSize: size, PageToken: token})
			return answer.GetApplications(), answer.GetNextPageToken(), err
		}, yield)
	},
	names: func(a *meteringv1.Application) []string { return []string{a.GetApplicationId(), a.GetDisplayName()} },
	manifest: func(*question) (func(*meteringv1.Application) ([]byte, error), error) {
		return func(a *meteringv1.Application) ([]byte, error) {
			return manifest.Encode((&manifest.Live{}).Document(a))
		}, nil
	},
}

// rulesInWords is what an application's rules go by.
func rulesInWords(rules []*meteringv1.Rule) string {
	var words []string
	for _, r := range rules {
		word := cmp.Or(r.GetExecutable(), r.GetPackage(), r.GetPath(), r.GetWindowClass(), r.GetTitle())
		if !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	return strings.Join(words, ", ")
}

func seenProgramsResource() resource[*meteringv1.SeenProgram] {
	var contains string
	var windowless bool
	return resource[*meteringv1.SeenProgram]{
		name: "seen-programs", aliases: []string{"seen"}, short: "List programs that agents saw and that nothing meters",
		long:  "There are some only where the account's setting sightings_wanted asks agents for them.",
		names: func(p *meteringv1.SeenProgram) []string { return []string{p.GetName()} },
		columns: []column[*meteringv1.SeenProgram]{
			flex("PROGRAM", func(p *meteringv1.SeenProgram) any { return p.GetName() }),
			col("MACHINES", func(p *meteringv1.SeenProgram) any { return p.GetMachineCount() }),
			col("LAST SEEN", func(p *meteringv1.SeenProgram) any { return p.GetLastSeenTime() }),
			flex("TEMPLATE", func(p *meteringv1.SeenProgram) any { return p.GetTemplateName() }),
			wide("SINCE", func(p *meteringv1.SeenProgram) any { return p.GetFirstSeenTime() }),
			wide("PACKAGE", func(p *meteringv1.SeenProgram) any { return p.GetPackaged() }),
		},
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&contains, "contains", "", "only programs whose name has this in it")
			c.Flags().BoolVar(&windowless, "windowless", false, "those too that were seen without any window")
		},
		each: func(q *question, yield func([]*meteringv1.SeenProgram) error) error {
			told := false
			return pages(q, func(size int32, token string) ([]*meteringv1.SeenProgram, string, error) {
				answer, err := q.a.applications.ListSeenPrograms(q.ctx, &meteringv1.ListSeenProgramsRequest{NameContains: contains, Windowless: windowless, PageSize: size, PageToken: token})
				if err == nil && !answer.GetSightingsWanted() && !told {
					told = true
					q.s.note("Agents are not asked what they see: apply a Settings with sightings_wanted: true, which people at the desktops are told.")
				}
				return answer.GetPrograms(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

func templatesResource() resource[*meteringv1.ApplicationTemplate] {
	var category string
	return resource[*meteringv1.ApplicationTemplate]{
		name: "templates", aliases: []string{"template"}, short: "List programs whose rules are known and ready to switch on",
		long: "-o yaml writes them as applications, for apply.",
		names: func(t *meteringv1.ApplicationTemplate) []string {
			return []string{t.GetTemplateId(), t.GetDisplayName()}
		},
		manifest: func(*question) (func(*meteringv1.ApplicationTemplate) ([]byte, error), error) {
			return func(t *meteringv1.ApplicationTemplate) ([]byte, error) {
				return manifest.Encode((&manifest.Live{}).Document(&meteringv1.Application{
					DisplayName: t.GetDisplayName(), Rules: t.GetRules(), TitleRules: t.GetTitleRules(), Documents: t.GetDocuments(), RemoteClient: t.GetRemoteClient(),
				}))
			}, nil
		},
		columns: []column[*meteringv1.ApplicationTemplate]{
			col("TEMPLATE", func(t *meteringv1.ApplicationTemplate) any { return t.GetTemplateId() }),
			flex("NAME", func(t *meteringv1.ApplicationTemplate) any { return t.GetDisplayName() }),
			col("CATEGORY", func(t *meteringv1.ApplicationTemplate) any { return t.GetCategory() }),
			flex("RULES", func(t *meteringv1.ApplicationTemplate) any { return rulesInWords(t.GetRules()) }),
			wide("DOCUMENTS", func(t *meteringv1.ApplicationTemplate) any { return t.GetDocuments() }),
			wideFlex("CAUTION", func(t *meteringv1.ApplicationTemplate) any { return t.GetCaution() }),
		},
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&category, "category", "", "only of this category, as office, cad, browser")
		},
		each: func(q *question, yield func([]*meteringv1.ApplicationTemplate) error) error {
			return pages(q, func(size int32, token string) ([]*meteringv1.ApplicationTemplate, string, error) {
				answer, err := q.a.applications.ListApplicationTemplates(q.ctx, &meteringv1.ListApplicationTemplatesRequest{Category: category, PageSize: size, PageToken: token})
				return answer.GetTemplates(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

// logins lists logins, of one group where one is named by its id.
func logins(q *question, group string, yield func([]*identityv1.Login) error) error {
	return pages(q, func(size int32, token string) ([]*identityv1.Login, string, error) {
		answer, err := q.a.logins.ListLogins(q.ctx, &identityv1.ListLoginsRequest{PageSize: size, PageToken: token, GroupId: group})
		return answer.GetLogins(), answer.GetNextPageToken(), err
	}, yield)
}

func loginsResource() resource[*identityv1.Login] {
	var group string
	var called map[string]string // groups, by their ids
	return resource[*identityv1.Login]{
		name: "logins", aliases: []string{"login"}, short: "List who may sign in, and what they may do",
		names: func(l *identityv1.Login) []string {
			return []string{l.GetLoginId(), l.GetDisplayName(), l.GetName()}
		},
		columns: []column[*identityv1.Login]{
			flex("LOGIN", func(l *identityv1.Login) any { return l.GetName() }),
			flex("NAME", func(l *identityv1.Login) any { return l.GetDisplayName() }),
			flex("PRIVILEGES", func(l *identityv1.Login) any {
				var words []string
				for _, p := range l.GetPrivileges() {
					words = append(words, enumWord(p))
				}
				return words
			}),
			flex("GROUPS", func(l *identityv1.Login) any {
				var words []string
				for _, id := range l.GetGroupIds() {
					words = append(words, cmp.Or(called[id], id))
				}
				return words
			}),
			col("DISABLED", func(l *identityv1.Login) any { return l.GetDisabled() }),
			wideFlex("MAIL", func(l *identityv1.Login) any { return l.GetMailAddress() }),
			wide("CREATED", func(l *identityv1.Login) any { return l.GetCreateTime() }),
			wide("ID", func(l *identityv1.Login) any { return l.GetLoginId() }),
		},
		flags: func(s *session, c *cobra.Command) {
			c.Flags().StringVar(&group, "group", "", "only members of this group")
			must(c.RegisterFlagCompletionFunc("group", completeNames(s, groupsResource)))
		},
		each: func(q *question, yield func([]*identityv1.Login) error) error {
			id := ""
			if group != "" {
				var err error
				if id, err = one(q, groupsResource, group, (*identityv1.Group).GetGroupId); err != nil {
					return err
				}
			}
			if called == nil {
				called = map[string]string{}
				all := *q
				all.limit = 0
				if err := groupsResource.each(&all, func(items []*identityv1.Group) error {
					for _, g := range items {
						called[g.GetGroupId()] = g.GetDisplayName()
					}
					return nil
				}); err != nil {
					return err
				}
			}
			return logins(q, id, yield)
		},
	}
}

var peopleResource = resource[*meteringv1.Principal]{
	name: "people", aliases: []string{"person", "principals", "principal"}, short: "List whose use is recorded",
	names: func(p *meteringv1.Principal) []string { return []string{p.GetPrincipalId(), p.GetName()} },
	columns: []column[*meteringv1.Principal]{
		flex("NAME", func(p *meteringv1.Principal) any { return p.GetName() }),
		col("ID", func(p *meteringv1.Principal) any { return p.GetPrincipalId() }),
		col("LOGIN", func(p *meteringv1.Principal) any { return p.GetLoginId() != "" }),
		wide("LOGIN ID", func(p *meteringv1.Principal) any { return p.GetLoginId() }),
		wide("MERGED INTO", func(p *meteringv1.Principal) any { return p.GetMergedIntoId() }),
		wide("FORGOTTEN", func(p *meteringv1.Principal) any { return p.GetForgetTime() }),
	},
	each: func(q *question, yield func([]*meteringv1.Principal) error) error {
		return pages(q, func(size int32, token string) ([]*meteringv1.Principal, string, error) {
			answer, err := q.a.principals.ListPrincipals(q.ctx, &meteringv1.ListPrincipalsRequest{PageSize: size, PageToken: token})
			return answer.GetPrincipals(), answer.GetNextPageToken(), err
		}, yield)
	},
}

var groupsResource = resource[*identityv1.Group]{
	name: "groups", aliases: []string{"group"}, short: "List groups of logins",
	names: func(g *identityv1.Group) []string { return []string{g.GetGroupId(), g.GetDisplayName()} },
	manifest: func(q *question) (func(*identityv1.Group) ([]byte, error), error) {
		live, err := q.s.live(q.ctx, []string{manifest.Group})
		return func(g *identityv1.Group) ([]byte, error) { return manifest.Encode(live.Document(g)) }, err
	},
	columns: []column[*identityv1.Group]{
		flex("NAME", func(g *identityv1.Group) any { return g.GetDisplayName() }),
		col("DENIED APPLICATIONS", func(g *identityv1.Group) any { return len(g.GetDeniedApplicationIds()) }),
		col("CHANGED", func(g *identityv1.Group) any { return g.GetUpdateTime() }),
		wide("CREATED", func(g *identityv1.Group) any { return g.GetCreateTime() }),
		wide("ID", func(g *identityv1.Group) any { return g.GetGroupId() }),
	},
	each: groups,
}

// groups lists groups.
func groups(q *question, yield func([]*identityv1.Group) error) error {
	return pages(q, func(size int32, token string) ([]*identityv1.Group, string, error) {
		answer, err := q.a.groups.ListGroups(q.ctx, &identityv1.ListGroupsRequest{PageSize: size, PageToken: token})
		return answer.GetGroups(), answer.GetNextPageToken(), err
	}, yield)
}

func keysResource() resource[*identityv1.ApiKey] {
	var login string
	return resource[*identityv1.ApiKey]{
		name: "keys", aliases: []string{"key", "api-keys"}, short: "List API keys, without the keys themselves",
		names: func(k *identityv1.ApiKey) []string {
			return []string{k.GetApiKeyId(), k.GetPrefix(), k.GetDisplayName()}
		},
		columns: []column[*identityv1.ApiKey]{
			flex("NAME", func(k *identityv1.ApiKey) any { return k.GetDisplayName() }),
			col("KEY", func(k *identityv1.ApiKey) any { return "cetrus_" + k.GetPrefix() + "…" }),
			col("STATE", func(k *identityv1.ApiKey) any {
				switch {
				case k.GetRevokeTime() != nil:
					return "revoked"
				case k.GetExpireTime() != nil && k.GetExpireTime().AsTime().Before(timestamppb.Now().AsTime()):
					return "expired"
				}
				return "valid"
			}),
			col("EXPIRES", func(k *identityv1.ApiKey) any { return k.GetExpireTime() }),
			col("LAST USE", func(k *identityv1.ApiKey) any { return k.GetLastUseTime() }),
			wideFlex("PRIVILEGES", func(k *identityv1.ApiKey) any {
				var words []string
				for _, p := range k.GetPrivileges() {
					words = append(words, enumWord(p))
				}
				return words
			}),
			wide("LOGIN ID", func(k *identityv1.ApiKey) any { return k.GetLoginId() }),
			wide("ID", func(k *identityv1.ApiKey) any { return k.GetApiKeyId() }),
		},
		flags: func(s *session, c *cobra.Command) {
			c.Flags().StringVar(&login, "login", "", "only keys of this login")
			must(c.RegisterFlagCompletionFunc("login", completeNames(s, loginsResource())))
		},
		each: func(q *question, yield func([]*identityv1.ApiKey) error) error {
			id := ""
			if login != "" {
				var err error
				if id, err = one(q, loginsResource(), login, (*identityv1.Login).GetLoginId); err != nil {
					return err
				}
			}
			return pages(q, func(size int32, token string) ([]*identityv1.ApiKey, string, error) {
				answer, err := q.a.keys.ListApiKeys(q.ctx, &identityv1.ListApiKeysRequest{PageSize: size, PageToken: token, LoginId: id})
				return answer.GetApiKeys(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

var managersResource = resource[*identityv1.Manager]{
	name: "managers", aliases: []string{"manager", "sites", "site"}, short: "List Managers, which are the account's sites",
	names: func(m *identityv1.Manager) []string { return []string{m.GetManagerId(), m.GetDisplayName()} },
	columns: []column[*identityv1.Manager]{
		flex("NAME", func(m *identityv1.Manager) any { return m.GetDisplayName() }),
		col("STATE", func(m *identityv1.Manager) any {
			switch {
			case m.GetRevokeTime() != nil:
				return "revoked"
			case m.GetEnrollTime() == nil:
				return "not enrolled" // or it runs by a key of its own
			}
			return "enrolled"
		}),
		col("ENROLLED", func(m *identityv1.Manager) any { return m.GetEnrollTime() }),
		col("ID", func(m *identityv1.Manager) any { return m.GetManagerId() }),
		wide("CREATED", func(m *identityv1.Manager) any { return m.GetCreateTime() }),
	},
	each: func(q *question, yield func([]*identityv1.Manager) error) error {
		return pages(q, func(size int32, token string) ([]*identityv1.Manager, string, error) {
			answer, err := q.a.managers.ListManagers(q.ctx, &identityv1.ListManagersRequest{PageSize: size, PageToken: token})
			return answer.GetManagers(), answer.GetNextPageToken(), err
		}, yield)
	},
}

func agentsResource() resource[*meteringv1.Agent] {
	var conditions []string
	r := agentLike("agents", "List agents, one a machine, and how they are doing", &conditions)
	r.aliases = []string{"agent"}
	r.example = "  cetrusctl get agents --condition silent --condition backlog -o wide"
	r.columns = []column[*meteringv1.Agent]{
		flex("MACHINE", func(a *meteringv1.Agent) any { return a.GetMachineName() }),
		col("CONNECTED", func(a *meteringv1.Agent) any { return a.GetConnected() }),
		col("LAST SEEN", func(a *meteringv1.Agent) any { return a.GetLastSeenTime() }),
		flex("VERSION", func(a *meteringv1.Agent) any { return a.GetAgentVersion() }),
		flex("CONDITIONS", func(a *meteringv1.Agent) any {
			var words []string
			for _, c := range a.GetConditions() {
				words = append(words, enumWord(c))
			}
			return words
		}),
		wideFlex("SYSTEM", func(a *meteringv1.Agent) any { return a.GetOperatingSystem() }),
		wide("WAITING", func(a *meteringv1.Agent) any { return a.GetWaitingRecords() }),
		wide("SKEW", func(a *meteringv1.Agent) any { return a.GetSkew() }),
		wide("REVISION", func(a *meteringv1.Agent) any { return a.GetPolicyRevision() }),
		wide("ID", func(a *meteringv1.Agent) any { return a.GetAgentId() }),
	}
	r.flags = func(_ *session, c *cobra.Command) {
		words := enumWords[meteringv1.AgentCondition]()
		c.Flags().StringArrayVar(&conditions, "condition", nil, "only agents of all these: "+strings.Join(words, ", "))
		must(c.RegisterFlagCompletionFunc("condition", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)))
	}
	return r
}

// machinesResource lists machines by the agents on them.
var machinesResource = func() resource[*meteringv1.Agent] {
	r := agentLike("machines", "List the machines that agents are on", nil)
	r.aliases = []string{"machine"}
	r.names = func(a *meteringv1.Agent) []string { return []string{a.GetMachineId(), a.GetMachineName()} }
	r.columns = []column[*meteringv1.Agent]{
		flex("MACHINE", func(a *meteringv1.Agent) any { return a.GetMachineName() }),
		flex("SYSTEM", func(a *meteringv1.Agent) any { return a.GetOperatingSystem() }),
		col("LAST RECEIVED", func(a *meteringv1.Agent) any { return a.GetLastReceivedTime() }),
		wide("MACHINE ID", func(a *meteringv1.Agent) any { return a.GetMachineId() }),
		wide("SITE ID", func(a *meteringv1.Agent) any { return a.GetManagerId() }),
	}
	return r
}()

// agentLike is what is listed by agents.
func agentLike(name, short string, conditions *[]string) resource[*meteringv1.Agent] {
	return resource[*meteringv1.Agent]{
		name: name, short: short,
		names: func(a *meteringv1.Agent) []string { return []string{a.GetAgentId(), a.GetMachineName()} },
		each: func(q *question, yield func([]*meteringv1.Agent) error) error {
			var wanted []meteringv1.AgentCondition
			if conditions != nil {
				for _, word := range *conditions {
					c, err := enumOf[meteringv1.AgentCondition]("condition", word)
					if err != nil {
						return err
					}
					wanted = append(wanted, c)
				}
			}
			return pages(q, func(size int32, token string) ([]*meteringv1.Agent, string, error) {
				answer, err := q.a.agents.ListAgents(q.ctx, &meteringv1.ListAgentsRequest{Conditions: wanted, PageSize: size, PageToken: token})
				return answer.GetAgents(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

// eachManager asks of the Manager that is named, or of all that are not revoked.
func eachManager(q *question, name string, ask func(m *identityv1.Manager) error) error {
	all := *q
	all.limit = 0
	var managers []*identityv1.Manager
	if name != "" {
		var err error
		if managers, err = managersResource.find(&all, []string{name}); err != nil {
			return err
		}
	} else if err := managersResource.each(&all, func(items []*identityv1.Manager) error {
		for _, m := range items {
			if m.GetRevokeTime() == nil {
				managers = append(managers, m)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, m := range managers {
		if err := ask(m); err != nil {
			return err
		}
	}
	return nil
}

func tokensResource() resource[*identityv1.EnrollmentToken] {
	var manager string
	names := map[string]string{}
	return resource[*identityv1.EnrollmentToken]{
		name: "enrolment-tokens", aliases: []string{"enrolment-token", "tokens", "token"}, short: "List what lets agents in, without the tokens themselves",
		columns: []column[*identityv1.EnrollmentToken]{
			flex("NAME", func(t *identityv1.EnrollmentToken) any { return t.GetDisplayName() }),
			flex("MANAGER", func(t *identityv1.EnrollmentToken) any { return names[t.GetManagerId()] }),
			col("USED", func(t *identityv1.EnrollmentToken) any { return t.GetUsed() }),
			col("OF", func(t *identityv1.EnrollmentToken) any { return t.GetMaxUses() }),
			col("EXPIRES", func(t *identityv1.EnrollmentToken) any { return t.GetExpireTime() }),
			col("REVOKED", func(t *identityv1.EnrollmentToken) any { return t.GetRevokeTime() != nil }),
			wide("PENDING", func(t *identityv1.EnrollmentToken) any { return t.GetPending() }),
			wide("ID", func(t *identityv1.EnrollmentToken) any { return t.GetEnrollmentTokenId() }),
		},
		flags: func(s *session, c *cobra.Command) {
			c.Flags().StringVar(&manager, "manager", "", "only of this Manager")
			must(c.RegisterFlagCompletionFunc("manager", completeNames(s, managersResource)))
		},
		names: func(t *identityv1.EnrollmentToken) []string {
			return []string{t.GetEnrollmentTokenId(), t.GetDisplayName()}
		},
		each: func(q *question, yield func([]*identityv1.EnrollmentToken) error) error {
			left := q.limit
			return eachManager(q, manager, func(m *identityv1.Manager) error {
				names[m.GetManagerId()] = m.GetDisplayName()
				if q.limit > 0 && left <= 0 {
					return nil
				}
				of := *q
				of.limit = left
				return pages(&of, func(size int32, token string) ([]*identityv1.EnrollmentToken, string, error) {
					answer, err := q.a.enrolments.ListEnrollmentTokens(q.ctx, &identityv1.ListEnrollmentTokensRequest{ManagerId: m.GetManagerId(), PageSize: size, PageToken: token})
					return answer.GetEnrollmentTokens(), answer.GetNextPageToken(), err
				}, func(items []*identityv1.EnrollmentToken) error {
					left -= int32(len(items))
					return yield(items)
				})
			})
		},
	}
}

func auditResource() resource[*identityv1.AuditEntry] {
	var actor, kind, about string
	return resource[*identityv1.AuditEntry]{
		name: "audit", aliases: []string{"audit-entries", "audit-log"}, short: "List who did what, the newest first", timed: "any",
		example: "  cetrusctl get audit --limit 20\n  cetrusctl get audit --type cetrus.identity.login. --period 7d -o json",
		columns: []column[*identityv1.AuditEntry]{
			col("TIME", func(e *identityv1.AuditEntry) any { return e.GetEventTime() }),
			flex("ACTOR", func(e *identityv1.AuditEntry) any { return e.GetActor() }),
			flex("WHAT", func(e *identityv1.AuditEntry) any {
				return strings.TrimSuffix(strings.TrimPrefix(e.GetType(), "cetrus."), ".v1")
			}),
			flex("CHANGED", func(e *identityv1.AuditEntry) any {
				var fields []string
				for _, c := range e.GetChanges() {
					fields = append(fields, c.GetField())
				}
				return fields
			}),
			wide("ADDRESS", func(e *identityv1.AuditEntry) any { return e.GetAddress() }),
			wideFlex("REASON", func(e *identityv1.AuditEntry) any { return e.GetReason() }),
			wide("ABOUT", func(e *identityv1.AuditEntry) any { return e.GetAggregateId() }),
			wide("EVENT", func(e *identityv1.AuditEntry) any { return e.GetEventId() }),
		},
		flags: func(_ *session, c *cobra.Command) {
			c.Flags().StringVar(&actor, "actor", "", "only what this actor did, as login:ID")
			c.Flags().StringVar(&kind, "type", "", "only types that begin with this, as cetrus.identity.login.")
			c.Flags().StringVar(&about, "about", "", "only what happened to this id")
		},
		each: func(q *question, yield func([]*identityv1.AuditEntry) error) error {
			request := &identityv1.ListAuditEntriesRequest{Actor: actor, TypePrefix: kind, AggregateId: about}
			if p, ok, err := q.period.read(q.ctx, q.s); err != nil {
				return err
			} else if ok {
				request.StartTime, request.EndTime = stamp(p.Start), stamp(p.End)
			}
			return pages(q, func(size int32, token string) ([]*identityv1.AuditEntry, string, error) {
				request.PageSize, request.PageToken = size, token
				answer, err := q.a.audit.ListAuditEntries(q.ctx, request)
				return answer.GetAuditEntries(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

func instancesResource() resource[*meteringv1.Instance] {
	var filter filterFlags
	var open bool
	var access, reason string
	return resource[*meteringv1.Instance]{
		name: "instances", aliases: []string{"instance"}, short: "List runs of applications, the latest first", timed: "today",
		example: "  cetrusctl get instances --application FreeCAD --period yesterday\n  cetrusctl get instances --open -o json",
		columns: []column[*meteringv1.Instance]{
			flex("PERSON", func(i *meteringv1.Instance) any { return cmp.Or(i.GetPrincipalName(), i.GetPrincipalId()) }),
			flex("MACHINE", func(i *meteringv1.Instance) any { return i.GetMachineName() }),
			flex("APPLICATION", func(i *meteringv1.Instance) any { return i.GetApplicationName() }),
			col("OPENED", func(i *meteringv1.Instance) any { return i.GetOpenTime() }),
			col("OPEN", func(i *meteringv1.Instance) any { return i.GetTotals().GetOpen() }),
			col("BUSY", func(i *meteringv1.Instance) any { return i.GetTotals().GetBusy() }),
			wide("CLOSED", func(i *meteringv1.Instance) any { return i.GetCloseTime() }),
			wide("IDLE", func(i *meteringv1.Instance) any { return i.GetTotals().GetIdle() }),
			wide("BACKGROUND", func(i *meteringv1.Instance) any { return i.GetTotals().GetBackground() }),
			wide("TIMEOUTS", func(i *meteringv1.Instance) any { return i.GetTotals().GetTimeouts() }),
			wide("LOST", func(i *meteringv1.Instance) any { return i.GetLost() }),
			wide("ID", func(i *meteringv1.Instance) any { return i.GetInstanceId() }),
		},
		flags: func(s *session, c *cobra.Command) {
			filter.flags(s, c)
			c.Flags().BoolVar(&open, "open", false, "only what is open now, whenever it was opened")
			c.Flags().StringVar(&reason, "reason", "", "why named people are looked at, where the account asks for it")
			wordFlag(c, c.Flags(), &access, "shown", "only those shown there at some time", enumWords[usagev1.SessionAccess]())
		},
		each: func(q *question, yield func([]*meteringv1.Instance) error) error {
			narrow, err := filter.read(q)
			if err != nil {
				return err
			}
			shown, err := enumOf[usagev1.SessionAccess]("shown", access)
			if err != nil {
				return err
			}
			request := &meteringv1.ListInstancesRequest{Filter: narrow, OpenOnly: open, SessionAccess: shown, Reason: reason}
			if !open || q.period != (periodFlags{preset: q.period.preset}) {
				p, _, err := q.period.read(q.ctx, q.s)
				if err != nil {
					return err
				}
				request.StartTime, request.EndTime = stamp(p.Start), stamp(p.End)
			}
			return pages(q, func(size int32, token string) ([]*meteringv1.Instance, string, error) {
				request.PageSize, request.PageToken = size, token
				answer, err := q.a.usage.ListInstances(q.ctx, request)
				return answer.GetInstances(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

func sessionsResource() resource[*identityv1.Session] {
	var login string
	return resource[*identityv1.Session]{
		name: "sessions", aliases: []string{"session"}, short: "List sign-ins that go on: your own, or another login's",
		long: "Sessions at desktops are a report: cetrusctl report sessions.",
		columns: []column[*identityv1.Session]{
			col("SIGNED IN", func(s *identityv1.Session) any { return s.GetCreateTime() }),
			col("LAST USE", func(s *identityv1.Session) any { return s.GetLastUseTime() }),
			col("UNTIL", func(s *identityv1.Session) any { return s.GetExpireTime() }),
			col("ADDRESS", func(s *identityv1.Session) any { return s.GetAddress() }),
			flex("PROGRAM", func(s *identityv1.Session) any { return s.GetUserAgent() }),
			col("THIS", func(s *identityv1.Session) any { return s.GetCurrent() }),
			wide("ID", func(s *identityv1.Session) any { return s.GetSessionId() }),
		},
		names: func(s *identityv1.Session) []string { return []string{s.GetSessionId()} },
		flags: func(s *session, c *cobra.Command) {
			c.Flags().StringVar(&login, "login", "", "those of this login")
			must(c.RegisterFlagCompletionFunc("login", completeNames(s, loginsResource())))
		},
		each: func(q *question, yield func([]*identityv1.Session) error) error {
			id := ""
			if login != "" {
				var err error
				if id, err = one(q, loginsResource(), login, (*identityv1.Login).GetLoginId); err != nil {
					return err
				}
			}
			return pages(q, func(size int32, token string) ([]*identityv1.Session, string, error) {
				answer, err := q.a.signIn.ListSessions(q.ctx, &identityv1.ListSessionsRequest{LoginId: id, PageSize: size, PageToken: token})
				return answer.GetSessions(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}
