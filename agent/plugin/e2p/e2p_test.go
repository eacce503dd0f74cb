package e2p

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

func id(n byte) []byte { return append(make([]byte, 15), n) }

func idOf(n byte) contract.ID { return contract.ID(id(n)) }

const (
	application = 10
	person      = 20
	session     = 30
	instance    = 40
)

// desk is a person who is asked, one question at a time, and what was told.
type desk struct {
	t       *testing.T
	plugin  *Plugin
	now     int64
	user    string
	files   []string
	windows []activity.ShownWindow
	asked   chan prompt.Request
	answers chan prompt.Answer
	told    chan *pluginv1.Choice
	held    chan bool
}

// newDesk is one where the application's prompt is as p says, and note is all that is asked.
func newDesk(t *testing.T, p *policyv1.ProjectPrompt, change func(*policyv1.ExpenseToProject)) *desk {
	t.Helper()
	p.Enabled = true
	settings := &policyv1.ExpenseToProject{Fields: []*policyv1.PromptField{{Key: "note", Label: "Note", Kind: policyv1.PromptFieldKind_PROMPT_FIELD_KIND_TEXT}}}
	if change != nil {
		change(settings)
	}
	policy := &policyv1.Policy{ExpenseToProject: settings}
	for _, n := range []byte{application, application + 1} {
		policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{ApplicationId: id(n), DisplayName: "App", ProjectPrompt: p})
	}
	d := &desk{
		t: t, now: 100_000, user: `ACME\ada`,
		asked: make(chan prompt.Request), answers: make(chan prompt.Answer), told: make(chan *pluginv1.Choice, 100), held: make(chan bool, 10),
	}
	d.plugin = New(Deps{
		User: func([]byte) string { return d.user }, Now: func() int64 { return d.now }, Files: func(*pluginv1.Event) []string { return d.files },
		Ask: func(ctx context.Context, _ []byte, r prompt.Request) (prompt.Answer, error) {
			select {
			case d.asked <- r:
			case <-ctx.Done():
				return prompt.Answer{}, ctx.Err()
			}
			select {
			case a := <-d.answers:
				return a, nil
			case <-ctx.Done():
				return prompt.Answer{}, ctx.Err()
			}
		},
		Hold: func(*pluginv1.Event) func() {
			d.held <- true
			return func() { d.held <- false }
		},
	})
	configuration, err := Settings(policy)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.plugin.Configure(t.Context(), &pluginv1.ConfigureRequest{Policy: configuration, Machine: &pluginv1.Machine{DataDir: t.TempDir()}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.plugin.Report(ctx, func(r *pluginv1.ReportResponse) error {
			d.told <- r.GetChoice()
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return d
}

func (d *desk) event(kind pluginv1.EventKind, app, run, who byte, change func(*pluginv1.Event)) {
	d.t.Helper()
	e := &pluginv1.Event{
		Kind: kind, ApplicationId: id(app), InstanceId: id(run), SessionId: id(session), PrincipalAlias: id(who), AtBootMillis: d.now,
		Attention: usagev1.Attention_ATTENTION_IDLE,
	}
	if change != nil {
		change(e)
	}
	if err := d.plugin.Notify(d.t.Context(), []*pluginv1.Event{e}); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) open(run byte) {
	d.t.Helper()
	d.event(pluginv1.EventKind_EVENT_KIND_OPENED, application, run, person, nil)
}

func (d *desk) close(run byte) {
	d.t.Helper()
	d.event(pluginv1.EventKind_EVENT_KIND_CLOSED, application, run, person, nil)
}

// window is one that shows a file, which is metered under a document.
func (d *desk) window(n uint64, document byte, folder, name string) activity.ShownWindow {
	return activity.ShownWindow{
		ID: n, Instance: idOf(instance), Document: idOf(document), OpenedMillis: d.now,
		Title: name, Kind: rules.File, Folder: folder, Name: name, Settled: true,
	}
}

// show makes these the windows of the session.
func (d *desk) show(windows ...activity.ShownWindow) {
	d.t.Helper()
	d.windows = windows
	d.plugin.Show(activity.SessionWindows{SessionID: idOf(session), Windows: windows})
	d.until("they are looked at", func(p *Plugin) bool {
		p.inbox.mu.Lock()
		defer p.inbox.mu.Unlock()
		return p.inbox.sessions == nil
	})
}

// within is how long anything is waited for; what shall not happen is waited for by
// something that happens after it.
const within = 30 * time.Second

// question takes the next one. A choice may be told before or after the question behind it
// is asked, so neither waits for the other.
func (d *desk) question() prompt.Request {
	d.t.Helper()
	select {
	case r := <-d.asked:
		return r
	case <-time.After(within):
		d.t.Fatal("nobody is asked")
	}
	return prompt.Request{}
}

func (d *desk) choice() *pluginv1.Choice {
	d.t.Helper()
	select {
	case c := <-d.told:
		return c
	case <-time.After(within):
		d.t.Fatal("no choice is told")
	}
	return nil
}

func (d *desk) answer(note string) {
	d.t.Helper()
	d.say(chose("note", note))
}

func (d *desk) say(a prompt.Answer) {
	d.t.Helper()
	select {
	case d.answers <- a:
	case <-time.After(within):
		d.t.Fatal("nobody waits for an answer")
	}
}

func chose(values ...string) prompt.Answer {
	a := prompt.Answer{Outcome: prompt.Chosen, Values: map[string]string{}}
	for n := 0; n < len(values); n += 2 {
		a.Values[values[n]] = values[n+1]
	}
	return a
}

// wants checks a choice: its document (0: the whole instance), from when on, and the note or
// the rule that says it.
func (d *desk) wants(document byte, since int64, says string) {
	d.t.Helper()
	c := d.choice()
	said := c.GetProposed().GetFields()["note"]
	if rule := c.GetAssignmentRuleId(); len(rule) > 0 {
		said = fmt.Sprint("rule ", rule[15])
	}
	var of []byte
	if document != 0 {
		of = id(document)
	}
	if string(c.GetDocumentId()) != string(of) || c.GetEffectiveFromBootMillis() != since || said != says || string(c.GetInstanceId()) != string(id(instance)) {
		d.t.Errorf("told is %q of document %v from %d on, want %q of %d from %d on", said, c.GetDocumentId(), c.GetEffectiveFromBootMillis(), says, document, since)
	}
}

// nothingElse checks that nobody is asked anything more, and nothing more is told: by a
// choice that is told behind all others, once no question waits.
func (d *desk) nothingElse() {
	d.t.Helper()
	d.until("no question waits", func(p *Plugin) bool { return len(p.waiting) == 0 })
	d.plugin.mu.Lock()
	d.plugin.tell(&subject{run: &run{event: &pluginv1.Event{InstanceId: id(99)}}, answer: &pluginv1.Choice{}}, place{})
	d.plugin.mu.Unlock()
	if c := d.choice(); c.GetInstanceId()[15] != 99 {
		d.t.Errorf("told is %v too", c)
	}
}

func folderRule(n byte, folder, fileName string) *policyv1.AssignmentRule {
	return &policyv1.AssignmentRule{
		AssignmentRuleId: id(n), Folder: folder, FileName: fileName, Assigned: &policyv1.AssignmentRule_NotChargeable{NotChargeable: true},
	}
}

// A question is filled in with what the same person last chose in that application, failing
// that in another one, and with nothing of anybody else's.
func TestFilledInWithTheMostRecentChoice(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{}, nil)
	for n, c := range []struct {
		application, person byte
		want, says          string
	}{
		{application: 10, person: 1, want: "", says: "pier"},
		{application: 11, person: 1, want: "pier", says: "quay"},
		{application: 10, person: 1, want: "pier", says: "pier"},
		{application: 11, person: 1, want: "quay", says: "quay"},
		{application: 11, person: 2, want: "", says: "other"},
	} {
		d.event(pluginv1.EventKind_EVENT_KIND_OPENED, c.application, byte(100+n), c.person, nil)
		if got := d.question().Fields[0].Value; got != c.want {
			t.Errorf("start %d is filled in with %q, want %q", n, got, c.want)
		}
		d.answer(c.says)
		d.choice()
	}
}

// On a login that several people share, the prompt knows what each of them chose last, also
// after a new start, and is filled in with the last one's.
func TestFilledInWithTheWorkersChoice(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{}, func(s *policyv1.ExpenseToProject) {
		s.SharedLogins = []string{"ada"}
		s.Workers = []*policyv1.PromptWorker{{WorkerId: id(1), Label: "Ada"}, {WorkerId: id(2), Label: "Marek"}}
	})
	ada, marek := fmt.Sprintf("%x", id(1)), fmt.Sprintf("%x", id(2))
	for n, c := range []struct{ who, says string }{{ada, "pier"}, {marek, "quay"}} {
		d.open(byte(100 + n))
		d.question()
		d.say(chose(workerKey, c.who, "note", c.says))
		if got := d.choice(); fmt.Sprintf("%x", got.GetWorkerId()) != c.who {
			t.Errorf("told is %v", got)
		}
	}
	// "Not chargeable" says who is working, and nothing of projects.
	d.open(102)
	d.question()
	d.say(prompt.Answer{Outcome: prompt.NotChargeable, Values: map[string]string{workerKey: ada}})
	d.choice()

	again := recent{}
	again.open(d.plugin.recent.file)
	d.plugin.mu.Lock()
	d.plugin.recent = again
	d.plugin.mu.Unlock()
	d.open(103)
	r := d.question()
	if r.Fields[0].Value != ada || r.Fields[1].Value != "pier" {
		t.Errorf("filled in is %q with %q, want Ada's", r.Fields[0].Value, r.Fields[1].Value)
	}
	if r.Recent[ada]["note"] != "pier" || r.Recent[marek]["note"] != "quay" {
		t.Errorf("known is %v", r.Recent)
	}
	d.answer("x")
	d.choice()
}

// Each file is asked for once, holds its choice while another is in front in the same
// window, and is asked for anew after its window has closed.
func TestAChoiceHoldsUntilTheFileCloses(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE}, nil)
	d.open(instance)
	a := d.window(1, 1, "/srv", "a.dwg")
	d.show(a)
	if r := d.question(); r.Document != "a.dwg" || r.Others != 0 {
		t.Errorf("asked is %+v", r)
	}
	opened := d.now
	d.now += 20_000
	d.answer("a")
	d.wants(1, opened-activity.DriftFloor, "a") // from its opening, though it was said later

	d.now += 1000
	b := d.window(1, 2, "/srv", "b.dwg") // another tab
	d.show(b)
	if r := d.question(); r.Document != "b.dwg" || r.Fields[0].Value != "a" {
		t.Errorf("asked is %+v", r)
	}
	d.answer("b")
	d.wants(2, d.now-activity.DriftFloor, "b")

	d.now += 1000
	a.OpenedMillis = d.now
	d.show(a)
	d.wants(1, d.now-activity.DriftFloor, "a")

	// A title that names no document for a moment closes nothing.
	d.show(activity.ShownWindow{ID: 1, Instance: a.Instance})
	d.now += 1000
	a.OpenedMillis = d.now
	d.show(a)
	d.wants(1, d.now-activity.DriftFloor, "a")

	d.show()
	a.OpenedMillis, a.ID = d.now, 2
	d.show(a)
	if r := d.question(); r.Document != "a.dwg" {
		t.Errorf("asked is %+v", r)
	}
	d.answer("c")
	d.wants(1, d.now-activity.DriftFloor, "c")
	d.nothingElse()
}

// A rule by folder or file name assigns without asking, whatever is asked for; a file that it
// does not fit is asked for.
func TestRulesOfFiles(t *testing.T) {
	t.Parallel()
	of := func(s *policyv1.ExpenseToProject) {
		s.Rules = []*policyv1.AssignmentRule{folderRule(1, `P:\2024\017`, ""), folderRule(2, "", "timesheet*.xlsx")}
	}
	t.Run("for files", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE}, of)
		d.open(instance)
		first, second, third := d.window(1, 1, `p:\2024\017\Plans`, "a.dwg"), d.window(2, 2, "", "Timesheet 3.xlsx"), d.window(3, 3, `P:\2024\018`, "a.dwg")
		d.show(first, second)
		for range 2 {
			c := d.choice()
			if c.GetDocumentId()[15] != c.GetAssignmentRuleId()[15] {
				t.Errorf("told is %v", c)
			}
		}
		d.show(first, second, third)
		if r := d.question(); r.Document != "a.dwg" {
			t.Errorf("asked is %+v", r)
		}
		d.answer("x")
		d.wants(3, d.now-activity.DriftFloor, "x")
		d.nothingElse()
	})
	t.Run("for windows", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_WINDOW}, of)
		d.open(instance)
		d.show(d.window(1, 1, `Q:\`, "a.dwg"))
		d.question()
		d.answer("x")
		d.wants(1, d.now-activity.DriftFloor, "x")
		d.now += 1000
		d.show(d.window(1, 2, `P:\2024\017`, "b.dwg"))
		d.wants(2, d.now-activity.DriftFloor, "rule 1")
		d.now += 1000
		d.show(d.window(1, 3, `Q:\`, "c.dwg")) // the window's choice holds
		d.wants(3, d.now-activity.DriftFloor, "x")
		d.nothingElse()
	})
	t.Run("for the application", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t, &policyv1.ProjectPrompt{}, of)
		d.open(instance)
		d.question()
		d.answer("x")
		d.wants(0, 0, "x")
		d.show(d.window(1, 1, `P:\2024\017`, "a.dwg"))
		d.wants(1, d.now-activity.DriftFloor, "rule 1")
		d.show(d.window(1, 2, `Q:\`, "b.dwg")) // as the application
		d.nothingElse()
	})
	t.Run("started with a file", func(t *testing.T) {
		t.Parallel()
		d := newDesk(t, &policyv1.ProjectPrompt{HoldsLaunch: true}, of)
		d.files = []string{`C:\template.dwt`, `P:\2024\017\a.dwg`}
		d.open(instance)
		d.wants(0, 0, "rule 1")
		if len(d.held) > 0 {
			t.Error("a launch is held that a rule fits")
		}
	})
}

// While a file's folder is being looked for nobody is asked, where it may decide.
func TestAQuestionWaitsForTheFolder(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE}, func(s *policyv1.ExpenseToProject) {
		s.Rules = []*policyv1.AssignmentRule{folderRule(1, "/srv/bridge", "")}
	})
	d.open(instance)
	w := d.window(1, 1, "", "a.dwg")
	w.Settled = false
	d.show(w)
	d.plugin.mu.Lock()
	if len(d.plugin.waiting) > 0 {
		t.Error("a question is put before the folder is known")
	}
	d.plugin.mu.Unlock()
	opened := d.now
	d.now += 2000
	found := d.window(1, 2, "/srv/bridge", "a.dwg") // known by its folder it is another document
	d.show(found)
	d.wants(1, opened-activity.DriftFloor, "rule 1")
	d.wants(2, d.now-activity.DriftFloor, "rule 1")
	w.ID, w.OpenedMillis, w.Title, w.Name = 2, d.now, "b.dwg", "b.dwg"
	w.Document = idOf(3)
	d.show(found, w)
	w.Settled = true
	d.show(found, w)
	if r := d.question(); r.Document != "b.dwg" {
		t.Errorf("asked is %+v", r)
	}
	d.answer("x")
	d.wants(3, d.now-activity.DriftFloor, "x")
	d.nothingElse()
}

// Where policy keeps so little that files share a document, the choice follows the file
// that is in front or that its window shows.
func TestFilesThatShareADocument(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE}, nil)
	d.open(instance)
	opened := d.now
	a, b := d.window(1, 1, "/srv", "a.dwg"), d.window(2, 1, "/srv", "b.dwg")
	a.Front = true
	d.show(a, b)
	d.question()
	d.answer("a")
	d.wants(1, opened-activity.DriftFloor, "a")
	d.question()
	d.say(chose("note", "b")) // holds nowhere yet
	d.now += 5000
	a.Front, b.Front = false, true
	// Until the answer is taken in there is nothing to tell.
	d.until("the answer is taken in", func(p *Plugin) bool { return len(p.waiting) == 0 })
	d.show(a, b)
	d.wants(1, d.now, "b")
	b.Front = false // nothing is in front: it stays
	d.show(a, b)
	d.now += 5000
	d.show(a)
	d.wants(1, d.now, "a")
	d.nothingElse()
}

func (d *desk) until(what string, done func(*Plugin) bool) {
	d.t.Helper()
	deadline := time.Now().Add(within)
	for {
		d.plugin.mu.Lock()
		ok := done(d.plugin)
		d.plugin.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatal("it never came that " + what)
		}
		<-time.After(time.Millisecond)
	}
}

// Many files at once are one prompt at a time, and one answer may be for all of them.
func TestManyFilesAtOnce(t *testing.T) {
	t.Parallel()
	for _, all := range []prompt.Answer{{Outcome: prompt.Chosen, Values: map[string]string{"note": "same"}, ForAll: true}, {Outcome: prompt.Later, ForAll: true}} {
		t.Run(string(all.Outcome), func(t *testing.T) {
			t.Parallel()
			d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE}, nil)
			d.open(instance)
			var windows []activity.ShownWindow
			for n := range 12 {
				windows = append(windows, d.window(uint64(n+1), byte(n+1), "/srv", fmt.Sprintf("%02d.dwg", n+1)))
			}
			d.show(windows...)
			if r := d.question(); r.Document != "01.dwg" || r.Others != 11 {
				t.Errorf("asked is for %q and %d others", r.Document, r.Others)
			}
			d.answer("one")
			d.wants(1, d.now-activity.DriftFloor, "one")
			if r := d.question(); r.Document != "02.dwg" || r.Others != 10 || r.Fields[0].Value != "one" {
				t.Errorf("asked is %+v", r)
			}
			// One closes before it was asked for.
			d.show(append(windows[:3:3], windows[4:]...)...)
			d.say(all)
			if all.Outcome == prompt.Chosen {
				for n := range 12 {
					if n != 0 && n != 3 {
						d.wants(byte(n+1), d.now-activity.DriftFloor, "same")
					}
				}
			}
			d.until("nobody is asked any more", func(p *Plugin) bool { return len(p.waiting) == 0 })
			d.show(windows[0], windows[1], windows[4]) // nothing of these is asked again
			d.nothingElse()
		})
	}
}

// The question at the end is filled in with what was chosen for that very file, and corrects
// what was told; what a rule has assigned is not asked for.
func TestAskedAgainAtTheClose(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{Subject: policyv1.PromptSubject_PROMPT_SUBJECT_FILE, AtClose: true}, func(s *policyv1.ExpenseToProject) {
		s.Rules = []*policyv1.AssignmentRule{folderRule(1, "/srv/bridge", "")}
	})
	d.open(instance)
	a, b, c, ruled := d.window(1, 1, "/srv", "a.dwg"), d.window(2, 2, "/srv", "b.dwg"), d.window(3, 3, "/srv", "c.dwg"), d.window(4, 4, "/srv/bridge", "d.dwg")
	d.show(a)
	d.question()
	d.answer("a")
	opened := d.now - activity.DriftFloor
	d.wants(1, opened, "a")
	d.show(a, b)
	d.question()
	d.answer("b")
	d.wants(2, opened, "b")
	d.show(a, b, c)
	d.question()
	d.say(prompt.Answer{Outcome: prompt.Later})
	d.show(a, b, c, ruled)
	d.wants(4, opened, "rule 1")

	d.now += 600_000
	d.show(c)
	if r := d.question(); !r.Closing || r.Document != "a.dwg" || r.Fields[0].Value != "a" || r.Others != 1 {
		t.Errorf("asked is %+v", r)
	}
	d.answer("corrected")
	d.wants(1, opened, "corrected")
	if r := d.question(); !r.Closing || r.Document != "b.dwg" || r.Fields[0].Value != "b" {
		t.Errorf("asked is %+v", r)
	}
	d.say(prompt.Answer{Outcome: prompt.Later})
	d.show()
	if r := d.question(); !r.Closing || r.Document != "c.dwg" {
		t.Errorf("asked is %+v", r)
	}
	d.answer("late")
	d.wants(3, opened, "late")
	d.nothingElse()
}

// A launcher that hands over is one run: what was answered holds, and what was not is asked.
func TestAHandOverIsNoSecondOpening(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{AtClose: true}, nil)
	opening := func(p *Plugin) bool {
		waiting := p.waiting[string(id(session))]
		return len(waiting) == 1 && !waiting[0].closing
	}
	d.open(instance)
	d.question()
	d.close(instance)
	d.open(instance)
	d.until("only the question for the opening is left", opening)
	d.question()
	d.answer("a")
	d.wants(0, 0, "a")
	d.close(instance)
	d.open(instance)
	d.until("nobody is asked", func(p *Plugin) bool { return len(p.waiting) == 0 })
	d.close(instance)
	if r := d.question(); !r.Closing || r.Fields[0].Value != "a" {
		t.Errorf("asked is %+v", r)
	}
	d.answer("b")
	d.wants(0, 0, "b")
	d.nothingElse()
}

// Nobody is asked while they have paused, for what was open before, and where a launch is
// held the prompt is the only thing that it waits for.
func TestWhenNobodyIsAsked(t *testing.T) {
	t.Parallel()
	d := newDesk(t, &policyv1.ProjectPrompt{HoldsLaunch: true}, nil)
	paused := func(e *pluginv1.Event) { e.Attention = usagev1.Attention_ATTENTION_PAUSED }
	d.event(pluginv1.EventKind_EVENT_KIND_OPENED, application, instance, person, paused)
	d.event(pluginv1.EventKind_EVENT_KIND_OPENED, application, instance+1, person, func(e *pluginv1.Event) { e.AtBootMillis = 1 })
	d.event(pluginv1.EventKind_EVENT_KIND_CHANGED, application, instance+1, person, nil)
	if len(d.held) > 0 {
		t.Error("a launch is held, and nobody is asked")
	}
	d.now += 600_000
	d.event(pluginv1.EventKind_EVENT_KIND_CHANGED, application, instance, person, nil)
	if held := <-d.held; !held {
		t.Error("it goes on before it was held")
	}
	if r := d.question(); !r.Waiting {
		t.Errorf("asked is %+v", r)
	}
	d.answer("x")
	d.wants(0, 0, "x")
	if held := <-d.held; held {
		t.Error("it is held again")
	}
}

// What the rules of a policy cannot mean is said, and nothing is made of it.
func TestARuleThatSaysNothing(t *testing.T) {
	t.Parallel()
	settings, err := proto.Marshal(&policyv1.Policy{ExpenseToProject: &policyv1.ExpenseToProject{Rules: []*policyv1.AssignmentRule{folderRule(1, "somewhere", "")}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := New(Deps{}).Configure(t.Context(), &pluginv1.ConfigureRequest{Policy: &policyv1.PluginPolicy{Settings: settings}}); err == nil {
		t.Error("a rule by a folder that is none is taken")
	}
}

// A question that stands while the agent is upgraded is put again by the next one, for the
// application and for a file, however long ago they opened, and holds nothing again; what was
// answered is not.
func TestAQuestionOutlivesTheAgent(t *testing.T) {
	t.Parallel()
	for _, subject := range []policyv1.PromptSubject{policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION, policyv1.PromptSubject_PROMPT_SUBJECT_FILE} {
		t.Run(subject.String(), func(t *testing.T) {
			t.Parallel()
			holds := subject == policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION
			d := newDesk(t, &policyv1.ProjectPrompt{Subject: subject, HoldsLaunch: holds}, nil)
			d.open(instance)
			d.show(d.window(1, 1, "/srv", "a.dwg"), d.window(2, 2, "/srv", "b.dwg"))
			d.question()
			if !holds {
				d.answer("a")
				d.wants(1, d.now-activity.DriftFloor, "a")
				d.question()
			}
			next := newDesk(t, &policyv1.ProjectPrompt{Subject: subject, HoldsLaunch: holds}, nil)
			next.plugin.mu.Lock()
			next.plugin.pending = pending{}
			next.plugin.pending.open(d.plugin.pending.file)
			next.plugin.mu.Unlock()
			opened := d.now
			next.now += 600_000
			next.event(pluginv1.EventKind_EVENT_KIND_OPENED, application, instance, person, func(e *pluginv1.Event) { e.AtBootMillis = opened })
			next.show(d.windows...)
			r := next.question()
			next.answer("again")
			if holds {
				next.wants(0, 0, "again")
			} else {
				if r.Document != "b.dwg" {
					t.Errorf("asked is %+v", r)
				}
				next.wants(2, opened-activity.DriftFloor, "again")
			}
			if len(next.held) > 0 {
				t.Error("a program is held that goes on already")
			}
			next.nothingElse()
		})
	}
}
