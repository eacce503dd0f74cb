package notice

import (
	"strings"
	"testing"
)

// People are shown the notice again where what it says of them changes, and not where the
// list of programs does.
func TestVersionFollowsTheWords(t *testing.T) {
	t.Parallel()
	plain := New(Facts{PauseAllowed: true})
	if same := New(Facts{PauseAllowed: true, Applications: []string{"FreeCAD"}}); same.Version != plain.Version || same.Text == plain.Text {
		t.Error("another program changes the version, or is not told")
	}
	seen := map[string]bool{plain.Version: true}
	for _, f := range []Facts{
		{},
		{PauseAllowed: true, Account: "Agreed."},
		{PauseAllowed: true, Documents: Unreadable},
		{PauseAllowed: true, Documents: FileNames},
		{PauseAllowed: true, Documents: WholeTitles},
		{PauseAllowed: true, OtherPrograms: true},
	} {
		n := New(f)
		if seen[n.Version] {
			t.Errorf("%+v has the version of another", f)
		}
		seen[n.Version] = true
		for _, never := range Never() {
			if !strings.Contains(n.Text, never) {
				t.Errorf("%+v does not say %q", f, never)
			}
		}
		if !strings.HasPrefix(n.Text, f.Account) {
			t.Errorf("the account's words do not come first in %q", n.Text)
		}
	}
}

func TestManyProgramsAreCounted(t *testing.T) {
	t.Parallel()
	n := New(Facts{Applications: strings.Split(strings.Repeat("A ", 20)+"A", " ")})
	if !strings.Contains(n.Text, "and 9 more") {
		t.Error(n.Text)
	}
}
