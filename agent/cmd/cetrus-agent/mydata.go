package main

import (
	"bufio"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"html"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/ledger"
)

// myDataDays is how many days are shown where nothing else is asked for.
const myDataDays = 30

// myDataCommand shows a person what was recorded of them.
func myDataCommand(s *settings) *cobra.Command {
	days, asJSON, asCSV, asPage := myDataDays, false, false, false
	c := &cobra.Command{
		Use: "my-data", Short: "Show what was recorded of you on the last days", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := s.control().MyData(cmd.Context(), days)
			if err != nil {
				return err
			}
			switch out := cmd.OutOrStdout(); {
			case asJSON:
				return printJSON(out, data)
			case asCSV:
				return printCSV(out, data.Rows)
			case asPage:
				return printPage(out, data)
			default:
				return printMyData(out, data)
			}
		},
	}
	c.Flags().IntVar(&days, "days", myDataDays, "how many days to go back")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON; times in milliseconds")
	c.Flags().BoolVar(&asCSV, "csv", false, "as CSV; times in seconds")
	c.Flags().BoolVar(&asPage, "html", false, "as a page for a browser")
	c.MarkFlagsMutuallyExclusive("json", "csv", "html")
	return c
}

func printCSV(w io.Writer, rows []ledger.Row) error {
	out := csv.NewWriter(w)
	lines := [][]string{{"day", "application", "document", "open_seconds", "busy_seconds", "idle_seconds", "background_seconds", "away_seconds", "paused_seconds", "suspended_seconds", "unknown_seconds", "opened", "timeouts"}}
	for _, r := range rows {
		line := []string{r.Day, harmless(r.Application), harmless(r.Document)}
		for _, ms := range []int64{r.OpenMillis, r.BusyMillis, r.IdleMillis, r.BackgroundMillis, r.AwayMillis, r.PausedMillis, r.SuspendedMillis, r.UnknownMillis} {
			line = append(line, fmt.Sprintf("%d.%03d", ms/1000, ms%1000))
		}
		lines = append(lines, append(line, strconv.FormatInt(r.Opened, 10), strconv.FormatInt(r.Timeouts, 10)))
	}
	return out.WriteAll(lines)
}

// harmless keeps a spreadsheet from taking a document's name for a formula.
func harmless(name string) string {
	if name != "" && (name[0] == '=' || name[0] == '+' || name[0] == '-' || name[0] == '@') {
		return "'" + name
	}
	return name
}

func printMyData(w io.Writer, d agent.MyData) error {
	if len(d.Rows) == 0 {
		fmt.Fprintf(w, "Nothing was recorded of %s on this machine on the last %d days.\n", d.User, d.Days)
		return nil
	}
	fmt.Fprintf(w, "Recorded of %s on this machine, up to the last quarter of an hour.\nPaused time is open time of which nothing else is known.\n\n", d.User)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DAY\tAPPLICATION\tOPEN\tBUSY\tIDLE\tBEHIND\tAWAY\tPAUSED\tOTHER\tDOCUMENT")
	for _, r := range d.Rows {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Day, r.Application, clock(r.OpenMillis), clock(r.BusyMillis), clock(r.IdleMillis),
			clock(r.BackgroundMillis), clock(r.AwayMillis), clock(r.PausedMillis), clock(r.SuspendedMillis+r.UnknownMillis), r.Document)
	}
	return table.Flush()
}

// clock is a duration as 1:02:03.
func clock(millis int64) string {
	s := millis / 1000
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

const pageHead = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Cetrus: my data</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b2330; background: #f7f8fa }
h1 { font-size: 1.5rem } p { max-width: 46rem }
table { border-collapse: collapse; background: #fff; width: 100% }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #dde2e8; font-variant-numeric: tabular-nums }
th { background: #eef1f5 } th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left }
tr.document td { color: #5b6778 }
</style></head><body>
`

// printPage is "my data" for a browser; the page loads nothing from anywhere. A template
// would make the linker keep every method of the program.
func printPage(w io.Writer, d agent.MyData) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s<h1>What Cetrus recorded of %s on this computer</h1>\n", pageHead, html.EscapeString(d.User))
	fmt.Fprintf(out, `<p>The last %d days and today, made %s; use that goes on is in it up to the last quarter of an hour. These are the same figures that are sent.
Busy: you worked in it. Idle: in front, without input. Behind: something else was in front. Away: the screen was locked. Paused: you, or somebody for you, had paused; nothing but that is known.
A grey line is a document, and part of the line of its application.</p>
`, d.Days, local(d.Made, "2006-01-02 15:04"))
	if len(d.Rows) == 0 {
		fmt.Fprintln(out, "<p>Nothing was recorded.</p>")
	} else {
		fmt.Fprintln(out, "<table><tr><th>Day<th>Application<th>Document<th>Open<th>Busy<th>Idle<th>Behind<th>Away<th>Paused<th>Asleep or not watched<th>Times opened</tr>")
		for _, r := range d.Rows {
			class := ""
			if r.Document != "" {
				class = ` class="document"`
			}
			fmt.Fprintf(out, "<tr%s><td>%s<td>%s<td>%s", class, r.Day, html.EscapeString(r.Application), html.EscapeString(r.Document))
			for _, ms := range []int64{r.OpenMillis, r.BusyMillis, r.IdleMillis, r.BackgroundMillis, r.AwayMillis, r.PausedMillis, r.SuspendedMillis + r.UnknownMillis} {
				fmt.Fprintf(out, "<td>%s", clock(ms))
			}
			fmt.Fprintf(out, "<td>%d</tr>\n", r.Opened)
		}
		fmt.Fprintln(out, "</table>")
	}
	fmt.Fprintln(out, "<p>You may delete this file; it is made anew each time that you ask.</p>\n</body></html>")
	return out.Flush()
}

// myDataFile is where the page is put: browsers in a sandbox read no hidden folder.
const myDataFile = "cetrus-my-data.html"

// showMyData writes the page into the person's own folder, for nobody else to read, and
// opens it.
func showMyData(ctx context.Context, c *agent.Control, open func(ctx context.Context, file string) error) error {
	data, err := c.MyData(ctx, myDataDays)
	if err != nil {
		return err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return fmt.Errorf("my data: %w", err)
	}
	f, err := os.CreateTemp(home, "."+myDataFile+"-*") // for the owner alone
	if err != nil {
		return fmt.Errorf("my data: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed, as it should
	file := filepath.Join(home, myDataFile)
	if err := errors.Join(printPage(f, data), f.Close()); err != nil {
		return fmt.Errorf("my data: %w", err)
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("my data: %w", err)
	}
	return open(ctx, file)
}
