package console

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// applicationActions are what is done with applications.
var applicationActions = []action{
	{path: "/applications/templates", page: "/applications", may: administers, do: (*Service).meterTemplates},
	{path: "/applications/seen", page: "/applications", may: administers, do: (*Service).meterSeen},
	{path: "/applications/sightings", page: "/applications", may: administers, do: (*Service).wantSightings},
	{path: "/applications/{id}", page: "/applications/{id}", may: administers, do: (*Service).saveApplication, taken: "display_name"},
	{path: "/applications/{id}/delete", may: administers, do: (*Service).deleteApplication, confirm: (*Service).confirmDeleteApplication},
}

// What the page of applications shows.
const (
	showMetered   = "metered"
	showTemplates = "templates"
	showSeen      = "seen"
)

// catalogue is the page of applications: those that are metered, those that are ready to switch
// on, and what agents see of others.
type catalogue struct {
	listPage[*meteringv1.Application]
	// Administers says that the person may change them.
	Administers bool
	Show        string
	// Categories are the templates by what they are for.
	Categories []templateCategory
	Seen       *seenPage
	Switch     *form
	Meter      *form
	Rollout    *rollout
}

// Tabs lead to the parts of the page.
func (catalogue) Tabs() []choice {
	return []choice{{Value: showMetered, Title: "Metered"}, {Value: showTemplates, Title: "Ready to switch on"}, {Value: showSeen, Title: "Seen, not metered"}}
}

// templateCategory is a part of the templates.
type templateCategory struct {
	Name  string
	Items []readyTemplate
}

// readyTemplate is a template, and whether there is an application of its name.
type readyTemplate struct {
	*meteringv1.ApplicationTemplate
	Metered bool
}

// seenPage is what agents see and nobody meters.
type seenPage struct {
	Answer     *meteringv1.ListSeenProgramsResponse
	Name       string
	Windowless bool
	NextPage   string
	Sightings  *form
}

func (s *Service) applications(v *visit) (any, error) {
	page := catalogue{Administers: administers(v.caller.Privileges), Show: s.shownOf(v)}
	var err error
	if !page.Administers || page.Show == showMetered {
		page.listPage, err = list(s, v, func(size int32, token string) ([]*meteringv1.Application, string, error) {
			answer, err := s.programs.ListApplications(v.ctx, &meteringv1.ListApplicationsRequest{PageSize: size, PageToken: token})
			return answer.GetApplications(), answer.GetNextPageToken(), err
		})
	} else {
		page.Zone, err = s.zone(v.ctx, v.caller.Account)
	}
	if err != nil || !page.Administers {
		return page, err
	}
	if page.Rollout, err = s.rolloutOf(v, "/applications/rollout", 0); err != nil {
		return nil, err
	}
	switch page.Show {
	case showTemplates:
		page.Switch = v.form("/applications/templates", nil, "")
		page.Categories, err = s.readyTemplates(v)
	case showSeen:
		page.Meter = v.form("/applications/seen", nil, "")
		page.Seen, err = s.seen(v)
	}
	return page, err
}

// shownOf is what part of the page is asked for, or stands where a form of it was just refused.
func (s *Service) shownOf(v *visit) string {
	show := v.r.URL.Query().Get("show")
	if v.refused != nil {
		show = showSeen
		if v.refused.action == "/applications/templates" {
			show = showTemplates
		}
	}
	if show == showTemplates || show == showSeen {
		return show
	}
	return showMetered
}

func (s *Service) readyTemplates(v *visit) (categories []templateCategory, err error) {
	answer, err := s.programs.ListApplicationTemplates(v.ctx, &meteringv1.ListApplicationTemplatesRequest{})
	if err != nil {
		return nil, err
	}
	there, err := s.allPrograms(v)
	if err != nil {
		return nil, err
	}
	metered := map[string]bool{}
	for _, p := range there {
		metered[strings.ToLower(p.Title)] = true
	}
	for _, t := range answer.GetTemplates() {
		if n := len(categories); n == 0 || categories[n-1].Name != t.GetCategory() {
			categories = append(categories, templateCategory{Name: t.GetCategory()})
		}
		last := &categories[len(categories)-1]
		last.Items = append(last.Items, readyTemplate{t, metered[strings.ToLower(t.GetDisplayName())]})
	}
	return categories, nil
}

// Title is a category as people know it.
func (c templateCategory) Title() string {
	if title, known := map[string]string{
		"office": "Office", "cad": "CAD and building", "gis": "Maps and geodata", "ide": "Writing software and text", "browser": "Browsers",
		"engineering": "Calculation and simulation", "analysis": "Figures and statistics", "business": "Planning and business", "pdf": "PDF", "media": "Pictures, sound and film", "remote": "Remote desktops",
	}[c.Name]; known {
		return title
	}
	return c.Name
}

func (s *Service) seen(v *visit) (*seenPage, error) {
	query := v.r.URL.Query()
	page := &seenPage{Name: query.Get("name"), Windowless: query.Get("windowless") != ""}
	answer, err := s.programs.ListSeenPrograms(v.ctx, &meteringv1.ListSeenProgramsRequest{
		NameContains: page.Name, Windowless: page.Windowless, PageSize: listPageSize, PageToken: query.Get("page"),
	})
	if err != nil {
		return nil, err
	}
	page.Answer = answer
	if next := answer.GetNextPageToken(); next != "" {
		page.NextPage = with(query, "page", next)
	}
	page.Sightings = v.form("/applications/sightings", nil, "")
	return page, nil
}

// commandOf is the id of one of several commands that a form gives.
func commandOf(f *sent, part string) string {
	form, err := uuid.Parse(f.requestID)
	if err != nil {
		return ""
	}
	return uuid.NewSHA1(form, []byte(part)).String()
}

// meterTemplates switches on what was chosen. What is switched on stays so where a later one is
// refused.
func (s *Service) meterTemplates(v *visit, f *sent) (outcome, error) {
	chosen := f.all("template")
	if len(chosen) == 0 {
		return outcome{}, errs.New(errs.Invalid, "console.applications", "", "none is chosen: check the programs that are to be metered")
	}
	for n, id := range chosen {
		_, err := s.programs.CreateApplicationFromTemplate(v.ctx, &meteringv1.CreateApplicationFromTemplateRequest{TemplateId: id, RequestId: commandOf(f, id)})
		if err != nil {
			if n > 0 {
				s.deps.Logger.InfoContext(v.ctx, "some of the templates that were chosen are switched on, another is refused", "template", id, "switched_on", n)
			}
			return outcome{}, err
		}
	}
	notice := "It is metered from now on."
	if len(chosen) > 1 {
		notice = fmt.Sprintf("These %d are metered from now on.", len(chosen))
	}
	return outcome{next: "/applications", notice: notice}, nil
}

// meterSeen has a program metered that agents saw: by its template where it is known, else by its
// name.
func (s *Service) meterSeen(v *visit, f *sent) (outcome, error) {
	var application *meteringv1.Application
	name := f.text("name")
	if template := f.text("template"); template != "" {
		answer, err := s.programs.CreateApplicationFromTemplate(v.ctx, &meteringv1.CreateApplicationFromTemplateRequest{TemplateId: template, RequestId: f.requestID})
		if err != nil {
			return outcome{}, err
		}
		application = answer.GetApplication()
	} else {
		answer, err := s.programs.CreateApplication(v.ctx, &meteringv1.CreateApplicationRequest{
			Application: &meteringv1.Application{DisplayName: name, Rules: []*meteringv1.Rule{ruleByName(name, f.is("packaged"))}}, RequestId: f.requestID,
		})
		if err != nil {
			return outcome{}, err
		}
		application = answer.GetApplication()
	}
	return outcome{next: of("/applications", application.GetApplicationId()), notice: application.GetDisplayName() + " is metered from now on. Give it a better name here, or other rules."}, nil
}

func ruleByName(name string, packaged bool) *meteringv1.Rule {
	if packaged {
		return &meteringv1.Rule{Package: name}
	}
	return &meteringv1.Rule{Executable: name}
}

func (s *Service) wantSightings(v *visit, f *sent) (outcome, error) {
	wanted := f.is("wanted")
	_, err := s.settings.UpdateSettings(v.ctx, &meteringv1.UpdateSettingsRequest{
		Settings: &meteringv1.Settings{SightingsWanted: wanted}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"sightings_wanted"}}, RequestId: f.requestID,
	})
	notice := "Agents tell the names of other programs from now on; the notice to people says so."
	if !wanted {
		notice = "Agents tell nothing of other programs any more, and what they told is forgotten."
	}
	return outcome{next: "/applications?" + url.Values{"show": {showSeen}}.Encode(), notice: notice}, err
}

// rolloutID is that of the part of a page that shows one.
const rolloutID = "rollout"

// rollout is how far a change has come. It asks for itself again.
type rollout struct {
	*meteringv1.PolicyRollout
	Address string
}

// Everywhere says that nothing is to come but from agents that are away.
func (r *rollout) Everywhere() bool { return r.GetCurrentCount() >= r.GetConnectedCount() }

func (s *Service) rolloutOf(v *visit, address string, revision int64) (*rollout, error) {
	answer, err := s.agents.GetPolicyRollout(v.ctx, &meteringv1.GetPolicyRolloutRequest{Revision: revision})
	if err != nil {
		return nil, err
	}
	return &rollout{answer.GetRollout(), address}, nil
}

// showRollout answers with how far the last change of an application, or of all, has come, as a
// part of a page.
func (s *Service) showRollout(v *visit) {
	address, revision := "/applications/rollout", int64(0)
	if id := v.r.PathValue("id"); id != "" {
		answer, err := s.programs.GetApplication(v.ctx, &meteringv1.GetApplicationRequest{ApplicationId: id})
		if err != nil {
			s.fail(v, err)
			return
		}
		address, revision = of("/applications", id, "rollout"), answer.GetApplication().GetPolicyRevision()
	}
	part, err := s.rolloutOf(v, address, revision)
	if err != nil {
		s.fail(v, err)
		return
	}
	var out bytes.Buffer
	if err := s.render(&out, v.r, "application", "rollout", part); err != nil {
		s.deps.Logger.ErrorContext(v.ctx, "a part of a page could not be made", "part", "rollout", "error", err)
		http.Error(v.w, seeLog, http.StatusInternalServerError)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(out.Bytes()) // the browser is gone where this fails
}

func (s *Service) confirmDeleteApplication(v *visit) (confirmation, error) {
	id := v.r.PathValue("id")
	got, err := s.programs.GetApplication(v.ctx, &meteringv1.GetApplicationRequest{ApplicationId: id})
	return confirmation{
		Title: "Delete an application", Text: "“" + got.GetApplication().GetDisplayName() + "” is to be metered no more. It cannot be undone: an application that is made anew is another one.",
		Consequences: []string{"Agents stop watching it within seconds; those that are away do when they connect.", "What was measured of it stays, in every report.", "Its rules are gone."},
		Button:       "Delete the application", Back: of("/applications", id),
	}, err
}

func (s *Service) deleteApplication(v *visit, f *sent) (outcome, error) {
	_, err := s.programs.DeleteApplication(v.ctx, &meteringv1.DeleteApplicationRequest{ApplicationId: v.r.PathValue("id"), RequestId: f.requestID})
	return outcome{next: "/applications", notice: "The application is metered no more."}, err
}

// lengthWords is a setting of an application in words.
func lengthWords(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%d.%03d", d/time.Second, d%time.Second/time.Millisecond), "0"), ".") + " s"
}
