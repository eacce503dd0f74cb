package prompt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/expense"
)

func drawRequest(t *rapid.T) Request {
	r := Request{
		Application: "App", ProposeAllowed: rapid.Bool().Draw(t, "propose"), Waiting: rapid.Bool().Draw(t, "waiting"),
		Others: rapid.IntRange(0, 2).Draw(t, "others"), Recent: map[string]map[string]string{"id1": {"0": "id0", "1": "text", "2": "id3"}},
	}
	kinds := []Kind{Text, Choice, Project, Worker}
	for i := range rapid.IntRange(1, MaxFields).Draw(t, "fields") {
		f := Field{
			Key: fmt.Sprint(i), Label: "Field", Required: rapid.Bool().Draw(t, "required"),
			Kind: rapid.SampledFrom(kinds).Draw(t, "kind"),
		}
		if f.Kind == Worker {
			kinds = kinds[:3] // once only
		}
		if f.Kind != Text {
			for n := range rapid.IntRange(0, 15).Draw(t, "options") {
				f.Options = append(f.Options, Option{ID: fmt.Sprint("id", n), Label: rapid.StringMatching(`[aAäÄbž1 ]{0,4}x`).Draw(t, "label")})
			}
		}
		f.Value = rapid.SampledFrom([]string{"", "id0", "id3", "text", "1,50", strings.Repeat("é", 300), "\x00\x1b"}).Draw(t, "value")
		if f.Kind == Text || f.Kind == Project {
			f.Limits = rapid.SampledFrom([]expense.Limits{
				{}, {Pattern: `[a-zä1 ]*`, Message: "Small letters"}, {MinLength: 2, MaxLength: 3}, {Form: expense.Number, Maximum: "20"}, {Form: expense.Date},
			}).Draw(t, "limits")
		}
		r.Fields = append(r.Fields, f)
	}
	return r
}

func drawKey(t *rapid.T) Key {
	k := Key{Name: KeyName(rapid.IntRange(0, int(Delete)).Draw(t, "key"))}
	if k.Name == Rune {
		k.Rune = rapid.SampledFrom([]rune("aäAbž1, xns\x00\n本")).Draw(t, "rune")
		k.Alt = rapid.IntRange(0, 9).Draw(t, "alt") == 0
		k.Control = rapid.IntRange(0, 9).Draw(t, "control") == 0
	}
	return k
}

// Whatever is pressed and clicked, the model stays whole, can be painted, and says
// only what answers its question.
func TestAnyKeys(t *testing.T) {
	t.Parallel()
	p, err := newPainter(1)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		m, err := NewModel(r)
		if err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 60).Draw(t, "presses") {
			if rapid.IntRange(0, 5).Draw(t, "click") == 0 {
				m.Point(Element(rapid.IntRange(-1, 14).Draw(t, "element")), rapid.IntRange(-1, page).Draw(t, "entry"))
			} else {
				m.Press(drawKey(t))
			}
			if int(m.focus) < 0 || int(m.focus) >= m.elements() {
				t.Fatalf("the focus is at %d of %d", m.focus, m.elements())
			}
			for i, s := range m.fields {
				if s.cursor < 0 || s.cursor > len(s.text) || len(s.text) > MaxText {
					t.Fatalf("field %d: cursor %d in %d characters", i, s.cursor, len(s.text))
				}
				if s.open && (s.at < 0 || s.at >= len(s.matches) || s.first > s.at || s.at >= s.first+page) {
					t.Fatalf("field %d: entry %d, shown from %d, of %d", i, s.at, s.first, len(s.matches))
				}
				if s.chosen >= 0 && string(clean(r.Fields[i].Options[s.chosen].Label)) != string(s.text) && !strings.EqualFold(r.Fields[i].Options[s.chosen].Label, s.value()) {
					t.Fatalf("field %d shows %q and means %q", i, string(s.text), r.Fields[i].Options[s.chosen].Label)
				}
				if m.faulty(i) && !s.tried {
					t.Fatalf("field %d is called wrong before anybody went on from it", i)
				}
				if s.open && Element(i) != m.focus {
					t.Fatalf("field %d has its list open, and the focus is at %d", i, m.focus)
				}
			}
			if m.answer != nil {
				break
			}
		}
		if rapid.IntRange(0, 9).Draw(t, "paint") == 0 {
			p.paint(m)
		}
		if a := m.Answer(); a != nil {
			sent, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ReadAnswer(bytes.NewReader(sent), r); err != nil {
				t.Fatalf("%+v answers nothing: %v", a, err)
			}
			if again := *a; again.Outcome == Later && r.Waiting {
				t.Fatal(`"later", though the application waits`)
			}
		}
	})
}

// Where everything needed is filled in, one Enter is enough, and says just that.
func TestOneEnterAccepts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := drawRequest(t)
		for i := range r.Fields {
			f := &r.Fields[i]
			f.Value, f.Limits = "text", expense.Limits{}
			if f.Kind != Text {
				f.Options = append(f.Options, Option{ID: "mine", Label: "Mine"})
				f.Value = "mine"
			}
		}
		m, err := NewModel(r)
		if err != nil {
			t.Fatal(err)
		}
		m.Press(Key{Name: Enter})
		a := m.Answer()
		if a == nil || a.Outcome != Chosen {
			t.Fatalf("after Enter: %+v, problem %q", a, m.problem)
		}
		for _, f := range r.Fields {
			if a.Values[f.Key] != f.Value {
				t.Fatalf("%s is %q, was filled in with %q", f.Key, a.Values[f.Key], f.Value)
			}
		}
	})
}

func TestWhatIsMissingIsSaid(t *testing.T) {
	t.Parallel()
	m, err := NewModel(Request{Application: "App", Fields: []Field{
		{Key: "a", Label: "First", Kind: Text, Value: "x"},
		{Key: "b", Label: "Second", Kind: Choice, Required: true, Options: []Option{{"1", "One"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if m.Focus() != 1 {
		t.Errorf("the focus is at %d, not at what is missing", m.Focus())
	}
	m.Press(Key{Name: BackTab})
	m.Press(Key{Name: Enter})
	if m.Answer() != nil || m.Focus() != 1 || !strings.Contains(m.problem, "Second") {
		t.Errorf("answer %v, focus %d, problem %q", m.Answer(), m.Focus(), m.problem)
	}
	for _, r := range "zzz" {
		m.Press(Key{Rune: r})
	}
	m.Press(Key{Name: Enter})
	if m.Answer() != nil || !strings.Contains(m.problem, "not in the list") {
		t.Errorf("answer %v, problem %q", m.Answer(), m.problem)
	}
}

func press(m *Model, text string, keys ...KeyName) {
	for _, r := range text {
		m.Press(Key{Rune: r})
	}
	for _, k := range keys {
		m.Press(Key{Name: k})
	}
}

// While somebody writes they are advised; when they go on from what is not valid it is a
// fault, and Enter leads back to it and accepts nothing.
func TestWhatIsNotValidIsNotAccepted(t *testing.T) {
	t.Parallel()
	m, err := NewModel(Request{Application: "App", Fields: []Field{
		{Key: "order", Label: "Order", Kind: Text, Required: true, Limits: expense.Limits{Pattern: `[A-Z]{2}\d{4}`, Message: "Two letters and four digits"}},
		{Key: "hours", Label: "Hours", Kind: Text, Limits: expense.Limits{Form: expense.Number, Maximum: "24"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	says := func(want string, wantFault bool) {
		t.Helper()
		if text, fault := m.said(); !strings.Contains(text, want) || want == "" && text != "" || fault != wantFault {
			t.Errorf("it says %q, a fault: %v; want %q, %v", text, fault, want, wantFault)
		}
	}
	says("", false)
	press(m, "AB12")
	says("Two letters and four digits", false)
	press(m, "", Tab)
	says("Two letters and four digits", true)
	press(m, "30")
	says("more than 24", false)
	press(m, "", Enter)
	if m.Answer() != nil || m.Focus() != 0 {
		t.Fatalf("after Enter: %+v, the focus at %d", m.Answer(), m.Focus())
	}
	says("Two letters and four digits", true)
	press(m, "AB1234") // over what is selected
	says("more than 24", true)
	press(m, "", Enter)
	if m.Answer() != nil || m.Focus() != 1 {
		t.Fatalf("after the second Enter: %+v, the focus at %d", m.Answer(), m.Focus())
	}
	press(m, "7,5")
	says("", false)
	press(m, "", Enter)
	if a := m.Answer(); a == nil || a.Values["order"] != "AB1234" || a.Values["hours"] != "7.5" {
		t.Errorf("the answer is %+v", a)
	}
}

// What was filled in once and is not valid any more is where the prompt begins, and "not
// chargeable" needs none of it.
func TestOldChoicesMayNotBeValid(t *testing.T) {
	t.Parallel()
	r := Request{Application: "App", Fields: []Field{
		{Key: "note", Label: "Note", Kind: Text},
		{Key: "order", Label: "Order", Kind: Text, Value: "1234", Limits: expense.Limits{MinLength: 6}},
	}}
	m, err := NewModel(r)
	if err != nil {
		t.Fatal(err)
	}
	if text, fault := m.said(); m.Focus() != 1 || !fault || !strings.Contains(text, "at least 6") {
		t.Errorf("the focus is at %d, it says %q, a fault: %v", m.Focus(), text, fault)
	}
	press(m, "", Enter)
	if m.Answer() != nil {
		t.Errorf("one Enter accepts %+v", m.Answer())
	}
	m.Press(Key{Rune: 'n', Alt: true})
	if a := m.Answer(); a == nil || a.Outcome != NotChargeable {
		t.Errorf("the answer is %+v", a)
	}
}

// On a shared login the prompt follows the worker who is chosen, but for what the person
// at the keyboard has filled in themselves.
func TestTheWorkersOwnChoice(t *testing.T) {
	t.Parallel()
	r := Request{
		Application: "App", Fields: []Field{
			{Key: "who", Label: "Who is working?", Kind: Worker, Required: true, Value: "ada", Options: []Option{{"ada", "Ada Obi"}, {"marek", "Marek Dvořák"}, {"new", "Nina"}}},
			{Key: "project", Label: "Project", Kind: Project, Required: true, Value: "pier", Options: []Option{{"pier", "Pier 3"}, {"quay", "Quay"}}},
			{Key: "note", Label: "Note", Kind: Text, Value: "Ada's"},
		},
		Recent: map[string]map[string]string{"ada": {"project": "pier", "note": "Ada's"}, "marek": {"project": "quay", "note": "Marek's"}},
	}
	for _, c := range []struct {
		name string
		do   func(*Model)
		want map[string]string
	}{
		{"the one before", func(m *Model) { press(m, "", Enter) }, map[string]string{"who": "ada", "project": "pier", "note": "Ada's"}},
		{"another, written", func(m *Model) { press(m, "Mar", Tab, Enter) }, map[string]string{"who": "marek", "project": "quay", "note": "Marek's"}},
		{"another, one Enter", func(m *Model) { press(m, "Mar", Enter) }, map[string]string{"who": "marek", "project": "quay", "note": "Marek's"}},
		{"another, by arrow", func(m *Model) { press(m, "", Down, Down, Enter) }, map[string]string{"who": "marek", "project": "quay", "note": "Marek's"}},
		{"there and back", func(m *Model) { press(m, "Mar", Tab, BackTab); press(m, "Ada", Enter) }, map[string]string{"who": "ada", "project": "pier", "note": "Ada's"}},
		{"own words stay", func(m *Model) {
			press(m, "", Tab, Tab)
			press(m, "Mine", BackTab, BackTab)
			press(m, "Mar", Enter)
		}, map[string]string{"who": "marek", "project": "quay", "note": "Mine"}},
		{"of whom nothing is known", func(m *Model) { press(m, "Nina", Enter); press(m, "pie", Enter) }, map[string]string{"who": "new", "project": "pier"}},
	} {
		m, err := NewModel(r)
		if err != nil {
			t.Fatal(err)
		}
		c.do(m)
		if a := m.Answer(); a == nil || !maps.Equal(a.Values, c.want) {
			t.Errorf("%s: the answer is %+v, want %v", c.name, a, c.want)
		}
	}
}

func TestTheSameForAll(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		others int
		do     func(*Model)
		want   Answer
	}{
		"one Enter":             {others: 3, do: func(m *Model) { press(m, "", Enter) }, want: Answer{Outcome: Chosen}},
		"by the box":            {others: 3, do: func(m *Model) { press(m, "", Tab); press(m, " ", Enter) }, want: Answer{Outcome: Chosen, ForAll: true}},
		"and taken back":        {others: 3, do: func(m *Model) { press(m, "", Tab); press(m, "  ", Enter) }, want: Answer{Outcome: Chosen}},
		"by its letter":         {others: 3, do: func(m *Model) { m.Press(Key{Rune: 's', Alt: true}); press(m, "", Enter) }, want: Answer{Outcome: Chosen, ForAll: true}},
		"later for all":         {others: 3, do: func(m *Model) { m.Press(Key{Rune: 's', Alt: true}); press(m, "", Escape) }, want: Answer{Outcome: Later, ForAll: true}},
		"no letter without box": {do: func(m *Model) { m.Press(Key{Rune: 's', Alt: true}); press(m, "", Enter) }, want: Answer{Outcome: Chosen}},
		"the buttons behind it": {others: 3, do: func(m *Model) { press(m, "", Tab, Tab, Tab, Enter) }, want: Answer{Outcome: NotChargeable}},
	} {
		m, err := NewModel(Request{Application: "App", Others: c.others, Fields: []Field{{Key: "note", Label: "Note", Kind: Text, Value: "x"}}})
		if err != nil {
			t.Fatal(err)
		}
		c.do(m)
		if a := m.Answer(); a == nil || a.Outcome != c.want.Outcome || a.ForAll != c.want.ForAll {
			t.Errorf("%s: the answer is %+v, want %+v", name, a, c.want)
		}
	}
}

// The prompt runs as the person: whatever it answers is checked again.
func TestAnswersAreNotBelieved(t *testing.T) {
	t.Parallel()
	to := Request{Application: "App", ProposeAllowed: true, Fields: []Field{
		{Key: "project", Label: "Project", Kind: Project, Options: []Option{{"p1", "Pier"}}, Limits: expense.Limits{Pattern: `\d{4} .+`}},
		{Key: "hours", Label: "Hours", Kind: Text, Limits: expense.Limits{Form: expense.Number, Maximum: "24"}},
		{Key: "note", Label: "Note", Kind: Text},
	}}
	for text, want := range map[string]string{
		`{"outcome":"chosen","values":{"project":"p1","hours":"7.5","note":"x"}}`:         "",
		`{"outcome":"chosen","values":{"project":"2026 Quay"},"proposed":["project"]}`:    "",
		`{"outcome":"chosen","values":{"project":"Quay"},"proposed":["project"]}`:         "not valid",
		`{"outcome":"chosen","values":{"hours":"25"}}`:                                    "not valid",
		`{"outcome":"not_chargeable","values":{"hours":"25"}}`:                            "not valid",
		`{"outcome":"chosen","values":{"hours":"7,5"}}`:                                   "spelling",
		`{"outcome":"chosen","values":{"note":"a\u0007b"}}`:                               "characters",
		`{"outcome":"chosen","values":{"note":"` + strings.Repeat("x", MaxText+1) + `"}}`: "longer",
		`{"outcome":"chosen","values":{"note":"x"},"for_all":true}`:                       "none waits",
		`{"outcome":"later","for_all":true}`:                                              "none waits",
		`{"outcome":"chosen","values":{"note":"x"},"proposed":["note"]}`:                  "may not be proposed",
	} {
		_, err := ReadAnswer(strings.NewReader(text), to)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"application":"A","others":3,"fields":[{"key":"p","label":"P","kind":"text","value":"1","limits":{"form":"number","maximum":"2"}}]}`))
	f.Add([]byte(`{"application":"A","fields":[{"key":"p","label":"P","kind":"text","limits":{"pattern":"a)|(b"}}]}`))
	f.Add([]byte(`{"application":"A","fields":[{"key":"p","label":"P","kind":"project","options":[{"id":"1","label":"One"}],"value":"1"}]}`))
	f.Add([]byte(`{"application":"A","fields":[{"key":"p","kind":"text"},{"key":"p"}]}`))
	f.Add([]byte(`{"fields":[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ReadRequest(bytes.NewReader(data))
		if err != nil {
			return
		}
		if m, err := NewModel(r); err != nil {
			t.Fatalf("%+v was read and cannot be asked: %v", r, err)
		} else {
			m.Press(Key{Name: Enter})
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"outcome":"chosen","values":{"p":"1"}}`))
	f.Add([]byte(`{"outcome":"later"}{`))
	f.Fuzz(func(t *testing.T, data []byte) {
		to := Request{Application: "A", Fields: []Field{{Key: "p", Kind: Project, Required: true, Options: []Option{{"1", "One"}}}}}
		if a, err := ReadAnswer(bytes.NewReader(data), to); err == nil && a.Outcome == Chosen && a.Values["p"] != "1" {
			t.Fatalf("%+v was taken", a)
		}
	})
}
