package console

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// dataActions are what people do about what is recorded of them.
var dataActions = []action{
	{path: "/my-data/correction", page: "/my-data", may: anybody, do: (*Service).askForCorrection},
}

// myDataPage is what is recorded of somebody.
type myDataPage struct {
	Zone       *time.Location
	Principals []*meteringv1.Principal
	Instances  []*meteringv1.MyInstance
	Since      *timestamppb.Timestamp
	NextPage   string
	Ask        *form
}

const (
	// myPageSize is the largest that the API gives at once.
	myPageSize = 100
	// exportPages bounds a file of one's own data.
	exportPages = 1000
)

func (s *Service) myData(v *visit) (any, error) {
	zone, err := s.zoneFor(v)
	if err != nil {
		return nil, err
	}
	query := v.r.URL.Query()
	answer, err := s.principals.GetMyData(v.ctx, &meteringv1.GetMyDataRequest{PageSize: myPageSize, PageToken: query.Get("page")})
	if err != nil {
		return nil, err
	}
	page := myDataPage{
		Zone: zone, Principals: answer.GetPrincipals(), Instances: answer.GetInstances(), Since: answer.GetDataSinceTime(),
		Ask: v.form("/my-data/correction", nil, ""),
	}
	if next := answer.GetNextPageToken(); next != "" {
		page.NextPage = with(query, "page", next)
	}
	return page, nil
}

func (s *Service) askForCorrection(v *visit, f *sent) (outcome, error) {
	_, err := s.principals.AskForCorrection(v.ctx, &meteringv1.AskForCorrectionRequest{Text: f.text("text"), RequestId: f.requestID})
	return outcome{next: "/my-data", notice: "Your account's administrators see what you ask for."}, err
}

var errTooMuch = errs.New(errs.Precondition, "console.myData", "", "there is more than one file holds: ask for it by the API, page by page")

// exportMyData gives all that is recorded of somebody as a file.
func (s *Service) exportMyData(v *visit) (download, error) {
	if v.r.URL.Query().Get("format") == "json" {
		return s.myDataJSON(v)
	}
	var out strings.Builder
	token := ""
	for number := range exportPages {
		answer, err := s.principals.ExportMyData(v.ctx, &meteringv1.ExportMyDataRequest{PageSize: myPageSize, PageToken: token})
		if err != nil {
			return download{}, err
		}
		text := answer.GetCsv()
		if number > 0 {
			_, text, _ = strings.Cut(text, "\n") // names stand first on each page
		}
		out.WriteString(text)
		if token = answer.GetNextPageToken(); token == "" {
			return download{name: "my-data.csv", contentType: "text/csv; charset=utf-8", content: []byte(out.String())}, nil
		}
	}
	return download{}, errTooMuch
}

func (s *Service) myDataJSON(v *visit) (download, error) {
	all := struct {
		Principals []json.RawMessage `json:"principals"`
		Instances  []json.RawMessage `json:"instances"`
	}{[]json.RawMessage{}, []json.RawMessage{}}
	token := ""
	for number := range exportPages {
		answer, err := s.principals.GetMyData(v.ctx, &meteringv1.GetMyDataRequest{PageSize: myPageSize, PageToken: token})
		if err != nil {
			return download{}, err
		}
		for _, p := range answer.GetPrincipals() {
			text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(p)
			if err != nil {
				return download{}, errs.Wrap("console.myData", "", err)
			}
			if number == 0 {
				all.Principals = append(all.Principals, text)
			}
		}
		for _, i := range answer.GetInstances() {
			text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(i)
			if err != nil {
				return download{}, errs.Wrap("console.myData", "", err)
			}
			all.Instances = append(all.Instances, text)
		}
		if token = answer.GetNextPageToken(); token == "" {
			content, err := json.MarshalIndent(all, "", " ")
			return download{name: "my-data.json", contentType: "application/json", content: content}, errs.Wrap("console.myData", "", err)
		}
	}
	return download{}, errTooMuch
}

// correctionsPage is what people say is recorded wrongly.
type correctionsPage struct {
	listPage[*meteringv1.Correction]
	names map[string]string
}

// Who is the login that asks.
func (p correctionsPage) Who(id string) string {
	return cmp.Or(p.names[id], "somebody who was forgotten")
}

func (s *Service) corrections(v *visit) (any, error) {
	page := correctionsPage{}
	var err error
	page.listPage, err = list(s, v, func(size int32, token string) ([]*meteringv1.Correction, string, error) {
		answer, err := s.principals.ListCorrections(v.ctx, &meteringv1.ListCorrectionsRequest{PageSize: size, PageToken: token})
		return answer.GetCorrections(), answer.GetNextPageToken(), err
	})
	if err != nil {
		return nil, err
	}
	var logins []string
	for _, c := range page.Items {
		logins = append(logins, c.GetLoginId())
	}
	page.names, err = s.namesOfLogins(v, logins)
	return page, err
}
