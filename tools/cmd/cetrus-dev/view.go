package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/tools/api"
)

const (
	redrawEvery = 500 * time.Millisecond
	finalEvery  = 2 * time.Second
	reaskAfter  = time.Second
)

// lookReason is why the table looks at the use of named people, for accounts that ask.
const lookReason = "the table of make run"

// progress is how far the history is; told by the office, shown by the view.
type progress struct {
	mu    sync.Mutex
	share float64
	note  string
}

func (p *progress) set(share float64, note string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share, p.note = share, note
}

func (p *progress) get() (float64, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.share, p.note
}

// view follows the API and shows who uses what: a table in place on a terminal,
// a line for each change elsewhere.
type view struct {
	api *api.Client
	// base and key are where api asks, and with what; newKey reads the key anew.
	base, key string
	newKey    func() (string, error)
	demo      bool
	out       *os.File
	history   *progress
	// greeting stands above the table, and is written again where the terminal has
	// become another.
	greeting string

	mu      sync.Mutex
	board   *board
	notices []string // not told yet
	changes []change
	problem string
	quality *meteringv1.GetDataQualityResponse
}

// run shows until ctx ends.
func (v *view) run(ctx context.Context) {
	v.board = newBoard()
	var asking sync.WaitGroup
	asking.Go(func() { v.follow(ctx) })
	asking.Go(func() { v.poll(ctx) })
	defer asking.Wait()

	ticker := time.NewTicker(redrawEvery)
	defer ticker.Stop()
	terminal := isTerminal(v.out)
	lines, width, said := 0, 0, [2]string{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if terminal {
			lines, width = v.redraw(lines, width)
		} else {
			said = v.report(said)
		}
	}
}

// say tells something once: above the table, or as a line of its own.
func (v *view) say(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.notices = append(v.notices, time.Now().Format(time.TimeOnly)+"  "+text)
}

// follow keeps the live stream open.
func (v *view) follow(ctx context.Context) {
	for ctx.Err() == nil {
		client := v.client()
		err := client.Live(ctx, url.Values{"reason": {lookReason}}, func(answer *meteringv1.StreamLiveUsageResponse) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.problem = ""
			v.changes = append(v.changes, v.board.take(answer)...)
		})
		if err = v.renewed(client, err); err == nil {
			continue
		}
		v.mu.Lock()
		v.problem = err.Error()
		v.mu.Unlock()
		wait(ctx, reaskAfter)
	}
}

// poll asks for final figures now and then.
func (v *view) poll(ctx context.Context) {
	for ctx.Err() == nil {
		client := v.client()
		instances, err := open(ctx, client)
		quality := &meteringv1.GetDataQualityResponse{}
		if err == nil {
			err = client.Get(ctx, "/v1/usage:dataQuality", nil, quality)
		}
		var applications []*meteringv1.Application
		if err == nil {
			applications, err = client.Applications(ctx)
		}
		if refused := err; refused != nil {
			if err = v.renewed(client, refused); err == nil {
				continue
			}
		}
		v.mu.Lock()
		if err == nil {
			v.board.setFinal(instances)
			v.board.setApplications(applications)
			v.quality = quality
		} else if ctx.Err() == nil {
			v.problem = err.Error()
		}
		v.mu.Unlock()
		wait(ctx, finalEvery)
	}
}

func open(ctx context.Context, client *api.Client) ([]*meteringv1.Instance, error) {
	page := &meteringv1.ListInstancesResponse{}
	err := client.Get(ctx, "/v1/instances", url.Values{"open_only": {"true"}, "page_size": {"1000"}, "reason": {lookReason}}, page)
	return page.GetInstances(), err
}

func (v *view) client() *api.Client {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.api
}

// renewed takes the key that is in the data folder now where the API refuses the one
// that a client used, as after `cetrus key new --revoke-others`.
func (v *view) renewed(used *api.Client, err error) error {
	if refused := new(api.Error); !errors.As(err, &refused) || refused.HTTPStatus != http.StatusUnauthorized {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.api != used {
		return nil // another has done it
	}
	key, keyErr := v.newKey()
	switch {
	case keyErr != nil:
		return fmt.Errorf("the API key is no longer valid, and no other can be read: %w", keyErr)
	case key == v.key:
		return errors.New("the API key is no longer valid, and the data folder has no newer one; `cetrus key new` makes one")
	}
	v.api = api.New(v.base, key)
	v.greeting = strings.ReplaceAll(v.greeting, v.key, key)
	v.key = key
	v.notices = append(v.notices, time.Now().Format(time.TimeOnly)+"  the API key is another now: "+key)
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// redraw replaces the lines that were drawn before, at a width.
func (v *view) redraw(before, at int) (lines, width int) {
	width, height := size(v.out)
	var text bytes.Buffer
	switch {
	case at != 0 && at != width:
		// Terminals differ in what they make of long lines then: begin anew.
		fmt.Fprintf(&text, "\x1b[H\x1b[2J%s", v.greeting)
	case before > 0:
		fmt.Fprintf(&text, "\x1b[%dA", before)
	}
	text.WriteString("\x1b[J") // clear below
	var body bytes.Buffer
	v.mu.Lock()
	for _, notice := range v.notices {
		fmt.Fprintln(&text, notice)
	}
	v.notices = nil
	text.WriteString("\x1b[?7l") // do not wrap
	rows := v.board.rows(time.Now())
	footer := v.footer(rows, width)
	v.mu.Unlock()
	lines = render(&body, rows, width, max(5, height-len(footer)-2), true)
	for _, line := range footer {
		fmt.Fprintln(&body, line)
		lines++
	}
	text.Write(body.Bytes())
	text.WriteString("\x1b[?7h")
	if _, err := v.out.Write(text.Bytes()); err != nil {
		return 0, width
	}
	return lines, width
}

// footer says the sum of it all.
func (v *view) footer(rows []row, width int) []string {
	people, active := map[string]bool{}, 0
	for _, r := range rows {
		people[r.person] = true
		if r.state == usagev1.State_STATE_ACTIVE {
			active++
		}
	}
	lines := []string{"", fmt.Sprintf("%s, %d open, %d active; %s counted, %d waiting",
		oneOrMore(len(people), "1 person", fmt.Sprintf("%d people", len(people))), len(rows), active,
		count(v.quality.GetEventsCounted(), "event"), v.quality.GetLag())}
	if share, note := v.history.get(); note != "" {
		if share < 1 {
			note = fmt.Sprintf("%s %3.0f %%  %s", bar(share, min(30, width/3)), 100*share, note)
		}
		lines = append(lines, note)
	}
	if len(rows) == 0 && !v.demo {
		lines = append(lines, "nothing is open yet: open a terminal, browser or editor")
	}
	if v.problem != "" {
		lines = append(lines, "! "+v.problem)
	}
	lines = append(lines, "Ctrl-C stops everything; what was measured is kept.")
	var folded []string
	for _, line := range lines {
		folded = append(folded, foldText(line, width)...)
	}
	return folded
}

// report prints what changed since the last time, when it said so of the history and of what
// is amiss.
func (v *view) report(said [2]string) [2]string {
	v.mu.Lock()
	changes, notices := v.changes, v.notices
	v.changes, v.notices = nil, nil
	problem := v.problem
	v.mu.Unlock()
	var out io.Writer = v.out
	for _, notice := range notices {
		fmt.Fprintln(out, notice)
	}
	for _, c := range changes {
		what := stateName(c.instance.GetState())
		if c.closed {
			what = "closed"
		}
		fmt.Fprintf(out, "%s  %s %s %s %s\n", time.Now().Format(time.TimeOnly),
			pad(c.session.GetPrincipalName(), 18), pad(c.session.GetMachineName(), 10), pad(c.instance.GetApplicationName(), 22), what)
	}
	share, note := v.history.get()
	if note != "" && share < 1 {
		note = fmt.Sprintf("%d %% %s", int(20*share)*5, note)
	}
	for i, text := range []string{note, problem} {
		if text != said[i] && text != "" {
			fmt.Fprintf(out, "%s  %s\n", time.Now().Format(time.TimeOnly), text)
		}
		said[i] = text
	}
	return said
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil && os.Getenv("TERM") != "dumb"
}

func size(f *os.File) (width, height int) {
	s, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || s.Col == 0 || s.Row == 0 {
		return 110, 40
	}
	return int(s.Col), int(s.Row)
}
