package firm

import (
	"math/rand/v2"
	"time"
)

// Project is what several departments draw for.
type Project struct {
	// Number stands in the names of its documents.
	Number, Name string
	// begin and end are days before the end of the past: when it is worked on.
	begin, end int
	// deadline: its last three weeks are long days.
	deadline bool
}

// Projects of the firm.
func Projects() []Project {
	return []Project{
		{"4102", "Harbour Bridge", 400, 96, true},
		{"4115", "Mill Lane School", 400, 150, false},
		{"4121", "Riverside Tower", 190, 33, true},
		{"4127", "North Quay Flood Wall", 160, -400, false},
		{"4130", "St Anne Hospital", 120, -400, false},
		{"4133", "Tram Depot", 60, -400, false},
		{"4138", "Opera Roof", 35, -400, false},
	}
}

// calendar knows what the firm's days are like.
type calendar struct {
	seed uint64
	to   time.Time // the end of the past
}

// random draws for one person and day, always the same.
func (c *calendar) random(number int, day time.Time) *rand.Rand {
	y, m, d := day.Date()
	return rand.New(rand.NewPCG(c.seed^0x9e3779b97f4a7c15, uint64(number)<<32|uint64(y*400+int(m)*31+d)))
}

// before is how many days a day lies before the end of the past.
func (c *calendar) before(day time.Time) int {
	return int(midnight(c.to).Sub(day).Hours()+12) / 24
}

// projectsOn are those that are worked on.
func (c *calendar) projectsOn(day time.Time) []Project {
	var on []Project
	for _, p := range Projects() {
		if before := c.before(day); before <= p.begin && before >= p.end {
			on = append(on, p)
		}
	}
	return on
}

// pressed tells whether a deadline is near, and whether it is a matter of days.
func (c *calendar) pressed(p *Person, day time.Time) (near, days bool) {
	switch p.Department {
	case structures, architecture, analysis, services:
	default:
		return false, false
	}
	for _, project := range Projects() {
		if left := c.before(day) - project.end; project.deadline && left >= 0 && left < 21 {
			near, days = true, days || left < 4
		}
	}
	return near, days
}

// works tells whether somebody works on a day.
func (c *calendar) works(p *Person, day time.Time, random *rand.Rand) bool {
	dice := random.IntN(100) // drawn in any case, so that what follows stays the same
	if !p.at(day) {
		return false
	}
	if p.role.nights { // four nights, three off, holidays or not
		return (dayNumber(day)+p.Number)%7 < 4 && dice >= 4
	}
	weekend := day.Weekday() == time.Saturday || day.Weekday() == time.Sunday
	if holiday(day) {
		return false
	}
	if weekend {
		_, days := c.pressed(p, day)
		return days && dice < 35 || p.laptop && dice < 3
	}
	if p.partTime && day.Weekday() == time.Friday {
		return false
	}
	return !c.away(p, day) && !c.ill(p, day) && dice >= 2
}

// away tells whether somebody is on holiday: two or three weeks in summer, the days around
// Christmas, a week in autumn or spring.
func (c *calendar) away(p *Person, day time.Time) bool {
	own := rand.New(rand.NewPCG(c.seed, uint64(p.Number)))
	summer := time.Date(day.Year(), time.July, 1+7*own.IntN(7), 0, 0, 0, 0, day.Location())
	weeks := 2 + own.IntN(2)
	if !day.Before(summer) && day.Before(summer.AddDate(0, 0, 7*weeks)) {
		return true
	}
	for _, month := range []time.Month{time.February, time.April, time.October} {
		week := time.Date(day.Year(), month, 1+7*own.IntN(3), 0, 0, 0, 0, day.Location())
		if own.IntN(100) < 40 && !day.Before(week) && day.Before(week.AddDate(0, 0, 7)) {
			return true
		}
	}
	christmas := day.Month() == time.December && day.Day() >= 22 || day.Month() == time.January && day.Day() <= 4
	return christmas && own.IntN(100) < 80
}

// ill: about once in three months, for one to four days.
func (c *calendar) ill(p *Person, day time.Time) bool {
	for back := range 4 {
		random := c.random(p.Number+100_000, day.AddDate(0, 0, -back))
		if random.IntN(100) < 1 && back <= random.IntN(4) {
			return true
		}
	}
	return false
}

func dayNumber(day time.Time) int { return int(day.Unix() / 86_400) }

func midnight(t time.Time) time.Time {
	y, m, d := t.Date()
	return time.Date(y, m, d, 0, 0, 0, 0, t.Location())
}

// holiday tells the days on which nobody works.
func holiday(day time.Time) bool {
	switch m, d := day.Month(), day.Day(); {
	case m == time.January && d == 1, m == time.May && d == 1, m == time.December && (d == 24 || d == 25 || d == 26 || d == 31):
		return true
	}
	easter := easterSunday(day.Year(), day.Location())
	for _, after := range []int{-2, 1, 39, 50} {
		if midnight(day).Equal(easter.AddDate(0, 0, after)) {
			return true
		}
	}
	return false
}

// easterSunday by the anonymous Gregorian rule.
func easterSunday(year int, zone *time.Location) time.Time {
	a, b, c := year%19, year/100, year%100
	h := (19*a + b - b/4 - (b-(b+8)/25+1)/3 + 15) % 30
	l := (32 + 2*(b%4) + 2*(c/4) - h - c%4) % 7
	m := (a + 11*h + 22*l) / 451
	n := h + l - 7*m + 114
	return time.Date(year, time.Month(n/31), n%31+1, 0, 0, 0, 0, zone)
}

// days is on how many of a hundred days somebody uses a program at a time of the past.
func (c *calendar) days(p *Person, u use, day time.Time) int {
	before := c.before(day)
	switch {
	case u.program == "matlab" && before < 110:
		return 0 // they program in Python now, and still pay for it
	case u.program == "code" && p.Department == analysis && before < 110:
		return 75
	case u.program == "arcgis" && !p.role.nights:
		return u.days * min(100, 40+before/3) / 100 // it goes out of use,
	case u.program == "qgis":
		return u.days * max(100, 170-before/2) / 100 // and this comes
	case u.program == "revit":
		return u.days * max(85, 115-before/6) / 100
	case u.program == "ansys" || u.program == "abaqus" || u.program == "etabs":
		if near, _ := c.pressed(p, day); near {
			return min(95, u.days*8/5)
		}
	}
	return u.days
}
