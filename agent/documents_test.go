package agent_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

// fileFacts is what a test's system knows of the files of every process.
type fileFacts struct{ arguments, open []string }

func (f fileFacts) CommandLine(activity.Process) []string { return f.arguments }
func (f fileFacts) OpenFiles(activity.Process) []string   { return f.open }
func (f fileFacts) Home(activity.Process) string          { return "/home/Salamander" }

// TestNothingHiddenTouchesTheDisk looks into every byte that an agent keeps for what
// policy hides of titles, command lines and open files. No Manager is there, so that
// all that was to be told still waits.
func TestNothingHiddenTouchesTheDisk(t *testing.T) {
	t.Parallel()
	const folder, argument, name, home, page = "Kestrelfolder", "Wombatfolder", "Ocelotname", "Salamander", "Diagnosis"
	all := []string{folder, argument, name, home, page}
	for reduction, shown := range map[policyv1.DocumentReduction][]string{
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING:   nil,
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_CATEGORY:  nil,
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH:      nil,
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME: {name},
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL:       {folder, argument, name, home},
	} {
		o := newOffice(t)
		o.play([]scripted.Step{
			{At: 0, Do: scripted.LogOn{User: activity.User{Name: "anna"}}},
			{At: time.Second, Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
			{At: time.Second, Do: scripted.Show{ID: 1, PID: 10, Title: name + "1.odt - Edit"}},
			{At: time.Second, Do: scripted.Show{ID: 2, PID: 10, Title: "*" + name + "2.odt - Edit"}},
			{At: time.Second, Do: scripted.Show{ID: 3, PID: 10, Title: name + "3.odt (~/notes) - Edit"}},
			{At: time.Second, Do: scripted.Show{ID: 4, PID: 10, Title: page + " - Private"}},
			{At: time.Second, Do: scripted.Show{ID: 5, PID: 10, Title: page + " that no rule reads"}},
			{At: time.Second, Do: scripted.Focus{ID: 1}},
			{At: time.Minute, Do: scripted.Inputs{For: 2 * time.Minute, Every: 5 * time.Second}},
			{At: 5 * time.Minute, Do: scripted.Exit{PID: 10}},
			{At: 6 * time.Minute, Do: scripted.LogOff{}},
		}, func(c *agent.Config, d *agent.Deps) {
			c.Managers, c.Drain = []string{"127.0.0.1:1"}, false
			d.Evidence = fileFacts{
				open:      []string{"/srv/" + folder + "/" + name + "1.odt", "/srv/" + folder + "/other.odt"},
				arguments: []string{"/srv/" + argument + "/" + name + "2.odt", "/srv/" + argument + "/secret.odt"},
			}
			p := policy(1, "editor")
			a := p.GetApplications()[0]
			a.Documents, a.DocumentReduction = true, reduction
			a.TitleRules = []*policyv1.TitleRule{
				{Pattern: `(?P<private>Private)$`},
				{Pattern: `^\*?(?P<file>[^(]+) \((?P<folder>.+)\) - Edit$`},
				{Pattern: `^(?P<modified>\*)?(?P<file>.+) - Edit$`},
			}
			d.Policy = p
		})
		var kept []byte
		files := 0
		err := filepath.WalkDir(o.dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			kept, files = append(kept, text...), files+1
			return err
		})
		if err != nil || files < 5 {
			t.Fatalf("%d files: %v", files, err)
		}
		for _, word := range all {
			wanted := slices.Contains(shown, word)
			// What may be shown has to be found, or the search would prove nothing.
			if found := bytes.Contains(kept, []byte(word)); found != wanted {
				t.Errorf("%v: %q is on the disk: %v", reduction, word, found)
			}
		}
	}
}
