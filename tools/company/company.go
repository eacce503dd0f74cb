package company

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
)

// Config says what a company is like.
type Config struct {
	Seed         uint64
	People, Days int
	// Begin is the first day, and Zone where people live.
	Begin time.Time
	Zone  *time.Location
	// Applications are what they use; none: some with ids of the seed.
	Applications []contract.ID
	// Attendance is on how many of a hundred working days somebody uses any of them, and Minutes for
	// how long in the mean.
	Attendance, Minutes int
	// Now is when the last is received, where days are to come: a platform takes no later word. None:
	// all days have passed.
	Now time.Time
}

// Company is one, as far as its days have passed.
type Company struct {
	config   Config
	people   []*person
	machines []*machine
	managers []contract.ID
	// coming are frames that are held back until a later day.
	coming map[int][]Delivery
	clock  int64
}

// defaultApplications is how many there are where none are given.
const defaultApplications = 12

// sites is how many Managers a company has.
const sites = 3

// machinesShared is for how many people there is a machine that all of them may use.
const machinesShared = 10

// New plans a company; nothing has happened yet.
func New(config Config) *Company {
	c := &Company{config: config, coming: make(map[int][]Delivery)}
	if len(c.config.Applications) == 0 {
		for n := range defaultApplications {
			c.config.Applications = append(c.config.Applications, c.id(kindApplication, n))
		}
	}
	for n := range sites {
		c.managers = append(c.managers, c.id(kindManager, n))
	}
	for n := range config.People {
		p := &person{number: n, principal: c.id(kindPrincipal, n), random: c.random(kindPerson, n)}
		p.other = p.principal
		if n%14 == 3 { // another Manager knows them by another name
			p.other = c.id(kindPrincipal, config.People+n)
		}
		for range 6 {
			p.favourites = append(p.favourites, p.random.IntN(1+p.random.IntN(len(c.config.Applications))))
		}
		p.own = c.newMachine(machineOwn)
		p.own.laptop = n%3 == 0
		if n%7 == 3 {
			p.second = c.newMachine(machineSecond)
		}
		if n%machinesShared == 0 {
			c.newMachine(machineShared)
		}
		p.shared = c.machines[len(c.machines)-1]
		for _, m := range slices.Backward(c.machines) {
			if m.kind == machineShared {
				p.shared = m
				break
			}
		}
		c.people = append(c.people, p)
	}
	for n := range min(2, config.People) {
		c.people[n].server = c.newMachine(machineServer)
	}
	return c
}

// Kinds of things that have ids.
const (
	kindApplication = 'a' + iota
	kindManager
	kindPrincipal
	kindPerson
	kindMachine
	kindDocument
	kindKey
)

func (c *Company) random(kind, n int) *rand.Rand {
	return rand.New(rand.NewPCG(c.config.Seed<<8|uint64(kind), uint64(n)))
}

func (c *Company) id(kind, n int) contract.ID { return newID(c.random(kind+100, n)) }

// newID draws a random id, as UUIDs of version 4 are.
func newID(random *rand.Rand) (id contract.ID) {
	binary.BigEndian.PutUint64(id[:8], random.Uint64())
	binary.BigEndian.PutUint64(id[8:], random.Uint64())
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	return id
}

// Config is what it was planned by.
func (c *Company) Config() Config { return c.config }

// Managers are those of the company's sites.
func (c *Company) Managers() []contract.ID { return c.managers }

// Applications are what is used.
func (c *Company) Applications() []contract.ID { return c.config.Applications }

// Principals are the people's, one each, as the Manager of their own machine knows them.
func (c *Company) Principals() []contract.ID {
	all := make([]contract.ID, len(c.people))
	for i, p := range c.people {
		all[i] = p.principal
	}
	return all
}

// Others are principals of people whom another Manager knows too, by those that they are merged into.
func (c *Company) Others() map[contract.ID]contract.ID {
	all := make(map[contract.ID]contract.ID)
	for _, p := range c.people {
		if p.other != p.principal {
			all[p.other] = p.principal
		}
	}
	return all
}

// Machines are all that there are.
func (c *Company) Machines() []contract.ID {
	all := make([]contract.ID, len(c.machines))
	for i, m := range c.machines {
		all[i] = m.id
	}
	return all
}

// documentsOf is how many files there are of an application that has documents.
const documentsOf = 30

// hasDocuments tells it of the n-th application.
func hasDocuments(application int) bool { return application%3 == 0 }

// timeoutOf is that of the n-th application.
func timeoutOf(application int) time.Duration {
	return []time.Duration{30 * time.Minute, 10 * time.Minute, time.Hour}[application%3]
}

// Day is the day on which the n-th begins, at midnight of the zone.
func (c *Company) Day(n int) time.Time {
	year, month, day := c.config.Begin.Date()
	return time.Date(year, month, day+n, 0, 0, 0, 0, c.config.Zone)
}

// Days gives, day after day, what the platform gets on it, until nothing is under way any more: the
// last of it comes weeks after the last day.
func (c *Company) Days(get func(day int, came []Delivery) error) error {
	for day := 0; ; day++ {
		if day < c.config.Days {
			if err := c.work(day); err != nil {
				return fmt.Errorf("company: day %d: %w", day, err)
			}
		}
		came := c.coming[day]
		delete(c.coming, day)
		if over := c.Day(day + 1); c.config.Now.IsZero() || !over.After(c.config.Now) {
			c.clock = max(c.clock, over.UnixMilli())
		}
		for i := range came {
			c.clock++
			came[i].Frame.ReceivedUtcMillis = c.clock
		}
		if err := get(day, came); err != nil {
			return err
		}
		if day >= c.config.Days && len(c.coming) == 0 {
			return nil
		}
	}
}

// work lets one day pass.
func (c *Company) work(day int) error {
	for _, m := range c.machines {
		m.begin(day)
	}
	for _, p := range c.people {
		c.plan(p, day)
	}
	until := c.Day(day + 1).UnixMilli()
	if day == c.config.Days-1 { // what is open then is told to its end
		until = int64(^uint64(0) >> 1)
	}
	for _, m := range c.machines {
		if err := c.journal(m, day, until); err != nil {
			return err
		}
	}
	return nil
}
