package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"

	"github.com/cetrus/cetrus/ctl/rest"
	"github.com/cetrus/cetrus/ctl/table"
)

// liveRow is one instance that is open now, with whose it is.
type liveRow struct {
	session  *meteringv1.LiveSession
	instance *meteringv1.LiveInstance
}

// liveView is what is open now.
type liveView struct {
	sessions map[string]*meteringv1.LiveSession
}

func newLiveView() *liveView { return &liveView{map[string]*meteringv1.LiveSession{}} }

// take takes an answer in, and tells what is new, changed or gone since.
func (v *liveView) take(m *meteringv1.StreamLiveUsageResponse) (changed []liveChange) {
	before := map[string]liveRow{}
	for _, row := range v.rows() {
		before[row.key()] = row
	}
	if m.GetComplete() {
		v.sessions = map[string]*meteringv1.LiveSession{}
	}
	for _, id := range m.GetEndedSessionIds() {
		delete(v.sessions, id)
	}
	for _, s := range m.GetSessions() {
		v.sessions[s.GetSessionId()] = s
	}
	after := map[string]bool{}
	for _, row := range v.rows() {
		after[row.key()] = true
		old, there := before[row.key()]
		if !there || old.words() != row.words() {
			changed = append(changed, liveChange{row, false})
		}
	}
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key := range before {
			if !yield(key) {
				return
			}
		}
	}) {
		if !after[key] {
			changed = append(changed, liveChange{before[key], true})
		}
	}
	return changed
}

// liveChange is a row that is new or changed, or gone.
type liveChange struct {
	row  liveRow
	gone bool
}

func (r liveRow) key() string { return r.session.GetSessionId() + " " + r.instance.GetInstanceId() }

// words are what a change is told by.
func (r liveRow) words() string {
	return liveState(r) + "\x00" + r.instance.GetDocumentName() + r.instance.GetDocumentId()
}

// rows are all that is open, by person, machine and application.
func (v *liveView) rows() []liveRow {
	var all []liveRow
	for _, s := range v.sessions {
		for _, i := range s.GetInstances() {
			all = append(all, liveRow{s, i})
		}
	}
	slices.SortFunc(all, func(a, b liveRow) int {
		return cmp.Or(strings.Compare(a.session.GetPrincipalName(), b.session.GetPrincipalName()), strings.Compare(a.session.GetMachineName(), b.session.GetMachineName()),
			strings.Compare(a.instance.GetApplicationName(), b.instance.GetApplicationName()), strings.Compare(a.key(), b.key()))
	})
	return all
}

// liveState is a state in words, with the attention where that says more.
func liveState(r liveRow) string {
	state := enumWord(r.instance.GetState())
	if state != "" {
		state = strings.ToUpper(state[:1]) + state[1:]
	}
	if a := r.instance.GetAttention(); a != usagev1.Attention_ATTENTION_BUSY && a != usagev1.Attention_ATTENTION_UNSPECIFIED {
		state += ", " + enumWord(a)
	}
	return state
}

// liveColumns are those of what is open now.
func liveColumns(now func() time.Time) []column[liveRow] {
	return []column[liveRow]{
		flex("PERSON", func(r liveRow) any { return nobody(r.session.GetPrincipalName(), r.session.GetPrincipalId()) }),
		flex("MACHINE", func(r liveRow) any { return r.session.GetMachineName() }),
		flex("APPLICATION", func(r liveRow) any { return r.instance.GetApplicationName() }),
		col("STATE", func(r liveRow) any { return liveState(r) }),
		col("SINCE", func(r liveRow) any { return durationpb.New(max(now().Sub(r.instance.GetSinceTime().AsTime()), 0)) }),
		col("OPEN", func(r liveRow) any { return durationpb.New(max(now().Sub(r.instance.GetOpenTime().AsTime()), 0)) }),
		flex("FILE", func(r liveRow) any { return r.instance.GetDocumentName() }),
		wide("SHOWN", func(r liveRow) any { return r.session.GetSessionAccess() }),
	}
}

func (s *session) liveCommand() *cobra.Command {
	var f format
	var filter filterFlags
	var reason string
	c := &cobra.Command{
		Use: "live", Aliases: []string{"tail", "top"}, Short: "Follow who has what open, as it changes; Ctrl-C ends it",
		Long: `Follows live use. On a terminal it is a table that redraws itself; otherwise, and with -o lines, each
change is a line; -o json writes the API's own answers, one a line. A connection that breaks is taken up
again by itself. Live use is provisional, and never counted.`,
		Example: "  cetrusctl live --group Design\n  cetrusctl live -o lines | grep FreeCAD\n  cetrusctl live -o json | jq .sessions",
		Args:    cobra.NoArgs,
	}
	f.flags(c, "table", "wide", "lines", "json")
	filter.flags(s, c)
	c.Flags().StringVar(&reason, "reason", "", "why named people are looked at, where the account asks for it; it is recorded")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ctx := c.Context()
		a, err := s.api()
		if err != nil {
			return err
		}
		narrow, err := filter.read(&question{ctx: ctx, s: s, a: a})
		if err != nil {
			return err
		}
		if _, is := terminal(s.Out); !is && !c.Flags().Changed("output") {
			f.name = "lines"
		}
		if err := s.follow(ctx, a, &meteringv1.StreamLiveUsageRequest{Filter: narrow, Reason: reason}, f); ctx.Err() == nil {
			return err
		}
		return nil // that is how it is ended
	}
	return c
}

// follow shows what the stream tells, and begins it again where it breaks.
func (s *session) follow(ctx context.Context, a *api, request *meteringv1.StreamLiveUsageRequest, f format) error {
	messages, broken := make(chan *meteringv1.StreamLiveUsageResponse), make(chan error, 1)
	notices := make(chan string, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { broken <- s.stream(ctx, a, request, messages, notices) }()
	view, notice := newLiveView(), "connecting …"
	draw := func() error { return nil }
	if f.name == "table" || f.name == "wide" {
		if width, is := terminal(s.Out); is && width > 0 {
			fmt.Fprint(s.Out, "\x1b[?1049h\x1b[?25l") // a screen of its own, without a cursor
			defer fmt.Fprint(s.Out, "\x1b[?25h\x1b[?1049l")
		}
		draw = func() error { return s.drawLive(view, notice, f) }
	}
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	if err := draw(); err != nil {
		return err
	}
	for {
		select {
		case err := <-broken:
			return err
		case <-ctx.Done():
			cancel()
			return cmp.Or(<-broken, ctx.Err())
		case notice = <-notices:
			if f.name == "lines" && notice != "" {
				s.note(notice)
			}
		case m := <-messages:
			changed := view.take(m)
			if err := s.tellLive(m, changed, f); err != nil {
				return err
			}
		case <-ticker.C:
		}
		if err := draw(); err != nil {
			return err
		}
	}
}

// The pauses between tries to connect.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 15 * time.Second
)

// stream hands on what the platform tells until ctx ends, or it refuses.
func (s *session) stream(ctx context.Context, a *api, request *meteringv1.StreamLiveUsageRequest, messages chan<- *meteringv1.StreamLiveUsageResponse, notices chan<- string) error {
	notice := func(text string) {
		select {
		case notices <- text:
		case <-ctx.Done():
		}
	}
	pause := firstPause
	for ever := false; ; {
		err := func() error {
			inner, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := a.usage.StreamLiveUsage(inner, request)
			if err != nil {
				return err
			}
			for {
				m, err := stream.Recv()
				if err != nil {
					return err
				}
				if m.GetComplete() {
					notice("")
				}
				ever, pause = true, firstPause
				select {
				case messages <- m:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}()
		var gone *rest.UnreachableError
		var foreign *rest.ForeignError
		again := errors.Is(err, io.EOF) || errors.As(err, &gone) || errors.As(err, &foreign) || status.Code(err) == codes.Unavailable
		if ctx.Err() != nil || !again || !ever { // what cannot be reached at first is said at once
			return err
		}
		why := "the connection has ended"
		if !errors.Is(err, io.EOF) {
			why = status.Convert(err).Message()
			if gone != nil || foreign != nil {
				why = err.Error()
			}
		}
		notice(why + "; trying again")
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
	}
}

// tellLive writes what has changed, where lines are written.
func (s *session) tellLive(m *meteringv1.StreamLiveUsageResponse, changed []liveChange, f format) error {
	switch f.name {
	case "json":
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(s.Out, "%s\n", text)
		return err
	case "lines":
		for _, c := range changed {
			state := liveState(c.row)
			if c.gone {
				state = "Closed"
			}
			var cells []string
			for _, text := range []string{
				s.Now().Format(time.RFC3339), nobody(c.row.session.GetPrincipalName(), c.row.session.GetPrincipalId()), c.row.session.GetMachineName(),
				c.row.instance.GetApplicationName(), state, c.row.instance.GetDocumentName(),
			} {
				cells = append(cells, table.Clean(text))
			}
			if _, err := fmt.Fprintln(s.Out, strings.TrimRight(strings.Join(cells, "\t"), "\t")); err != nil {
				return err
			}
		}
	}
	return nil
}

// drawLive draws the table anew, as much of it as the terminal is high.
func (s *session) drawLive(view *liveView, notice string, f format) error {
	var text strings.Builder
	columns := liveColumns(s.Now)
	if f.name != "wide" {
		columns = slices.DeleteFunc(columns, func(c column[liveRow]) bool { return c.wide })
	}
	all := view.rows()
	width, height := 0, 0
	if file, ok := s.Out.(interface{ Fd() uintptr }); ok {
		width, height, _ = term.GetSize(int(file.Fd())) // 0 where it does not say
	}
	const around = 2 // header and line of sums
	shown := all
	if height > around && len(shown) > height-around {
		shown = shown[:height-around]
	}
	titles := make([]table.Column, len(columns))
	for i, c := range columns {
		titles[i] = table.Column{Title: c.title, Flex: c.flex, Right: c.title == "SINCE" || c.title == "OPEN"}
	}
	var lines [][]string
	for _, row := range shown {
		var cells []string
		for _, c := range columns {
			cells = append(cells, cell(c.value(row), time.UTC, false))
		}
		lines = append(lines, cells)
	}
	if err := table.New(&text, width, !f.noHeaders, titles).Write(lines); err != nil {
		return err
	}
	active := 0
	for _, row := range all {
		if row.instance.GetState() == usagev1.State_STATE_ACTIVE {
			active++
		}
	}
	sum := fmt.Sprintf("%s, %d active", plural(len(all), "instance", "instances"), active)
	if more := len(all) - len(shown); more > 0 {
		sum += fmt.Sprintf(", %d not shown", more)
	}
	if notice != "" {
		sum += "   " + table.Clean(notice)
	}
	if width > 0 {
		sum = string([]rune(sum)[:min(len([]rune(sum)), width)])
	}
	text.WriteString(sum)
	// From the upper left, each line to its end, and what was below.
	_, err := fmt.Fprint(s.Out, "\x1b[H"+strings.ReplaceAll(text.String(), "\n", "\x1b[K\r\n")+"\x1b[K\x1b[J")
	return err
}
