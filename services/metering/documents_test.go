package metering

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestDocumentsAreWhatTheirEventsSay: however events are batched, the documents of each
// instance are those of its events, page by page, and a summary tells of each how it was
// recognised where that was surest.
func TestDocumentsAreWhatTheirEventsSay(t *testing.T) {
	s := newService(t, Config{})
	api := &usageAPI{service: s}
	reopened, several := 0, 0
	checkTables(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		surest := map[contract.ID]recognised{}
		unsaved := map[contract.ID]bool{}
		for i := range w.usage {
			u := &w.usage[i]
			if u.Document.IsZero() {
				continue
			}
			u.DocumentSource = agentlog.DocumentSource(rapid.IntRange(0, 4).Draw(rt, "source"))
			u.DocumentConfidence = agentlog.DocumentConfidence(rapid.IntRange(0, 3).Draw(rt, "confidence"))
			u.DocumentUnsaved = rapid.Bool().Draw(rt, "unsaved")
			surest[u.Document] = max(surest[u.Document], recognisedOf(u))
			unsaved[u.Document] = unsaved[u.Document] || u.DocumentUnsaved
		}
		w.applyBatches(t.Context(), rt, s.stores)
		ctx := as(t.Context(), w.account)
		for instance, want := range w.documentsByInstance() {
			var got []*meteringv1.Document
			for token := ""; ; {
				resp, err := api.ListDocuments(ctx, &meteringv1.ListDocumentsRequest{InstanceId: instance.String(), PageSize: 1, PageToken: token})
				if err != nil {
					rt.Fatal(err)
				}
				got = append(got, resp.GetDocuments()...)
				if token = resp.GetNextPageToken(); token == "" {
					break
				}
			}
			if diff := gocmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&meteringv1.UsageTotals{}, "open")); diff != "" {
				rt.Fatalf("instance %s: %s", instance, diff)
			}
			if len(want) > 1 {
				several++
			}
			for _, d := range want {
				if d.GetTotals().GetInstances() > 1 {
					reopened++
				}
			}
		}
		resp, err := api.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{
			StartTime: millisStamp(w.from - w.from%900_000), EndTime: millisStamp(w.to - w.to%900_000 + 300*86_400_000),
			GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_DOCUMENT},
		})
		if err != nil {
			rt.Fatal(err)
		}
		for _, g := range resp.GetGroups() {
			id, _ := contract.ParseID(g.GetDocumentId())
			if g.GetDocumentSource() != surest[id].source() || g.GetDocumentConfidence() != surest[id].confidence() || g.GetDocumentUnsaved() != unsaved[id] {
				rt.Fatalf("%v, want %v %v", g, surest[id].source(), surest[id].confidence())
			}
		}
	})
	if reopened < 3 || several < 3 {
		t.Errorf("%d documents were opened again, %d instances had several", reopened, several)
	}
}

// documentsByInstance reads the events as a person would.
func (w *world) documentsByInstance() map[contract.ID][]*meteringv1.Document {
	type key struct{ instance, document contract.ID }
	type row struct {
		opened, decided, closed int64
		recognised              recognised
		unsaved                 bool
		totals                  Totals
	}
	rows := map[key]*row{}
	for i := range w.usage {
		u := &w.usage[i]
		if u.Document.IsZero() {
			continue
		}
		k := key{u.Instance, u.Document}
		if rows[k] == nil {
			rows[k] = &row{opened: u.AtUTCMillis, closed: -1}
		}
		r := rows[k]
		r.recognised, r.unsaved = max(r.recognised, recognisedOf(u)), r.unsaved || u.DocumentUnsaved
		r.decided = max(r.decided, u.AtUTCMillis)
		switch u.Transition {
		case agentlog.Opened:
			r.opened = min(r.opened, u.AtUTCMillis)
			r.totals.Instances++
		case agentlog.TimedOut:
			r.totals.Timeouts++
		case agentlog.Closed:
			r.closed = max(r.closed, u.AtUTCMillis)
		}
		if u.HasClosed {
			r.opened = min(r.opened, u.FromUTCMillis)
			r.totals.Millis[u.ClosedAttention-1] += u.ToUTCMillis - u.FromUTCMillis
		}
	}
	all := map[contract.ID][]*meteringv1.Document{}
	for k, r := range rows {
		d := &meteringv1.Document{
			DocumentId: k.document.String(), OpenTime: millisStamp(r.opened), DecidedTime: millisStamp(r.decided),
			Source: r.recognised.source(), Confidence: r.recognised.confidence(), Unsaved: r.unsaved, Totals: r.totals.message(),
		}
		if r.closed == r.decided {
			d.CloseTime = millisStamp(r.closed)
		}
		all[k.instance] = append(all[k.instance], d)
	}
	for _, documents := range all {
		slices.SortFunc(documents, func(a, b *meteringv1.Document) int {
			return cmp.Or(a.GetOpenTime().AsTime().Compare(b.GetOpenTime().AsTime()), strings.Compare(a.GetDocumentId(), b.GetDocumentId()))
		})
	}
	return all
}

func TestRecognised(t *testing.T) {
	for source := range 5 {
		for confidence := range 4 {
			r := recognisedOf(&agentlog.Usage{DocumentSource: agentlog.DocumentSource(source), DocumentConfidence: agentlog.DocumentConfidence(confidence)})
			if r.source() != usagev1.DocumentSource(source) || r.confidence() != usagev1.DocumentConfidence(confidence) || r < 0 {
				t.Errorf("source %d, confidence %d become %d", source, confidence, r)
			}
		}
	}
}

// TestTemplates: what is known is listed, and becomes an application of the account's
// own, whose title rules agents get.
func TestTemplates(t *testing.T) {
	account := resource.NewID()
	s := newService(t, Config{})
	start(t, s)
	api := &applicationAPI{service: s}
	ctx := as(t.Context(), account)
	var all []*meteringv1.ApplicationTemplate
	for token := ""; ; {
		resp, err := api.ListApplicationTemplates(ctx, &meteringv1.ListApplicationTemplatesRequest{PageSize: 20, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp.GetTemplates()...)
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	ids := map[string]bool{}
	for _, m := range all {
		ids[m.GetTemplateId()] = true
		if m.GetDisplayName() == "" || m.GetCategory() == "" || m.GetSource() == "" || len(m.GetRules()) == 0 || len(m.GetTitleRules()) == 0 || len(m.GetExamples()) == 0 {
			t.Errorf("the template %v lacks something", m)
		}
	}
	if len(all) != len(s.templates.All()) || len(ids) != len(all) {
		t.Fatalf("%d templates on pages, %d different, %d in all", len(all), len(ids), len(s.templates.All()))
	}
	few, err := api.ListApplicationTemplates(ctx, &meteringv1.ListApplicationTemplatesRequest{Category: "gis"})
	if err != nil || len(few.GetTemplates()) != 3 {
		t.Errorf("of gis: %v, %v", few, err)
	}
	if _, err := api.ListApplicationTemplates(ctx, &meteringv1.ListApplicationTemplatesRequest{Category: "games"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("of games: %v", err)
	}
	if _, err := api.ListApplicationTemplates(ctx, &meteringv1.ListApplicationTemplatesRequest{PageToken: markToken("templates", -1, contract.ID{})}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a token that nobody gave: %v", err)
	}

	one, err := api.GetApplicationTemplate(ctx, &meteringv1.GetApplicationTemplateRequest{TemplateId: "freecad"})
	if err != nil || one.GetTemplate().GetTemplateId() != "freecad" || len(one.GetTemplate().GetRules()) == 0 {
		t.Errorf("one template: %v, %v", one, err)
	}
	if _, err := api.GetApplicationTemplate(ctx, &meteringv1.GetApplicationTemplateRequest{TemplateId: "none"}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a template that there is not: %v", err)
	}

	request := &meteringv1.CreateApplicationFromTemplateRequest{
		TemplateId: "freecad", DocumentReduction: policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME, RequestId: resource.NewID().String(),
	}
	made, err := api.CreateApplicationFromTemplate(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	again, err := api.CreateApplicationFromTemplate(ctx, request)
	if err != nil || !proto.Equal(again, made) {
		t.Errorf("the same request made %v, %v", again, err)
	}
	application := made.GetApplication()
	if application.GetDisplayName() != "FreeCAD" || !application.GetDocuments() || len(application.GetTitleRules()) == 0 ||
		application.GetDocumentReduction() != policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME {
		t.Errorf("made %v", application)
	}
	plain, err := api.CreateApplicationFromTemplate(ctx, &meteringv1.CreateApplicationFromTemplateRequest{TemplateId: "qgis", DisplayName: "Maps", Documents: proto.Bool(false)})
	if err != nil || plain.GetApplication().GetDocuments() || plain.GetApplication().GetDisplayName() != "Maps" {
		t.Errorf("made %v, %v", plain, err)
	}
	client, err := api.CreateApplicationFromTemplate(ctx, &meteringv1.CreateApplicationFromTemplateRequest{TemplateId: "remote-desktop-connection"})
	if err != nil || !client.GetApplication().GetRemoteClient() || plain.GetApplication().GetRemoteClient() {
		t.Errorf("made %v, %v", client, err)
	}
	no, err := api.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{
		Application: &meteringv1.Application{ApplicationId: client.GetApplication().GetApplicationId()}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"remote_client"}},
	})
	if err != nil || no.GetApplication().GetRemoteClient() || no.GetApplication().GetDisplayName() == "" {
		t.Errorf("after the mark was taken off: %v, %v", no, err)
	}
	if _, err := api.CreateApplicationFromTemplate(ctx, &meteringv1.CreateApplicationFromTemplateRequest{TemplateId: "doom"}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("of a template that is not there: %v", err)
	}

	// Every template is an application that the catalogue takes, and a policy that agents
	// take.
	catalog := NewCatalog()
	for _, template := range s.templates.All() {
		want := Application{ID: resource.NewID(), DisplayName: template.Name, Rules: identified(template.PolicyRules(), nil), TitleRules: template.PolicyTitleRules(), Documents: true}
		events, err := catalog.DecideDefine(Define{Want: want, Create: true})
		if err != nil {
			t.Errorf("%s: %v", template.ID, err)
		}
		for _, e := range events {
			if _, err := catalog.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
	}
	policy := catalog.Policy(account, 1, DefaultSettings(), make([]byte, 32))
	for _, a := range policy.GetApplications() {
		if len(a.GetTitleRules()) == 0 {
			t.Errorf("the policy of %s has no title rules", a.GetDisplayName())
		}
	}
}

// TestWrongTitleRulesAreRefused by the name of the field and with what is wrong.
func TestWrongTitleRulesAreRefused(t *testing.T) {
	s := newService(t, Config{})
	start(t, s)
	api := &applicationAPI{service: s}
	ctx := as(t.Context(), resource.NewID())
	application := &meteringv1.Application{
		DisplayName: "Editor", Rules: []*meteringv1.Rule{{Executable: "edit"}}, Documents: true,
		TitleRules: []*meteringv1.TitleRule{{Pattern: "^(?P<file>.+) - Edit$"}, {Pattern: "(?P<file>"}},
	}
	refused := func(what string, err error) {
		t.Helper()
		var wrong *errs.Error
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "title_rules[1].pattern") || !strings.Contains(err.Error(), "missing closing )") {
			t.Errorf("%s: %v (%v)", what, err, wrong)
		}
	}
	_, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: application})
	refused("create", err)
	application.TitleRules = application.GetTitleRules()[:1]
	made, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: application})
	if err != nil || len(made.GetApplication().GetTitleRules()) != 1 {
		t.Fatalf("made %v: %v", made, err)
	}
	changed := made.GetApplication()
	changed.TitleRules = append(changed.GetTitleRules(), &meteringv1.TitleRule{Pattern: "(?P<file>"})
	_, err = api.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{Application: changed})
	refused("update", err)
	changed.TitleRules = nil
	cleared, err := api.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{Application: changed})
	if err != nil || len(cleared.GetApplication().GetTitleRules()) != 0 {
		t.Errorf("cleared: %v, %v", cleared, err)
	}
}
