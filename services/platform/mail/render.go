package mail

import (
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"net/url"
	"reflect"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode"
	"unicode/utf8"
)

//go:embed templates
var templateFiles embed.FS

// maxText bounds a text that a caller fills in, in runes. A name is shorter; a message
// that somebody smuggles in for a name is not.
const maxText = 200

// templates are those of all contents.
type templates struct {
	text map[string]*texttemplate.Template
	html map[string]*htmltemplate.Template
}

// contents has one of each, for what must be true of all.
func contents() []Content {
	return []Content{PasswordReset{}, Invitation{}, PasswordChanged{}, SecondFactorChanged{}, PasskeySuspended{}, AddressChanged{}, LoginsLinked{}, NewDevice{}, APIKeyMade{}, PrivilegesChanged{}, Maintenance{}, Report{}}
}

func loadTemplates() (*templates, error) {
	helpers := map[string]any{
		"time":  func(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04 UTC") },
		"words": enumerate,
	}
	t := &templates{text: map[string]*texttemplate.Template{}, html: map[string]*htmltemplate.Template{}}
	for _, c := range contents() {
		name := c.template()
		text, err := texttemplate.New(name).Option("missingkey=error").Funcs(helpers).ParseFS(templateFiles, "templates/frame.txt", "templates/"+name+".txt")
		if err != nil {
			return nil, fmt.Errorf("mail: %w", err)
		}
		html, err := htmltemplate.New(name).Option("missingkey=error").Funcs(helpers).ParseFS(templateFiles, "templates/frame.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("mail: %w", err)
		}
		t.text[name], t.html[name] = text, html
	}
	return t, nil
}

// enumerate is a list in words.
func enumerate(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

// rendered is a mail in words.
type rendered struct{ subject, text, html string }

// page is what a template sees.
type page struct {
	// Name, Account and Public are of everybody's mail, C of this one's content.
	Name, Account, Public string
	Link                  string
	Subject               string
	C                     any
}

// render puts a content into words.
func (t *templates) render(public *url.URL, to Recipient, c Content) (rendered, error) {
	text, html := t.text[c.template()], t.html[c.template()]
	p := page{Name: oneLine(to.Name), Account: oneLine(to.Account), Public: public.String(), Link: linkOf(public, c), C: cleaned(c)}
	var subject, plain, rich strings.Builder
	if err := text.ExecuteTemplate(&subject, "subject", p); err != nil {
		return rendered{}, fmt.Errorf("mail: %w", err)
	}
	p.Subject = subject.String()
	err := errors.Join(text.ExecuteTemplate(&plain, "frame", p), html.ExecuteTemplate(&rich, "frame", p))
	if err != nil {
		return rendered{}, fmt.Errorf("mail: %w", err)
	}
	return rendered{subject: p.Subject, text: plain.String(), html: rich.String()}, nil
}

// cleaned is a copy of a content in which every text is one line.
func cleaned(c Content) any {
	out := reflect.New(reflect.TypeOf(c)).Elem()
	out.Set(reflect.ValueOf(c))
	for i := range out.NumField() {
		clean(out.Field(i))
	}
	return out.Interface()
}

func clean(v reflect.Value) {
	switch {
	case v.Kind() == reflect.String:
		v.SetString(oneLine(v.String()))
	case v.Type() == reflect.TypeFor[[]string]():
		lines := make([]string, v.Len())
		for i := range lines {
			lines[i] = oneLine(v.Index(i).String())
		}
		v.Set(reflect.ValueOf(lines))
	case v.Type() == reflect.TypeFor[Origin]():
		for i := range v.NumField() {
			clean(v.Field(i))
		}
	}
}

// oneLine is a text as a mail shows it: one line of printable characters.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			return ' '
		case !unicode.IsPrint(r): // also what turns the direction of writing
			return -1
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) > maxText {
		s = string([]rune(s)[:maxText-1]) + "…"
	}
	return s
}
