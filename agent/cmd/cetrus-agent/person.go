package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
)

// personCommands are for whoever sits at the desktop; none needs rights.
func personCommands(s *settings) []*cobra.Command {
	asJSON := false
	status := &cobra.Command{
		Use: "status", Short: "Show what is recorded of you now, and how the agent is doing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.tell(cmd, asJSON, (*agent.Control).Status)
		},
	}
	var request agent.PauseRequest
	pause := &cobra.Command{
		Use: "pause", Short: "Stop recording you until resume, where the account allows it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.tell(cmd, asJSON, func(c *agent.Control, ctx context.Context) (agent.Status, error) { return c.Pause(ctx, request) })
		},
	}
	pause.Flags().StringVar(&request.Reason, "reason", "", "one of the account's reasons, which is recorded (`code`)")
	pause.Flags().StringVar(&request.Note, "note", "", "your own words, which stay on this machine and are shown to you alone")
	resume := &cobra.Command{
		Use: "resume", Short: "Record again", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.tell(cmd, asJSON, func(c *agent.Control, ctx context.Context) (agent.Status, error) { return c.Resume(ctx, request) })
		},
	}
	for _, c := range []*cobra.Command{pause, resume} {
		c.Flags().BoolVar(&request.Everybody, "everybody", false, "for all people of this machine; for administrators")
	}
	for _, c := range []*cobra.Command{status, pause, resume} {
		c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	}
	seen := false
	notice := &cobra.Command{
		Use: "notice", Short: "Show what is recorded and what never is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.notice(cmd, seen) },
	}
	notice.Flags().BoolVar(&seen, "seen", false, "say that you have read it, so that it is not shown again")
	return []*cobra.Command{status, pause, resume, notice, myDataCommand(s), trayCommand(s)}
}

func (s *settings) control() *agent.Control { return agent.NewControl(s.dataDir, s.reachAt()) }

// tell puts a question to the running agent and prints its answer.
func (s *settings) tell(cmd *cobra.Command, asJSON bool, question func(*agent.Control, context.Context) (agent.Status, error)) error {
	status, err := question(s.control(), cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(cmd.OutOrStdout(), status)
	}
	return printStatus(cmd.OutOrStdout(), status)
}

func printJSON(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

// notice prints the notice, and says that it was read where that is asked for.
func (s *settings) notice(cmd *cobra.Command, seen bool) error {
	status, err := s.control().Status(cmd.Context())
	if err != nil {
		return err
	}
	printNotice(cmd.OutOrStdout(), status.Person.Notice)
	if seen {
		_, err = s.control().SeeNotice(cmd.Context(), status.Person.Notice.Version)
	}
	return err
}

func printNotice(w io.Writer, n agent.NoticeStatus) {
	fmt.Fprintf(w, "%s\n%s\n\n%s\n", n.Title, strings.Repeat("=", len(n.Title)), n.Text)
}

func printStatus(w io.Writer, s agent.Status) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("You", "%s", you(s.Person))
	switch {
	case s.Recording:
		line("Recording", "yes")
	case s.Person.Pause != nil:
		line("Recording", "no: %s", paused(*s.Person.Pause))
	default:
		line("Recording", "no: %s", s.Problem)
	}
	for _, open := range s.Open {
		line("Open now", "%s", recorded(open, s.Person))
	}
	if len(s.Open) == 0 {
		line("Open now", "nothing that is recorded")
	}
	line("Recorded programs", "%s (policy revision %d)", cmp.Or(strings.Join(s.Applications, ", "), "none"), s.PolicyRevision)
	for i, never := range s.NeverRecorded {
		line([]string{"Never recorded", ""}[min(i, 1)], "%s", never)
	}
	if !s.PauseAllowed {
		line("Pausing", "switched off by the account")
	}
	for _, r := range s.Person.PauseReasons {
		line("Reason for a pause", "%s: %s", r.Code, r.Label)
	}
	line("Agent", "%s, version %s", s.AgentID, s.Version)
	if s.Manager.Connected {
		line("Manager", "%s, connected since %s", s.Manager.Address, local(*s.Manager.Since, time.DateTime))
	} else {
		line("Manager", "%s, not connected: %s", s.Manager.Address, s.Manager.Problem)
	}
	if s.Manager.Connected && s.Manager.Problem != "" {
		line("", "%s", s.Manager.Problem)
	}
	if s.Manager.Preferred != "" {
		line("Not its first Manager", "%s", s.Manager.Preferred)
	}
	line("Waiting to be sent", "%d records; the journal takes %d KiB", s.Journal.Unacknowledged, s.Journal.Bytes>>10)
	for _, missing := range s.Unsupported {
		line("Not told by this desktop", "%s", missing)
	}
	for _, p := range s.Plugins {
		said := p.State
		if p.Message != "" {
			said += ": " + p.Message
		}
		if r := p.Release; r != nil && r.State != "current" {
			said += fmt.Sprintf("; release %d %s", r.Target, r.State)
			if r.Message != "" {
				said += ": " + r.Message
			}
		}
		line("Plug-in", "%s %s, %s", p.Name, p.Version, said)
	}
	for _, file := range s.SetAside {
		line("Was damaged", "%s; the agent went on without it; remove it once somebody has looked", file)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if s.Person.Notice.Due {
		fmt.Fprintln(w)
		printNotice(w, s.Person.Notice)
		fmt.Fprintln(w, "\nTo say that you have read this: cetrus-agent notice --seen")
	}
	return nil
}

// you are the words for whoever asks.
func you(p agent.PersonStatus) string {
	said := p.User
	switch {
	case p.Administrator && p.Watched:
		said += ", administrator of this agent: what follows is of everybody here"
	case p.Administrator:
		said += ", administrator of this agent: what follows is of everybody here; no desktop session of yours is watched"
	case !p.Watched:
		said += "; no desktop session of yours is watched"
	}
	return said
}

func paused(p agent.PauseStatus) string {
	said := map[string]string{
		agent.ByPerson:        "paused by you; `cetrus-agent resume` goes on",
		agent.ByAdministrator: "paused for everybody by an administrator of this machine",
		agent.ByAccount:       "the account has paused recording",
	}[p.By]
	if p.Since != nil {
		said += "; since " + local(*p.Since, time.DateTime)
	}
	if p.Reason != "" {
		said += "; reason: " + p.Reason
	}
	if p.Note != "" {
		said += "; your note: " + p.Note
	}
	return said
}

// recorded is what is recorded of an open application.
func recorded(o agent.OpenStatus, p agent.PersonStatus) string {
	said := o.Application
	if o.Document != "" {
		said += " – " + o.Document
	}
	said += fmt.Sprintf(": %s (%s) since %s", o.State, o.Attention, local(o.Since, time.TimeOnly))
	if o.Project != "" {
		said += "; project: " + o.Project
	}
	if o.User != p.User {
		said = o.User + ": " + said
	}
	return said
}

func local(t time.Time, layout string) string {
	return t.Local().Format(layout) //nolint:gosmopolitan // For the person at this machine.
}
