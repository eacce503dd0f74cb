package console

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// TestTheBadgeSaysThatFiguresGrow: whatever else stands against them, and how far it is.
func TestTheBadgeSaysThatFiguresGrow(t *testing.T) {
	sending := &meteringv1.QualityFinding{
		Issue: meteringv1.QualityIssue_QUALITY_ISSUE_STILL_SENDING, Grade: meteringv1.QualityGrade_QUALITY_GRADE_FAIR, Count: 312, SentPerMillion: proto.Int64(430_000),
	}
	unknown := &meteringv1.QualityFinding{Issue: meteringv1.QualityIssue_QUALITY_ISSUE_UNKNOWN_TIME, Grade: meteringv1.QualityGrade_QUALITY_GRADE_POOR, Time: durationpb.New(time.Hour)}
	for _, c := range []struct {
		findings []*meteringv1.QualityFinding
		grade    meteringv1.QualityGrade
		begins   string
	}{
		{[]*meteringv1.QualityFinding{sending}, meteringv1.QualityGrade_QUALITY_GRADE_FAIR, "Agents that still send"},
		{[]*meteringv1.QualityFinding{unknown, sending}, meteringv1.QualityGrade_QUALITY_GRADE_POOR, "Time of which"},
	} {
		b := badgeOf(&meteringv1.PeriodQuality{Grade: c.grade, Findings: c.findings, Totals: &meteringv1.UsageTotals{Open: durationpb.New(time.Hour)}}, neutral)
		if b.Kind == "good" || !strings.HasPrefix(b.Detail, c.begins) || strings.Count(b.Detail, "Agents that still send what they recorded earlier (312, 43") != 1 {
			t.Errorf("%+v", b)
		}
	}
	for number := range meteringv1.QualityIssue_name {
		if said := findingOf(&meteringv1.QualityFinding{Issue: meteringv1.QualityIssue(number)}, neutral); number != 0 && (said.Title == "" || said.Todo == "") {
			t.Errorf("there are no words for %v", meteringv1.QualityIssue(number))
		}
	}
}
