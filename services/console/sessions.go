package console

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// sessionsPage is desktop sessions, each by itself or added up.
type sessionsPage struct {
	reportPage
	Bys      []choice
	By       string
	Answer   *meteringv1.SummarizeSessionsResponse
	Figures  []figure
	NextPage string
}

func (s *Service) sessions(v *visit) (any, error) {
	base, err := s.reportOf(v, 6)
	page := sessionsPage{reportPage: base, By: base.Query.Get("by")}
	req := &meteringv1.SummarizeSessionsRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(base.Query),
		PageSize: listPageSize, PageToken: base.Query.Get("page"), Reason: base.Reason,
	}
	for _, by := range []struct {
		value, title string
		by           meteringv1.SessionGroupBy
	}{
		{"", "session", meteringv1.SessionGroupBy_SESSION_GROUP_BY_SESSION},
		{"person", "person", meteringv1.SessionGroupBy_SESSION_GROUP_BY_PRINCIPAL},
		{"application", "application", meteringv1.SessionGroupBy_SESSION_GROUP_BY_APPLICATION},
		{"machine", "machine", meteringv1.SessionGroupBy_SESSION_GROUP_BY_MACHINE},
	} {
		page.Bys = append(page.Bys, choice{by.value, by.title, page.By == by.value})
		if page.By == by.value {
			req.GroupBy = by.by
		}
	}
	if req.GetGroupBy() == meteringv1.SessionGroupBy_SESSION_GROUP_BY_UNSPECIFIED {
		page.Bys = settle(base.asked, "by", page.By, page.Bys)
		page.By, req.GroupBy = "", meteringv1.SessionGroupBy_SESSION_GROUP_BY_SESSION
	}
	if err != nil {
		return page, err
	}
	req.CompareStartTime, req.CompareEndTime = base.Compared.stamps()
	if page.Answer, err = s.reports.SummarizeSessions(v.ctx, req); err != nil {
		return page, err
	}
	page.Since = page.Answer.GetDataSinceTime()
	now, before := page.Answer.GetTotal(), page.Answer.GetCompare().GetTotal()
	page.Figures = append([]figure{{"Sessions", page.locale.count(now.GetSessions()), page.Change(now.GetSessions(), before.GetSessions())}},
		page.figures(now.GetSessionTime(), before.GetSessionTime())...)
	if next := page.Answer.GetNextPageToken(); next != "" {
		page.NextPage = with(base.Query, "page", next)
	}
	return page, nil
}

// Narrower is the address of the sessions behind a line.
func (p sessionsPage) Narrower(g *meteringv1.SessionGroup) string {
	switch {
	case g.GetSessionId() != "":
		return "/sessions/" + g.GetSessionId()
	case g.GetPrincipalId() != "":
		return with(p.Query, "by", "", "person", g.GetPrincipalId(), "page", "")
	case g.GetApplicationId() != "":
		return with(p.Query, "by", "", "application", g.GetApplicationId(), "page", "")
	}
	return with(p.Query, "by", "", "machine", g.GetMachineId(), "page", "")
}

// sessionLine are the figures of a line, and how its busy time has changed where that is shown.
type sessionLine struct {
	*meteringv1.SessionGroup
	Compared bool
	Change   *change
}

// Line is for templates.
func (p sessionsPage) Line(g *meteringv1.SessionGroup) sessionLine {
	return sessionLine{g, p.Compared.Asked && p.By != "", p.ChangeTime(g.GetSessionTime().GetBusy(), g.GetCompareSessionTime().GetBusy())}
}

// TotalLine is that of all sessions.
func (p sessionsPage) TotalLine() sessionLine {
	now, before := p.Answer.GetTotal(), p.Answer.GetCompare().GetTotal()
	return sessionLine{now, p.Compared.Asked && p.By != "", p.ChangeTime(now.GetSessionTime().GetBusy(), before.GetSessionTime().GetBusy())}
}

// Name is what a line is called that is no session.
func (sessionsPage) Name(g *meteringv1.SessionGroup) string {
	if name := g.GetPrincipalName() + g.GetApplicationName() + g.GetMachineName(); name != "" {
		return name
	}
	return "(no name)"
}

// sessionPage is one desktop session, change by change.
type sessionPage struct {
	Zone     *time.Location
	Answer   *meteringv1.ListSessionChangesResponse
	Changes  []sessionChange
	NextPage string
}

// sessionChange is one line of it.
type sessionChange struct {
	*meteringv1.SessionChange
	Word, Kind string
	Length     time.Duration
}

func (s *Service) session(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	query := v.r.URL.Query()
	page := sessionPage{Zone: zone}
	page.Answer, err = s.reports.ListSessionChanges(v.ctx, &meteringv1.ListSessionChangesRequest{
		SessionId: v.r.PathValue("id"), PageSize: intervalsShown, PageToken: query.Get("page"), Reason: v.reason(),
	})
	if err != nil {
		return nil, err
	}
	for _, c := range page.Answer.GetChanges() {
		line := sessionChange{SessionChange: c, Length: c.GetInterval().GetEndTime().AsTime().Sub(c.GetInterval().GetStartTime().AsTime())}
		line.Word, line.Kind = attentionWord(c.GetInterval().GetAttention())
		if c.GetInterval().GetState() == usagev1.State_STATE_TIMEOUT {
			line.Word += ", timed out"
		}
		page.Changes = append(page.Changes, line)
	}
	if next := page.Answer.GetNextPageToken(); next != "" {
		page.NextPage = with(query, "page", next)
	}
	return page, nil
}
