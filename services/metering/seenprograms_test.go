package metering

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// seenLines writes a list of seen programs, a page of one after the other.
func seenLines(t *testing.T, api *applicationAPI, account contract.ID, req *meteringv1.ListSeenProgramsRequest) []string {
	t.Helper()
	lines := []string{}
	for {
		resp, err := api.ListSeenPrograms(as(t.Context(), account), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.GetPrograms() {
			line := fmt.Sprintf("%s on %d since %d, last %d", p.GetName(), p.GetMachineCount(), p.GetFirstSeenTime().AsTime().Unix(), p.GetLastSeenTime().AsTime().Unix())
			if p.GetPackaged() {
				line = "package " + line
			}
			if p.GetTemplateId() != "" {
				line += " (" + p.GetTemplateName() + ")"
			}
			lines = append(lines, line)
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			return lines
		}
	}
}

func TestWhatIsSeenAndNotMetered(t *testing.T) {
	t.Parallel()
	s := newService(t, Config{})
	start(t, s)
	account, stranger := resource.NewID(), resource.NewID()
	ctx := as(t.Context(), account)
	api := &applicationAPI{service: s}
	create := func(name string, rules ...*meteringv1.Rule) contract.ID {
		t.Helper()
		resp, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: &meteringv1.Application{DisplayName: name, Rules: rules}})
		if err != nil {
			t.Fatal(err)
		}
		id, err := contract.ParseID(resp.GetApplication().GetRules()[0].GetRuleId())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	writer := create("Writer", &meteringv1.Rule{Executable: "soffice.bin", Title: "Writer$"})
	agents := []contract.ID{resource.NewID(), resource.NewID(), resource.NewID()}
	tell := func(agent int, unix int64, seen ...*usagev1.Sighting) {
		s.seen.take(account, &usagev1.SightingReport{AgentId: agents[agent][:], ReceivedUtcMillis: 1000 * unix, Sightings: seen}, time.Now())
	}
	window := func(executable, class string) *usagev1.Sighting {
		return &usagev1.Sighting{Executable: executable, WindowClass: class, Path: "/usr/bin/" + executable}
	}
	office := window("soffice.bin", "libreoffice-calc")
	titled := window("soffice.bin", "libreoffice-writer")
	titled.RuleId = writer[:]
	tell(0, 100, window("sshd", ""), window("GIMP-2.10", "Gimp"), window("gimp-2.10", ""), office, titled, window("cetrus-agent", "Tray"))
	tell(1, 200, window("gimp-2.10.EXE", "Gimp"), office, &usagev1.Sighting{Package: "Notes_1", WindowClass: "N"}, window("draft", "D"))
	tell(2, 300, window("draft", "D"))

	want := func(what string, req *meteringv1.ListSeenProgramsRequest, lines ...string) {
		t.Helper()
		if diff := cmp.Diff(append([]string{}, lines...), seenLines(t, api, account, req)); diff != "" {
			t.Errorf("%s:\n%s", what, diff)
		}
	}
	want("nobody has asked agents for it", &meteringv1.ListSeenProgramsRequest{})
	if _, err := (&settingsAPI{service: s}).UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
		Settings: &meteringv1.Settings{SightingsWanted: true}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"sightings_wanted"}},
	}); err != nil {
		t.Fatal(err)
	}
	gimp, draft, calc, notes := "gimp-2.10 on 2 since 100, last 200 (GIMP)", "draft on 2 since 200, last 300", "soffice.bin on 1 since 100, last 200 (LibreOffice Calc)", "package notes_1 on 1 since 200, last 200"
	want("windows", &meteringv1.ListSeenProgramsRequest{PageSize: 1}, draft, gimp, notes, calc)
	want("all", &meteringv1.ListSeenProgramsRequest{Windowless: true}, draft, gimp, notes, calc, "sshd on 1 since 100, last 100")
	want("by name", &meteringv1.ListSeenProgramsRequest{NameContains: " IMP"}, gimp)

	create("Drafts", &meteringv1.Rule{Executable: "DRAFT"})
	want("metered a moment ago, which no agent has heard of", &meteringv1.ListSeenProgramsRequest{}, gimp, notes, calc)

	// What every machine has closed meanwhile is not new when one opens it again.
	tell(0, 400)
	tell(1, 400)
	want("closed", &meteringv1.ListSeenProgramsRequest{})
	tell(0, 500, window("gimp-2.10", "Gimp"), window("fresh", "F"))
	want("opened again", &meteringv1.ListSeenProgramsRequest{}, "fresh on 1 since 500, last 500", "gimp-2.10 on 1 since 100, last 500 (GIMP)")
	s.seen.expire(time.Now().Add(reportLife))
	want("forgotten", &meteringv1.ListSeenProgramsRequest{})

	if resp, err := api.ListSeenPrograms(as(t.Context(), stranger), &meteringv1.ListSeenProgramsRequest{Windowless: true}); err != nil || len(resp.GetPrograms()) != 0 || resp.GetSightingsWanted() {
		t.Errorf("a stranger is told %v, %v", resp, err)
	}
	if _, err := api.ListSeenPrograms(ctx, &meteringv1.ListSeenProgramsRequest{PageToken: "x"}); !errs.Is(errs.Invalid, err) {
		t.Errorf("a token that nobody gave: %v", err)
	}
}
