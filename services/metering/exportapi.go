package metering

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/metering/export"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// partBytes is how large the parts of a file are that are sent.
const partBytes = 64 << 10

// exportAPI serves cetrus.metering.v1.ExportService.
type exportAPI struct {
	meteringv1.UnimplementedExportServiceServer
	service *Service
}

func (a *exportAPI) ExportReport(req *meteringv1.ExportReportRequest, stream grpc.ServerStreamingServer[meteringv1.ExportReportResponse]) error {
	const op = "metering.ExportReport"
	ctx, err := a.service.asking(stream.Context(), req.GetReport())
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	file, err := a.service.fileOf(ctx, req.GetReport(), req.GetFormat())
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	parts := &partWriter{stream: stream, next: &meteringv1.ExportReportResponse{FileName: file.name, ContentType: file.contentType}}
	if err := file.write(ctx, parts); err != nil {
		return errs.Wrap(op, "", err)
	}
	return parts.send()
}

// asking is the context in which a report's own method would be asked: who calls is judged by
// that method's rule, and sees as far as it lets them.
func (s *Service) asking(ctx context.Context, question *meteringv1.ReportQuestion) (context.Context, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	kind := question.ProtoReflect().WhichOneof(question.ProtoReflect().Descriptor().Oneofs().Get(0))
	if kind == nil {
		return ctx, nil // that nothing is asked is said where it is read
	}
	rule, ok := s.askedBy[kind.Message().FullName()]
	if !ok {
		return nil, errs.New(errs.Internal, "metering.ExportReport", string(kind.Name()), "no method answers this question")
	}
	if caller, err = rule.Admit(caller); err != nil {
		return nil, err
	}
	return authn.WithCaller(ctx, caller), nil
}

// rulesOfQuestions are who may ask each report, by what it is asked with.
func rulesOfQuestions() (map[protoreflect.FullName]authz.Rule, error) {
	rules := make(map[protoreflect.FullName]authz.Rule)
	for _, file := range []protoreflect.FileDescriptor{meteringv1.File_cetrus_metering_v1_usage_proto, meteringv1.File_cetrus_metering_v1_report_proto} {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				rule, err := authz.Of(methods.Get(j))
				if err != nil {
					return nil, fmt.Errorf("metering: %w", err)
				}
				rules[methods.Get(j).Input().FullName()] = rule
			}
		}
	}
	return rules, nil
}

// partWriter sends a file in parts.
type partWriter struct {
	stream grpc.ServerStreamingServer[meteringv1.ExportReportResponse]
	next   *meteringv1.ExportReportResponse
}

func (w *partWriter) Write(p []byte) (int, error) {
	w.next.Content = append(w.next.GetContent(), p...)
	if len(w.next.GetContent()) < partBytes {
		return len(p), nil
	}
	return len(p), w.send()
}

func (w *partWriter) send() error {
	err := w.stream.Send(w.next)
	// What was sent may still be read where both ends are in one process.
	w.next = &meteringv1.ExportReportResponse{}
	return err
}

// reportFile is a report about to become a file.
type reportFile struct {
	name, contentType string
	// write asks the report with what is in a context, and writes the file. An error may come
	// before the first byte or after any.
	write func(ctx context.Context, w io.Writer) error
	// wrote, where it is set, is told how many rows are written, and how much of the report that is.
	wrote func(rows int64, done portion)
}

// portion is how much of something is done.
type portion struct {
	known   bool
	percent int32
}

// portionOf is a part of a whole, of which the end alone is all.
func portionOf(part, whole int64) portion {
	if whole <= 0 {
		return portion{}
	}
	return portion{true, int32(min(99, perMillion(min(max(part, 0), whole), whole)/10_000))}
}

// tell tells of rows of an answer that are written.
func (f *reportFile) tell(table *reportTable, answer proto.Message, rows int64) {
	if f.wrote == nil {
		return
	}
	var done portion
	if table.done != nil {
		done = table.done(answer, rows)
	}
	f.wrote(rows, done)
}

// fileOf prepares a file of a report; it is asked when it is written.
func (s *Service) fileOf(ctx context.Context, question *meteringv1.ReportQuestion, format meteringv1.ExportFormat) (*reportFile, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	table, err := s.tableOf(question)
	if err != nil {
		return nil, err
	}
	// A report is asked when its account's turn comes, page by page: who reads a file slowly keeps no
	// place of others.
	ask := table.ask
	table.ask = func(ctx context.Context, token string) (answer proto.Message, rows func(yield func(...export.Value) error) error, next string, err error) {
		err = s.exports.do(ctx, caller.Account, func() error {
			answer, rows, next, err = ask(ctx, token)
			return err
		})
		return answer, rows, next, err
	}
	f := &reportFile{}
	f.name, f.contentType = fileNamed(table, format)
	begin := export.NewCSV
	switch format {
	case meteringv1.ExportFormat_EXPORT_FORMAT_JSON:
		f.write = func(ctx context.Context, w io.Writer) error { return writeJSON(ctx, w, table, f) }
		return f, nil
	case meteringv1.ExportFormat_EXPORT_FORMAT_XLSX:
		begin = export.NewXLSX
	case meteringv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED, meteringv1.ExportFormat_EXPORT_FORMAT_CSV:
	}
	f.write = func(ctx context.Context, w io.Writer) error { return s.writeTable(ctx, caller, w, table, f, begin) }
	return f, nil
}

// fileNamed is what a file of a report is called, and what it is.
func fileNamed(table *reportTable, format meteringv1.ExportFormat) (name, contentType string) {
	switch format {
	case meteringv1.ExportFormat_EXPORT_FORMAT_JSON:
		return table.file + ".json", "application/json"
	case meteringv1.ExportFormat_EXPORT_FORMAT_XLSX:
		return table.file + ".xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
	case meteringv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED, meteringv1.ExportFormat_EXPORT_FORMAT_CSV:
	}
	return table.file + ".csv", "text/csv; charset=utf-8"
}

func (s *Service) writeTable(ctx context.Context, caller authn.Caller, w io.Writer, table *reportTable, f *reportFile, begin func(io.Writer, export.Table) (export.Writer, error)) error {
	zone, err := s.zoneOf(ctx, caller, table.question)
	if err != nil {
		return err
	}
	var out export.Writer
	var facts []export.Fact
	written := int64(0)
	for token := ""; ; {
		answer, rows, next, err := table.ask(ctx, token)
		if err != nil {
			return err
		}
		if out == nil { // what is wrong with the question is said before the file begins
			facts = s.factsOf(ctx, caller, table, answer, zone)
			out, err = begin(w, export.Table{Title: table.title, Columns: table.columns, Zone: zone, Currency: table.currency, Digits: table.digits})
			if err != nil {
				return err
			}
			defer func() { _ = out.Close() }() // it only gives back what writing has taken
		}
		if err := rows(func(values ...export.Value) error { written++; return out.Row(values...) }); err != nil {
			return err
		}
		f.tell(table, answer, written)
		if token = next; token == "" {
			return out.Finish(facts)
		}
	}
}

// zoneOf is where the times of a report are shown.
func (s *Service) zoneOf(ctx context.Context, caller authn.Caller, question proto.Message) (*time.Location, error) {
	var name string
	if q, ok := question.(interface{ GetTimeZone() string }); ok {
		name = q.GetTimeZone()
	}
	if name == "" {
		settings, err := s.settingsOf(ctx, caller.Account)
		if err != nil {
			return nil, err
		}
		name = settings.TimeZone
	}
	zone, err := loadZone(name)
	if err != nil {
		return nil, errs.InvalidFields("metering.ExportReport", "", errs.Field{Path: "time_zone", Description: err.Error()})
	}
	return zone, nil
}

// factsOf is what is to be known of a table: what was asked, and how far it can be trusted.
func (s *Service) factsOf(ctx context.Context, caller authn.Caller, table *reportTable, answer proto.Message, zone *time.Location) []export.Fact {
	stamp := func(t *timestamppb.Timestamp) string { return t.AsTime().In(zone).Format(time.RFC3339) }
	facts := []export.Fact{{Name: "Report", Value: table.title}, {Name: "Exported", Value: time.Now().In(zone).Format(time.RFC3339)}, {Name: "Times by the clock of", Value: zone.String()}}
	asked := table.question.ProtoReflect()
	fields := asked.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		switch field.Name() {
		case "page_size", "page_token", "reason":
			continue
		}
		if !asked.Has(field) {
			continue
		}
		if at, ok := asked.Get(field).Interface().(protoreflect.Message); ok {
			if t, ok := at.Interface().(*timestamppb.Timestamp); ok {
				facts = append(facts, export.Fact{Name: string(field.Name()), Value: stamp(t)})
				continue
			}
		}
		facts = append(facts, export.Fact{Name: string(field.Name()), Value: fieldText(asked, field)})
	}
	facts = append(facts, comparedFacts(answer, stamp)...)
	if table.facts != nil {
		facts = append(facts, table.facts(answer)...)
	}
	if a, ok := answer.(interface{ GetPosition() string }); ok {
		facts = append(facts, export.Fact{Name: "Counted up to position", Value: a.GetPosition()})
	}
	if a, ok := answer.(interface {
		GetDataSinceTime() *timestamppb.Timestamp
	}); ok && a.GetDataSinceTime() != nil {
		facts = append(facts, export.Fact{Name: "Kept since", Value: stamp(a.GetDataSinceTime()) + ": what was before is not in the figures"})
	}
	return append(facts, s.qualityFacts(ctx, caller)...)
}

// comparedFacts tell which period an answer is compared with.
func comparedFacts(answer proto.Message, stamp func(*timestamppb.Timestamp) string) []export.Fact {
	m := answer.ProtoReflect()
	field := m.Descriptor().Fields().ByName("compare")
	if field == nil || !m.Has(field) {
		return nil
	}
	other, ok := m.Get(field).Message().Interface().(interface {
		GetStartTime() *timestamppb.Timestamp
		GetEndTime() *timestamppb.Timestamp
	})
	if !ok {
		return nil
	}
	return []export.Fact{{Name: "Before", Value: stamp(other.GetStartTime()) + " to " + stamp(other.GetEndTime())}}
}

// fieldText is a field as the API's JSON has it.
func fieldText(m protoreflect.Message, field protoreflect.FieldDescriptor) string {
	one := m.New()
	one.Set(field, m.Get(field))
	var fields map[string]json.RawMessage
	encoded, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(one.Interface())
	if err == nil {
		err = json.Unmarshal(encoded, &fields)
	}
	if err != nil {
		return err.Error()
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, fields[string(field.Name())]); err != nil {
		return err.Error()
	}
	var word string
	if json.Unmarshal(compact.Bytes(), &word) == nil {
		return word
	}
	return compact.String()
}

// qualityFacts is how far the figures can be trusted, for those who may know of the account's
// agents. That it cannot be told is no reason for there to be no file.
func (s *Service) qualityFacts(ctx context.Context, caller authn.Caller) []export.Fact {
	if caller.Reach != authzv1.Reach_REACH_ACCOUNT {
		return nil
	}
	api := &usageAPI{service: s}
	q, err := api.GetDataQuality(ctx, &meteringv1.GetDataQualityRequest{})
	if err != nil {
		return []export.Fact{{Name: "Data quality", Value: "could not be told: GET /v1/dataQuality says more"}}
	}
	var aside, missing int64
	for _, reason := range q.GetQuarantined() {
		aside += reason.GetCount()
	}
	for _, agent := range q.GetAgents() {
		missing += agent.GetMissing()
	}
	facts := []export.Fact{
		{Name: "Data quality, not counted yet", Value: fmt.Sprintf("%d messages", q.GetLag())},
		{Name: "Data quality, set aside", Value: fmt.Sprintf("%d events", aside)},
		{Name: "Data quality, missing", Value: fmt.Sprintf("%d events that agents have not sent yet", missing)},
	}
	for _, c := range q.GetConditions() {
		facts = append(facts, export.Fact{Name: "Data quality, agents " + enumWord(c.GetCondition(), "AGENT_CONDITION_"), Value: fmt.Sprint(c.GetAgents())})
	}
	return facts
}

// answersAsJSON is how answers are written: as the gateway does.
func answersAsJSON() protojson.MarshalOptions {
	return protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
}

// writeJSON writes a report's own answer, its pages as one, a page at a time.
func writeJSON(ctx context.Context, w io.Writer, table *reportTable, f *reportFile) error {
	written := int64(0)
	for token, first := "", true; ; first = false {
		answer, _, next, err := table.ask(ctx, token)
		if err != nil {
			return err
		}
		if table.list == "" {
			return writeJSONMessage(w, "", answer)
		}
		m := answer.ProtoReflect()
		field := m.Descriptor().Fields().ByName(table.list)
		list := m.Get(field).List()
		if first {
			head := proto.Clone(answer)
			head.ProtoReflect().Clear(field)
			if err := writeJSONHead(w, head, string(table.list)); err != nil {
				return err
			}
		}
		for i := range list.Len() {
			before := ","
			if first && i == 0 {
				before = ""
			}
			if err := writeJSONMessage(w, before, list.Get(i).Message().Interface()); err != nil {
				return err
			}
		}
		written += int64(list.Len())
		f.tell(table, answer, written)
		if token = next; token == "" {
			_, err := io.WriteString(w, "]}\n")
			return err
		}
	}
}

func writeJSONMessage(w io.Writer, before string, m proto.Message) error {
	encoded, err := answersAsJSON().Marshal(m)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(w, before); err != nil {
		return err
	}
	_, err = w.Write(encoded)
	return err
}

// writeJSONHead writes all of an answer but its list, which it begins.
func writeJSONHead(w io.Writer, head proto.Message, list string) error {
	encoded, err := answersAsJSON().Marshal(head)
	if err != nil {
		return err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &fields); err != nil {
		return err
	}
	delete(fields, list)
	fields["next_page_token"] = json.RawMessage(`""`)
	out := bytes.NewBufferString("{")
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(out, "%q:%s,", name, fields[name])
	}
	fmt.Fprintf(out, "%q:[", list)
	_, err = out.WriteTo(w)
	return err
}
