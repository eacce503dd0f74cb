package firm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Domain of all of the firm's logins.
const Domain = "HARBOUR"

// Name is what the firm is called.
const Name = "Harbour Engineering"

// Person works at the firm.
type Person struct {
	// Number tells people apart, from 0.
	Number int
	// Login and Name are what the operating system knows.
	Login, Name string
	// Job is what they do, Department the group that they are in.
	Job, Department string
	// Site is where they work, an index into Sites.
	Site int
	// Joined and Left are the first day and the one after the last; zero: always been, still there.
	Joined, Left time.Time

	role *role
	// host is their machine.
	host       string
	laptop     bool
	leavesOpen bool
	partTime   bool
	// homeDays they spend at home, on their machine in the office.
	homeDays bool
	// crew are there at any hour in the present, so that there is something to see.
	crew bool
}

// Sites of the firm, the first of which has the Manager that the platform brings.
func Sites() []string { return []string{"Harbour Street", "Mill Lane", "Riverside"} }

// use is how a role uses a program.
type use struct {
	program string
	// days is on how many of a hundred days it is used at all, share its part of the time then.
	days, share int
}

// role is a job that several have.
type role struct {
	job, department string
	people          int
	uses            []use
	// hours are how long a day at the desk is; meetings how many an average one has.
	hours    float64
	meetings float64
	// laptops and leaveOpen are how many of a hundred have one, and leave programs open at night.
	laptops, leaveOpen int
	nights             bool
	intern             bool
	sites              []int // where they are, in turns
}

// The departments are the groups of the account.
const (
	structures   = "Structural engineering"
	architecture = "Architecture"
	civil        = "Civil and water"
	services     = "Building services"
	analysis     = "Analysis"
	projects     = "Project management"
	finance      = "Accounting"
	sales        = "Sales"
	visual       = "Visualisation"
	digital      = "Digital tools"
	it           = "IT"
	people       = "Human resources"
	legal        = "Legal"
	monitoring   = "Site monitoring"
	interns      = "Interns"
)

func roles() []role {
	office := func(more ...use) []use {
		return append(more, use{"outlook", 95, 18}, use{"edge", 70, 12}, use{"teams", 45, 3})
	}
	all, main, outer := []int{0, 1, 2}, []int{0}, []int{1, 2}
	return []role{
		{job: "Structural engineer", department: structures, people: 58, hours: 8, meetings: 0.8, laptops: 25, leaveOpen: 22, sites: []int{0, 0, 1, 2}, uses: office(
			use{"autocad", 72, 46}, use{"tekla", 34, 60}, use{"etabs", 30, 30}, use{"sap2000", 10, 30}, use{"mathcad", 22, 12}, use{"sofistik", 8, 35}, use{"excel", 40, 12}, use{"bluebeam", 35, 8}, use{"word", 18, 10}, use{"rebar", 9, 4})},
		{job: "Senior structural engineer", department: structures, people: 12, hours: 8.5, meetings: 2, laptops: 90, sites: main, uses: office(
			use{"autocad", 25, 20}, use{"bluebeam", 70, 25}, use{"robot", 6, 20}, use{"excel", 45, 15}, use{"word", 40, 20})},
		{job: "Architect", department: architecture, people: 40, hours: 8, meetings: 1, laptops: 30, leaveOpen: 18, sites: []int{0, 0, 1}, uses: office(
			use{"revit", 66, 55}, use{"autocad", 42, 35}, use{"sketchup", 26, 20}, use{"rhino", 14, 30}, use{"photoshop", 14, 10}, use{"bluebeam", 25, 8}, use{"spotify", 25, 3})},
		{job: "Civil engineer", department: civil, people: 22, hours: 8, meetings: 0.9, laptops: 40, leaveOpen: 12, sites: []int{1, 2}, uses: office(
			use{"civil", 60, 45}, use{"microstation", 35, 35}, use{"hecras", 12, 30}, use{"autocad", 18, 20}, use{"excel", 35, 12}, use{"word", 15, 12})},
		{job: "Surveyor", department: civil, people: 12, hours: 6, meetings: 0.3, laptops: 100, sites: outer, uses: office(
			use{"arcgis", 45, 45}, use{"qgis", 30, 45}, use{"autocad", 20, 20}, use{"excel", 30, 10})},
		{job: "Building services engineer", department: services, people: 26, hours: 8, meetings: 0.8, laptops: 30, leaveOpen: 15, sites: []int{0, 1}, uses: office(
			use{"revit", 50, 45}, use{"autocad", 38, 35}, use{"idaice", 14, 30}, use{"dialux", 12, 15}, use{"navisworks", 14, 10}, use{"excel", 30, 10})},
		{job: "Workshop designer", department: services, people: 6, hours: 8, meetings: 0.2, leaveOpen: 30, sites: outer, uses: office(
			use{"inventor", 88, 65}, use{"autocad", 20, 15})},
		{job: "Simulation engineer", department: analysis, people: 12, hours: 8.5, meetings: 0.6, laptops: 20, leaveOpen: 35, sites: main, uses: office(
			use{"ansys", 55, 45}, use{"abaqus", 22, 40}, use{"matlab", 60, 35}, use{"code", 35, 40}, use{"excel", 20, 8})},
		{job: "Project manager", department: projects, people: 30, hours: 5.5, meetings: 2.6, laptops: 95, sites: []int{0, 0, 1, 2}, uses: office(
			use{"excel", 60, 20}, use{"msproject", 26, 18}, use{"word", 40, 16}, use{"powerpoint", 22, 14}, use{"bluebeam", 25, 10}, use{"primavera", 3, 25}, use{"visio", 2, 15}, use{"powerbi", 6, 12}, use{"zoom", 20, 3})},
		{job: "Accountant", department: finance, people: 15, hours: 7, meetings: 0.4, laptops: 10, leaveOpen: 8, sites: main, uses: office(
			use{"sapgui", 96, 46}, use{"excel", 85, 30}, use{"word", 15, 6}, use{"acrobat", 20, 6})},
		{job: "Sales manager", department: sales, people: 20, hours: 4.5, meetings: 1.6, laptops: 100, sites: all, uses: office(
			use{"powerpoint", 55, 22}, use{"excel", 35, 10}, use{"word", 35, 12}, use{"rdp", 30, 12}, use{"chrome", 60, 15}, use{"zoom", 25, 3})},
		{job: "Visualisation artist", department: visual, people: 11, hours: 8, meetings: 0.4, laptops: 10, leaveOpen: 25, sites: main, uses: office(
			use{"photoshop", 70, 25}, use{"lumion", 45, 35}, use{"indesign", 45, 20}, use{"illustrator", 35, 16}, use{"blender", 30, 30}, use{"premiere", 16, 35}, use{"spotify", 60, 3})},
		{job: "Software developer", department: digital, people: 18, hours: 8, meetings: 0.8, laptops: 70, leaveOpen: 15, sites: []int{0, 2}, uses: []use{
			{"code", 80, 50}, {"visualstudio", 28, 45}, {"intellij", 22, 45}, {"firefox", 90, 18}, {"outlook", 70, 8}, {"notepadpp", 20, 4}, {"teams", 50, 3},
		}},
		{job: "IT administrator", department: it, people: 12, hours: 7.5, meetings: 0.6, laptops: 70, sites: all, uses: office(
			use{"rdp", 70, 20}, use{"notepadpp", 50, 8}, use{"code", 25, 12}, use{"visio", 3, 10}, use{"firefox", 60, 16}, use{"excel", 20, 6})},
		{job: "Personnel officer", department: people, people: 8, hours: 6.5, meetings: 1.3, laptops: 40, sites: main, uses: office(
			use{"sapgui", 60, 22}, use{"word", 50, 20}, use{"excel", 35, 10}, use{"acrobat", 25, 6})},
		{job: "Lawyer", department: legal, people: 6, hours: 7.5, meetings: 1, laptops: 60, sites: main, uses: office(
			use{"word", 95, 42}, use{"imanage", 80, 12}, use{"acrobat", 70, 14})},
		{job: "Monitoring operator", department: monitoring, people: 6, hours: 8.5, nights: true, sites: outer, uses: []use{
			{"arcgis", 90, 40}, {"edge", 95, 30}, {"excel", 50, 12}, {"outlook", 60, 8},
		}},
		{job: "Intern", department: interns, people: 16, hours: 7, meetings: 0.3, intern: true, sites: []int{0, 0, 1}, uses: office(
			use{"autocad", 55, 40}, use{"revit", 30, 40}, use{"sketchup", 25, 20}, use{"foxit", 30, 6}, use{"word", 30, 15}, use{"freecad", 15, 20})},
	}
}

// Departments are the groups, in the order in which people are listed.
func Departments() []string {
	var all []string
	seen := map[string]bool{}
	for _, r := range roles() {
		if !seen[r.department] {
			seen[r.department] = true
			all = append(all, r.department)
		}
	}
	return all
}

// crewShare of a hundred people are the crew.
const crewShare = 15

// staff is everybody who worked at the firm between two moments; it follows from the seed.
func staff(seed uint64, from, to time.Time) []*Person {
	random := rand.New(rand.NewPCG(seed, 0x66697266))
	chance := func(percent int) bool { return random.IntN(100) < percent }
	names := newNames(random)
	span := int(to.Sub(from).Hours()) / 24
	day := func(n int) time.Time { return midnight(from).AddDate(0, 0, n) }
	var all []*Person
	machines := 0
	for _, r := range roles() {
		for i := range r.people {
			login, name := names.next()
			p := &Person{
				Number: len(all), Login: login, Name: name, Job: r.job, Department: r.department, Site: r.sites[i%len(r.sites)], role: &r,
				laptop: chance(r.laptops), partTime: chance(8), homeDays: chance(12),
			}
			p.leavesOpen = !p.laptop && chance(r.leaveOpen)
			p.crew = !r.intern && chance(crewShare)
			switch {
			case r.intern:
				// Two terms: each machine has one of the first, then one of the second.
				term := span / 2
				if i%2 == 0 {
					p.Left = day(term - random.IntN(max(1, term/6)))
				} else {
					p.Joined = day(term + random.IntN(max(1, term/6)))
				}
			case p.crew:
			case r.department == structures && i%4 == 0: // it grows
				p.Joined = day(random.IntN(max(1, span*9/10)))
			case chance(5):
				p.Joined = day(random.IntN(max(1, span)))
			case chance(5):
				p.Left = day(1 + random.IntN(max(1, span-1)))
			}
			if r.intern && i%2 == 1 {
				p.host = all[len(all)-1].host
			} else {
				machines++
				kind := "ws"
				if p.laptop {
					kind = "lt"
				}
				p.host = fmt.Sprintf("%s-%03d", kind, machines)
			}
			all = append(all, p)
		}
	}
	return all
}

// at tells whether somebody works at the firm on a day.
func (p *Person) at(day time.Time) bool {
	return !day.Before(p.Joined) && (p.Left.IsZero() || day.Before(p.Left))
}

// names gives people names, each once.
type names struct {
	random *rand.Rand
	taken  map[string]bool
	logins map[string]int
}

func newNames(random *rand.Rand) *names {
	return &names{random: random, taken: map[string]bool{}, logins: map[string]int{}}
}

func (n *names) next() (login, name string) {
	for {
		first, last := firstNames[n.random.IntN(len(firstNames))], lastNames[n.random.IntN(len(lastNames))]
		name = first + " " + last
		if n.taken[name] {
			continue
		}
		n.taken[name] = true
		login = strings.ToLower(plain.Replace(first[:1] + last))
		n.logins[login]++
		if again := n.logins[login]; again > 1 {
			login = fmt.Sprintf("%s%d", login, again)
		}
		return login, name
	}
}

var plain = strings.NewReplacer(" ", "", "'", "", "á", "a", "ä", "ae", "å", "aa", "ç", "c", "č", "c", "é", "e", "ě", "e", "í", "i", "ł", "l", "ñ", "n", "ø", "o", "ö", "oe", "ő", "o", "ó", "o", "ř", "r", "š", "s", "ş", "s", "ü", "ue", "ı", "i", "ž", "z")

var firstNames = []string{
	"Ada", "Aisha", "Alice", "Amina", "Anders", "Anna", "Arjun", "Astrid", "Ben", "Birgit", "Carlos", "Chloe", "Claire", "Daniel", "Dmitri", "Elena",
	"Emma", "Erik", "Fatima", "Felix", "Fumiko", "Giulia", "Grace", "Hannah", "Henrik", "Hugo", "Ines", "Isla", "Jakub", "James", "Jonas", "Joseph",
	"Julia", "Karim", "Katrin", "Kenji", "Lars", "Laura", "Leo", "Lin", "Lucas", "Maria", "Marek", "Mateo", "Meera", "Mia", "Nadia", "Nina", "Noah",
	"Oliver", "Omar", "Paula", "Peter", "Priya", "Rafael", "Rosa", "Ruth", "Samuel", "Sara", "Sofia", "Stefan", "Tariq", "Thomas", "Tove", "Victor",
	"Wei", "Willem", "Yaw", "Yusuf", "Zeynep",
}

var lastNames = []string{
	"Ali", "Andersen", "Baker", "Becker", "Berg", "Bianchi", "Brown", "Chen", "Clark", "Conti", "Cooper", "Costa", "Dahl", "Demir", "Dvořák", "Evans",
	"Fischer", "Fry", "Garcia", "Gupta", "Hall", "Hansen", "Hughes", "Ivanova", "Jensen", "Johansson", "Kaya", "Khan", "Kim", "Kovács", "Kowalska",
	"Larsen", "Laurent", "Lopez", "Martin", "Mbeki", "Mensah", "Moreau", "Müller", "Nair", "Nguyen", "Novák", "Obi", "Okafor", "Olsen", "Patel",
	"Petrov", "Popov", "Quinn", "Reid", "Rossi", "Ruiz", "Sato", "Schmidt", "Silva", "Singh", "Smith", "Svensson", "Tanaka", "Taylor", "Vos",
	"Walker", "Weber", "Wood", "Wright", "Yılmaz", "Young", "Zhang",
}
