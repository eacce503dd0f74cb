package rules

import (
	"regexp"
	"regexp/syntax"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Fold lower-cases text for matching, the long s too, which case-insensitive RE2
// takes for an s; invalid UTF-8 becomes the replacement rune.
func Fold(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.ToValidUTF8(s, "\uFFFD")), "ſ", "s")
}

// BaseName is the folded executable: base name, ".exe" left off.
func BaseName(s string) string {
	s = Fold(s)
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	return strings.TrimSuffix(s, ".exe")
}

func slashes(s string) string { return strings.ReplaceAll(s, `\`, "/") }

// Wildcard matches a folded shell pattern of * and ? against folded text, in time
// O(len(pattern) × len(text)).
func Wildcard(pattern, text string) bool {
	p, t := 0, 0
	star, resume := -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, t
			p++
			continue
		case p < len(pattern) && pattern[p] == '?':
			_, size := utf8.DecodeRuneInString(text[t:])
			p++
			t += size
			continue
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
			continue
		}
		if star < 0 {
			return false
		}
		_, size := utf8.DecodeRuneInString(text[resume:])
		resume += size
		p, t = star+1, resume
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

func literal(pattern string) bool { return !strings.ContainsAny(pattern, "*?") }

// expression is an RE2 that ignores case. A plain word, which most title rules
// are, is searched for as such; anything else is compiled when first needed, so
// that a thousand rules cost the agent no memory until they are used.
type expression struct {
	source string
	word   string
	once   sync.Once
	re     *regexp.Regexp
}

func newExpression(source string) (*expression, error) {
	parsed, err := syntax.Parse(source, syntax.Perl|syntax.FoldCase)
	if err != nil {
		return nil, err
	}
	e := &expression{source: source}
	if parsed.Op == syntax.OpLiteral && ascii(parsed.Rune) {
		e.word = strings.ToLower(string(parsed.Rune))
	}
	return e, nil
}

// ascii keeps the short cut to words that fold and RE2 treat alike.
func ascii(runes []rune) bool {
	for _, r := range runes {
		if r > unicode.MaxASCII {
			return false
		}
	}
	return true
}

func (e *expression) compiled() *regexp.Regexp {
	e.once.Do(func() { e.re = regexp.MustCompile("(?i)" + e.source) })
	return e.re
}

func (e *expression) match(text, folded string) bool {
	if e.word != "" {
		return strings.Contains(folded, e.word)
	}
	return e.compiled().MatchString(text)
}

// document is what the group "document" holds, or "" where nothing matches.
func (e *expression) document(text string) string {
	re := e.compiled()
	found := re.FindStringSubmatch(text)
	if found == nil {
		return ""
	}
	if i := re.SubexpIndex("document"); i >= 0 {
		return found[i]
	}
	return ""
}
