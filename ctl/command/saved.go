package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"

	"github.com/cetrus/cetrus/ctl/table"
)

// reportNames are the reports as they are called here, by the names of their questions.
var reportNames = map[protoreflect.Name]string{
	"usage": "use", "instances": "instances", "intervals": "intervals", "concurrency": "concurrent", "demand": "demand", "licences_needed": "licences",
	"ranking": "ranking", "unused": "unused", "idle": "idle", "timeline": "timeline", "sessions": "sessions", "session_changes": "session",
	"distribution": "distribution", "forecast": "forecast", "data_quality": "quality", "account_use": "account-use", "live": "now",
}

// reportName is what the report of a question is called; empty where this cetrusctl knows none.
func reportName(q *meteringv1.ReportQuestion) string {
	m := q.ProtoReflect()
	if which := m.WhichOneof(m.Descriptor().Oneofs().Get(0)); which != nil {
		return reportNames[which.Name()]
	}
	return ""
}

// periodInWords is what a saved report is about, whenever it is asked.
func periodInWords(p *meteringv1.ReportPeriod) string {
	switch p.GetKind() {
	case meteringv1.ReportPeriod_KIND_UNSPECIFIED:
		return "as saved"
	case meteringv1.ReportPeriod_KIND_LAST_DAYS:
		return fmt.Sprintf("last %s", plural(int(p.GetDays()), "day", "days"))
	case meteringv1.ReportPeriod_KIND_DAYS_TO_NOW:
		return fmt.Sprintf("%s to now", plural(int(p.GetDays()), "day", "days"))
	default:
		return strings.ReplaceAll(enumWord(p.GetKind()), "_", " ")
	}
}

var savedReportsResource = resource[*meteringv1.SavedReport]{
	name: "saved-reports", aliases: []string{"saved-report", "saved"}, short: "List reports that are saved, and when they are sent",
	example: "  cetrusctl get saved-reports\n  cetrusctl get saved-report 'Unused CAD' -o json",
	names:   func(r *meteringv1.SavedReport) []string { return []string{r.GetSavedReportId(), r.GetDisplayName()} },
	columns: []column[*meteringv1.SavedReport]{
		flex("NAME", func(r *meteringv1.SavedReport) any { return r.GetDisplayName() }),
		col("REPORT", func(r *meteringv1.SavedReport) any { return reportName(r.GetReport()) }),
		col("PERIOD", func(r *meteringv1.SavedReport) any { return periodInWords(r.GetPeriod()) }),
		col("SHARED", func(r *meteringv1.SavedReport) any { return r.GetShared() }),
		col("NEXT", func(r *meteringv1.SavedReport) any { return r.GetNextDueTime() }),
		col("LAST", func(r *meteringv1.SavedReport) any { return r.GetLastRun().GetBeginTime() }),
		col("WENT", func(r *meteringv1.SavedReport) any { return runInWords(r.GetLastRun()) }),
		wide("RECIPIENTS", func(r *meteringv1.SavedReport) any { return len(r.GetSchedule().GetDelivery().GetRecipientLoginIds()) }),
		wide("PAUSED", func(r *meteringv1.SavedReport) any { return r.GetSchedule().GetPaused() }),
		wide("OWNER ID", func(r *meteringv1.SavedReport) any { return r.GetOwnerLoginId() }),
		wide("ID", func(r *meteringv1.SavedReport) any { return r.GetSavedReportId() }),
	},
	each: func(q *question, yield func([]*meteringv1.SavedReport) error) error {
		return pages(q, func(size int32, token string) ([]*meteringv1.SavedReport, string, error) {
			answer, err := q.a.saved.ListSavedReports(q.ctx, &meteringv1.ListSavedReportsRequest{PageSize: size, PageToken: token})
			return answer.GetSavedReports(), answer.GetNextPageToken(), err
		}, yield)
	},
}

// runInWords is how sending a report went.
func runInWords(r *meteringv1.ReportRun) string {
	return strings.ReplaceAll(enumWord(r.GetState()), "_", " ")
}

func reportRunsResource() resource[*meteringv1.ReportRun] {
	var report string
	return resource[*meteringv1.ReportRun]{
		name: "report-runs", aliases: []string{"report-run", "runs"}, short: "List what became of each time that a saved report was sent, the latest first",
		example: "  cetrusctl get report-runs --report 'Unused CAD'",
		columns: []column[*meteringv1.ReportRun]{
			col("BEGUN", func(r *meteringv1.ReportRun) any { return r.GetBeginTime() }),
			col("DUE", func(r *meteringv1.ReportRun) any { return r.GetDueTime() }),
			col("WENT", func(r *meteringv1.ReportRun) any { return runInWords(r) }),
			col("SENT TO", func(r *meteringv1.ReportRun) any { return r.GetSent() }),
			col("MISSED", func(r *meteringv1.ReportRun) any { return len(r.GetMissed()) }),
			flex("FILE", func(r *meteringv1.ReportRun) any { return r.GetFileName() }),
			flex("WHY", func(r *meteringv1.ReportRun) any { return r.GetMessage() }),
			wide("PROBLEM", func(r *meteringv1.ReportRun) any { return enumWord(r.GetProblem()) }),
			wide("ID", func(r *meteringv1.ReportRun) any { return r.GetRunId() }),
		},
		flags: func(s *session, c *cobra.Command) {
			c.Flags().StringVar(&report, "report", "", "the saved report, by name or id")
			must(c.RegisterFlagCompletionFunc("report", completeNames(s, savedReportsResource)))
		},
		each: func(q *question, yield func([]*meteringv1.ReportRun) error) error {
			if report == "" {
				return usagef("say which saved report with --report")
			}
			id, err := savedReportID(q, report)
			if err != nil {
				return err
			}
			return pages(q, func(size int32, token string) ([]*meteringv1.ReportRun, string, error) {
				answer, err := q.a.saved.ListReportRuns(q.ctx, &meteringv1.ListReportRunsRequest{SavedReportId: id, PageSize: size, PageToken: token})
				return answer.GetRuns(), answer.GetNextPageToken(), err
			}, yield)
		},
	}
}

var reportFilesResource = resource[*meteringv1.ReportFile]{
	name: "report-files", aliases: []string{"report-file", "files"}, short: "List your files of reports that are made in the background, the latest first",
	example: "  cetrusctl get report-files",
	columns: []column[*meteringv1.ReportFile]{
		flex("REPORT", func(f *meteringv1.ReportFile) any { return f.GetTitle() }),
		flex("PERIOD", func(f *meteringv1.ReportFile) any { return f.GetPeriod() }),
		col("STATE", func(f *meteringv1.ReportFile) any { return enumWord(f.GetState()) }),
		col("DONE", func(f *meteringv1.ReportFile) any {
			if f.DonePercent == nil {
				return ""
			}
			return fmt.Sprintf("%d %%", f.GetDonePercent())
		}),
		col("ROWS", func(f *meteringv1.ReportFile) any { return f.GetRows() }),
		col("ASKED FOR", func(f *meteringv1.ReportFile) any { return f.GetCreateTime() }),
		flex("FILE", func(f *meteringv1.ReportFile) any { return f.GetFileName() }),
		flex("WHY", func(f *meteringv1.ReportFile) any { return f.GetMessage() }),
		wide("BYTES", func(f *meteringv1.ReportFile) any { return f.GetBytes() }),
		wide("GOES", func(f *meteringv1.ReportFile) any { return f.GetExpireTime() }),
		wide("ID", func(f *meteringv1.ReportFile) any { return f.GetReportFileId() }),
	},
	each: func(q *question, yield func([]*meteringv1.ReportFile) error) error {
		return pages(q, func(size int32, token string) ([]*meteringv1.ReportFile, string, error) {
			answer, err := q.a.files.ListReportFiles(q.ctx, &meteringv1.ListReportFilesRequest{PageSize: size, PageToken: token})
			return answer.GetReportFiles(), answer.GetNextPageToken(), err
		}, yield)
	},
}

// savedReportID is the id of the saved report of a name.
func savedReportID(q *question, name string) (string, error) {
	return one(q, savedReportsResource, name, (*meteringv1.SavedReport).GetSavedReportId)
}

func (s *session) savedReportCommand() *cobra.Command {
	var file string
	r := &asked{question: &question{s: s}}
	c := &cobra.Command{
		Use: "saved REPORT", Short: "Ask a report that is saved, with what it was saved with",
		Long:    "Asks a saved report, by its name or id: its period is reckoned from now. cetrusctl get saved-reports lists them;\nthey are saved and scheduled in the console, and by the API.",
		Example: "  cetrusctl report saved 'Unused CAD'\n  cetrusctl report saved 'Unused CAD' -f unused.xlsx",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: firstArgument(completeNames(s, savedReportsResource)),
	}
	r.flags(c, &file)
	c.Flags().StringVar(&r.reason, "reason", "", "why named people are looked at, in place of what was saved")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := r.check(c, file); err != nil {
			return err
		}
		a, err := s.api()
		if err != nil {
			return err
		}
		r.ctx, r.a = c.Context(), a
		id, err := savedReportID(r.question, args[0])
		if err != nil {
			return err
		}
		resolved, err := a.saved.ResolveSavedReport(r.ctx, &meteringv1.ResolveSavedReportRequest{SavedReportId: id})
		if err != nil {
			return err
		}
		q := resolved.GetReport()
		name := reportName(q)
		for _, p := range allReports() {
			if p.name == name {
				r.of(q)
				return p.answer(r, q, file)
			}
		}
		return errors.New("this cetrusctl does not know the report that is saved: get a later one")
	}
	return c
}

// of takes what tables need to know from a question, and gives it the reason that was typed.
func (r *asked) of(q *meteringv1.ReportQuestion) {
	m := q.ProtoReflect()
	asks := m.Mutable(m.WhichOneof(m.Descriptor().Oneofs().Get(0))).Message()
	fields := asks.Descriptor().Fields()
	for _, name := range []protoreflect.Name{"compare", "compare_start_time"} {
		if f := fields.ByName(name); f != nil && asks.Has(f) {
			r.compared = true
		}
	}
	if f := fields.ByName("reason"); f != nil && r.reason != "" {
		asks.Set(f, protoreflect.ValueOfString(r.reason))
	}
}

func (s *session) sendCommand() *cobra.Command {
	var wait bool
	var patience time.Duration
	c := &cobra.Command{
		Use: "send REPORT", Short: "Send a saved report by mail now, as its schedule would",
		Long:    "Sends a saved report, by its name or id, to whom its schedule names, or else to its owner.\ncetrusctl get report-runs tells what became of it; --wait waits for that.",
		Example: "  cetrusctl send 'Unused CAD' --wait",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: firstArgument(completeNames(s, savedReportsResource)),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := s.asking(c)
			if err != nil {
				return err
			}
			id, err := savedReportID(q, args[0])
			if err != nil {
				return err
			}
			answer, err := q.a.saved.SendSavedReport(q.ctx, &meteringv1.SendSavedReportRequest{SavedReportId: id, RequestId: uuid.NewString()})
			if err != nil {
				return err
			}
			if !wait {
				_, err = fmt.Fprintln(s.Err, "It is made and sent now.")
				return err
			}
			return s.awaitRun(q, id, answer.GetRun().GetRunId(), patience)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until it is sent, or has failed")
	c.Flags().DurationVar(&patience, "wait-for", 5*time.Minute, "how long --wait waits at most")
	return c
}

// awaitRun waits until a run has ended, and tells how.
func (s *session) awaitRun(q *question, report, id string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(q.ctx, patience)
	defer cancel()
	end := s.progress().during("it is made and sent")
	defer end()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		// The latest is the first, and others may be sent at the same time.
		answer, err := q.a.saved.ListReportRuns(ctx, &meteringv1.ListReportRunsRequest{SavedReportId: report, PageSize: maxPage})
		for _, run := range answer.GetRuns() {
			if run.GetRunId() == id && run.GetState() != meteringv1.ReportRun_STATE_UNDER_WAY {
				end()
				return s.tellRun(run)
			}
		}
		if err == nil {
			select {
			case <-ticker.C:
				continue
			case <-ctx.Done():
				err = ctx.Err()
			}
		}
		if q.ctx.Err() == nil && ctx.Err() != nil {
			return fmt.Errorf("after %v it is still under way: cetrusctl get report-runs tells what becomes of it", patience)
		}
		return err
	}
}

// tellRun says how a run has ended; one that failed is an error.
func (s *session) tellRun(run *meteringv1.ReportRun) error {
	for _, missed := range run.GetMissed() {
		s.note(fmt.Sprintf("login %s got none: %s", missed.GetLoginId(), strings.ReplaceAll(enumWord(missed.GetProblem()), "_", " ")))
	}
	if run.GetState() == meteringv1.ReportRun_STATE_FAILED {
		return fmt.Errorf("it was not sent: %s", run.GetMessage())
	}
	_, err := fmt.Fprintf(s.Err, "It was sent to %s%s.\n", plural(int(run.GetSent()), "login", "logins"), table.Clean(attachedInWords(run)))
	return err
}

// attachedInWords says how the file came, where there is one.
func attachedInWords(run *meteringv1.ReportRun) string {
	switch {
	case run.GetFileName() == "":
		return ", as a link"
	case !run.GetAttached():
		return ", as a link, since " + run.GetFileName() + " is too large for a mail"
	}
	return ", with " + run.GetFileName()
}
