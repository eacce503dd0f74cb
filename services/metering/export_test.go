package metering

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xuri/excelize/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// parts gathers what an export sends.
type parts struct {
	grpc.ServerStream
	ctx   context.Context
	first *meteringv1.ExportReportResponse
	file  bytes.Buffer
}

func (p *parts) Context() context.Context { return p.ctx }

func (p *parts) Send(part *meteringv1.ExportReportResponse) error {
	if p.first == nil {
		p.first = part
	}
	_, err := p.file.Write(part.GetContent())
	return err
}

func exportOf(ctx context.Context, s *Service, q *meteringv1.ReportQuestion, format meteringv1.ExportFormat) (*parts, error) {
	p := &parts{ctx: ctx}
	return p, (&exportAPI{service: s}).ExportReport(&meteringv1.ExportReportRequest{Report: q, Format: format}, p)
}

// questions are one of each kind of report about a world.
func questions(t *rapid.T, w *world) []*meteringv1.ReportQuestion {
	from, to := drawPeriod(t, w, 4)
	filter := drawFilter(t, w)
	summary := drawSummary(t, w)
	summary.PageSize, summary.PageToken = 0, ""
	all := []*meteringv1.ReportQuestion{
		{Question: &meteringv1.ReportQuestion_Usage{Usage: summary}},
		{Question: &meteringv1.ReportQuestion_Instances{Instances: &meteringv1.ListInstancesRequest{Filter: filter}}},
		{Question: &meteringv1.ReportQuestion_Intervals{Intervals: &meteringv1.ListIntervalsRequest{InstanceId: pick(t, "instance", w.usage).Instance.String()}}},
		{Question: &meteringv1.ReportQuestion_Concurrency{Concurrency: &meteringv1.QueryConcurrencyRequest{StartTime: from, EndTime: to, Filter: filter, Step: durationpb.New(6 * time.Hour)}}},
		{Question: &meteringv1.ReportQuestion_Demand{Demand: &meteringv1.QueryDemandRequest{StartTime: from, EndTime: to, Filter: filter, GiveBackAfter: []*durationpb.Duration{durationpb.New(time.Minute)}}}},
		{Question: &meteringv1.ReportQuestion_LicencesNeeded{LicencesNeeded: &meteringv1.QueryLicencesNeededRequest{StartTime: from, EndTime: to, Filter: filter, PriceMinorUnits: proto.Int64(12345), CurrencyCode: "EUR"}}},
		{Question: &meteringv1.ReportQuestion_Ranking{Ranking: &meteringv1.RankUsageRequest{StartTime: from, EndTime: to, Filter: filter, GroupBy: meteringv1.GroupBy_GROUP_BY_PRINCIPAL}}},
		{Question: &meteringv1.ReportQuestion_Unused{Unused: &meteringv1.ListUnusedRequest{StartTime: from, EndTime: to, Filter: filter, By: meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE}}},
		{Question: &meteringv1.ReportQuestion_Idle{Idle: &meteringv1.QueryIdleRequest{StartTime: from, EndTime: to, Filter: filter}}},
		{Question: &meteringv1.ReportQuestion_Timeline{Timeline: drawTimeline(t, from, to, filter)}},
		{Question: &meteringv1.ReportQuestion_Sessions{Sessions: &meteringv1.SummarizeSessionsRequest{StartTime: from, EndTime: to, Filter: filter, GroupBy: meteringv1.SessionGroupBy(rapid.Int32Range(0, 4).Draw(t, "sessions by"))}}},
		{Question: &meteringv1.ReportQuestion_Distribution{Distribution: &meteringv1.QueryDistributionRequest{StartTime: from, EndTime: to, Filter: filter, Open: rapid.Bool().Draw(t, "open")}}},
		{Question: &meteringv1.ReportQuestion_DataQuality{DataQuality: &meteringv1.GetDataQualityRequest{StartTime: from, EndTime: to, Filter: filter, GradesOnly: rapid.Bool().Draw(t, "grades only")}}},
		{Question: &meteringv1.ReportQuestion_AccountUse{AccountUse: &meteringv1.QueryAccountUseRequest{FirstMonth: "2023-01", LastMonth: "2023-03"}}},
		{Question: &meteringv1.ReportQuestion_Live{Live: &meteringv1.StreamLiveUsageRequest{Filter: filter}}},
	}
	// A session of which only documents are told has no changes.
	if whole := slices.DeleteFunc(slices.Clone(w.usage), func(u agentlog.Usage) bool { return !u.HasClosed || !u.Document.IsZero() }); len(whole) > 0 {
		all = append(all, &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_SessionChanges{SessionChanges: &meteringv1.ListSessionChangesRequest{
			SessionId: pick(t, "session", whole).Session.String(),
		}}})
	}
	return all
}

// drawTimeline is a timeline of any rows, exact or in steps.
func drawTimeline(t *rapid.T, from, to *timestamppb.Timestamp, filter *meteringv1.UsageFilter) *meteringv1.QueryTimelineRequest {
	req := &meteringv1.QueryTimelineRequest{StartTime: from, EndTime: to, Filter: filter, RowBy: meteringv1.TimelineRowBy(rapid.Int32Range(0, 4).Draw(t, "rows"))}
	if rapid.Bool().Draw(t, "in steps") {
		req.Resolution = durationpb.New(time.Hour)
	}
	req.Documents = req.GetRowBy() < meteringv1.TimelineRowBy_TIMELINE_ROW_BY_PRINCIPAL && rapid.Bool().Draw(t, "documents")
	return req
}

// answerOf asks the report itself, page by page where it has pages, and puts them into one.
func answerOf(ctx context.Context, t failer, s *Service, q *meteringv1.ReportQuestion) proto.Message {
	t.Helper()
	usage, reports := &usageAPI{service: s}, &reportAPI{service: s}
	var whole proto.Message
	for token := ""; ; {
		var answer proto.Message
		var err error
		switch q := q.GetQuestion().(type) {
		case *meteringv1.ReportQuestion_Usage:
			req := proto.CloneOf(q.Usage)
			req.PageToken, req.PageSize = token, 3
			answer, err = usage.SummarizeUsage(ctx, req)
		case *meteringv1.ReportQuestion_Instances:
			req := proto.CloneOf(q.Instances)
			req.PageToken, req.PageSize = token, 3
			answer, err = usage.ListInstances(ctx, req)
		case *meteringv1.ReportQuestion_Intervals:
			req := proto.CloneOf(q.Intervals)
			req.PageToken, req.PageSize = token, 3
			answer, err = usage.ListIntervals(ctx, req)
		case *meteringv1.ReportQuestion_Unused:
			req := proto.CloneOf(q.Unused)
			req.PageToken, req.PageSize = token, 3
			answer, err = reports.ListUnused(ctx, req)
		case *meteringv1.ReportQuestion_Concurrency:
			answer, err = usage.QueryConcurrency(ctx, q.Concurrency)
		case *meteringv1.ReportQuestion_Demand:
			answer, err = reports.QueryDemand(ctx, q.Demand)
		case *meteringv1.ReportQuestion_LicencesNeeded:
			answer, err = reports.QueryLicencesNeeded(ctx, q.LicencesNeeded)
		case *meteringv1.ReportQuestion_Ranking:
			answer, err = reports.RankUsage(ctx, q.Ranking)
		case *meteringv1.ReportQuestion_Idle:
			answer, err = reports.QueryIdle(ctx, q.Idle)
		case *meteringv1.ReportQuestion_Timeline:
			req := proto.CloneOf(q.Timeline)
			req.PageToken, req.PageSize = token, 3
			answer, err = reports.QueryTimeline(ctx, req)
		case *meteringv1.ReportQuestion_Sessions:
			req := proto.CloneOf(q.Sessions)
			req.PageToken, req.PageSize = token, 3
			answer, err = reports.SummarizeSessions(ctx, req)
		case *meteringv1.ReportQuestion_SessionChanges:
			req := proto.CloneOf(q.SessionChanges)
			req.PageToken, req.PageSize = token, 3
			answer, err = reports.ListSessionChanges(ctx, req)
		case *meteringv1.ReportQuestion_Distribution:
			answer, err = reports.QueryDistribution(ctx, q.Distribution)
		case *meteringv1.ReportQuestion_DataQuality:
			answer, err = usage.GetDataQuality(ctx, q.DataQuality)
		case *meteringv1.ReportQuestion_AccountUse:
			answer, err = reports.QueryAccountUse(ctx, q.AccountUse)
		case *meteringv1.ReportQuestion_Live:
			answer, err = usage.liveNow(ctx, q.Live)
		}
		if err != nil {
			t.Fatal(err)
		}
		m := answer.ProtoReflect()
		next := m.Descriptor().Fields().ByName("next_page_token")
		if next == nil {
			return answer
		}
		token = m.Get(next).String()
		m.Clear(next)
		if whole == nil {
			whole = answer
		} else {
			m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
				if field.IsList() {
					list := whole.ProtoReflect().Mutable(field).List()
					for i := range value.List().Len() {
						list.Append(value.List().Get(i))
					}
				}
				return true
			})
		}
		if token == "" {
			return whole
		}
	}
}

// columnSums adds up the figures of a table by the names of its columns, exactly.
func columnSums(lines [][]string, unit func(string) (int64, error)) map[string]int64 {
	sums := map[string]int64{}
	for _, line := range lines[1:] {
		for i, cell := range line {
			if n, err := unit(cell); err == nil {
				sums[lines[0][i]] += n
			}
		}
	}
	return sums
}

// Every report's file has the report's own figures: JSON is its answer, CSV and XLSX have as many
// rows, and their columns add up to the same.
func TestExportsEqualTheirReports(t *testing.T) {
	s := newService(t, Config{})
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		callers := map[string]context.Context{"all": as(t.Context(), w.account), "own": asOwn(t.Context(), w.account, w.persons[0])}
		all := questions(t, w)
		for range 3 { // all of them would take long, and others' turn comes
			q := pick(t, "question", all)
			who := rapid.SampledFrom([]string{"all", "own"}).Draw(t, "who")
			if q.GetIntervals() != nil || q.GetSessionChanges() != nil || q.GetDataQuality() != nil || q.GetAccountUse() != nil {
				who = "all" // another's instance is not found, and what is the account's is not theirs
			}
			ctx := callers[who]
			want := answerOf(ctx, t, s, q)

			asJSON, err := exportOf(ctx, s, q, meteringv1.ExportFormat_EXPORT_FORMAT_JSON)
			if err != nil {
				t.Fatal(err)
			}
			got := want.ProtoReflect().New().Interface()
			if err := protojson.Unmarshal(asJSON.file.Bytes(), got); err != nil {
				t.Fatalf("%v in %s", err, asJSON.file.String())
			}
			if !json.Valid(asJSON.file.Bytes()) || asJSON.first.GetContentType() != "application/json" {
				t.Fatalf("no JSON: %s", asJSON.file.String())
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("%T as %s (-report +file): %s", want, who, diff)
			}

			lines := linesOf(ctx, t, s, q)
			asXLSX, err := exportOf(ctx, s, q, meteringv1.ExportFormat_EXPORT_FORMAT_XLSX)
			if err != nil {
				t.Fatal(err)
			}
			sheet, about := sheetsOf(t, asXLSX.file.Bytes())
			if len(sheet) != len(lines) {
				t.Fatalf("%T: %d rows of XLSX, %d of CSV", want, len(sheet), len(lines))
			}
			if !slices.ContainsFunc(about, func(fact []string) bool { return fact[0] == "Times by the clock of" }) {
				t.Fatalf("the zone is not told: %v", about)
			}
			checkSums(t, want, lines)
		}
	})
}

// millisOf reads a length of time as LibreOffice writes it.
func millisOf(cell string) (int64, error) {
	var hours, minutes, seconds, millis int64
	if _, err := fmt.Sscanf(cell, "%d:%d:%d.%d", &hours, &minutes, &seconds, &millis); err != nil {
		return 0, err
	}
	return ((hours*60+minutes)*60+seconds)*1000 + millis, nil
}

// LibreOffice opens the workbook of every report, and its columns add up to what the report says.
func TestLibreOfficeAddsUpEveryReport(t *testing.T) {
	office, err := exec.LookPath("soffice")
	if err != nil {
		t.Fatal("LibreOffice is needed: tools/bootstrap.sh installs it")
	}
	s := newService(t, Config{})
	converted := false
	checkTables(t, func(rt *rapid.T) {
		if converted { // starting LibreOffice takes seconds
			return
		}
		w := drawWorld(rt)
		w.applyBatches(t.Context(), rt, s.stores)
		if addUpInOffice(as(t.Context(), w.account), t, office, s, questions(rt, w)) > 20 {
			converted = true
		}
	})
	if !converted {
		t.Error("no world had enough rows")
	}
}

// addUpInOffice tells how many rows were added up.
func addUpInOffice(ctx context.Context, t *testing.T, office string, s *Service, all []*meteringv1.ReportQuestion) int {
	t.Helper()
	dir := t.TempDir()
	files := map[string]*parts{}
	arguments := []string{"-env:UserInstallation=file://" + filepath.Join(dir, "profile"), "--headless", "--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true", "--outdir", dir}
	for i, q := range all {
		checkSums(t, answerOf(ctx, t, s, q), linesOf(ctx, t, s, q))
		file, err := exportOf(ctx, s, q, meteringv1.ExportFormat_EXPORT_FORMAT_XLSX)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%d-%s", i, strings.TrimSuffix(file.first.GetFileName(), ".xlsx"))
		files[name] = file
		if err := os.WriteFile(filepath.Join(dir, name+".xlsx"), file.file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, filepath.Join(dir, name+".xlsx"))
	}
	if said, err := exec.CommandContext(t.Context(), office, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	rows := 0
	for i, q := range all {
		var name string
		for n := range files {
			if strings.HasPrefix(n, fmt.Sprintf("%d-", i)) {
				name = n
			}
		}
		written, err := os.ReadFile(filepath.Join(dir, name+".csv"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(written, []byte("\ufeff")))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		want := linesOf(ctx, t, s, q)
		if len(got) != len(want) {
			t.Fatalf("%s: LibreOffice has %d rows, the report %d", name, len(got), len(want))
		}
		rows += len(got) - 1
		seconds := columnSums(want, func(cell string) (int64, error) {
			f, err := strconv.ParseFloat(cell, 64)
			return int64(f*1000 + 0.5), err
		})
		lengths := columnSums(got, millisOf)
		counts := columnSums(got, func(cell string) (int64, error) {
			n, err := strconv.ParseInt(cell, 10, 64)
			return 1000 * n, err
		})
		for c, title := range want[0] {
			plain, isLength := strings.CutSuffix(title, " (s)")
			sums := counts
			if isLength {
				sums = lengths
			}
			switch plain {
			case "Day", "Of the open time", "Cost (EUR)", "Saving (EUR)", "Position": // no sums of their own
				continue
			}
			if strings.HasSuffix(plain, " id") || strings.HasSuffix(plain, "Epoch") || seconds[title] == sums[got[0][c]] {
				continue
			}
			if _, summed := sums[got[0][c]]; summed || isLength {
				t.Errorf("%s: %s adds up to %d in LibreOffice, to %d in the report", name, title, sums[got[0][c]], seconds[title])
			}
		}
	}
	return rows
}

func linesOf(ctx context.Context, t failer, s *Service, q *meteringv1.ReportQuestion) [][]string {
	t.Helper()
	file, err := exportOf(ctx, s, q, meteringv1.ExportFormat_EXPORT_FORMAT_CSV)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(file.file.Bytes(), []byte("\ufeff")))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func sheetsOf(t *rapid.T, file []byte) (sheet, about [][]string) {
	book, err := excelize.OpenReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = book.Close() }()
	names := book.GetSheetList()
	if sheet, err = book.GetRows(names[0], excelize.Options{RawCellValue: true}); err != nil {
		t.Fatal(err)
	}
	if about, err = book.GetRows(names[1]); err != nil {
		t.Fatal(err)
	}
	return sheet, about
}

// checkSums compares the columns of a file with the totals that a report tells.
func checkSums(t failer, answer proto.Message, lines [][]string) {
	millis := columnSums(lines, func(cell string) (int64, error) {
		seconds, err := strconv.ParseFloat(cell, 64)
		return int64(seconds*1000 + 0.5), err
	})
	same := func(column string, want *durationpb.Duration) {
		if got := millis[column+" (s)"]; got != want.AsDuration().Milliseconds() {
			t.Fatalf("%T: %s adds up to %d ms, the report says %v; %v", answer, column, got, want.AsDuration(), lines)
		}
	}
	switch a := answer.(type) {
	case *meteringv1.SummarizeUsageResponse:
		// Its totals are of instances, which may have several documents open, and of people.
		var open, unknown time.Duration
		for _, g := range a.GetGroups() {
			open += g.GetTotals().GetOpen().AsDuration()
			unknown += g.GetTotals().GetUnknown().AsDuration()
		}
		same("Open", durationpb.New(open))
		same("Unknown", durationpb.New(unknown))
	case *meteringv1.RankUsageResponse:
		same("Busy", a.GetTotals().GetBusy())
		same("Open before", a.GetCompareTotals().GetOpen())
	case *meteringv1.QueryIdleResponse:
		same("Idle", a.GetTotal().GetIdle())
	case *meteringv1.QueryTimelineResponse:
		// Bars of documents are of the same time as their instance's.
		var length, documents time.Duration
		bars := func(all []*meteringv1.TimelineBar) (sum time.Duration) {
			for _, b := range all {
				sum += b.GetEndTime().AsTime().Sub(b.GetStartTime().AsTime())
			}
			return sum
		}
		for _, row := range a.GetRows() {
			length += bars(row.GetBars())
			for _, d := range row.GetDocuments() {
				documents += bars(d.GetBars())
			}
		}
		same("Length", durationpb.New(length+documents))
	case *meteringv1.SummarizeSessionsResponse:
		same("Open, of all instances", a.GetTotal().GetInstanceTime().GetOpen())
		same("Busy, of all instances", a.GetTotal().GetInstanceTime().GetBusy())
		var open time.Duration
		for _, g := range a.GetGroups() {
			open += g.GetSessionTime().GetOpen().AsDuration()
		}
		same("Open", durationpb.New(open))
	case *meteringv1.QueryDistributionResponse:
		same("Together", a.GetTotal())
	case *meteringv1.GetDataQualityResponse:
		if n := len(a.GetPeriod().GetFindings()) + len(a.GetPeriod().GetUnknownMachines()) + len(a.GetQuarantined()) + len(a.GetAgents()); len(lines)-1 != n {
			t.Fatalf("%d rows of %d findings, machines, reasons and agents", len(lines)-1, n)
		}
	case *meteringv1.ListInstancesResponse:
		if len(lines)-1 != len(a.GetInstances()) {
			t.Fatalf("%d rows of %d instances", len(lines)-1, len(a.GetInstances()))
		}
	}
}

// What is wrong with a question is said before a file begins, in the report's own words, and who
// may not look gets none.
func TestExportsRefuse(t *testing.T) {
	s := newService(t, Config{})
	account := contract.ID{15: 1}
	at := timestamppb.New(time.Unix(900, 0))
	for name, q := range map[string]*meteringv1.ReportQuestion{
		"end before start": {Question: &meteringv1.ReportQuestion_Demand{Demand: &meteringv1.QueryDemandRequest{StartTime: at, EndTime: at}}},
		"a page":           {Question: &meteringv1.ReportQuestion_Instances{Instances: &meteringv1.ListInstancesRequest{PageToken: "x"}}},
		"no zone":          {Question: &meteringv1.ReportQuestion_Usage{Usage: &meteringv1.SummarizeUsageRequest{StartTime: at, EndTime: timestamppb.New(time.Unix(1800, 0)), TimeZone: "Nowhere"}}},
		"nothing":          {},
	} {
		for _, format := range []meteringv1.ExportFormat{1, 2, 3} {
			p, err := exportOf(as(t.Context(), account), s, q, format)
			if !errs.Is(errs.Invalid, err) || p.first != nil {
				t.Errorf("%s as %v: %v, %v", name, format, err, p.first)
			}
		}
	}
	if _, err := exportOf(t.Context(), s, questions0(at), 1); err == nil {
		t.Error("nobody gets a file")
	}
}

func questions0(at *timestamppb.Timestamp) *meteringv1.ReportQuestion {
	return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Instances{Instances: &meteringv1.ListInstancesRequest{StartTime: at}}}
}

// A file may be had by whoever may ask the report, and shows as much: each kind of question is judged
// by the rule of its own method.
func TestExportsAreForWhoMayAskTheReport(t *testing.T) {
	rules, err := rulesOfQuestions()
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{askedBy: rules}
	methods := map[protoreflect.FullName]*authzv1.Authorization{}
	for _, file := range []protoreflect.FileDescriptor{meteringv1.File_cetrus_metering_v1_usage_proto, meteringv1.File_cetrus_metering_v1_report_proto} {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				m := file.Services().Get(i).Methods().Get(j)
				methods[m.Input().FullName()], _ = proto.GetExtension(m.Options(), authzv1.E_Authorization).(*authzv1.Authorization)
			}
		}
	}
	export, err := authz.Of(meteringv1.File_cetrus_metering_v1_export_proto.Services().Get(0).Methods().Get(0))
	if err != nil {
		t.Fatal(err)
	}
	kinds := (&meteringv1.ReportQuestion{}).ProtoReflect().Descriptor().Fields()
	for i := range kinds.Len() {
		q := questionOfKind(kinds.Get(i))
		if _, err := s.tableOf(q); err != nil {
			t.Errorf("%s has no table: %v", kinds.Get(i).Name(), err)
		}
		for privileges := range authn.AllPrivileges() + 1 {
			want := authzv1.Reach_REACH_UNSPECIFIED
			for _, g := range methods[kinds.Get(i).Message().FullName()].GetGrants() { // the farthest first
				if want == authzv1.Reach_REACH_UNSPECIFIED && slices.ContainsFunc(g.GetPrivileges(), privileges.Has) {
					want = g.GetReach()
				}
			}
			got := authzv1.Reach_REACH_UNSPECIFIED
			if caller, err := export.Admit(authn.Caller{Account: contract.ID{1}, Privileges: privileges}); err == nil {
				if ctx, err := s.asking(authn.WithCaller(t.Context(), caller), q); err == nil {
					caller, err = authn.CallerFrom(ctx)
					if err != nil {
						t.Fatal(err)
					}
					got = caller.Reach
				}
			}
			if got != want {
				t.Errorf("%s with %v reaches %v, want %v", kinds.Get(i).Name(), privileges.List(), got, want)
			}
		}
	}
}

func questionOfKind(kind protoreflect.FieldDescriptor) *meteringv1.ReportQuestion {
	q := &meteringv1.ReportQuestion{}
	q.ProtoReflect().Mutable(kind)
	return q
}
