package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/ledger"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// What people see of their days is what the Manager got, to the millisecond, whether or not
// there was one at the time, and with no more of a document than the policy tells.
func TestMyDataIsWhatIsSent(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	told := policy(1, "editor", "calc")
	told.Applications[0].Documents = true
	told.Applications[0].DocumentReduction = policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME
	steps := day()
	for i, s := range steps {
		if show, is := s.Do.(scripted.Show); is && show.PID == 10 {
			show.Title = "/home/anna/secret folder/letter.odt"
			steps[i].Do = show
		}
	}
	o.play(steps, func(c *agent.Config, d *agent.Deps) { c.LedgerDays, d.Policy = 100_000, told })

	l, err := ledger.Open(filepath.Join(o.dir, "ledger"), 100_000)
	if err != nil {
		t.Fatal(err)
	}
	usage := o.manager.Usage()
	if len(usage) == 0 {
		t.Fatal("the Manager has nothing")
	}
	person, err := contract.IDFrom(usage[0].GetPrincipalAlias())
	if err != nil {
		t.Fatal(err)
	}
	rows, err := l.Person(person, begin, 1)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]int64{}
	document := ""
	for _, r := range rows {
		if r.Document != "" {
			document = r.Document
			continue
		}
		sums[r.Application+" busy"] += r.BusyMillis
		sums[r.Application+" open"] += r.OpenMillis
	}
	totals := o.totals()
	for application, name := range map[byte]string{100: "editor", 101: "calc"} {
		open := int64(0)
		for _, ms := range totals[application] {
			open += ms
		}
		if open == 0 || sums[name+" open"] != open || sums[name+" busy"] != totals[application][usagev1.Attention_ATTENTION_BUSY] {
			t.Errorf("%s: the person is told %v, the Manager %v", name, sums, totals[application])
		}
	}
	if document != "letter.odt" {
		t.Errorf("the document is told as %q", document)
	}
	files, err := filepath.Glob(filepath.Join(o.dir, "ledger", "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("the ledger's files: %v, %v", files, err)
	}
	if text, err := os.ReadFile(files[0]); err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("the ledger holds what the policy hides: %v", err)
	}
}

// A person asks for their days at the control channel, and gets none of another's.
func TestMyDataOfWhoAsks(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	me := userOf(t, uint32(os.Geteuid()))
	d := scripted.New(scripted.Config{Begin: time.Now(), Pace: scripted.Real(), Endless: true, Script: scripted.Steps(
		scripted.Step{Session: "mine", Do: scripted.LogOn{User: me}},
		scripted.Step{Session: "mine", Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		scripted.Step{Session: "other", Do: scripted.LogOn{User: activity.User{Name: "somebody else"}}},
		scripted.Step{Session: "other", Do: scripted.Start{PID: 11, Path: "/usr/bin/calc"}},
	)})
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, c.LedgerDays, deps.Policy = false, 31, policy(1, "editor", "calc")
	})
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	control := agent.NewControl(o.dir, "")
	var got agent.MyData
	waitFor(t, "the opening is in the days", func() bool {
		_, _ = control.Pause(t.Context(), agent.PauseRequest{}) // each is a look at the desktop
		_, _ = control.Resume(t.Context(), agent.PauseRequest{})
		var err error
		got, err = control.MyData(t.Context(), 30)
		return err == nil && len(got.Rows) > 0
	})
	for _, r := range got.Rows {
		if r.Application != "editor" || r.Opened != 1 {
			t.Errorf("the row is %+v", r)
		}
	}
	if _, err := control.MyData(t.Context(), -1); err == nil {
		t.Error("a negative number of days is answered")
	}
}
