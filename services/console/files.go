package console

import (
	"net/url"
	"strings"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// fileActions are what is done with files that are made in the background.
var fileActions = []action{
	{path: "/files/new", page: "/files/new", may: saves, do: (*Service).makeFile},
	{path: "/files/{id}/cancel", page: "/files", may: saves, do: (*Service).cancelFile},
	{path: "/files/{id}/remove", page: "/files", may: saves, do: (*Service).removeFile},
}

// longPeriod is from where on a file is best made in the background.
const longPeriod = 92 * 24 * time.Hour

// backgroundLink is where a file of a page's report is made while nobody waits.
type backgroundLink struct {
	Address string
	// Recommended says that the report is about a long period.
	Recommended bool
}

// backgroundOf is that of a page; nil where it is no report with a period of its own.
func backgroundOf(v *visit) *backgroundLink {
	if saveAddress(v) == "" {
		return nil
	}
	query := v.r.URL.Query()
	query.Del("page")
	from, err := time.Parse(day, query.Get("from"))
	to, err2 := time.Parse(day, query.Get("to"))
	return &backgroundLink{
		Address:     "/files/new?" + url.Values{ofField: {(&url.URL{Path: v.r.URL.Path, RawQuery: query.Encode()}).String()}}.Encode(),
		Recommended: err == nil && err2 == nil && to.Sub(from) >= longPeriod,
	}
}

// newFilePage is the form that has a file made.
type newFilePage struct {
	Create    *form
	Of, Title string
	Formats   []choice
}

// fileFormats are what a file of a report may be.
func fileFormats() []choice {
	return []choice{{Value: "XLSX", Title: "a workbook (XLSX)"}, {Value: "CSV", Title: "CSV"}, {Value: "JSON", Title: "JSON"}}
}

func (s *Service) newFile(v *visit) (any, error) {
	address := reportOfForm(v)
	if address == "" {
		return newFilePage{}, nil
	}
	_, p, err := s.reportAt(v, address)
	if err != nil {
		return nil, err
	}
	return newFilePage{
		Of: address, Title: p.title, Create: v.form("/files/new", url.Values{"format": {"XLSX"}, ofField: {address}}, ""),
		Formats: fileFormats(),
	}, nil
}

func (s *Service) makeFile(v *visit, f *sent) (outcome, error) {
	at, p, err := s.reportAt(v, f.text(ofField))
	if err != nil {
		return outcome{}, err
	}
	question, err := s.question(at, p)
	if err != nil {
		return outcome{}, err
	}
	_, err = s.filesAPI.CreateReportFile(v.ctx, &meteringv1.CreateReportFileRequest{
		ReportFile: &meteringv1.ReportFile{Report: question, Format: meteringv1.ExportFormat(meteringv1.ExportFormat_value["EXPORT_FORMAT_"+f.text("format")])}, RequestId: f.requestID,
	})
	return outcome{next: "/files", notice: "The file is being made. You can leave this page, and find the file here again: under Files in the menu."}, err
}

// fileLine is a file in the list.
type fileLine struct {
	*meteringv1.ReportFile
	// Address is where its report is shown.
	Address        string
	Cancel, Remove *form
}

// UnderWay tells that it is not there yet.
func (l fileLine) UnderWay() bool {
	return l.Waits() || l.GetState() == meteringv1.ReportFile_STATE_MAKING
}

// Waits tells that its turn has not come.
func (l fileLine) Waits() bool { return l.GetState() == meteringv1.ReportFile_STATE_WAITING }

// Ready tells that it can be had.
func (l fileLine) Ready() bool { return l.GetState() == meteringv1.ReportFile_STATE_READY }

// Failed tells that there is none.
func (l fileLine) Failed() bool { return l.GetState() == meteringv1.ReportFile_STATE_FAILED }

// Kind is the format as people know it.
func (l fileLine) Kind() string {
	if l.GetFormat() == meteringv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED {
		return "CSV"
	}
	return strings.TrimPrefix(l.GetFormat().String(), "EXPORT_FORMAT_")
}

// filesPage is the list of one's files.
type filesPage struct {
	listPage[fileLine]
	// Here is the page's own address, which is asked again while some are made.
	Here string
}

// UnderWay counts those that are being made.
func (p filesPage) UnderWay() (n int64) {
	for _, line := range p.Items {
		if line.UnderWay() {
			n++
		}
	}
	return n
}

func (s *Service) files(v *visit) (any, error) {
	page, err := list(s, v, func(size int32, token string) ([]fileLine, string, error) {
		answer, err := s.filesAPI.ListReportFiles(v.ctx, &meteringv1.ListReportFilesRequest{PageSize: size, PageToken: token})
		var lines []fileLine
		for _, f := range answer.GetReportFiles() {
			lines = append(lines, fileLine{ReportFile: f, Cancel: v.form(of("/files", f.GetReportFileId(), "cancel"), nil, ""), Remove: v.form(of("/files", f.GetReportFileId(), "remove"), nil, "")})
		}
		return lines, answer.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	for i := range page.Items {
		_, page.Items[i].Address = addressOf(page.Items[i].GetReport(), page.Zone)
	}
	return filesPage{page, (&url.URL{Path: "/files", RawQuery: v.r.URL.RawQuery}).String()}, nil
}

func (s *Service) cancelFile(v *visit, _ *sent) (outcome, error) {
	_, err := s.filesAPI.CancelReportFile(v.ctx, &meteringv1.CancelReportFileRequest{ReportFileId: v.r.PathValue("id")})
	return outcome{next: "/files", notice: "The making of the file is ended."}, err
}

func (s *Service) removeFile(v *visit, _ *sent) (outcome, error) {
	_, err := s.filesAPI.DeleteReportFile(v.ctx, &meteringv1.DeleteReportFileRequest{ReportFileId: v.r.PathValue("id")})
	return outcome{next: "/files", notice: "The file is removed."}, err
}

// downloadFile answers with a file that is ready.
func (s *Service) downloadFile(v *visit) {
	stream, err := s.filesAPI.DownloadReportFile(v.ctx, &meteringv1.DownloadReportFileRequest{ReportFileId: v.r.PathValue("id")})
	giveFile(s, v, stream, err)
}
