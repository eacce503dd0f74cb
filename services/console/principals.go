package console

import (
	"cmp"
	"slices"
	"strings"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// principalActions are what is done with the people of the desktops.
var principalActions = []action{
	{path: "/principals/{id}/merge", may: administers, do: (*Service).mergePrincipal, confirm: (*Service).confirmMerge},
	{path: "/principals/{id}/forget", may: administers, do: (*Service).forgetPrincipal, confirm: (*Service).confirmForget},
}

// principalLine is a principal as people know it.
type principalLine struct {
	ID, Name string
	// LoginID is whose it is; empty: nobody's yet.
	LoginID, LoginName string
	MergedInto         string
	Forgotten          bool
}

// principalPages bounds how many are read to find those of one login.
const principalPages = 50

func (s *Service) allPrincipals(v *visit) (all []principalLine, err error) {
	token := ""
	for range principalPages {
		answer, err := s.principals.ListPrincipals(v.ctx, &meteringv1.ListPrincipalsRequest{PageSize: searchPageSize, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, p := range answer.GetPrincipals() {
			all = append(all, principalLine{
				ID: p.GetPrincipalId(), Name: cmp.Or(p.GetName(), p.GetPrincipalId()), LoginID: p.GetLoginId(),
				MergedInto: p.GetMergedIntoId(), Forgotten: p.GetForgetTime() != nil,
			})
		}
		if token = answer.GetNextPageToken(); token == "" {
			break
		}
	}
	slices.SortStableFunc(all, func(a, b principalLine) int {
		return cmp.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name))
	})
	return all, nil
}

// principalsOf are a login's principals, and those that are nobody's.
func (s *Service) principalsOf(v *visit, login string) (theirs []principalLine, others []choice, err error) {
	all, err := s.allPrincipals(v)
	for _, p := range all {
		switch {
		case p.LoginID == login:
			theirs = append(theirs, p)
		case p.LoginID == "" && p.MergedInto == "" && !p.Forgotten:
			others = append(others, choice{Value: p.ID, Title: p.Name})
		}
	}
	return theirs, others, err
}

// principalsPage is everybody who was seen at a desktop.
type principalsPage struct {
	Zone  *time.Location
	Find  string
	Items []principalLine
	// More says that there are more than are shown.
	More bool
}

// principalsShown bounds how many are shown at once.
const principalsShown = 500

func (s *Service) principalList(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	all, err := s.allPrincipals(v)
	if err != nil {
		return nil, err
	}
	find := strings.TrimSpace(v.r.URL.Query().Get("find"))
	page := principalsPage{Zone: zone, Find: find}
	for _, p := range all {
		if find == "" || strings.Contains(strings.ToLower(p.Name), strings.ToLower(find)) {
			page.Items = append(page.Items, p)
		}
	}
	if page.More = len(page.Items) > principalsShown; page.More {
		page.Items = page.Items[:principalsShown]
	}
	return page, nil
}

func (s *Service) principalOf(v *visit) (one principalLine, others []choice, err error) {
	all, err := s.allPrincipals(v)
	for _, p := range all {
		if p.ID == v.r.PathValue("id") {
			one = p
		} else if p.MergedInto == "" && !p.Forgotten {
			others = append(others, choice{Value: p.ID, Title: p.Name})
		}
	}
	return one, others, err
}

func (s *Service) confirmMerge(v *visit) (confirmation, error) {
	one, others, err := s.principalOf(v)
	f := v.form(of("/principals", v.r.PathValue("id"), "merge"), nil, "")
	return confirmation{
		Title: "Two that are one person", Text: "“" + one.Name + "” is the same person as another one, into which it is to be merged, for good.",
		Consequences: []string{"Their figures count as one person's from then on, also in what was measured before.", "It cannot be parted again."},
		Button:       "Merge them", Back: "/principals", Form: f,
		Fields: []field{f.Choose("into_principal_id", "Merged into", others, "required")},
	}, err
}

func (s *Service) mergePrincipal(v *visit, f *sent) (outcome, error) {
	_, err := s.principals.MergePrincipal(v.ctx, &meteringv1.MergePrincipalRequest{PrincipalId: v.r.PathValue("id"), IntoPrincipalId: f.text("into_principal_id"), RequestId: f.requestID})
	return outcome{next: "/principals", notice: "They are one person now."}, err
}

func (s *Service) confirmForget(v *visit) (confirmation, error) {
	one, _, err := s.principalOf(v)
	return confirmation{
		Title: "Forget a person", Text: "“" + one.Name + "” is to be forgotten. It cannot be undone.",
		Consequences: []string{
			"The key that their names are kept under is destroyed: nobody can read their name or those of their files any more, in whatever copy of the log or backup.",
			"Their figures stay, as nobody's in particular, so that sums remain right.",
			"Those that were merged into them are forgotten with them.",
			"If they go on to use a monitored desktop, they appear anew, as somebody else.",
		},
		Button: "Forget this person", Back: "/principals",
	}, err
}

func (s *Service) forgetPrincipal(v *visit, _ *sent) (outcome, error) {
	_, err := s.principals.ForgetPrincipal(v.ctx, &meteringv1.ForgetPrincipalRequest{PrincipalId: v.r.PathValue("id")})
	return outcome{next: "/principals", notice: "That person is forgotten."}, err
}
