package console

import (
	"context"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// exported are the pages whose report can be had as a file, and the methods that the report may be.
var exported = map[string][]string{
	"/now":            {meteringv1.UsageService_StreamLiveUsage_FullMethodName},
	"/use":            {meteringv1.UsageService_SummarizeUsage_FullMethodName, meteringv1.ReportService_RankUsage_FullMethodName, meteringv1.ReportService_QueryDistribution_FullMethodName},
	"/concurrent":     {meteringv1.UsageService_QueryConcurrency_FullMethodName},
	"/licences":       {meteringv1.ReportService_QueryLicencesNeeded_FullMethodName},
	"/forecast":       {meteringv1.ReportService_ForecastDemand_FullMethodName},
	"/account-use":    {meteringv1.ReportService_QueryAccountUse_FullMethodName},
	"/unused":         {meteringv1.ReportService_ListUnused_FullMethodName},
	"/idle":           {meteringv1.ReportService_QueryIdle_FullMethodName},
	"/timeline":       {meteringv1.ReportService_QueryTimeline_FullMethodName},
	"/sessions":       {meteringv1.ReportService_SummarizeSessions_FullMethodName},
	"/sessions/{id}":  {meteringv1.ReportService_ListSessionChanges_FullMethodName},
	"/quality":        {meteringv1.UsageService_GetDataQuality_FullMethodName},
	"/instances":      {meteringv1.UsageService_ListInstances_FullMethodName},
	"/instances/{id}": {meteringv1.UsageService_ListIntervals_FullMethodName},
}

// exportPath is before the path of a page for its file.
const exportPath = "/export"

// exportLink is a button that a file is had by.
type exportLink struct{ Title, Address string }

// exportsOf are the files of what a page shows.
func exportsOf(v *visit) (links []exportLink) {
	if v.page == nil || exported[v.page.path] == nil {
		return nil
	}
	query := v.r.URL.Query()
	query.Del("page")
	for _, format := range []string{"csv", "xlsx", "json"} {
		query.Set("format", format)
		links = append(links, exportLink{strings.ToUpper(format), (&url.URL{Path: exportPath + v.r.URL.Path, RawQuery: query.Encode()}).String()})
	}
	return links
}

// errOverheard ends the making of a page whose question is known.
var errOverheard = errors.New("console: the question is known")

// overhearing is a connection that goes no further than the question of some methods, so that a
// page's file is always of the very question that the page asks.
type overhearing struct {
	grpc.ClientConnInterface
	methods  []string
	question *meteringv1.ReportQuestion
}

func (o *overhearing) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if !slices.Contains(o.methods, method) {
		return o.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
	}
	asked, ok := args.(proto.Message)
	if !ok {
		return errOverheard
	}
	o.question = questionOf(asked)
	return errOverheard
}

// NewStream is the same of methods that answer in a stream.
func (o *overhearing) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if !slices.Contains(o.methods, method) {
		return o.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	}
	return overheardStream{o: o, method: method}, nil
}

// overheardStream takes the question of a stream, and nothing else.
type overheardStream struct {
	grpc.ClientStream
	o      *overhearing
	method string
}

// SendMsg implements grpc.ClientStream.
func (s overheardStream) SendMsg(m any) error {
	return s.o.Invoke(context.Background(), s.method, m, nil)
}

// questionOf is what a report was asked, all pages of it.
func questionOf(asked proto.Message) *meteringv1.ReportQuestion {
	asked = proto.Clone(asked)
	for _, name := range []protoreflect.Name{"page_size", "page_token"} {
		if field := asked.ProtoReflect().Descriptor().Fields().ByName(name); field != nil {
			asked.ProtoReflect().Clear(field)
		}
	}
	q := &meteringv1.ReportQuestion{}
	kinds := q.ProtoReflect().Descriptor().Fields()
	for i := range kinds.Len() {
		if kinds.Get(i).Message() == asked.ProtoReflect().Descriptor() {
			q.ProtoReflect().Set(kinds.Get(i), protoreflect.ValueOfMessage(asked.ProtoReflect()))
		}
	}
	return q
}

// question is what a page asks its report.
func (s *Service) question(v *visit, p *page) (*meteringv1.ReportQuestion, error) {
	// Whoever asks for a summary is told the account's zone in one: it is remembered, and is not the question.
	if slices.Contains(exported[p.path], meteringv1.UsageService_SummarizeUsage_FullMethodName) {
		if _, err := s.zone(v.ctx, v.caller.Account); err != nil {
			return nil, err
		}
	}
	heard := &overhearing{ClientConnInterface: s.deps.Metering, methods: exported[p.path]}
	listening := *s
	listening.usage, listening.reports = meteringv1.NewUsageServiceClient(heard), meteringv1.NewReportServiceClient(heard)
	v.overheard = true
	_, err := p.show(&listening, v)
	if others := v.asks().others; len(others) > 0 && err != nil && heard.question != nil {
		// A file does not say what was taken in place of something.
		return nil, errs.New(errs.Invalid, "console.export", "", others[0]+" Choose on the page what the file is to be of")
	}
	if heard.question != nil {
		return heard.question, nil
	}
	if err == nil {
		err = errs.New(errs.Invalid, "console.export", "", "what this page shows is not had as a file")
	}
	return nil, err
}

// export answers with the file of a page's report.
func (s *Service) export(p *page) func(*visit) {
	return func(v *visit) {
		v.page = p
		if err := admits(v, p.may, "this file is for others"); err != nil {
			s.fail(v, err)
			return
		}
		question, err := s.question(v, p)
		if err != nil {
			s.fail(v, err)
			return
		}
		asked := v.r.URL.Query().Get("format")
		format := meteringv1.ExportFormat(meteringv1.ExportFormat_value["EXPORT_FORMAT_"+strings.ToUpper(asked)])
		if asked != "" && format == meteringv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED {
			s.fail(v, errs.New(errs.Invalid, "console.export", "format", "“"+cut(asked, 40)+"” is none of csv, xlsx and json"))
			return
		}
		stream, err := meteringv1.NewExportServiceClient(s.deps.Metering).ExportReport(v.ctx, &meteringv1.ExportReportRequest{Report: question, Format: format})
		giveFile(s, v, stream, err)
	}
}

// filePart is a part of a file that the API sends; the first says what it is.
type filePart interface {
	GetFileName() string
	GetContentType() string
	GetContent() []byte
}

// giveFile answers with a file that was asked for, or with why there is none.
func giveFile[P filePart](s *Service, v *visit, file interface{ Recv() (P, error) }, err error) {
	var part P
	if err == nil {
		part, err = file.Recv()
	}
	if err != nil {
		s.fail(v, err)
		return
	}
	v.w.Header().Set("Content-Type", part.GetContentType())
	v.w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": part.GetFileName()}))
	out := http.NewResponseController(v.w)
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // of the connection, which may be asked again
	for ; err == nil; part, err = file.Recv() {
		// A browser that takes nothing any more must not keep the place of another export.
		if err := out.SetWriteDeadline(time.Now().Add(slowReader)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return
		}
		if _, err := v.w.Write(part.GetContent()); err != nil {
			return // the browser is gone
		}
	}
	if !errors.Is(err, io.EOF) {
		s.deps.Logger.WarnContext(v.ctx, "a file broke off", "path", v.r.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // half a file must not look like a whole one
	}
}

// exportRoutes are the addresses of files.
func (s *Service) exportRoutes(mux *http.ServeMux) {
	for i := range pages {
		if exported[pages[i].path] != nil {
			mux.HandleFunc("GET "+exportPath+pages[i].path, s.admitted(s.export(&pages[i])))
		}
	}
}
