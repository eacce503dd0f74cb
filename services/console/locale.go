package console

import (
	"html/template"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"golang.org/x/text/number"
	"google.golang.org/protobuf/types/known/durationpb"
)

// locale is how numbers are written for whoever reads a page. Dates and times are written by the browser,
// in the language that the page names.
type locale struct {
	// group and point part a number's digits; percent stands behind a share of a hundred.
	group, point, percent string
}

// neutral is for who says nothing: narrow spaces that no reader takes for a decimal point.
var neutral = locale{group: "\u202f", point: ".", percent: "\u202f%"}

// languages are those whose digits are ours, with what their regions write differently.
var languages = []language.Tag{
	language.English, language.MustParse("en-ZA"), language.German, language.MustParse("de-AT"), language.MustParse("de-CH"),
	language.French, language.MustParse("fr-CH"), language.Italian, language.MustParse("it-CH"), language.Spanish, language.LatinAmericanSpanish, language.MustParse("es-MX"), language.Portuguese, language.EuropeanPortuguese,
	language.Dutch, language.Swedish, language.Danish, language.Norwegian, language.Finnish, language.Icelandic, language.Estonian, language.Latvian, language.Lithuanian,
	language.Polish, language.Czech, language.Slovak, language.Hungarian, language.Romanian, language.Bulgarian, language.Croatian, language.Serbian, language.Slovenian,
	language.Greek, language.Turkish, language.Ukrainian, language.Russian, language.Hebrew, language.Japanese, language.Chinese, language.Korean, language.Indonesian, language.Vietnamese, language.Thai,
}

// locales know them.
var locales = sync.OnceValues(func() (language.Matcher, []locale) {
	all := make([]locale, len(languages))
	for i, tag := range languages {
		p := message.NewPrinter(tag)
		long := p.Sprint(number.Decimal(1234567.5))
		l := locale{}
		l.group = strings.TrimPrefix(long[:strings.Index(long, "234")], "1")
		_, rest, _ := strings.Cut(long, "567")
		l.point = strings.TrimSuffix(rest, "5")
		_, l.percent, _ = strings.Cut(p.Sprint(number.Percent(0.5)), "50")
		all[i] = l
	}
	return language.NewMatcher(languages), all
})

// localeOf is what a browser asks for: how numbers are written, and the language that its dates are written in,
// empty where it does not say.
func localeOf(r *http.Request) (locale, string) {
	tags, _, err := language.ParseAcceptLanguage(r.Header.Get("Accept-Language"))
	if err != nil || len(tags) == 0 {
		return neutral, ""
	}
	matcher, all := locales()
	_, i, sure := matcher.Match(tags...)
	if sure == language.No {
		return neutral, tags[0].String()
	}
	return all[i], tags[0].String()
}

// grouped parts digits in threes.
func (l locale) grouped(digits string) string {
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + l.group + digits[i:]
	}
	return digits
}

// count is a whole number.
func (l locale) count(n int64) string {
	digits, negative := strings.CutPrefix(strconv.FormatInt(n, 10), "-")
	if negative {
		return "-" + l.grouped(digits)
	}
	return l.grouped(digits)
}

// decimal is a number with one digit behind the point.
func (l locale) decimal(f float64) string {
	text, negative := strings.CutPrefix(strconv.FormatFloat(f, 'f', 1, 64), "-")
	whole, part, _ := strings.Cut(text, ".")
	text = l.grouped(whole) + l.point + part
	if negative {
		return "-" + text
	}
	return text
}

// share is a part of a whole in percent.
func (l locale) share(part float64) string { return l.decimal(100*part) + l.percent }

// span is a stretch of time in hours, minutes and seconds, as a stopwatch shows it: figures
// below each other can be compared, and sums be checked.
func (l locale) span(d *durationpb.Duration) string { return l.length(d.AsDuration()) }

// bytes are so many, in the unit that makes a short number of them.
func (l locale) bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	size, unit := float64(n), 0
	for size >= 1024 && unit < len(units)-1 {
		size, unit = size/1024, unit+1
	}
	if unit == 0 {
		return l.count(n) + "\u00a0B"
	}
	return l.decimal(size) + "\u00a0" + units[unit]
}

// machines are so many.
func (l locale) machines(n int32) string {
	if n == 1 {
		return "1 machine"
	}
	return l.count(int64(n)) + " machines"
}

// templateSets are the templates of all pages, for each way to write numbers that was asked for.
type templateSets struct {
	// parsed are never executed, so that they can be copied.
	parsed map[string]*template.Template

	mu    sync.Mutex
	ready map[templateKey]*template.Template
}

type templateKey struct {
	name   string
	locale locale
}

func newTemplateSets(parsed map[string]*template.Template) *templateSets {
	return &templateSets{parsed: parsed, ready: make(map[templateKey]*template.Template)}
}

// of is one of them.
func (t *templateSets) of(name string, l locale) (*template.Template, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ready := t.ready[templateKey{name, l}]; ready != nil {
		return ready, nil
	}
	ready, err := t.parsed[name].Clone()
	if err != nil {
		return nil, err
	}
	functions := template.FuncMap{}
	maps.Copy(functions, formatsOf(l))
	ready.Funcs(functions)
	t.ready[templateKey{name, l}] = ready
	return ready, nil
}
