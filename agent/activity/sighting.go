package activity

import (
	"slices"
	"strings"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// A report of sightings has room for maxSightings programs; those that no
// application claims leave some of it to the others.
const (
	maxSightings = 500
	maxUnclaimed = 400
)

// sightings are the programs that were seen, for trying rules on them.
type sightings struct {
	list    []*usagev1.Sighting
	known   map[sighted]bool
	changed bool
}

// sighted is what makes two sightings the same: all but a title.
type sighted struct {
	program           rules.Program
	application, rule contract.ID
}

// sight notes a program and the rule that claims it, if one does. One that none
// does is noted only where the policy asks for it, and nothing in a pause.
func (m *Machine) sight(program rules.Program, match rules.Match, claimed bool) {
	if !m.pausedByPerson && !m.policy.GetPaused() {
		m.noteSighting(program, match, claimed)
	}
}

func (m *Machine) noteSighting(program rules.Program, match rules.Match, claimed bool) {
	if !claimed && !m.policy.GetSightingsWanted() {
		return
	}
	program.Title = ""
	program.Path = withoutHome(program.Path)
	key := sighted{program: program}
	if claimed {
		key.application, key.rule = match.Application.ID, match.RuleID
	}
	s := &m.sightings
	if s.known[key] || len(s.list) >= maxSightings || !claimed && len(s.list) >= maxUnclaimed {
		return
	}
	if s.known == nil {
		s.known = map[sighted]bool{}
	}
	s.known[key], s.changed = true, true
	seen := &usagev1.Sighting{
		Executable: clip(program.Executable, 255), WindowClass: clip(program.WindowClass, 255),
		Package: clip(program.Package, 255), Path: clip(program.Path, maxLabel),
	}
	if claimed {
		seen.ApplicationId, seen.RuleId = key.application[:], key.rule[:]
	}
	s.list = append(s.list, seen)
}

// sightAnew judges what was seen by a new policy. What is open is looked at again
// anyhow, titles and all; of what is not, the titles are forgotten.
func (m *Machine) sightAnew() {
	before := m.sightings.list
	m.sightings = sightings{changed: len(before) > 0}
	for _, seen := range before {
		program := rules.Program{
			Executable: seen.GetExecutable(), Path: seen.GetPath(), WindowClass: seen.GetWindowClass(), Package: seen.GetPackage(),
		}
		match, claimed := m.matcher.Match(program)
		m.noteSighting(program, match, claimed)
	}
}

// Sightings are the programs that were seen, 500 at most, and whether that has
// changed since it was asked for last.
func (m *Machine) Sightings() ([]*usagev1.Sighting, bool) {
	changed := m.sightings.changed
	m.sightings.changed = false
	return slices.Clone(m.sightings.list), changed
}

// withoutHome puts "*" in the place of a person's own folder in a path, such as
// /home/ada/bin/program: it holds a name.
func withoutHome(path string) string {
	separator := "/"
	if strings.Contains(path, "\\") {
		separator = "\\"
	}
	folders := strings.Split(path, separator)
	for i, folder := range folders {
		if i > 3 || i+2 >= len(folders) {
			break
		}
		if strings.EqualFold(folder, "home") || strings.EqualFold(folder, "users") {
			folders[i+1] = "*"
			break
		}
	}
	return strings.Join(folders, separator)
}
