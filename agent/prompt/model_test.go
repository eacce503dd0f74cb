package prompt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawRequest(t *rapid.T) Request {
	r := Request{Application: "App", ProposeAllowed: rapid.Bool().Draw(t, "propose"), Waiting: rapid.Bool().Draw(t, "waiting")}
	for i := range rapid.IntRange(1, MaxFields).Draw(t, "fields") {
		f := Field{
			Key: fmt.Sprint(i), Label: "Field", Required: rapid.Bool().Draw(t, "required"),
			Kind: rapid.SampledFrom([]Kind{Text, Choice, Project, Worker}).Draw(t, "kind"),
		}
		if f.Kind != Text {
			for n := range rapid.IntRange(0, 15).Draw(t, "options") {
				f.Options = append(f.Options, Option{ID: fmt.Sprint("id", n), Label: rapid.StringMatching(`[aAäÄbž1 ]{0,4}x`).Draw(t, "label")})
			}
		}
		f.Value = rapid.SampledFrom([]string{"", "id0", "id3", "text", strings.Repeat("é", 300), "\x00\x1b"}).Draw(t, "value")
		r.Fields = append(r.Fields, f)
	}
	return r
}

func drawKey(t *rapid.T) Key {
	k := Key{Name: KeyName(rapid.IntRange(0, int(Delete)).Draw(t, "key"))}
	if k.Name == Rune {
		k.Rune = rapid.SampledFrom([]rune("aäAbž1 xn\x00\n本")).Draw(t, "rune")
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
			f.Value = "text"
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

func FuzzRequest(f *testing.F) {
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
