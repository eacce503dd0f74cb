package bench

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/figure"
)

// lengths are of the periods that pages are asked for beside their own, in days.
func lengths() []int { return []int{1, 7, 30, 90, 365} }

// choices are what people choose on a page beside period and filter: one of the queries a visit.
func choices() map[string][]string {
	return map[string][]string{
		"/use": {
			"by=application", "by=person", "by=machine", "by=group", "by=site", "by=document", "by=day", "by=week", "by=month", "by=person&counting=person",
			"view=ranking", "view=distribution",
		},
		"/concurrent": {"", "give-back=5", "give-back=30", "holders=on", "metric=machine"},
		"/licences":   {"", "bought=20&price=1200.50&currency=EUR&refused=10000"},
		"/forecast":   {"", "days=30", "days=365&price=100&currency=EUR"},
		"/unused":     {"", "less=5", "not-for=30"},
		"/idle":       {"", "at-least=60"},
		"/timeline":   {"rows=person", "rows=machine", "rows=application", "rows=run", "rows=run&files=on"},
		"/sessions":   {"", "by=person", "by=application", "by=machine"},
	}
}

// visit draws an address of a page: of the period that it has by itself, or of one from a day to a year anywhere; in
// two of three with a filter.
func (c *consoled) visit(page string, itself bool) (address string, days int) {
	random := c.random
	query := url.Values{}
	if !itself {
		days = min(c.days, lengths()[random.IntN(len(lengths()))])
		end := c.begin.AddDate(0, 0, c.days-random.IntN(c.days-days+1))
		query.Set("from", end.AddDate(0, 0, 1-days).Format(time.DateOnly))
		query.Set("to", end.Format(time.DateOnly))
	}
	one := func(ids []contract.ID) string { return ids[random.IntN(len(ids))].String() }
	switch random.IntN(9) {
	case 0, 1, 2:
	case 3, 4:
		query.Set("application", one(c.company.Applications()))
	case 5:
		query.Set("person", one(c.company.Principals()))
	case 6:
		query.Set("machine", one(c.company.Machines()))
	case 7:
		query.Set("group", c.groups[random.IntN(len(c.groups))].String())
	case 8:
		query.Set("site", one(c.company.Managers()))
	}
	address = page + "?" + query.Encode()
	if more := choices()[page]; len(more) > 0 {
		address += "&" + more[random.IntN(len(more))]
	}
	return address, days
}

// visits are how long pages took.
type visits struct {
	r       *run
	all     []time.Duration
	byPage  map[string][]time.Duration
	byDays  map[int][]time.Duration
	refused map[string]int
	slowest seen
}

func newVisits(r *run) *visits {
	return &visits{r: r, byPage: make(map[string][]time.Duration), byDays: make(map[int][]time.Duration), refused: make(map[string]int)}
}

// ask asks for an address once.
func (v *visits) ask(ctx context.Context, c *consoled, page, address string, days int) error {
	s, err := c.browser.get(ctx, address)
	if err != nil {
		return err
	}
	if s.at.Path == "/sign-in" {
		return fmt.Errorf("bench: %s led to the sign-in", address)
	}
	name := nameOf(page)
	if s.httpStatus != http.StatusOK {
		v.refused[name+" "+strconv.Itoa(s.httpStatus)+" "+strconv.Itoa(days)+"d"]++
		v.r.say("%s: %d: %s", address, s.httpStatus, said(s.body))
		return nil
	}
	if s.took > v.slowest.took {
		v.slowest = s
	}
	v.all = append(v.all, s.took)
	v.byPage[name] = append(v.byPage[name], s.took)
	v.byDays[days] = append(v.byDays[days], s.took)
	return nil
}

// tell puts the figures under names that begin with prefix.
func (v *visits) tell(more map[string]any, prefix string) {
	more[prefix+"p50_ms"], more[prefix+"p99_ms"], more[prefix+"visits"] = at(0.5, v.all), at(0.99, v.all), len(v.all)
	if v.slowest.at != nil {
		more[prefix+"slowest"], more[prefix+"slowest_ms"] = v.slowest.at.RequestURI(), millis(v.slowest.took)
	}
	for name, of := range v.byPage {
		more[prefix+name+"_p50_ms"], more[prefix+name+"_p99_ms"] = at(0.5, of), at(0.99, of)
	}
	for days, of := range v.byDays {
		if days > 0 {
			more[fmt.Sprintf("%s%03d_days_p50_ms", prefix, days)], more[fmt.Sprintf("%s%03d_days_p99_ms", prefix, days)] = at(0.5, of), at(0.99, of)
		}
	}
	for what, times := range v.refused {
		more[prefix+"refused "+what] = times
	}
}

// pages asks for every page of the console as a browser does, again and again: of the period that each has by itself, for the
// first time and once more, and then of others, which nobody has asked about before.
func pages(ctx context.Context, r *run) error {
	c, err := r.consoled(ctx)
	if err != nil {
		return err
	}
	all, err := c.browser.ofTheMenu(ctx)
	if err != nil {
		return err
	}
	r.say("%d pages: %s", len(all), strings.Join(all, " "))
	first, again, elsewhere := newVisits(r), newVisits(r), newVisits(r)
	for _, part := range []struct {
		itself bool
		visits []*visits
	}{{true, []*visits{first, again}}, {false, []*visits{elsewhere}}} {
		stop := time.Now().Add(sized(r, 20*time.Second, 3*time.Minute))
		for round := range sized(r, 3, 40) {
			for _, page := range all {
				if round > 1 && time.Now().After(stop) {
					break
				}
				address, days := c.visit(page, part.itself)
				for _, v := range part.visits {
					if err := v.ask(ctx, c, page, address, days); err != nil {
						return err
					}
				}
			}
		}
	}
	more := map[string]any{"pages": len(all), "people": len(c.company.Principals()), "days": c.days, "events": c.events}
	first.tell(more, "first_")
	again.tell(more, "again_")
	elsewhere.tell(more, "elsewhere_")
	return r.emit(figure.Line{Name: r.name, Value: at(0.99, slices.Concat(first.all, again.all)), Unit: "ms", More: more})
}

// nameOf is a page, whichever thing it is of.
func nameOf(page string) string {
	parts := strings.Split(strings.Trim(page, "/"), "/")
	if _, err := contract.ParseID(parts[len(parts)-1]); err == nil {
		parts[len(parts)-1] = "one"
	}
	return strings.Join(parts, "_")
}

var tags = regexp.MustCompile(`(?s)<[^>]*>|\s+`)

// said is what a page says that is none.
func said(body string) string {
	_, main, _ := strings.Cut(body, "<main")
	text := strings.Join(strings.Fields(tags.ReplaceAllString(main, " ")), " ")
	return text[:min(len(text), 300)]
}

// slider asks how many licences are wanted if they are given back after N minutes, for one N after the
// other, as of the answer that was given first.
func slider(ctx context.Context, r *run) error {
	c, err := r.consoled(ctx)
	if err != nil {
		return err
	}
	var took, first []time.Duration
	end := c.begin.AddDate(0, 0, c.days)
	for n := range sized(r, 3, 8) {
		query := url.Values{"start_time": {c.begin.Format(time.RFC3339)}, "end_time": {end.Format(time.RFC3339)}}
		if n%2 == 0 { // else all of them together
			query.Set("filter.application_ids", c.company.Applications()[n].String())
		}
		began := time.Now()
		var answer meteringv1.QueryDemandResponse
		if err := c.platform.API.Get(ctx, "/v1/reports:demand", query, &answer); err != nil {
			r.say("%s: %v", query.Encode(), err)
			continue
		}
		first = append(first, time.Since(began))
		query.Set("as_of_position", answer.GetPosition())
		for range sized(r, 5, 40) {
			query.Set("give_back_after", strconv.Itoa(60*(1+c.random.IntN(120)))+"s")
			began := time.Now()
			if err := c.platform.API.Get(ctx, "/v1/reports:demand", query, &answer); err != nil {
				return err
			}
			took = append(took, time.Since(began))
		}
	}
	return r.emit(figure.Line{Name: r.name, Value: at(0.99, took), Unit: "ms", More: map[string]any{
		"p50_ms": at(0.5, took), "first_p50_ms": at(0.5, first), "first_greatest_ms": at(1, first), "people": len(c.company.Principals()), "days": c.days, "questions": len(took),
	}})
}

var (
	assetLinks = regexp.MustCompile(`(?:src|href)="(/[^"#?]*\.(?:js|css|svg|woff2|png|ico)[^"#]*)`)
	assetURLs  = regexp.MustCompile(`url\(["']?([^"')]+)`)
)

// firstPage counts what a browser transfers for the first page after the sign-in that it has never seen
// before: the page, and all that it names, compressed as it is sent, without heads.
func firstPage(ctx context.Context, r *run) error {
	c, err := r.consoled(ctx)
	if err != nil {
		return err
	}
	more := map[string]any{}
	first, err := c.transferred(ctx, "/", more)
	if err != nil {
		return err
	}
	// ECharts is the largest file of all.
	chart, err := c.transferred(ctx, "/concurrent", nil)
	if err != nil {
		return err
	}
	more["concurrent_with_echarts_kb"] = float64(chart) / 1000
	return r.emit(figure.Line{Name: r.name, Value: float64(first) / 1000, Unit: "kB", More: more})
}

// transferred sums up a page and its files; the size of each goes to more, where that is not nil.
func (c *consoled) transferred(ctx context.Context, page string, more map[string]any) (int, error) {
	shown, err := c.browser.get(ctx, page)
	if err != nil {
		return 0, err
	}
	sizes := map[string]int{shown.at.Path: shown.bytes}
	wanted := []string{}
	for _, m := range assetLinks.FindAllStringSubmatch(shown.body, -1) {
		wanted = append(wanted, m[1])
	}
	for len(wanted) > 0 {
		address := wanted[0]
		wanted = wanted[1:]
		if _, had := sizes[address]; had {
			continue
		}
		s, err := c.browser.get(ctx, address)
		if err != nil {
			return 0, err
		}
		if s.httpStatus != http.StatusOK {
			return 0, fmt.Errorf("bench: %s is answered %d", address, s.httpStatus)
		}
		sizes[address] = s.bytes
		if strings.HasSuffix(s.at.Path, ".css") {
			for _, m := range assetURLs.FindAllStringSubmatch(s.body, -1) {
				if of, err := s.at.Parse(m[1]); err == nil && of.Host == s.at.Host {
					wanted = append(wanted, of.RequestURI())
				}
			}
		}
	}
	sum := 0
	for address, bytes := range sizes {
		sum += bytes
		if more != nil {
			more[address[strings.LastIndexByte(address, '/')+1:]+"_bytes"] = bytes
		}
	}
	return sum, nil
}

// unzipped is a body as it is read.
func unzipped(raw []byte, encoding string) (string, error) {
	if encoding != "gzip" {
		return string(raw), nil
	}
	zip, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	return string(text), nil
}
