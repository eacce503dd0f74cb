package console

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// qualityPage is how far the figures of a period and its filters can be trusted.
type qualityPage struct {
	reportPage
	Answer   *meteringv1.GetDataQualityResponse
	Findings []qualityFinding
}

// qualityFinding is one thing against the figures, and what to do about it.
type qualityFinding struct {
	*meteringv1.QualityFinding
	Title, HowMuch, Todo, Address string
}

// qualityBadge says it in a few words.
type qualityBadge struct{ Word, Kind, Detail string }

func badgeOf(p *meteringv1.PeriodQuality, l locale) qualityBadge {
	b := qualityBadge{"good", "good", "nothing is known to be missing"}
	switch p.GetGrade() {
	case meteringv1.QualityGrade_QUALITY_GRADE_FAIR:
		b.Word, b.Kind = "fair", "fair"
	case meteringv1.QualityGrade_QUALITY_GRADE_POOR:
		b.Word, b.Kind = "poor", "poor"
	case meteringv1.QualityGrade_QUALITY_GRADE_GOOD, meteringv1.QualityGrade_QUALITY_GRADE_UNSPECIFIED:
	}
	if p.GetTotals().GetOpen().AsDuration() == 0 {
		b.Detail = "nothing was open"
	}
	for i, f := range p.GetFindings() {
		said := findingOf(f, l)
		switch {
		case i == 0:
			b.Detail = said.Title + " (" + said.HowMuch + ")"
		case f.GetIssue() == meteringv1.QualityIssue_QUALITY_ISSUE_STILL_SENDING: // whatever else there is: figures grow
			b.Detail += "; " + said.Title + " (" + said.HowMuch + ")"
		}
	}
	return b
}

// findingOf puts a finding into words.
func findingOf(f *meteringv1.QualityFinding, l locale) qualityFinding {
	q := qualityFinding{QualityFinding: f, HowMuch: l.count(f.GetCount())}
	lasting := func() string {
		return fmt.Sprintf("%s, %s of the open time", l.span(f.GetTime()), l.share(float64(f.GetPerMillion())/1e6))
	}
	switch f.GetIssue() {
	case meteringv1.QualityIssue_QUALITY_ISSUE_UNKNOWN_TIME:
		q.Title, q.HowMuch = "Time of which it is not known what it was", lasting()
		q.Todo = "Look at the machines below: an agent was not running, or the desktop does not say who is in front. It counts as open, and as neither busy nor idle."
	case meteringv1.QualityIssue_QUALITY_ISSUE_PAUSED_TIME:
		q.Title, q.HowMuch = "Time in which recording was paused", lasting()
		q.Todo = "Nothing: a person or the account has paused it knowingly. It counts as open, and as neither busy nor idle."
	case meteringv1.QualityIssue_QUALITY_ISSUE_SILENT_AGENTS:
		q.Title, q.Address = "Agents of which nothing came since", "/agents?condition=silent"
		q.Todo = "If they are switched off, wait: what they keep comes later, and the figures grow. If they are gone for good, remove them."
	case meteringv1.QualityIssue_QUALITY_ISSUE_STILL_SENDING:
		q.Title, q.Address = "Agents that still send what they recorded earlier", "/agents"
		if f.SentPerMillion != nil {
			q.HowMuch += fmt.Sprintf(", %s of it is here", l.share(float64(f.GetSentPerMillion())/1e6))
		}
		q.Todo = "Wait: the figures of these days grow until all of it is here. Each agent's page tells how far it is."
	case meteringv1.QualityIssue_QUALITY_ISSUE_MANAGERS_BEHIND:
		q.Title, q.Address = "Managers that hold messages which have not come here yet", "/managers"
		q.HowMuch += ", " + l.count(f.GetWaiting()) + " messages"
		q.Todo = "Wait: the figures grow until all of them are here. If they stay, see on the Managers' page what is wrong."
	case meteringv1.QualityIssue_QUALITY_ISSUE_SKEWED_AGENTS:
		q.Title, q.Address = "Agents whose clock is wrong", "/agents?condition=skewed"
		q.Todo = "Set the clocks of these machines: their use may stand at a wrong time, and beside that of others in concurrent use."
	case meteringv1.QualityIssue_QUALITY_ISSUE_UNSUPPORTED_AGENTS:
		q.Title, q.Address = "Agents whose desktop does not tell everything", "/agents?condition=unsupported"
		q.Todo = "See on each agent's line what is missing. Another kind of desktop session on the same machine may tell it."
	case meteringv1.QualityIssue_QUALITY_ISSUE_MISSING_RECORDS:
		q.Title, q.Address = "Records missing between others", "/agents"
		q.Todo = "They may still come by another Manager. If they do not, see in the Managers' logs what was refused."
	case meteringv1.QualityIssue_QUALITY_ISSUE_QUARANTINED:
		q.Title = "Messages set aside"
		q.Todo = "They could not be read, and are not counted; below is why. An operator sees them whole."
	case meteringv1.QualityIssue_QUALITY_ISSUE_NOT_COUNTED_YET:
		q.Title = "Messages not counted yet"
		q.Todo = "Load the page again in a moment."
	case meteringv1.QualityIssue_QUALITY_ISSUE_WATCHED_TWICE:
		q.Title, q.Address = "Agents that watch a desktop which another watches too", "/agents"
		q.Todo = "Stop one of the two: the time is counted twice."
	case meteringv1.QualityIssue_QUALITY_ISSUE_UNSPECIFIED:
		q.Title = "Something this console has no words for"
	}
	return q
}

// qualityQuery is what of a report's address its data quality depends on.
func qualityQuery(query url.Values) string {
	kept := url.Values{}
	for _, name := range []string{"from", "to", "application", "person", "machine", "group", "site", reasonParameter} {
		if query.Has(name) {
			kept[name] = query[name]
		}
	}
	return kept.Encode()
}

// askQuality asks for the quality of the page's period and filters: only for grades, which name no machine
// and are no view, or for all that is known.
func (s *Service) askQuality(v *visit, gradesOnly bool) (reportPage, *meteringv1.GetDataQualityResponse, error) {
	base, err := s.reportOf(v, 6)
	if err != nil {
		return base, nil, err
	}
	answer, err := s.usage.GetDataQuality(v.ctx, &meteringv1.GetDataQualityRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(base.Query), Reason: base.Reason, GradesOnly: gradesOnly,
	})
	base.Since = answer.GetPeriod().GetDataSinceTime()
	return base, answer, err
}

func (s *Service) quality(v *visit) (any, error) {
	base, answer, err := s.askQuality(v, false)
	base.Quality = "" // this is the page that it leads to
	page := qualityPage{reportPage: base, Answer: answer}
	if err != nil {
		return page, err
	}
	for _, f := range answer.GetPeriod().GetFindings() {
		page.Findings = append(page.Findings, findingOf(f, base.locale))
	}
	return page, nil
}

// Badge is the page's own heading.
func (p qualityPage) Badge() qualityBadge { return badgeOf(p.Answer.GetPeriod(), p.locale) }

// qualityBadge answers with the few words that a report shows of its own quality. A report that
// is there does not wait for them, and stays as it is where they cannot be had.
func (s *Service) qualityBadge(v *visit) {
	if !seesAll(v.caller.Privileges) {
		v.w.WriteHeader(http.StatusForbidden)
		return
	}
	_, answer, err := s.askQuality(v, true)
	if err != nil {
		s.deps.Logger.DebugContext(v.ctx, "no data quality for a report", "error", err)
		v.w.WriteHeader(http.StatusNoContent)
		return
	}
	var out bytes.Buffer
	if err := s.render(&out, v.r, "quality", "badge", badgeOf(answer.GetPeriod(), v.locale())); err != nil {
		s.deps.Logger.ErrorContext(v.ctx, "the data quality of a report cannot be shown", "error", err)
		v.w.WriteHeader(http.StatusNoContent)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = v.w.Write(out.Bytes()) // the browser is gone where this fails
}
