package company

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/api"
)

// SetZone makes it the account's.
func SetZone(ctx context.Context, platform *api.Client, zone *time.Location) error {
	settings := &meteringv1.Settings{TimeZone: zone.String()}
	if err := platform.Patch(ctx, "/v1/meteringSettings", url.Values{"update_mask": {"time_zone"}}, settings, settings); err != nil {
		return fmt.Errorf("company: %w", err)
	}
	return nil
}

// Applications gives a platform so many applications, and their ids.
func Applications(ctx context.Context, platform *api.Client, count int) (ids []contract.ID, err error) {
	for n := range count {
		a := &meteringv1.Application{
			DisplayName: fmt.Sprintf("Application %02d", n), Rules: []*meteringv1.Rule{{Executable: fmt.Sprintf("application-%02d", n)}},
			ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(timeoutOf(n)), InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE,
			Documents: hasDocuments(n),
		}
		created, err := platform.CreateApplication(ctx, a)
		if err != nil {
			return nil, fmt.Errorf("company: %w", err)
		}
		id, err := contract.ParseID(created.GetApplicationId())
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// groups is how many groups the people of a company are in.
const groups = 5

// Join gives a platform logins for the company's people and groups for these, and says who is whose
// login. It gives the groups of each principal: one in seven is in none, one in five in two.
func (c *Company) Join(ctx context.Context, platform *api.Client) (map[contract.ID][]contract.ID, error) {
	var ids [groups]string
	for n := range ids {
		var group identityv1.Group
		if err := platform.Post(ctx, "/v1/groups", &identityv1.Group{DisplayName: fmt.Sprintf("Group %d", n)}, &group); err != nil {
			return nil, fmt.Errorf("company: %w", err)
		}
		ids[n] = group.GetGroupId()
	}
	in := make(map[contract.ID][]contract.ID)
	for _, p := range c.people {
		if p.number%7 == 6 {
			continue
		}
		login := &identityv1.Login{Name: fmt.Sprintf("person-%04d", p.number), GroupIds: []string{ids[p.number%groups]}}
		if p.number%5 == 2 {
			login.GroupIds = append(login.GroupIds, ids[(p.number+2)%groups])
		}
		var made identityv1.Login
		if err := platform.Post(ctx, "/v1/logins", login, &made); err != nil {
			return nil, fmt.Errorf("company: %w", err)
		}
		for _, text := range login.GetGroupIds() {
			id, err := contract.ParseID(text)
			if err != nil {
				return nil, err
			}
			in[p.principal] = append(in[p.principal], id)
		}
		bind := &meteringv1.BindLoginRequest{LoginId: made.GetLoginId()}
		if err := platform.Post(ctx, "/v1/principals/"+p.principal.String()+":bindLogin", bind, &meteringv1.Principal{}); err != nil {
			return nil, fmt.Errorf("company: %w", err)
		}
	}
	return in, nil
}
