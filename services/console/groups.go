package console

import (
	"net/url"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// groupActions are what is done with groups.
var groupActions = []action{
	{path: "/groups", page: "/groups", may: administers, do: (*Service).createGroup, taken: "display_name"},
	{path: "/groups/{id}", page: "/groups/{id}", may: administers, do: (*Service).updateGroup, taken: "display_name"},
	{path: "/groups/{id}/delete", may: administers, do: (*Service).deleteGroup, confirm: (*Service).confirmDeleteGroup},
}

// groupsPage is the list of groups, with the form for another one.
type groupsPage struct {
	listPage[*identityv1.Group]
	Create *form
}

func (s *Service) groups(v *visit) (any, error) {
	all, err := list(s, v, func(size int32, token string) ([]*identityv1.Group, string, error) {
		answer, err := s.groupsAPI.ListGroups(v.ctx, &identityv1.ListGroupsRequest{PageSize: size, PageToken: token})
		return answer.GetGroups(), answer.GetNextPageToken(), err
	})
	return groupsPage{listPage: all, Create: v.form("/groups", nil, "")}, err
}

func (s *Service) createGroup(v *visit, f *sent) (outcome, error) {
	answer, err := s.groupsAPI.CreateGroup(v.ctx, &identityv1.CreateGroupRequest{
		Group: &identityv1.Group{DisplayName: f.text("display_name")}, RequestId: f.requestID,
	})
	return outcome{next: of("/groups", answer.GetGroup().GetGroupId()), notice: "The group is there. Who is in it is said by each login."}, err
}

// groupPage is one group.
type groupPage struct {
	Zone    *time.Location
	Group   *identityv1.Group
	Members []*identityv1.Login
	// More says that there are more members than are shown.
	More     bool
	Update   *form
	Programs []choice
}

func (s *Service) group(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	id := v.r.PathValue("id")
	got, err := s.groupsAPI.GetGroup(v.ctx, &identityv1.GetGroupRequest{GroupId: id})
	if err != nil {
		return nil, err
	}
	members, err := s.logins.ListLogins(v.ctx, &identityv1.ListLoginsRequest{GroupId: id, PageSize: listPageSize})
	if err != nil {
		return nil, err
	}
	programs, err := s.allPrograms(v)
	if err != nil {
		return nil, err
	}
	group := got.GetGroup()
	return groupPage{
		Zone: zone, Group: group, Members: members.GetLogins(), More: members.GetNextPageToken() != "", Programs: programs,
		Update: v.form(of("/groups", id), url.Values{"display_name": {group.GetDisplayName()}, "denied_application_ids": group.GetDeniedApplicationIds()}, group.GetEtag()),
	}, nil
}

// allPrograms are the account's applications, to choose among.
func (s *Service) allPrograms(v *visit) (all []choice, err error) {
	for token := ""; ; {
		answer, err := s.programs.ListApplications(v.ctx, &meteringv1.ListApplicationsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, a := range answer.GetApplications() {
			all = append(all, choice{Value: a.GetApplicationId(), Title: a.GetDisplayName()})
		}
		if token = answer.GetNextPageToken(); token == "" {
			return all, nil
		}
	}
}

func (s *Service) updateGroup(v *visit, f *sent) (outcome, error) {
	id := v.r.PathValue("id")
	_, err := s.groupsAPI.UpdateGroup(v.ctx, &identityv1.UpdateGroupRequest{
		Group:      &identityv1.Group{GroupId: id, DisplayName: f.text("display_name"), DeniedApplicationIds: f.all("denied_application_ids"), Etag: f.etag()},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "denied_application_ids"}},
		RequestId:  f.requestID,
	})
	return outcome{next: of("/groups", id), notice: "The group is changed."}, err
}

func (s *Service) confirmDeleteGroup(v *visit) (confirmation, error) {
	id := v.r.PathValue("id")
	got, err := s.groupsAPI.GetGroup(v.ctx, &identityv1.GetGroupRequest{GroupId: id})
	return confirmation{
		Title: "Delete a group", Text: "The group “" + got.GetGroup().GetDisplayName() + "” is to be deleted. It cannot be undone.",
		Consequences: []string{"Its logins stay, and get back the applications that were taken away from the group.", "Reports can no longer be narrowed to it."},
		Button:       "Delete the group", Back: of("/groups", id),
	}, err
}

func (s *Service) deleteGroup(v *visit, f *sent) (outcome, error) {
	_, err := s.groupsAPI.DeleteGroup(v.ctx, &identityv1.DeleteGroupRequest{GroupId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: "/groups", notice: "The group is deleted."}, err
}
