package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"

	"github.com/cetrus/cetrus/ctl/manifest"
	"github.com/cetrus/cetrus/ctl/period"
	"github.com/cetrus/cetrus/ctl/table"
)

// report is one report of the API: a question, which the platform answers as a file by itself, and a
// table of its answer.
type report struct {
	name, short, long, example string
	aliases                    []string
	// args are what it is about, as "INSTANCE"; empty: nothing.
	args string
	// preset is the period where none is given; empty: it takes none.
	preset string
	// filters and compares tell what else it takes.
	filters, compares bool
	flags             func(s *session, c *cobra.Command)
	// ask is the question. What it reads of flags is checked there.
	ask func(r *asked) (*meteringv1.ReportQuestion, error)
	// show asks it and writes a table.
	show func(r *asked, q *meteringv1.ReportQuestion) error
}

// asked is a report that somebody asks for.
type asked struct {
	*question
	args   []string
	period period.Period
	filter *meteringv1.UsageFilter
	reason string
	format format
	// compared says that another period is to stand beside it; before is that, where one was named.
	compared bool
	before   period.Period
	// background has a file made while this waits.
	background bool
	// out takes the tables, of which so many were written.
	out    io.Writer
	tables int
}

func (r *asked) start() *timestamppb.Timestamp { return stamp(r.period.Start) }
func (r *asked) end() *timestamppb.Timestamp   { return stamp(r.period.End) }

// compareStart and compareEnd are absent where the period just before is meant.
func (r *asked) compareStart() *timestamppb.Timestamp {
	if r.before == (period.Period{}) {
		return nil
	}
	return stamp(r.before.Start)
}

func (r *asked) compareEnd() *timestamppb.Timestamp {
	if r.before == (period.Period{}) {
		return nil
	}
	return stamp(r.before.End)
}

// beforeFlag marks --compare without a period.
const beforeFlag = "before"

func (p report) command(s *session) *cobra.Command {
	var filter filterFlags
	var compare, file string
	r := &asked{question: &question{s: s}}
	use := p.name
	check := cobra.NoArgs
	if p.args != "" {
		use += " " + p.args
		check = cobra.ExactArgs(1)
	}
	c := &cobra.Command{Use: use, Aliases: p.aliases, Short: p.short, Long: strings.TrimSpace(p.short + ".\n\n" + p.long), Example: p.example, Args: check, ValidArgsFunction: cobra.NoFileCompletions}
	r.flags(c, &file)
	c.Flags().StringVar(&r.reason, "reason", "", "why named people are looked at, where the account asks for it; it is recorded")
	must(c.RegisterFlagCompletionFunc("reason", cobra.NoFileCompletions))
	if p.preset != "" {
		r.question.period.flags(c, p.preset)
	}
	if p.filters {
		filter.flags(s, c)
	}
	if p.compares {
		c.Flags().StringVar(&compare, "compare", "", "compare with the period just before, or with --compare=PERIOD")
		c.Flags().Lookup("compare").NoOptDefVal = beforeFlag
		must(c.RegisterFlagCompletionFunc("compare", cobra.FixedCompletions(append(period.Names(), beforeFlag), cobra.ShellCompDirectiveNoFileComp)))
	}
	if p.flags != nil {
		p.flags(s, c)
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		ctx := c.Context()
		if err := r.check(c, file); err != nil {
			return err
		}
		a, err := s.api()
		if err != nil {
			return err
		}
		r.ctx, r.a, r.args = ctx, a, args
		if p.preset != "" {
			if r.period, _, err = r.question.period.read(ctx, s); err != nil {
				return err
			}
		}
		if r.filter, err = filter.read(r.question); err != nil {
			return err
		}
		if compare != "" {
			r.compared = true
			if compare != beforeFlag {
				if r.before, err = period.Parse(compare, s.Now(), s.zone(ctx)); err != nil {
					return usageError{err}
				}
			}
		}
		asks, err := p.ask(r)
		if err != nil {
			return err
		}
		return p.answer(r, asks, file)
	}
	return c
}

// flags say what is made of the answer.
func (r *asked) flags(c *cobra.Command, file *string) {
	r.format.flags(c, "table", "wide", "csv", "json", "xlsx")
	c.Flags().StringVarP(file, "file", "f", "", "write to this file, which is there whole or not at all; its ending may say the output")
	c.Flags().Int32Var(&r.limit, "limit", 0, "at most so many lines in a table; 0 for all")
	c.Flags().BoolVar(&r.background, "background", false, "have the platform make the file in the background, where no restart or lost connection ends it, and fetch it when it is ready")
}

// check checks them, and reads the output off the file's name, where nobody says.
func (r *asked) check(c *cobra.Command, file string) error {
	if r.limit < 0 {
		return usagef("--limit is a number from 0 on")
	}
	if !c.Flags().Changed("output") {
		for _, ending := range []string{"csv", "json", "xlsx"} {
			if strings.HasSuffix(strings.ToLower(file), "."+ending) {
				r.format.name = ending
			}
		}
	}
	if _, is := terminal(r.s.Out); is && r.format.name == "xlsx" && file == "" {
		return usagef("a workbook is nothing for a terminal: give --file, or send it somewhere")
	}
	if r.background && (r.format.name == "table" || r.format.name == "wide") {
		return usagef("--background makes files: say --output csv, json or xlsx, or give a --file that ends so")
	}
	return nil
}

// answer asks, and writes what is answered.
func (p report) answer(r *asked, asks *meteringv1.ReportQuestion, file string) error {
	s := r.s
	switch r.format.name {
	case "table", "wide":
		return s.into(file, func(out io.Writer) error {
			end := s.progress().during("asking the platform")
			defer end()
			r.out = &announced{out, end}
			return p.show(r, asks)
		})
	}
	formats := map[string]meteringv1.ExportFormat{
		"csv": meteringv1.ExportFormat_EXPORT_FORMAT_CSV, "json": meteringv1.ExportFormat_EXPORT_FORMAT_JSON, "xlsx": meteringv1.ExportFormat_EXPORT_FORMAT_XLSX,
	}
	return s.into(file, func(out io.Writer) error {
		if r.background {
			return r.inBackground(out, asks, formats[r.format.name])
		}
		return r.download(out, &meteringv1.ExportReportRequest{Report: asks, Format: formats[r.format.name]})
	})
}

// into hands on where to write: the standard output, or a file that replaces what is there once all
// went well.
func (s *session) into(file string, write func(io.Writer) error) error {
	if file == "" || file == "-" {
		return write(s.Out)
	}
	whole, err := newWhole(file)
	if err != nil {
		return err
	}
	if err := write(whole); err != nil {
		whole.abandon()
		return err
	}
	return whole.keep()
}

// download writes a report as the file that the platform makes of it.
func (r *asked) download(out io.Writer, request *meteringv1.ExportReportRequest) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	end := r.s.progress().during("the platform makes the file")
	stream, err := r.a.export.ExportReport(ctx, request)
	end()
	if err != nil {
		return err
	}
	return receive(r.s, out, stream.Recv)
}

// inBackground has the file made in the background, and moves it here when it is ready. Who stops waiting has it
// made all the same.
func (r *asked) inBackground(out io.Writer, q *meteringv1.ReportQuestion, format meteringv1.ExportFormat) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	answer, err := r.a.files.CreateReportFile(ctx, &meteringv1.CreateReportFileRequest{ReportFile: &meteringv1.ReportFile{Report: q, Format: format}, RequestId: uuid.NewString()})
	if err != nil {
		return err
	}
	id := answer.GetReportFile().GetReportFileId()
	err = r.awaitFile(ctx, id)
	if err == nil {
		var stream grpc.ServerStreamingClient[meteringv1.DownloadReportFileResponse]
		if stream, err = r.a.files.DownloadReportFile(ctx, &meteringv1.DownloadReportFileRequest{ReportFileId: id}); err == nil {
			err = receive(r.s, out, stream.Recv)
		}
	}
	if err != nil {
		r.s.note("What became of the file on the platform: cetrusctl get report-files. The console has it under Files.")
		return err
	}
	if _, err := r.a.files.DeleteReportFile(ctx, &meteringv1.DeleteReportFileRequest{ReportFileId: id}); err != nil {
		r.s.note("The file is here, and on the platform it goes after 7 days: it could not be removed there: " + err.Error())
	}
	return nil
}

// awaitFile waits until a file is ready.
func (r *asked) awaitFile(ctx context.Context, id string) error {
	p := r.s.progress()
	defer p.done()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		answer, err := r.a.files.GetReportFile(ctx, &meteringv1.GetReportFileRequest{ReportFileId: id})
		if err != nil {
			return err
		}
		switch f := answer.GetReportFile(); f.GetState() {
		case meteringv1.ReportFile_STATE_READY:
			return nil
		case meteringv1.ReportFile_STATE_FAILED:
			return errors.New("there is no file: " + f.GetMessage())
		case meteringv1.ReportFile_STATE_CANCELLED:
			return errors.New("there is no file: somebody has cancelled it")
		case meteringv1.ReportFile_STATE_MAKING:
			far := "the platform makes the file, " + plural(int(f.GetRows()), "row", "rows")
			if f.DonePercent != nil {
				far += fmt.Sprintf(", %d %%", f.GetDonePercent())
			}
			p.say(far)
		default:
			p.say("the file waits for its turn")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

// receive writes a file that comes in parts. Where it breaks off, that is an error, and said.
func receive[P interface{ GetContent() []byte }](s *session, out io.Writer, next func() (P, error)) error {
	p := s.progress()
	defer p.done()
	got := int64(0)
	for {
		part, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if got > 0 {
				err = fmt.Errorf("the file broke off after %d bytes and is of no use: %w", got, err)
			}
			return err
		}
		n, err := out.Write(part.GetContent())
		got += int64(n)
		if err != nil {
			return err
		}
		if _, is := terminal(out); !is { // what goes to a terminal shows itself
			p.say(fmt.Sprintf("%d KiB", got>>10))
		}
	}
}

// rows writes a table; a line between it and one before.
func rows[T any](r *asked, columns []column[T], items []T) error {
	w, err := begin(r, columns)
	if err != nil {
		return err
	}
	if err := w.write(items); err != nil {
		return err
	}
	return w.close()
}

// begin begins a table that is written in pages.
func begin[T any](r *asked, columns []column[T]) (*rowWriter[T], error) {
	if r.tables++; r.tables > 1 {
		if _, err := fmt.Fprintln(r.out); err != nil {
			return nil, err
		}
	}
	if r.format.name != "wide" {
		var narrow []column[T]
		for _, c := range columns {
			if !c.wide {
				narrow = append(narrow, c)
			}
		}
		columns = narrow
	}
	return &rowWriter[T]{s: r.s, ctx: r.ctx, out: r.out, columns: columns, header: !r.format.noHeaders}, nil
}

// say writes a line beside the tables.
func (r *asked) say(format string, args ...any) error {
	_, err := fmt.Fprintln(r.out, table.Clean(fmt.Sprintf(format, args...)))
	return err
}

// since tells where a question reaches behind what is kept.
func (r *asked) since(from *timestamppb.Timestamp) {
	if from != nil {
		r.s.note("There is nothing before " + from.AsTime().In(r.s.zone(r.ctx)).Format(minuteLayout) + ": it is not kept any longer.")
	}
}

// when is a moment in the account's zone.
func (r *asked) when(t *timestamppb.Timestamp) string { return cell(t, r.s.zone(r.ctx), false) }

// times reads durations of a flag.
func times(flag string, texts []string) ([]*durationpb.Duration, error) {
	var all []*durationpb.Duration
	for _, text := range texts {
		d, err := manifest.ParseDuration(text)
		if err != nil {
			return nil, usagef("--%s: %w", flag, err)
		}
		all = append(all, durationpb.New(d))
	}
	return all, nil
}

// duration reads one, where it is given.
func duration(flag, text string) (*durationpb.Duration, error) {
	if text == "" {
		return nil, nil // absent
	}
	all, err := times(flag, []string{text})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// share is how much of a whole something is, in percent.
func share(part, whole *durationpb.Duration) figures {
	if whole.AsDuration() <= 0 {
		return ""
	}
	const per = 100
	return figures(fmt.Sprintf("%d %%", (part.AsDuration().Milliseconds()*per+whole.AsDuration().Milliseconds()/2)/whole.AsDuration().Milliseconds()))
}

// change is how much more or less there is than before.
func change(now, before *durationpb.Duration) any {
	if before == nil {
		return ""
	}
	d := (now.AsDuration() - before.AsDuration()).Round(time.Second)
	if d > 0 {
		return figures("+" + clock(d))
	}
	return figures(clock(d))
}
