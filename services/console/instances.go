package console

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// instancesPage is one line for each run of an application: what every figure comes down to.
type instancesPage struct {
	reportPage
	Instances []*meteringv1.Instance
	NextPage  string
}

func (s *Service) instances(v *visit) (any, error) {
	base, err := s.reportOf(v, 6)
	page := instancesPage{reportPage: base}
	if err != nil {
		return page, err
	}
	answer, err := s.usage.ListInstances(v.ctx, &meteringv1.ListInstancesRequest{
		StartTime: timestamppb.New(base.Period.start), EndTime: timestamppb.New(base.Period.end), Filter: filterOf(base.Query),
		PageSize: listPageSize, PageToken: base.Query.Get("page"), Reason: base.Reason,
	})
	if err != nil {
		return page, err
	}
	page.Instances = answer.GetInstances()
	if next := answer.GetNextPageToken(); next != "" {
		page.NextPage = with(base.Query, "page", next)
	}
	return page, nil
}

const (
	// intervalsShown bounds how many changes of one instance a page shows at once.
	intervalsShown = 1000
	// barLength is the length of a timeline in its own units.
	barLength = 10_000
)

// instancePage is one run of an application, change by change.
type instancePage struct {
	Zone      *time.Location
	Instance  *meteringv1.Instance
	Documents []*meteringv1.Document
	Intervals []intervalLine
	NextPage  string
	Begin     *timestamppb.Timestamp
	End       *timestamppb.Timestamp
}

// intervalLine is one stretch between two changes.
type intervalLine struct {
	*meteringv1.UsageInterval
	// At and Width are its place in the timeline.
	At, Width int64
	Kind      string
	Word      string
	Length    time.Duration
	// Asked says that the address names its event.
	Asked bool
}

// intervalsWith is the page of the changes of a run that holds an event; the first where none is
// named, or where none holds it.
func (s *Service) intervalsWith(v *visit, req *meteringv1.ListIntervalsRequest, event string) (*meteringv1.ListIntervalsResponse, error) {
	first, err := s.usage.ListIntervals(v.ctx, req)
	if err != nil || event == "" {
		return first, err
	}
	for page := first; ; {
		holds := slices.ContainsFunc(page.GetIntervals(), func(i *meteringv1.UsageInterval) bool { return i.GetEventId() == event })
		if holds {
			return page, nil
		}
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			return first, nil
		}
		if page, err = s.usage.ListIntervals(v.ctx, req); err != nil {
			return nil, err
		}
	}
}

// attentionWords are what attentions are called, and how they are drawn.
func attentionWord(a usagev1.Attention) (word, kind string) {
	switch a {
	case usagev1.Attention_ATTENTION_BUSY:
		return "busy", "busy"
	case usagev1.Attention_ATTENTION_IDLE:
		return "idle", "idle"
	case usagev1.Attention_ATTENTION_BACKGROUND:
		return "in the background", "background"
	case usagev1.Attention_ATTENTION_AWAY:
		return "away", "away"
	case usagev1.Attention_ATTENTION_PAUSED:
		return "paused", "unknown"
	case usagev1.Attention_ATTENTION_SUSPENDED:
		return "asleep", "unknown"
	case usagev1.Attention_ATTENTION_UNKNOWN, usagev1.Attention_ATTENTION_UNSPECIFIED:
	}
	return "unknown", "unknown"
}

func (s *Service) instance(v *visit) (any, error) {
	zone, err := s.zone(v.ctx, v.caller.Account)
	if err != nil {
		return nil, err
	}
	id := v.r.PathValue("id")
	got, err := s.usage.GetInstance(v.ctx, &meteringv1.GetInstanceRequest{InstanceId: id, Reason: v.reason()})
	if err != nil {
		return nil, err
	}
	query := v.r.URL.Query()
	intervals, err := s.intervalsWith(v, &meteringv1.ListIntervalsRequest{
		InstanceId: id, DocumentId: query.Get("document"), PageSize: intervalsShown, PageToken: query.Get("page"), Reason: v.reason(),
	}, query.Get("event"))
	if err != nil {
		return nil, err
	}
	documents, err := s.usage.ListDocuments(v.ctx, &meteringv1.ListDocumentsRequest{InstanceId: id, PageSize: listPageSize, Reason: v.reason()})
	if err != nil {
		return nil, err
	}
	page := instancePage{Zone: zone, Instance: got.GetInstance(), Documents: documents.GetDocuments()}
	if next := intervals.GetNextPageToken(); next != "" {
		page.NextPage = with(query, "page", next, "event", "")
	}
	list := intervals.GetIntervals()
	if len(list) == 0 {
		return page, nil
	}
	page.Begin, page.End = list[0].GetStartTime(), list[len(list)-1].GetEndTime()
	begin, whole := page.Begin.AsTime(), page.End.AsTime().Sub(page.Begin.AsTime())
	for _, i := range list {
		line := intervalLine{UsageInterval: i, Length: i.GetEndTime().AsTime().Sub(i.GetStartTime().AsTime())}
		line.Word, line.Kind = attentionWord(i.GetAttention())
		line.Asked = i.GetEventId() == query.Get("event")
		if whole > 0 {
			line.At = int64(barLength * float64(i.GetStartTime().AsTime().Sub(begin)) / float64(whole))
			line.Width = max(1, int64(barLength*float64(line.Length)/float64(whole)))
		}
		page.Intervals = append(page.Intervals, line)
	}
	return page, nil
}
