package office

import (
	"time"

	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/tools/desks"
)

// Desks are the desks of people; the seed decides their past. All of their past is loaded
// at once.
func Desks(staff []Person, seed uint64) []desks.Desk {
	all := make([]desks.Desk, len(staff))
	for i, person := range staff {
		all[i] = desks.Desk{
			Number: person.Number, Host: person.Host, System: person.System, Roams: person.Laptop, Early: true,
			Past: func(from, to time.Time) scripted.Script { return Script(person, Days(person, seed, from, to), from) },
			Present: func(now time.Time, seed uint64) scripted.Script {
				return Script(person, Shift(person, seed, now), now)
			},
		}
	}
	return all
}
