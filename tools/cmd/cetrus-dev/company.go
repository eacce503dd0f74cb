package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/firm"
)

// bindEvery is how often it is looked for people of whom the platform has just heard.
const bindEvery = 15 * time.Second

// setUp makes the account what the firm's administrator would: its zone, and what is metered.
// What is there already stays.
func setUp(ctx context.Context, client *api.Client) error {
	settings := &meteringv1.Settings{TimeZone: zoneName(), SightingsWanted: true}
	if err := client.Patch(ctx, "/v1/meteringSettings", url.Values{"update_mask": {"time_zone,sightings_wanted"}}, settings, &meteringv1.Settings{}); err != nil {
		return fmt.Errorf("the settings: %w", err)
	}
	existing, err := client.Applications(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, application := range existing {
		known[strings.ToLower(application.GetDisplayName())] = true
	}
	for _, a := range firm.Applications() {
		switch {
		case known[strings.ToLower(a.Name)]:
		case a.Template == "":
			_, err = client.CreateApplication(ctx, a.Own)
		default:
			request := &meteringv1.CreateApplicationFromTemplateRequest{DisplayName: a.Name, Documents: proto.Bool(a.Documents)}
			if a.Documents {
				request.DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME
			}
			err = client.Post(ctx, "/v1/applicationTemplates/"+a.Template+":createApplication", request, &meteringv1.Application{})
		}
		if err != nil {
			return fmt.Errorf("creating the application %s: %w", a.Name, err)
		}
	}
	return nil
}

// zoneName is the zone of this machine: the firm's people work while whoever looks at them does.
func zoneName() string {
	name := os.Getenv("TZ")
	if name == "" {
		if target, err := os.Readlink("/etc/localtime"); err == nil {
			_, name, _ = strings.Cut(filepath.ToSlash(target), "zoneinfo/")
		}
	}
	if _, err := time.LoadLocation(name); name == "" || err != nil {
		return "UTC"
	}
	return name
}

// employ makes the departments and the logins of the firm's people, and binds what is
// measured of each to their login as the platform hears of them, until ctx ends or all are.
// What is refused, as while the platform starts again, is tried again.
func employ(ctx context.Context, client *api.Client, f *firm.Firm, log *slog.Logger) {
	var logins map[string]string
	for ; ; wait(ctx, bindEvery) {
		var err error
		bound := 0
		if logins == nil {
			logins, err = makeLogins(ctx, client, f)
		}
		if err == nil {
			bound, err = bind(ctx, client, logins)
		}
		switch {
		case ctx.Err() != nil || bound == len(f.People):
			return
		case err != nil:
			log.Warn("the people of the company are not all known yet", "error", err)
		}
	}
}

// makeLogins gives the ids of logins by the names of their people.
func makeLogins(ctx context.Context, client *api.Client, f *firm.Firm) (map[string]string, error) {
	groups := &identityv1.ListGroupsResponse{}
	if err := client.Get(ctx, "/v1/groups", url.Values{"page_size": {"1000"}}, groups); err != nil {
		return nil, err
	}
	departments := map[string]string{}
	for _, g := range groups.GetGroups() {
		departments[g.GetDisplayName()] = g.GetGroupId()
	}
	logins := map[string]string{}
	for query := (url.Values{"page_size": {"1000"}}); ; {
		page := &identityv1.ListLoginsResponse{}
		if err := client.Get(ctx, "/v1/logins", query, page); err != nil {
			return nil, err
		}
		for _, login := range page.GetLogins() {
			logins[login.GetDisplayName()] = login.GetLoginId()
		}
		if page.GetNextPageToken() == "" {
			break
		}
		query.Set("page_token", page.GetNextPageToken())
	}
	for _, p := range f.People {
		if departments[p.Department] == "" {
			group := &identityv1.Group{}
			if err := client.Post(ctx, "/v1/groups", &identityv1.Group{DisplayName: p.Department}, group); err != nil {
				return nil, fmt.Errorf("the group %s: %w", p.Department, err)
			}
			departments[p.Department] = group.GetGroupId()
		}
		if logins[p.Name] != "" {
			continue
		}
		login := &identityv1.Login{}
		err := client.Post(ctx, "/v1/logins", &identityv1.Login{
			Name: p.Login, DisplayName: p.Name, MailAddress: p.Login + "@harbour.example",
			Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_APPLICATION_USER}, GroupIds: []string{departments[p.Department]},
			Disabled: !p.Left.IsZero(),
		}, login)
		if err != nil {
			return nil, fmt.Errorf("the login %s: %w", p.Login, err)
		}
		logins[p.Name] = login.GetLoginId()
	}
	return logins, nil
}

// bind binds the people that the platform has heard of, and tells how many are bound.
func bind(ctx context.Context, client *api.Client, logins map[string]string) (bound int, err error) {
	for query := (url.Values{"page_size": {"1000"}}); ; {
		page := &meteringv1.ListPrincipalsResponse{}
		if err := client.Get(ctx, "/v1/principals", query, page); err != nil {
			return bound, err
		}
		for _, principal := range page.GetPrincipals() {
			login := logins[principal.GetName()]
			switch {
			case principal.GetLoginId() != "":
				bound++
				continue
			case login == "" || principal.GetMergedIntoId() != "" || principal.GetForgetTime() != nil:
				continue
			}
			err := client.Post(ctx, "/v1/principals/"+principal.GetPrincipalId()+":bindLogin", &meteringv1.BindLoginRequest{LoginId: login}, &meteringv1.Principal{})
			if err != nil {
				return bound, fmt.Errorf("binding a login: %w", err)
			}
			bound++
		}
		if page.GetNextPageToken() == "" {
			return bound, nil
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}
