package console

import "testing"

func TestWhatAPageIsNarrowedToIsTold(t *testing.T) {
	for _, c := range []struct {
		filters         []chosenFilter
		briefly, inFull string
	}{
		{nil, "all applications", "all applications"},
		{[]chosenFilter{{Kind: "person", Name: "Ada"}}, "all applications, person Ada", "all applications; person Ada"},
		{[]chosenFilter{{Kind: "application", Name: "CAD"}, {Kind: "person", Name: "Ada"}, {Kind: "person", Name: "Bo"}}, "application CAD, 2 people", "application CAD; person Ada, Bo"},
	} {
		bar := filterBar{Filters: c.filters}
		if briefly, full := bar.Told(), bar.ToldInFull(); briefly != c.briefly || full != c.inFull {
			t.Errorf("%v is told as %q, in full %q", c.filters, briefly, full)
		}
	}
}
