package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/company"
	"github.com/cetrus/cetrus/tools/stack"
)

// consoled is `cetrus all` with a company's year in it, and somebody who is signed in to its console.
type consoled struct {
	r        *run
	platform *stack.Platform
	company  *company.Company
	people   int
	begin    time.Time
	days     int
	zone     *time.Location
	// groups are in order, members the groups of each person.
	groups  []contract.ID
	members map[contract.ID][]contract.ID
	events  int
	browser *browser
	random  *rand.Rand
}

// consoled makes it once a run: the benches of the console share it.
func (r *run) consoled(ctx context.Context) (_ *consoled, err error) {
	if r.console != nil || r.consoleFailed != nil {
		return r.console, r.consoleFailed
	}
	defer func() { r.consoleFailed = err }()
	c := &consoled{r: r, people: 1000, days: 365, random: rand.New(rand.NewPCG(3, 3))}
	switch r.Scale {
	case Small:
		c.people, c.days = 30, 60
	case Middle:
		c.people, c.days = 300, 120
	case Full:
	}
	if c.zone, err = time.LoadLocation("Europe/Berlin"); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	// The last day is today, to its end: nothing of it can be prepared, and most pages ask for it.
	c.begin = time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1-c.days)
	if c.platform, err = r.startPlatform(ctx); err != nil {
		return nil, err
	}
	if err = c.found(ctx); err == nil {
		c.browser, err = r.signIn(ctx, c.platform)
	}
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	r.console = c
	return c, nil
}

func (c *consoled) close() error { return c.platform.Stop(time.Minute) }

// found lets the company work for a year, and waits until that is counted.
func (c *consoled) found(ctx context.Context) error {
	r, began := c.r, time.Now()
	if err := company.SetZone(ctx, c.platform.API, c.zone); err != nil {
		return err
	}
	applications, err := company.Applications(ctx, c.platform.API, sized(r, 10, 50))
	if err != nil {
		return err
	}
	c.company = company.New(company.Config{
		Seed: 1, People: c.people, Days: c.days, Begin: c.begin, Zone: c.zone, Applications: applications, Attendance: 80, Minutes: sized(r, 40, 45),
		Now: time.Now(),
	})
	sender, err := company.NewSender(ctx, c.company, c.platform, filepath.Join(r.dir, "bin", "cetrus"))
	if err != nil {
		return err
	}
	defer sender.Close()
	if err := c.company.Days(func(_ int, came []company.Delivery) error { return sender.Send(ctx, came) }); err != nil {
		return err
	}
	if err := sender.Wait(ctx); err != nil {
		return err
	}
	c.events = sender.Events
	r.say("%d events are sent after %v", c.events, time.Since(began).Round(time.Second))
	if c.members, err = c.company.Join(ctx, c.platform.API); err != nil {
		return err
	}
	for _, in := range c.members {
		c.groups = append(c.groups, in...)
	}
	slices.SortFunc(c.groups, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
	c.groups = slices.Compact(c.groups)
	if err := stack.Wait(ctx, time.Hour, "everything to be counted", func() error {
		var quality meteringv1.GetDataQualityResponse
		if err := c.platform.API.Get(ctx, "/v1/usage:dataQuality", nil, &quality); err != nil {
			return err
		}
		if quality.GetPosition() < sender.Position {
			return fmt.Errorf("%d of %d messages are counted", quality.GetPosition(), sender.Position)
		}
		if n := len(quality.GetQuarantined()); n > 0 {
			return stack.Hopeless(fmt.Errorf("bench: of what the company did %v is set aside", quality.GetQuarantined()[0]))
		}
		return nil
	}); err != nil {
		return err
	}
	r.say("and counted after %v", time.Since(began).Round(time.Second))
	return c.settle(ctx)
}

// settle waits for what a platform does within minutes of what it counted: PostgreSQL knows its tables, days that are
// over are prepared, and what pages ask for by themselves is made.
func (c *consoled) settle(ctx context.Context) error {
	text, err := os.ReadFile(filepath.Join(c.platform.Dir, "addresses.json"))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	var addresses struct {
		PostgresURL string `json:"postgres_url"`
	}
	if err := json.Unmarshal(text, &addresses); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	conn, err := pgx.Connect(ctx, addresses.PostgresURL)
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	began := time.Now()
	for _, statement := range []string{"VACUUM (ANALYZE)", "CHECKPOINT"} {
		if _, err = conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("bench: %s: %w", statement, err)
		}
	}
	var schema string
	if err := conn.QueryRow(ctx, "SELECT schemaname FROM pg_tables WHERE tablename = 'unprepared_day'").Scan(&schema); err != nil {
		return fmt.Errorf("bench: the days that are not prepared: %w", err)
	}
	over := time.Now().UTC().Truncate(24*time.Hour).Unix()/86400 - 1
	missing := began // when something was last seen to be missing
	if err := stack.Wait(ctx, time.Hour, "days to be prepared", func() error {
		looked, left := time.Now(), 0
		if err := conn.QueryRow(ctx, "SELECT count(*) FROM "+pgx.Identifier{schema, "unprepared_day"}.Sanitize()+" WHERE day <= $1", over).Scan(&left); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		if left > 0 {
			missing = looked
			return fmt.Errorf("%d are not", left)
		}
		return nil
	}); err != nil {
		return err
	}
	c.r.say("days are prepared after another %v", time.Since(began).Round(time.Second))
	var made string
	if err := stack.Wait(ctx, 20*time.Minute, "what pages ask for to be made", func() error {
		text, err := os.ReadFile(filepath.Join(c.r.dir, "platform.log"))
		if err != nil {
			return err
		}
		for _, m := range madeAhead.FindAllStringSubmatch(string(text), -1) {
			if at, err := time.Parse(time.RFC3339, m[1]); err == nil && at.After(missing) {
				made = m[2]
				return nil
			}
		}
		return errors.New("the platform's log does not say so")
	}); err != nil {
		return err
	}
	c.r.say("and what pages ask for is made after %v: %s", time.Since(began).Round(time.Second), made)
	return nil
}

// madeAhead is what the platform says when it has made what pages ask for.
var madeAhead = regexp.MustCompile(`(?m)^time=(\S+) .*"what pages ask for is made before they ask" (.*)$`)

// browser is a client that keeps cookies, takes compressed answers, and measures.
type browser struct {
	base   string
	client *http.Client
}

// seen is what a browser got of an address.
type seen struct {
	httpStatus int
	body       string
	// bytes are those of the body as it was transferred.
	bytes int
	took  time.Duration
	// at is the address after what it redirected to.
	at *url.URL
}

// signIn signs the first administrator in, who chooses a password.
func (r *run) signIn(ctx context.Context, p *stack.Platform) (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	b := &browser{base: p.REST, client: &http.Client{Jar: jar, Timeout: 5 * time.Minute, Transport: &http.Transport{DisableCompression: true}}}
	once, err := os.ReadFile(filepath.Join(p.Dir, "admin-password"))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	form := url.Values{"account": {"operator"}, "login": {"admin"}, "password": {strings.TrimSpace(string(once))}, "new-password": {"a horse reads 14 newspapers"}, "next": {"/use"}}
	s, err := b.do(ctx, http.MethodPost, "/sign-in", form)
	if err == nil {
		s, err = b.get(ctx, "/use")
	}
	if err == nil && (s.httpStatus != http.StatusOK || s.at.Path != "/use") {
		err = fmt.Errorf("bench: signing in led to %s, %d", s.at.Path, s.httpStatus)
	}
	return b, err
}

func (b *browser) get(ctx context.Context, address string) (seen, error) {
	return b.do(ctx, http.MethodGet, address, nil)
}

func (b *browser) do(ctx context.Context, method, address string, form url.Values) (s seen, err error) {
	var body io.Reader = http.NoBody
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	request, err := http.NewRequestWithContext(ctx, method, b.base+address, body)
	if err != nil {
		return s, fmt.Errorf("bench: %w", err)
	}
	request.Header.Set("Accept", "text/html,*/*")
	request.Header.Set("Accept-Encoding", "gzip")
	request.Header.Set("Accept-Language", "en-GB,en")
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	began := time.Now()
	response, err := b.client.Do(request)
	if err != nil {
		return s, fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	s.took = time.Since(began)
	if err != nil {
		return s, fmt.Errorf("bench: %s: %w", address, err)
	}
	s.httpStatus, s.bytes, s.at = response.StatusCode, len(raw), response.Request.URL
	s.body, err = unzipped(raw, response.Header.Get("Content-Encoding"))
	return s, err
}

var (
	menuLinks = regexp.MustCompile(`(?s)id="menu".*?</(?:nav|aside|header)>`)
	hrefs     = regexp.MustCompile(`href="(/[^"#?]*)[^"]*"`)
)

// ofTheMenu are the pages that the menu leads to, and of each list of things the page of one.
func (b *browser) ofTheMenu(ctx context.Context) ([]string, error) {
	first, err := b.get(ctx, "/use")
	if err != nil {
		return nil, err
	}
	var pages []string
	add := func(path string) {
		if !slices.Contains(pages, path) {
			pages = append(pages, path)
		}
	}
	for _, m := range hrefs.FindAllStringSubmatch(menuLinks.FindString(first.body), -1) {
		if !strings.HasPrefix(m[1], "/docs/") && !strings.HasPrefix(m[1], "/assets/") {
			add(m[1])
		}
	}
	if len(pages) < 10 {
		return nil, fmt.Errorf("bench: the menu of /use leads to %v alone", pages)
	}
	for _, list := range slices.Clone(pages) {
		shown, err := b.get(ctx, list)
		if err != nil {
			return nil, err
		}
		for _, m := range hrefs.FindAllStringSubmatch(shown.body, -1) {
			if rest, of := strings.CutPrefix(m[1], list+"/"); of {
				if _, err := contract.ParseID(rest); err == nil {
					add(m[1])
					break
				}
			}
		}
	}
	return pages, nil
}
