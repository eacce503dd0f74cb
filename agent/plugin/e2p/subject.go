package e2p

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/expense"
	"github.com/cetrus/cetrus/proto/rules"
)

const (
	// maxClosed is how many runs that have closed are remembered: a launcher that hands
	// over closes a run and opens it again.
	maxClosed = 64
	// maxPlaces is how many times a subject's choice can still be changed at its close.
	maxPlaces = 256
	// maxSubjects is how many windows and files of one run are remembered.
	maxSubjects = 2000
)

// run is an instance that is open, or was a moment ago.
type run struct {
	event *pluginv1.Event
	whole *subject
	// subjects are its windows and files; documents what they are metered under.
	subjects  map[string]*subject
	documents map[contract.ID]*document
	closed    bool
	// deferred: it opened while recording was paused, and is looked at when it goes on.
	deferred bool
}

// subject is what a project is found for.
type subject struct {
	run *run
	// window shows it, or showed it last; 0: the run as a whole.
	window uint64
	// name is what people call a file or window.
	name string
	// places are where its choice holds.
	places []place
	// answer is what was chosen, without what it is for; nil: nothing yet.
	answer *pluginv1.Choice
	byRule bool
	values map[string]string
	// question waits or is being asked; asked: there was one.
	question *question
	asked    bool
	// later: the person has put it off.
	later bool
	// late: it was open already when the agent began to look.
	late bool
	// pending names its question in Plugin.pending; again: an earlier run had put it.
	pending string
	again   bool
}

// place is a document, or the run as a whole, and from when on a choice holds there.
type place struct {
	document contract.ID
	since    int64 // 0: from its opening
}

// document is what is metered, and whose choice holds there.
type document struct {
	opened  int64
	window  uint64
	subject *subject
}

func (p *Plugin) app(r *run) *policyv1.ApplicationPolicy {
	return p.apps[string(r.event.GetApplicationId())]
}

func (p *Plugin) use(r *run) expense.Use {
	return expense.Use{Application: r.event.GetApplicationId(), User: p.deps.User(r.event.GetPrincipalAlias())}
}

// opened takes in an instance.
func (p *Plugin) opened(e *pluginv1.Event) {
	key := string(e.GetInstanceId())
	r := p.runs[key]
	switch {
	case r == nil && p.apps[string(e.GetApplicationId())] == nil:
		return
	case r != nil && !r.closed:
		return // heard of again, after a new start
	case r != nil:
		// Another program has taken over: the run was never shut.
		r.closed = false
		p.closed = slices.DeleteFunc(p.closed, func(k string) bool { return k == key })
		r.whole.withdraw()
		r.whole.asked = r.whole.answer != nil || r.whole.later
	default:
		r = &run{event: e, subjects: map[string]*subject{}, documents: map[contract.ID]*document{}}
		r.whole = &subject{run: r}
		p.judge(r.whole, contract.ID{}, e.GetAtBootMillis())
		p.runs[key] = r
	}
	if r.deferred = e.GetAttention() == usagev1.Attention_ATTENTION_PAUSED; !r.deferred {
		p.begin(r)
	}
}

// changed takes in that an instance is used otherwise.
func (p *Plugin) changed(e *pluginv1.Event) {
	r := p.runs[string(e.GetInstanceId())]
	if r != nil && r.deferred && e.GetAttention() != usagev1.Attention_ATTENTION_PAUSED {
		r.deferred = false
		p.begin(r)
	}
}

// begin finds a project for a run as a whole, or puts a question into its queue.
func (p *Plugin) begin(r *run) {
	app, s := p.app(r), r.whole
	defer p.look(string(r.event.GetSessionId()))
	if app == nil || s.late || s.answer != nil || s.question != nil {
		return
	}
	if len(s.places) == 0 {
		s.places = []place{{}}
	}
	if rule := p.ruleForRun(r); rule != nil {
		p.assign(s, rule)
		return
	}
	if subjectOf(app) != policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION || s.asked {
		return
	}
	s.asked = true
	q := &question{subject: s}
	if app.GetProjectPrompt().GetHoldsLaunch() && p.deps.Hold != nil && !s.again { // else it goes on already
		q.release = p.deps.Hold(r.event)
	}
	p.enqueue(q)
}

// ruleForRun is the rule that fits a run as a whole, or, where people would be asked for it,
// one that fits a file that it was started with; nil: none does.
func (p *Plugin) ruleForRun(r *run) *policyv1.AssignmentRule {
	use := p.use(r)
	if rule := p.rules.Find(use); rule != nil {
		return rule
	}
	if subjectOf(p.app(r)) != policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION || p.deps.Files == nil || !p.rules.ReadsFiles(use) {
		return nil
	}
	for _, path := range p.deps.Files(r.event) {
		at := strings.LastIndexAny(path, `/\`)
		use.Folder, use.File = path[:at+1], path[at+1:]
		if rule := p.rules.Find(use); rule != nil {
			return rule
		}
	}
	return nil
}

func subjectOf(app *policyv1.ApplicationPolicy) policyv1.PromptSubject {
	if s := app.GetProjectPrompt().GetSubject(); s != policyv1.PromptSubject_PROMPT_SUBJECT_UNSPECIFIED {
		return s
	}
	return policyv1.PromptSubject_PROMPT_SUBJECT_APPLICATION
}

// runClosed takes in that an instance has closed.
func (p *Plugin) runClosed(e *pluginv1.Event) {
	key := string(e.GetInstanceId())
	r := p.runs[key]
	if r == nil || r.closed {
		return
	}
	r.closed = true
	for _, key := range slices.Sorted(maps.Keys(r.subjects)) {
		p.shut(r.subjects[key])
	}
	clear(r.subjects)
	clear(r.documents)
	p.shut(r.whole)
	p.closed = append(p.closed, key)
	if len(p.closed) > maxClosed {
		delete(p.runs, p.closed[0])
		p.closed = p.closed[1:]
	}
}

// shut takes back the question for a subject that has closed, and asks the one for the end:
// where a person has chosen, or has put it off.
func (p *Plugin) shut(s *subject) {
	s.withdraw()
	p.setPending(s, false)
	app := p.app(s.run)
	if app.GetProjectPrompt().GetAtClose() && s.asked && !s.byRule {
		p.enqueue(&question{subject: s, closing: true})
	}
}

// look finds out what the windows of a session show now, and whose choices hold there.
func (p *Plugin) look(session string) {
	windows := p.windows[session]
	there := make(map[uint64]bool, len(windows))
	holders := map[*run]map[contract.ID]activity.ShownWindow{}
	for _, w := range windows {
		there[w.ID] = true
		r := p.runs[string(w.Instance[:])]
		if r == nil || r.closed || r.deferred || p.app(r) == nil || w.Document.IsZero() {
			continue
		}
		if s := p.subjectIn(r, w); s.window != 0 {
			p.want(s, w)
		}
		if holders[r] == nil {
			holders[r] = map[contract.ID]activity.ShownWindow{}
		}
		// Where several windows share a document, the one in front has it, and then the
		// one that had it before.
		held, taken := holders[r][w.Document]
		d := r.documents[w.Document]
		if !taken || !held.Front && (w.Front || d != nil && d.window == w.ID) {
			holders[r][w.Document] = w
		}
	}
	for r, held := range holders {
		for id, w := range held {
			p.place(r, id, w)
		}
	}
	for _, r := range p.runs {
		if string(r.event.GetSessionId()) != session || r.closed {
			continue
		}
		maps.DeleteFunc(r.documents, func(id contract.ID, _ *document) bool { return holders[r][id].ID == 0 })
		for _, key := range slices.Sorted(maps.Keys(r.subjects)) {
			if s := r.subjects[key]; !there[s.window] {
				delete(r.subjects, key)
				p.shut(s)
			}
		}
	}
}

// subjectIn is the subject that a window shows: a file, the window, or the run.
func (p *Plugin) subjectIn(r *run, w activity.ShownWindow) *subject {
	file, window := keyOf(w), fmt.Sprintf("window %d", w.ID)
	use := p.use(r)
	if w.Kind == rules.File {
		use.Folder, use.File = w.Folder, w.Name
	}
	rule := p.rules.Find(use)
	switch {
	case rule != nil && expense.OfFiles(rule):
		s := p.remembered(r, file, w)
		if s.answer == nil || s.byRule {
			s.withdraw()
			p.assign(s, rule)
		}
		return s
	case rule != nil:
		return r.whole
	}
	switch subjectOf(p.app(r)) {
	case policyv1.PromptSubject_PROMPT_SUBJECT_WINDOW:
		return p.remembered(r, window, w)
	case policyv1.PromptSubject_PROMPT_SUBJECT_FILE:
		if w.Kind == rules.WholeTitle {
			return p.remembered(r, window, w) // a title that no rule reads changes at will
		}
		s := p.remembered(r, file, w)
		if s.byRule {
			s.answer, s.byRule = nil, false // a rule that is no more
		}
		return s
	default:
		return r.whole
	}
}

// keyOf names a file, as far as it is known. What was never saved is of its window.
func keyOf(w activity.ShownWindow) string {
	switch {
	case w.Kind == rules.Unsaved:
		return fmt.Sprintf("unsaved %d %s", w.ID, w.Name)
	case w.Folder == "":
		return "file " + w.Title
	default:
		return "file " + w.Folder + "\x00" + w.Name
	}
}

// remembered is the subject of a key, which is made where there is none.
func (p *Plugin) remembered(r *run, key string, w activity.ShownWindow) *subject {
	s := r.subjects[key]
	if s == nil && w.Folder != "" && key == keyOf(w) {
		// The folder has become known of a file that is there already.
		before := w
		before.Folder = ""
		if s = r.subjects[keyOf(before)]; s != nil && s.window == w.ID {
			delete(r.subjects, keyOf(before))
		} else {
			s = nil
		}
	}
	if s == nil {
		if len(r.subjects) >= maxSubjects {
			p.forgetOne(r)
		}
		s = &subject{run: r}
	}
	s.window, s.name = w.ID, w.Name
	r.subjects[key] = s
	return s
}

// forgetOne forgets a file of a run that is not shown and not asked for.
func (p *Plugin) forgetOne(r *run) {
	shown := make(map[*subject]bool, len(r.documents))
	for _, d := range r.documents {
		shown[d.subject] = true
	}
	for key, s := range r.subjects {
		if s.question == nil && !shown[s] {
			delete(r.subjects, key)
			return
		}
	}
}

// judge finds out whether an agent that ran before had asked for what is opened, a document
// or all of a run, or whether it is too late to ask.
func (p *Plugin) judge(s *subject, document contract.ID, openedMillis int64) {
	s.pending = pendingKey(s.run, document)
	s.again = p.pending.left[s.pending]
	s.late = p.now-openedMillis > fresh && !s.again
}

// want asks for a subject that a window shows, where that is still to be done.
func (p *Plugin) want(s *subject, w activity.ShownWindow) {
	if d := s.run.documents[w.Document]; d == nil && !s.asked {
		p.judge(s, w.Document, w.OpenedMillis)
	}
	if s.answer != nil || s.asked || s.late || !w.Settled && p.rules.ReadsFiles(p.use(s.run)) {
		return
	}
	s.asked = true
	p.enqueue(&question{subject: s})
}

// place makes the choice of what a window shows hold for a document.
func (p *Plugin) place(r *run, id contract.ID, w activity.ShownWindow) {
	s := p.subjectIn(r, w)
	d := r.documents[id]
	since, first := p.now, d == nil || d.opened != w.OpenedMillis
	switch {
	case first:
		// Its opening was placed by another anchor, so it may differ by what clocks may
		// drift between two: the choice covers its first moment all the same.
		since = max(1, w.OpenedMillis-activity.DriftFloor)
	case d.subject == s:
		d.window = w.ID
		return
	}
	r.documents[id] = &document{opened: w.OpenedMillis, window: w.ID, subject: s}
	switch {
	case first && p.now-w.OpenedMillis > fresh && !s.again:
		return // told by the agent that ran before
	case first && s == r.whole:
		return // holds for all of the run
	}
	at := place{document: id, since: since}
	if s.places = append(s.places, at); len(s.places) > maxPlaces {
		s.places = s.places[1:]
	}
	if s.answer != nil {
		p.tell(s, at)
	}
}

// assign gives a subject the project of a rule.
func (p *Plugin) assign(s *subject, rule *policyv1.AssignmentRule) {
	if s.byRule && string(s.answer.GetAssignmentRuleId()) == string(rule.GetAssignmentRuleId()) {
		return
	}
	choice := &pluginv1.Choice{AssignmentRuleId: rule.GetAssignmentRuleId()}
	if id := rule.GetProjectId(); len(id) > 0 {
		choice.Chosen = &pluginv1.Choice_ProjectId{ProjectId: id}
	} else {
		choice.Chosen = &pluginv1.Choice_NotChargeable{NotChargeable: true}
	}
	p.setPending(s, false)
	s.answer, s.byRule = choice, true
	p.tellAll(s)
}

// answered takes in what a person has said of a subject; nil: that they will say it later.
func (p *Plugin) answered(s *subject, choice *pluginv1.Choice, answer prompt.Answer) {
	p.setPending(s, false)
	if choice == nil {
		s.later = true
		return
	}
	s.answer, s.byRule, s.values = choice, false, answer.Values
	p.tellAll(s)
}

func (p *Plugin) tellAll(s *subject) {
	for _, at := range s.places {
		p.tell(s, at)
	}
}

// tell puts a choice where Report takes it.
func (p *Plugin) tell(s *subject, at place) {
	c := proto.CloneOf(s.answer)
	c.InstanceId, c.EffectiveFromBootMillis = s.run.event.GetInstanceId(), at.since
	if !at.document.IsZero() {
		c.DocumentId = at.document[:]
	}
	p.ready = append(p.ready, &pluginv1.ReportResponse{Report: &pluginv1.ReportResponse_Choice{Choice: c}})
	p.signal()
}

// request is the question for a subject.
func (p *Plugin) request(q *question) (prompt.Request, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	event := q.subject.run.event
	app := p.app(q.subject.run)
	if app == nil || p.settings == nil {
		return prompt.Request{}, false
	}
	s := p.settings
	r := prompt.Request{
		Application: app.GetDisplayName(), Document: q.subject.name, Closing: q.closing, ProposeAllowed: s.GetProposeAllowed(), Waiting: q.release != nil,
		Others: p.others(q),
	}
	last := p.recent.of(event, "")
	user := p.deps.User(event.GetPrincipalAlias())
	if len(s.GetWorkers()) > 0 && slices.ContainsFunc(s.GetSharedLogins(), func(login string) bool { return expense.IsLogin(login, user) }) {
		// On a shared login the last one is only a guess, but the likeliest.
		f := prompt.Field{Key: workerKey, Label: "Who is working?", Kind: prompt.Worker, Required: true, Value: last[workerKey]}
		r.Recent = map[string]map[string]string{}
		for _, w := range s.GetWorkers() {
			id := hex.EncodeToString(w.GetWorkerId())
			f.Options = append(f.Options, prompt.Option{ID: id, Label: w.GetLabel()})
			if own := p.recent.of(event, id); len(own) > 0 {
				r.Recent[id] = own
			}
		}
		r.Fields = append(r.Fields, f)
		last = r.Recent[f.Value]
	}
	if q.closing && q.subject.values != nil {
		last = q.subject.values
		if len(r.Fields) > 0 {
			r.Fields[0].Value = last[workerKey]
		}
	}
	for _, field := range s.GetFields() {
		r.Fields = append(r.Fields, p.field(field, last[field.GetKey()]))
	}
	return r, true
}

func (p *Plugin) field(field *policyv1.PromptField, value string) prompt.Field {
	f := prompt.Field{Key: field.GetKey(), Label: field.GetLabel(), Required: field.GetRequired(), Value: value}
	switch field.GetKind() {
	case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_PROJECT:
		f.Kind, f.Limits = prompt.Project, expense.LimitsOf(field)
		for _, project := range p.settings.GetProjects() {
			f.Options = append(f.Options, prompt.Option{ID: hex.EncodeToString(project.GetProjectId()), Label: project.GetLabel()})
		}
	case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_CHOICE:
		f.Kind = prompt.Choice
		for _, o := range field.GetOptions() {
			f.Options = append(f.Options, prompt.Option{ID: o, Label: o})
		}
	default:
		f.Kind, f.Limits = prompt.Text, expense.LimitsOf(field)
	}
	return f
}
