package company

import (
	"math/rand/v2"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
)

// person works in the company.
type person struct {
	number int
	random *rand.Rand
	// principal is who they are to most; other to the Manager of their second machine.
	principal, other contract.ID
	favourites       []int
	own, second      *machine
	shared, server   *machine
}

// season is how many of a hundred are there at a time of the year.
func season(date time.Time) int {
	switch month, day := date.Month(), date.Day(); {
	case month == time.December && day > 22, month == time.January && day < 3:
		return 8
	case month == time.August:
		return 55
	case month == time.July:
		return 80
	}
	return 100
}

// plan decides what somebody does on a day.
func (c *Company) plan(p *person, day int) {
	date, random := c.Day(day), p.random
	if p.server != nil && day == c.config.Days/8 {
		// Somebody began something on a server, and has not thought of it since.
		c.visit(p, p.server, p.principal, date.Add(11*time.Hour+time.Duration(random.IntN(1e6))*time.Millisecond), forgotten)
	}
	odds := c.config.Attendance * season(date) / 100
	switch date.Weekday() {
	case time.Saturday, time.Sunday:
		odds = 2
	case time.Friday:
		odds = odds * 8 / 10
	case time.Monday, time.Tuesday, time.Wednesday, time.Thursday:
	}
	if random.IntN(100) >= odds {
		return
	}
	at := date.Add(7*time.Hour + time.Duration(random.Int64N(int64(7*time.Hour/time.Millisecond)))*time.Millisecond)
	if random.IntN(15) == 0 { // a night shift
		at = date.Add(21*time.Hour + time.Duration(random.Int64N(int64(2*time.Hour/time.Millisecond)))*time.Millisecond)
	}
	m := p.own
	if random.IntN(8) == 0 {
		m = p.shared
	}
	kind := ordinary
	switch r := random.IntN(100); {
	case m.laptop && r < 12:
		kind = asleep
	case !m.laptop && r < 4:
		kind = leftOpen
	case r == 50:
		kind = lost
	}
	c.visit(p, m, p.principal, at, kind)
	if p.second != nil && random.IntN(3) == 0 {
		c.visit(p, p.second, p.other, at.Add(time.Duration(random.IntN(1200))*time.Second), ordinary)
	}
}
