package metering

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"slices"
	"strconv"
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
	return []*meteringv1.ReportQuestion{
		{Question: &meteringv1.ReportQuestion_Usage{Usage: summary}},
		{Question: &meteringv1.ReportQuestion_Instances{Instances: &meteringv1.ListInstancesRequest{Filter: filter}}},
		{Question: &meteringv1.ReportQuestion_Intervals{Intervals: &meteringv1.ListIntervalsRequest{InstanceId: pick(t, "instance", w.usage).Instance.String()}}},
		{Question: &meteringv1.ReportQuestion_Concurrency{Concurrency: &meteringv1.QueryConcurrencyRequest{StartTime: from, EndTime: to, Filter: filter, Step: durationpb.New(6 * time.Hour)}}},
		{Question: &meteringv1.ReportQuestion_Demand{Demand: &meteringv1.QueryDemandRequest{StartTime: from, EndTime: to, Filter: filter, GiveBackAfter: []*durationpb.Duration{durationpb.New(time.Minute)}}}},
		{Question: &meteringv1.ReportQuestion_LicencesNeeded{LicencesNeeded: &meteringv1.QueryLicencesNeededRequest{StartTime: from, EndTime: to, Filter: filter, PriceMinorUnits: proto.Int64(12345), CurrencyCode: "EUR"}}},
		{Question: &meteringv1.ReportQuestion_Ranking{Ranking: &meteringv1.RankUsageRequest{StartTime: from, EndTime: to, Filter: filter, GroupBy: meteringv1.GroupBy_GROUP_BY_PRINCIPAL}}},
		{Question: &meteringv1.ReportQuestion_Unused{Unused: &meteringv1.ListUnusedRequest{StartTime: from, EndTime: to, Filter: filter, By: meteringv1.UnusedBy_UNUSED_BY_PERSON_AND_MACHINE}}},
		{Question: &meteringv1.ReportQuestion_Idle{Idle: &meteringv1.QueryIdleRequest{StartTime: from, EndTime: to, Filter: filter}}},
	}
}

// answerOf asks the report itself, page by page where it has pages, and puts them into one.
func answerOf(ctx context.Context, t *rapid.T, s *Service, q *meteringv1.ReportQuestion) proto.Message {
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
			if q.GetIntervals() != nil {
				who = "all" // another's instance is not found
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

			asCSV, err := exportOf(ctx, s, q, meteringv1.ExportFormat_EXPORT_FORMAT_CSV)
			if err != nil {
				t.Fatal(err)
			}
			lines, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(asCSV.file.Bytes(), []byte("\ufeff")))).ReadAll()
			if err != nil {
				t.Fatal(err)
			}
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
func checkSums(t *rapid.T, answer proto.Message, lines [][]string) {
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

// A file may be had by whoever may ask the report: each kind of question has the rule of the
// export itself, or the export would open what the report refuses.
func TestExportsAreForWhoMayAskTheReport(t *testing.T) {
	methods := map[protoreflect.FullName]*authzv1.Authorization{}
	for _, file := range []protoreflect.FileDescriptor{meteringv1.File_cetrus_metering_v1_usage_proto, meteringv1.File_cetrus_metering_v1_report_proto} {
		for i := range file.Services().Len() {
			for j := range file.Services().Get(i).Methods().Len() {
				m := file.Services().Get(i).Methods().Get(j)
				rule, _ := proto.GetExtension(m.Options(), authzv1.E_Authorization).(*authzv1.Authorization)
				methods[m.Input().FullName()] = rule
			}
		}
	}
	export := meteringv1.File_cetrus_metering_v1_export_proto.Services().Get(0).Methods().Get(0)
	want, _ := proto.GetExtension(export.Options(), authzv1.E_Authorization).(*authzv1.Authorization)
	kinds := (&meteringv1.ReportQuestion{}).ProtoReflect().Descriptor().Fields()
	for i := range kinds.Len() {
		if diff := cmp.Diff(want, methods[kinds.Get(i).Message().FullName()], protocmp.Transform()); diff != "" {
			t.Errorf("%s: %s", kinds.Get(i).Name(), diff)
		}
		if _, err := (&Service{}).tableOf(questionOfKind(kinds.Get(i))); err != nil {
			t.Errorf("%s has no table: %v", kinds.Get(i).Name(), err)
		}
	}
}

func questionOfKind(kind protoreflect.FieldDescriptor) *meteringv1.ReportQuestion {
	q := &meteringv1.ReportQuestion{}
	q.ProtoReflect().Mutable(kind)
	return q
}
