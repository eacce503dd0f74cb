package activity

import (
	"slices"
	"strings"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// A report of sightings has room for maxSightings programs; the last of it is kept
// for those that an application claims.
const (
	maxSightings = 500
	maxUnclaimed = 400
)

// sightings are the programs that were seen, for trying rules on them.
type sightings struct {
	list    []sighted
	changed bool
}

// sighted is a program and the rule that claims it; the ids are zero where none does.
// The program has no title.
type sighted struct {
	program           rules.Program
	application, rule contract.ID
	// remembered: it was seen under a policy before this one, and is judged by its
	// present rules, but without a title, until it is seen again.
	remembered bool
}

// sight notes a program and the rule that claims it, if one does. One that none
// does is noted only where the policy asks for it. In a pause nobody asks.
func (m *Machine) sight(program rules.Program, match rules.Match, claimed bool) {
	program.Title, program.Path = "", withoutHome(program.Path)
	s := &m.sightings
	if seen, wanted := m.judge(program, match, claimed); wanted && !slices.Contains(s.list, seen) {
		s.list = slices.DeleteFunc(s.list, func(old sighted) bool { return old.remembered && old.program == program })
		s.add(seen)
	}
}

// judge tells whether a program is to be reported.
func (m *Machine) judge(program rules.Program, match rules.Match, claimed bool) (seen sighted, wanted bool) {
	seen.program = program
	if claimed {
		seen.application, seen.rule = match.Application.ID, match.RuleID
	}
	return seen, claimed || m.policy.GetSightingsWanted()
}

func (s *sightings) add(seen sighted) {
	if len(s.list) < maxUnclaimed || len(s.list) < maxSightings && !seen.rule.IsZero() {
		s.list, s.changed = append(s.list, seen), true
	}
}

// sightAnew judges what was seen by a new policy. What is open is looked at again
// anyhow, titles and all.
func (m *Machine) sightAnew() {
	before := m.sightings.list
	m.sightings = sightings{changed: len(before) > 0}
	for _, old := range before {
		match, claimed := m.matcher.Match(old.program)
		seen, wanted := m.judge(old.program, match, claimed)
		seen.remembered = true
		if wanted && !slices.Contains(m.sightings.list, seen) {
			m.sightings.add(seen)
		}
	}
}

// Sightings are the programs that were seen, 500 at most, and whether that has
// changed since it was asked for last.
func (m *Machine) Sightings() ([]*usagev1.Sighting, bool) {
	if !m.sightings.changed {
		return nil, false
	}
	m.sightings.changed = false
	all := make([]*usagev1.Sighting, 0, len(m.sightings.list))
	for _, seen := range m.sightings.list {
		told := &usagev1.Sighting{
			Executable: clip(seen.program.Executable, 255), WindowClass: clip(seen.program.WindowClass, 255),
			Package: clip(seen.program.Package, 255), Path: clip(seen.program.Path, maxLabel),
		}
		if !seen.rule.IsZero() {
			told.ApplicationId, told.RuleId = seen.application[:], seen.rule[:]
		}
		all = append(all, told)
	}
	return all, true
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
