package evidence

import (
	"path"
	"slices"
	"strings"
	"testing"
)

func TestPathsOf(t *testing.T) {
	absolute := func(a string) string {
		if strings.HasPrefix(a, "/") {
			return a
		}
		return path.Join("/home/ann", a)
	}
	for _, c := range []struct {
		arguments, want []string
	}{
		{nil, nil},
		{[]string{"editor"}, nil},
		{[]string{"editor", "plan.odt", "-v", "--", "/srv/b.odt"}, []string{"/home/ann/plan.odt", "/srv/b.odt"}},
		{[]string{"editor", "--file=/srv/b.odt", "--nothing="}, []string{"/srv/b.odt"}},
		{[]string{"editor", "file:///srv/M%C3%BCller%20%26%20S.odt", "https://example.com/plan.odt", "FILE://localhost/x.odt"}, []string{"/srv/Müller & S.odt", "/x.odt"}},
		{[]string{"editor", "file:///C:/plan.docx", "file://server/share/plan.docx", "file://%zz"}, []string{"/home/ann/C:/plan.docx", "//server/share/plan.docx"}},
		{[]string{"editor", ""}, nil},
	} {
		if got := pathsOf(c.arguments, absolute); !slices.Equal(got, c.want) {
			t.Errorf("%q: %q, want %q", c.arguments, got, c.want)
		}
	}
	if got := pathsOf(make([]string, 100_000), absolute); len(got) > maxArguments {
		t.Errorf("%d paths", len(got))
	}
}

// FuzzPathsOf: a command line is another program's, and may hold anything.
func FuzzPathsOf(f *testing.F) {
	f.Add("editor\x00--x=file:///a\x00b")
	f.Add("\x00file://")
	f.Fuzz(func(t *testing.T, line string) {
		for _, p := range pathsOf(strings.Split(line, "\x00"), func(a string) string { return a }) {
			if p == "" {
				t.Fatalf("%q gives an empty path", line)
			}
		}
	})
}
