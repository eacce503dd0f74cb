package agent

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/time/rate"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/notice"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// maxNote is the longest note of a pause, in characters.
const maxNote = 200

// How often a person may choose: each time is written to the disk and cuts what is recorded
// in two, so a program that presses the button for them must not fill the journal with it.
const (
	choicesAtOnce   = 20
	choicePeriod    = 3 * time.Second
	rememberedHands = 1000
)

// errTooOften says that a person chooses faster than anybody can.
var errTooOften = fmt.Errorf("agent: you pause and resume too often; wait %d seconds", choicePeriod/time.Second)

// settings are what people have chosen. They are kept in the data directory.
type settings struct {
	// Paused: an administrator has paused for everybody.
	Paused bool `json:"paused"`
	// Lost: who had paused is not known any more, so everybody counts as paused until they
	// resume.
	Lost bool `json:"lost,omitempty"`
	// People are what each has chosen, by activity.User.Key.
	People map[string]personal `json:"people,omitempty"`
}

// personal is what one person has chosen.
type personal struct {
	Pause *pause `json:"pause,omitempty"`
	// Resumed: they have said so since the settings were lost.
	Resumed bool `json:"resumed,omitempty"`
	// Notice is the version of the notice that they have seen, and when.
	Notice           string `json:"notice,omitempty"`
	NoticedUTCMillis int64  `json:"noticed_utc_millis,omitempty"`
}

// pause is a person's pause. The note is their own words: it never leaves this file but to
// the person themselves.
type pause struct {
	SinceUTCMillis int64  `json:"since_utc_millis"`
	Reason         string `json:"reason,omitempty"`
	Note           string `json:"note,omitempty"`
}

// everybody tells whether all of the machine is paused, whoever is there.
func (s settings) everybody() bool { return s.Paused && !s.Lost }

// of is a person's pause; nil: they are recorded, as far as it is up to them.
func (s settings) of(key string) *pause {
	own := s.People[key]
	if own.Pause == nil && s.Paused && s.Lost && !own.Resumed {
		return &pause{}
	}
	return own.Pause
}

// with gives settings in which one person has chosen otherwise.
func (s settings) with(key string, change func(*personal)) settings {
	people := maps.Clone(s.People)
	if people == nil {
		people = map[string]personal{}
	}
	own := people[key]
	change(&own)
	people[key] = own
	s.People = people
	return s
}

// asker is whoever asks at the control channel, as the operating system vouches for them.
type asker struct {
	user activity.User
	// administrator: root, an administrator, or whom the agent runs as: they see everybody.
	administrator bool
}

func (p asker) is(u activity.User) bool { return p.user.Key() == u.Key() }

// seated is a person in a session that is watched.
type seated struct {
	key  string // the desktop's key of the session
	user activity.User
}

// PauseRequest asks for a pause or its end.
type PauseRequest struct {
	// Reason is the code of one of the policy's reasons; it is journalled.
	Reason string `json:"reason,omitempty"`
	// Note is the person's own words. It is shown to nobody else.
	Note string `json:"note,omitempty"`
	// Everybody: for all people of this machine; administrators only.
	Everybody bool `json:"everybody,omitempty"`
}

// ErrPauseNotAllowed says that the account's policy keeps people from pausing.
var ErrPauseNotAllowed = errors.New("agent: the account's policy does not allow pausing")

// refused is an error that is the asker's own: what they want cannot be.
type refused struct{ error }

func refuse(format string, args ...any) error {
	return refused{fmt.Errorf("agent: "+format, args...)}
}

// check tells what keeps a pause from beginning.
func (r PauseRequest) check(policy *policyv1.Policy) error {
	if policy != nil && !policy.GetPauseAllowed() {
		return ErrPauseNotAllowed
	}
	var codes []string
	for _, reason := range policy.GetPerson().GetPauseReasons() {
		codes = append(codes, reason.GetCode())
	}
	switch {
	case r.Reason == "" && !r.Everybody && policy.GetPerson().GetPauseReasonRequired() && len(codes) > 0:
		return refuse("the account wants to know why: give one of the reasons %s, as in `cetrus-agent pause --reason %s`", strings.Join(codes, ", "), codes[0])
	case r.Reason != "" && len(codes) == 0:
		return refuse("the account's policy knows no reasons for a pause; leave it out, or write a note, which stays on this machine")
	case r.Reason != "" && !slices.Contains(codes, r.Reason):
		return refuse("%.40q is none of the reasons of the account's policy; they are %s", r.Reason, strings.Join(codes, ", "))
	case utf8.RuneCountInString(r.Note) > maxNote:
		return refuse("the note is longer than %d characters", maxNote)
	case strings.ContainsFunc(r.Note, func(c rune) bool { return c == utf8.RuneError || unicode.IsControl(c) }):
		return refuse("the note holds what is no text")
	}
	return nil
}

// knows tells whether something is recorded of whoever asks, or was; mu is held.
func (a *Agent) knows(who asker) bool {
	return slices.ContainsFunc(a.people, func(s seated) bool { return who.is(s.user) }) || a.aliases[who.user.Key()] != contract.ID{}
}

// setPaused presses or releases the pause button for whoever asks, or for everybody, as
// the policy allows.
func (a *Agent) setPaused(who asker, paused bool, request PauseRequest) error {
	a.mu.Lock()
	policy := a.policy
	known := a.knows(who)
	a.mu.Unlock()
	if paused {
		if err := request.check(policy); err != nil {
			return err
		}
	}
	switch {
	case request.Everybody && !who.administrator:
		return refuse("only an administrator of this machine pauses and resumes for everybody")
	case !request.Everybody && !known && who.administrator:
		return refuse("nothing is recorded of %s on this machine; --everybody pauses or resumes for all its people", who.user.Name)
	case !request.Everybody && !known:
		return refuse("nothing is recorded of %s on this machine", who.user.Name)
	}
	return a.chooseAs(who, func(s settings) settings {
		if request.Everybody {
			s.Paused, s.Lost = paused, false
			if !paused {
				// Everybody is recorded again, whatever they have paused.
				s.People = maps.Clone(s.People)
				for key, own := range s.People {
					own.Pause, own.Resumed = nil, false
					s.People[key] = own
				}
			}
			return s
		}
		return s.with(who.user.Key(), func(own *personal) {
			own.Pause, own.Resumed = nil, s.Lost
			if paused {
				own.Pause = &pause{SinceUTCMillis: time.Now().UnixMilli(), Reason: request.Reason, Note: strings.TrimSpace(request.Note)}
			}
		})
	})
}

// SetPaused pauses or resumes for everybody, as an administrator does.
func (a *Agent) SetPaused(paused bool) error {
	return a.setPaused(asker{administrator: true}, paused, PauseRequest{Everybody: true})
}

// chooseAs chooses for whoever asks, unless they do so too often. Administrators could do
// worse.
func (a *Agent) chooseAs(who asker, change func(settings) settings) error {
	if !who.administrator && !a.hands.may(who.user.Key()) {
		return errTooOften
	}
	return a.choose(change)
}

// hands are how often each person has chosen lately.
type hands struct {
	mu     sync.Mutex
	person map[string]*rate.Limiter
}

func (h *hands) may(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.person == nil || len(h.person) >= rememberedHands {
		h.person = make(map[string]*rate.Limiter)
	}
	if h.person[key] == nil {
		h.person[key] = rate.NewLimiter(rate.Every(choicePeriod), choicesAtOnce)
	}
	return h.person[key].Allow()
}

// choose writes down what people have chosen, and then follows it.
func (a *Agent) choose(change func(settings) settings) error {
	a.choosing.Lock()
	defer a.choosing.Unlock()
	a.mu.Lock()
	chosen := change(a.chosen)
	a.mu.Unlock()
	if err := saveSettings(a.config.DataDir, chosen); err != nil {
		return err
	}
	a.mu.Lock()
	a.chosen = chosen
	a.choices++
	a.mu.Unlock()
	a.uplink.ShowHealth()
	a.deps.Desktop.LookNow()
	return nil
}

// seen tells whether what was chosen last holds in what is recorded.
func (a *Agent) seen() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seenChoices == a.choices
}

// putPauses tells an observation who has paused. It gives how far it has looked.
func (a *Agent) putPauses(o *activity.Observation) (choices uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o.PausedByPerson = o.PausedByPerson || a.chosen.everybody()
	people := make([]seated, 0, len(o.Sessions))
	anybody := o.PausedByPerson
	cloned := false
	for i, s := range o.Sessions {
		people = append(people, seated{key: s.Key, user: s.User})
		paused := a.chosen.of(s.User.Key())
		if paused == nil {
			continue
		}
		if !cloned {
			o.Sessions, cloned = slices.Clone(o.Sessions), true // they are the desktop's own
		}
		o.Sessions[i].PausedByPerson, o.Sessions[i].PauseReason = true, paused.Reason
		anybody = true
	}
	a.people, a.anyPaused = people, anybody
	return a.choices
}

// notePeople remembers whose aliases are whose.
func (a *Agent) notePeople(o activity.Observation) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range o.Sessions {
		alias := a.persons.alias(s.User)
		if _, known := a.users[string(alias[:])]; !known {
			a.users[string(alias[:])] = s.User
			a.aliases[s.User.Key()] = alias
		}
	}
}

// maxDocuments bounds the names that are kept to show them.
const maxDocuments = 4096

// noteDocuments remembers what documents are called, for whoever asks what is recorded.
func (a *Agent) noteDocuments(labels []activity.Label) {
	if len(labels) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.documents) > maxDocuments {
		shown := make(map[string]string)
		for _, snapshot := range a.live {
			for _, open := range snapshot.GetOpen() {
				if name := a.documents[string(open.GetDocumentId())]; name != "" {
					shown[string(open.GetDocumentId())] = name
				}
			}
		}
		a.documents = shown
	}
	for _, l := range labels {
		a.documents[string(l.DocumentID[:])] = l.Name
	}
}

// noticeOf is the notice for people under a policy.
func noticeOf(policy *policyv1.Policy) notice.Notice {
	var facts notice.Facts
	for _, app := range policy.GetApplications() {
		facts.Applications = append(facts.Applications, app.GetDisplayName())
		facts.Documents = max(facts.Documents, documentsOf(app))
	}
	slices.Sort(facts.Applications)
	facts.PauseAllowed = policy == nil || policy.GetPauseAllowed()
	facts.OtherPrograms = policy.GetSightingsWanted()
	facts.Account = policy.GetPerson().GetNotice()
	return notice.New(facts)
}

// documentsOf is how much of a document's name an application's policy tells.
func documentsOf(app *policyv1.ApplicationPolicy) notice.Documents {
	if !app.GetDocuments() {
		return notice.NoDocuments
	}
	switch app.GetDocumentReduction() {
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME:
		return notice.FileNames
	case policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL:
		return notice.WholeTitles
	default:
		return notice.Unreadable
	}
}

// acknowledgeNotice remembers that a person has seen the notice.
func (a *Agent) acknowledgeNotice(who asker, version string) error {
	a.mu.Lock()
	now, known := noticeOf(a.policy).Version, a.knows(who)
	a.mu.Unlock()
	if !known {
		return refuse("nothing is recorded of %s on this machine", who.user.Name)
	}
	if version != now {
		return refuse("the notice has another version by now; ask for the status again")
	}
	return a.chooseAs(who, func(s settings) settings {
		return s.with(who.user.Key(), func(own *personal) { own.Notice, own.NoticedUTCMillis = version, time.Now().UnixMilli() })
	})
}

// PersonStatus is what the agent tells a person about themselves.
type PersonStatus struct {
	// User is whom the system says is asking.
	User string `json:"user"`
	// Administrator: they see everybody of this machine.
	Administrator bool `json:"administrator"`
	// Watched: a desktop session of theirs is watched.
	Watched bool         `json:"watched"`
	Pause   *PauseStatus `json:"pause,omitempty"`
	// PauseReasons are what may be given for a pause.
	PauseReasons        []PauseReason `json:"pause_reasons,omitempty"`
	PauseReasonRequired bool          `json:"pause_reason_required,omitempty"`
	Notice              NoticeStatus  `json:"notice"`
}

// PauseReason is why a person may say that they pause.
type PauseReason struct {
	Code  string `json:"code"`
	Label string `json:"label"`
}

// Who may have paused.
const (
	ByPerson        = "person"
	ByAdministrator = "administrator"
	ByAccount       = "account"
)

// PauseStatus is a pause that holds for a person.
type PauseStatus struct {
	// By is "person", "administrator" or "account".
	By     string     `json:"by"`
	Since  *time.Time `json:"since,omitempty"`
	Reason string     `json:"reason,omitempty"`
	// Note is shown to the person who wrote it alone.
	Note string `json:"note,omitempty"`
}

// NoticeStatus is what a person has to be told, or was.
type NoticeStatus struct {
	Version string `json:"version"`
	Title   string `json:"title"`
	Text    string `json:"text"`
	// Due: they have not seen this version of it, and are recorded.
	Due  bool       `json:"due"`
	Seen *time.Time `json:"seen,omitempty"`
}

// personStatus is called with mu held.
func (a *Agent) personStatus(who asker) PersonStatus {
	key := who.user.Key()
	own := a.chosen.People[key]
	said := noticeOf(a.policy)
	s := PersonStatus{
		User: called(who.user), Administrator: who.administrator,
		Watched:             slices.ContainsFunc(a.people, func(s seated) bool { return who.is(s.user) }),
		PauseReasonRequired: a.policy.GetPerson().GetPauseReasonRequired(),
		Notice:              NoticeStatus{Version: said.Version, Title: said.Title, Text: said.Text, Seen: momentOf(own.NoticedUTCMillis)},
	}
	s.Notice.Due = s.Watched && a.policy != nil && own.Notice != said.Version
	for _, reason := range a.policy.GetPerson().GetPauseReasons() {
		s.PauseReasons = append(s.PauseReasons, PauseReason{Code: reason.GetCode(), Label: reason.GetLabel()})
	}
	switch paused := a.chosen.of(key); {
	case paused != nil:
		s.Pause = &PauseStatus{By: ByPerson, Since: momentOf(paused.SinceUTCMillis), Reason: paused.Reason, Note: paused.Note}
		for _, reason := range s.PauseReasons {
			if reason.Code == paused.Reason {
				s.Pause.Reason = reason.Label
			}
		}
	case a.chosen.everybody():
		s.Pause = &PauseStatus{By: ByAdministrator}
	case a.policy.GetPaused():
		s.Pause = &PauseStatus{By: ByAccount}
	}
	return s
}

func momentOf(utcMillis int64) *time.Time {
	if utcMillis == 0 {
		return nil
	}
	return moment(time.UnixMilli(utcMillis))
}

// called is what people call a user.
func called(u activity.User) string { return cmp.Or(u.UserPrincipalName, u.Name, u.SID) }
