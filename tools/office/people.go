package office

import "fmt"

// Person works in the office, at one machine.
type Person struct {
	// Number tells people apart, from 0.
	Number int
	// Login and Name are what the operating system knows.
	Login, Name string
	// Host is the name of the machine, System its operating system.
	Host, System string
	// Laptop machines sleep at night, and leave the office.
	Laptop bool
	// Programs are the short names of what the person works with, the first most.
	Programs []string
	// Diligence is the share of working time with hands on the keyboard, in percent.
	Diligence int
	// LeavesOpen: at the end of the day the person locks the screen and goes; what is
	// open stays open overnight.
	LeavesOpen bool
}

// Domain of all of the office's logins.
const Domain = "HARBOUR"

// Staff is everybody who works in the office.
func Staff() []Person {
	type role struct {
		programs  []string
		diligence int
	}
	var (
		engineer  = role{[]string{"freecad", "calc", "thunderbird", "firefox", "writer"}, 60}
		surveyor  = role{[]string{"qgis", "calc", "firefox", "thunderbird"}, 50}
		artist    = role{[]string{"blender", "inkscape", "firefox", "thunderbird"}, 65}
		developer = role{[]string{"code", "terminal", "firefox", "thunderbird"}, 70}
		office    = role{[]string{"writer", "calc", "thunderbird", "firefox"}, 55}
		manager   = role{[]string{"thunderbird", "calc", "writer", "firefox"}, 30}
	)
	staff := []struct {
		login, name string
		role        role
		laptop      bool
		leavesOpen  bool
	}{
		{"aobi", "Ada Obi", engineer, false, false},
		{"mdvorak", "Marek Dvořák", engineer, false, true},
		{"lchen", "Lin Chen", engineer, true, false},
		{"sruiz", "Sofía Ruiz", engineer, false, true},
		{"jhansen", "Jonas Hansen", engineer, false, false},
		{"pnair", "Priya Nair", engineer, true, false},
		{"tbecker", "Tobias Becker", engineer, false, true},
		{"kito", "Kenji Itō", surveyor, true, false},
		{"ewood", "Emma Wood", surveyor, true, false},
		{"rsilva", "Rafael Silva", surveyor, false, false},
		{"nkowal", "Nina Kowalska", artist, false, true},
		{"ofry", "Oliver Fry", artist, false, false},
		{"zdemir", "Zeynep Demir", artist, false, false},
		{"hlarsen", "Håkon Larsen", developer, true, false},
		{"mgupta", "Meera Gupta", developer, false, true},
		{"dpopov", "Dmitri Popov", developer, false, false},
		{"ymensah", "Yaw Mensah", developer, true, false},
		{"cmartin", "Claire Martin", office, false, false},
		{"bfischer", "Birgit Fischer", office, false, true},
		{"aali", "Amina Ali", office, false, false},
		{"gconti", "Giulia Conti", office, false, false},
		{"wvries", "Willem de Vries", office, false, false},
		{"iquinn", "Isla Quinn", manager, true, false},
		{"ftanaka", "Fumiko Tanaka", manager, true, false},
		{"sbrown", "Samuel Brown", manager, true, true},
	}
	people := make([]Person, len(staff))
	for i, s := range staff {
		kind := "ws"
		if s.laptop {
			kind = "lt"
		}
		people[i] = Person{
			Number: i, Login: s.login, Name: s.name, Host: fmt.Sprintf("%s-%02d", kind, i+1), System: "Debian GNU/Linux 13",
			Laptop: s.laptop, Programs: s.role.programs, Diligence: s.role.diligence, LeavesOpen: s.leavesOpen,
		}
	}
	return people
}
