package console

import (
	"context"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// action is something that people have done by a form: a POST to its path. What was done shows
// on the page that it leads to; what could not be done shows in the form, with all that was typed.
type action struct {
	path string
	// may tells from somebody's privileges whether it is offered to them.
	may func(authn.Privileges) bool
	// page is the path of the page that its form stands on; empty where confirm asks first.
	page string
	// do does it. It may run on after its person has gone away, and runs once for what is sent twice.
	do func(*Service, *visit, *sent) (outcome, error)
	// confirm is for what cannot be undone: the action's own address asks whether it is meant.
	confirm func(*Service, *visit) (confirmation, error)
	// taken is the field that an ALREADY_EXISTS is told beside; empty: above the form.
	taken string
}

// actions are those of all pages.
var actions = slices.Concat(peopleActions, principalActions, groupActions, keyActions, managerActions, agentActions, settingsActions, signInActions, myActions, dataActions, applicationActions, savedActions, fileActions)

// outcome is where an action leads.
type outcome struct {
	// next is the page that is shown then, and notice a line on it.
	next, notice string
	// once is shown first where there is something that nobody can tell later.
	once *once
}

// once is what is shown a single time; Next leads on from it.
type once struct {
	Title, Text string
	Blocks      []block
	Next        string
	// Picture is the first block as an image, for an authenticator program.
	Picture template.URL
	// Form asks for what follows; nil: nothing does.
	Form   *form
	Field  field
	Button string
}

// block is something to copy.
type block struct {
	Title, Code string
	// Text says what to do with it.
	Text string
}

// confirmation asks whether something is meant.
type confirmation struct {
	Title, Text string
	// Consequences are one line each.
	Consequences []string
	// Button says what is done, Back is where it leads if it is not meant.
	Button, Back string
	// Form takes what the action needs beside, such as a password; made where it is nil.
	Form *form
	// Fields are its fields, and Boxes those to check.
	Fields, Boxes []field
}

const (
	maxFormBytes = 256 << 10
	formField    = "form"
	etagField    = "etag"
)

// sent is a form as it came.
type sent struct {
	values url.Values
	// requestID is the same whenever the same is sent again by the same form.
	requestID string
}

// text is what was typed into a field, without the spaces around it.
func (f *sent) text(name string) string { return strings.TrimSpace(f.values.Get(name)) }

// secret is what was typed into a field, as it is.
func (f *sent) secret(name string) string { return f.values.Get(name) }

// all are the values chosen in a field that takes several.
func (f *sent) all(name string) []string {
	return slices.DeleteFunc(slices.Clone(f.values[name]), func(value string) bool { return value == "" })
}

// is tells whether a box is checked.
func (f *sent) is(name string) bool { return f.values.Get(name) != "" }

// etag is of what the form was filled from.
func (f *sent) etag() string { return f.values.Get(etagField) }

// number is a whole number; none is 0.
func (f *sent) number(name string) (int32, error) {
	text := f.text(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, errs.InvalidFields("console.form", "", errs.Field{Path: name, Description: "is no whole number that makes sense here"})
	}
	return int32(n), nil
}

// form is one on a page: filled from what is there, or with what was typed and what is wrong
// with it.
type form struct {
	// Action is where it is sent, ID what tells it from others that were filled the same way, By the login that
	// it was filled for.
	Action, ID, By, Etag string
	// Refused is why it was not done, Others what is wrong beside its fields.
	Refused string
	Others  []string
	// Changed says that somebody else was faster; each field then tells what is there now.
	Changed bool
	// Late says that it was sent after its session had ended.
	Late bool

	values, now url.Values
	errors      map[string]string
	shown       map[string]bool
	focused     bool
}

// refusal is a form that was not done.
type refusal struct {
	action string
	values url.Values
	st     *status.Status
	taken  string
	// late says that it came after its session had ended, and shown that a page has the form.
	late, shown bool
}

// form makes the form of an action, filled with values, whose names are those of the contract's
// fields. Where it is just being refused, it holds what was typed.
func (v *visit) form(action string, values url.Values, etag string) *form {
	f := &form{Action: action, ID: uuid.NewString(), By: v.caller.Login.String(), Etag: etag, values: values, shown: map[string]bool{}}
	if v.refused == nil || v.refused.action != action {
		return f
	}
	f.values, f.errors = v.refused.values, map[string]string{}
	f.Late, v.refused.shown = v.refused.late, true
	st := v.refused.st
	if st.Code() == codes.Aborted {
		f.Changed, f.now = true, values
		return f
	}
	// Of what was there when it was filled: what somebody else changed since was not shown.
	f.Etag = v.refused.values.Get(etagField)
	switch {
	case st.Code() == codes.AlreadyExists && v.refused.taken != "":
		f.errors[v.refused.taken] = st.Message()
	default:
		wrong := violations(st)
		for _, w := range wrong {
			f.errors[fieldOf(w.GetField())] = w.GetDescription()
		}
		if len(wrong) == 0 {
			f.Refused = st.Message()
		}
	}
	return f
}

// fieldOf is the name of the input for a field of the contract: its last name, without index.
func fieldOf(path string) string {
	name, _, _ := strings.Cut(path[strings.LastIndex(path, ".")+1:], "[")
	return name
}

// field is an input with its label.
type field struct {
	ID, Name, Label, Hint, Error string
	Type, Value, Autocomplete    string
	// Now is what is there meanwhile, where that is not what was typed.
	Now             string
	Max, Rows       int
	Required, Focus bool
	Differs         bool
	Choices         []choice
}

// Field is an input for a text, or with choices for one of these. Options are: required, max=120,
// rows=4, type=email, autocomplete=off, hint=….
func (f *form) Field(name, label string, options ...string) field {
	return f.field(name, label, nil, options)
}

// Choose is a field for one or several of choices.
func (f *form) Choose(name, label string, choices []choice, options ...string) field {
	return f.field(name, label, choices, options)
}

func (f *form) field(name, label string, choices []choice, options []string) field {
	one := field{
		ID:   strings.ReplaceAll(strings.Trim(f.Action, "/"), "/", "-") + "-" + strings.ReplaceAll(name, "_", "-"),
		Name: name, Label: label, Type: "text", Autocomplete: "off", Value: f.values.Get(name), Error: f.errors[name],
	}
	for _, option := range options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "required":
			one.Required = true
		case "max":
			one.Max, _ = strconv.Atoi(value)
		case "rows":
			one.Rows, _ = strconv.Atoi(value)
		case "type":
			one.Type = value
		case "autocomplete":
			one.Autocomplete = value
		case "hint":
			one.Hint = value
		}
	}
	if one.Type == "password" {
		one.Value = ""
	}
	for _, c := range choices {
		c.Chosen = slices.Contains(f.values[name], c.Value)
		one.Choices = append(one.Choices, c)
	}
	if f.Changed && !slices.Equal(f.now[name], f.values[name]) && f.now.Get(name) != f.values.Get(name) {
		one.Differs, one.Now = true, strings.Join(titles(choices, f.now[name]), ", ")
	}
	if f.shown[name] = true; one.Error != "" && !f.focused {
		one.Focus, f.focused = true, true
	}
	return one
}

// titles are the values as people know them.
func titles(choices []choice, values []string) []string {
	named := slices.Clone(values)
	for _, c := range choices {
		if i := slices.Index(named, c.Value); i >= 0 {
			named[i] = c.Title
		}
	}
	return named
}

// Rest are the errors of fields that the form does not show. It is asked after all fields.
func (f *form) Rest() (all []string) {
	for name, wrong := range f.errors {
		if !f.shown[name] {
			all = append(all, strings.ReplaceAll(name, "_", " ")+" "+wrong)
		}
	}
	slices.Sort(all)
	return all
}

// readForm reads a form that was sent.
func readForm(v *visit) (*sent, error) {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, maxFormBytes)
	if err := v.r.ParseForm(); err != nil {
		return nil, errs.As(errs.Invalid, "console.form", "", "the form could not be read", err)
	}
	for name, values := range v.r.PostForm {
		for _, value := range values {
			if !utf8.ValidString(name) || !utf8.ValidString(value) {
				return nil, errs.InvalidFields("console.form", "", errs.Field{Path: strings.ToValidUTF8(name, "\uFFFD"), Description: "is no text"})
			}
		}
	}
	return &sent{values: v.r.PostForm}, nil
}

// act answers what a form sent.
func (s *Service) act(a *action) func(*visit) {
	return func(v *visit) {
		if !a.may(v.caller.Privileges) {
			s.fail(v, notTheirs("this is for others to do"))
			return
		}
		f, err := readForm(v)
		if err != nil {
			s.fail(v, err)
			return
		}
		key := keyOf(v, f)
		f.requestID = key.requestID()
		done, err := s.submissions.run(v.ctx, key, func(ctx context.Context) (outcome, error) {
			meant := *v
			meant.ctx = ctx
			return a.do(s, &meant, f)
		})
		switch {
		case err != nil:
			s.refuse(v, a, f, err)
		case done.once != nil:
			s.write(v, http.StatusOK, "once", done.once.Title, done.once)
		default:
			leaveNotice(v.w, v.r, done.notice)
			http.Redirect(v.w, v.r, done.next, http.StatusSeeOther)
		}
	}
}

// refuse shows the page of a form again, with what was typed and why it was not done.
func (s *Service) refuse(v *visit, a *action, f *sent, err error) {
	st := statusOf(err)
	httpStatus := http.StatusUnprocessableEntity
	switch st.Code() {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.AlreadyExists:
	case codes.Aborted:
		httpStatus = http.StatusConflict
	case codes.ResourceExhausted, codes.Unavailable, codes.DeadlineExceeded:
		httpStatus = http.StatusServiceUnavailable
	default:
		s.fail(v, err)
		return
	}
	v.refused = &refusal{action: v.r.URL.Path, values: f.values, st: st, taken: a.taken}
	name, title, body, err := s.formPage(v, a)
	if err != nil {
		s.fail(v, err)
		return
	}
	s.write(v, httpStatus, name, title, body)
}

// formPage makes the page that the form of an action stands on.
func (s *Service) formPage(v *visit, a *action) (name, title string, body any, err error) {
	if a.confirm == nil {
		for i := range pages {
			if p := &pages[i]; p.path == a.page {
				v.page = p
				body, err = p.show(s, v)
				return p.template(), p.title, body, err
			}
		}
		return "", "", nil, errs.New(errs.Internal, "console.form", a.path, "its page is not in the table")
	}
	c, err := a.confirm(s, v)
	if c.Form == nil {
		c.Form = v.form(v.r.URL.Path, nil, "")
	}
	return "confirm", c.Title, c, err
}

// ask shows what an action would do, or where it has no page of its own the one with its form.
func (s *Service) ask(a *action) func(*visit) {
	return func(v *visit) {
		if !a.may(v.caller.Privileges) {
			s.fail(v, notTheirs("this is for others to do"))
			return
		}
		made := s.showTyped(v)
		name, title, body, err := s.formPage(v, a)
		if err != nil {
			s.fail(v, err)
			return
		}
		made()
		s.write(v, http.StatusOK, name, title, body)
	}
}

// of is the address of one thing of a list.
func of(list, id string, more ...string) string {
	return path.Join(slices.Concat([]string{list, url.PathEscape(id)}, more)...)
}
