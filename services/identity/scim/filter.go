package scim

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/scim2/filter-parser/v2"

	"github.com/cetrus/cetrus/proto/contract"
)

// maxFilter bounds filters and paths, in bytes.
const maxFilter = 4096

// criterion tells whether a resource, or a value of it, is meant.
type criterion func(shown map[string]any) bool

// parseFilter reads a filter on a kind of resource.
func (k kind) parseFilter(text string) (filter.Expression, criterion, error) {
	if len(text) > maxFilter {
		return nil, nil, bad(invalidFilter, "filter: is too long")
	}
	b, ok := unbracket(text)
	if !ok {
		return nil, nil, bad(invalidFilter, `filter: is none; write userName eq "ada"`)
	}
	e, err := filter.ParseFilter([]byte(b.text))
	if err != nil {
		return nil, nil, bad(invalidFilter, `filter: is none; write userName eq "ada"`)
	}
	b.putBack(e)
	c, err := compile(e, k.schema, k.all)
	return e, c, err
}

// bracketed is a filter or a path without what stands between its brackets: the parser reads no more
// there than two comparisons, and each provider may write a whole filter.
type bracketed struct {
	// text has the number of what stood there in the brackets, as a comparison.
	text   string
	inside []filter.Expression
}

// unbracket takes out and parses what stands between brackets; ok is false where that is no filter.
func unbracket(text string) (b bracketed, ok bool) {
	var rest strings.Builder
	open, inText := -1, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inText && c == '\\':
			if open < 0 {
				rest.WriteByte(c)
			}
			if i++; i == len(text) {
				return b, false
			}
		case c == '"':
			inText = !inText
		case inText:
		case c == '[':
			if open >= 0 {
				return b, false
			}
			open = i + 1
			continue
		case c == ']':
			if open < 0 {
				return b, false
			}
			e, err := filter.ParseFilter([]byte(text[open:i]))
			if err != nil {
				return b, false
			}
			rest.WriteString(`[value eq "` + strconv.Itoa(len(b.inside)) + `"]`)
			b.inside, open = append(b.inside, e), -1
			continue
		}
		if open < 0 {
			rest.WriteByte(text[i])
		}
	}
	b.text = rest.String()
	return b, open < 0
}

// putBack gives the brackets of an expression back what stood in them.
func (b bracketed) putBack(e filter.Expression) {
	switch e := e.(type) {
	case *filter.LogicalExpression:
		b.putBack(e.Left)
		b.putBack(e.Right)
	case *filter.NotExpression:
		b.putBack(e.Expression)
	case *filter.ValuePath:
		e.ValueFilter = b.at(e.ValueFilter)
	}
}

// at is what stood in the brackets in which the number of it stands.
func (b bracketed) at(e filter.Expression) filter.Expression {
	if number, ok := e.(*filter.AttributeExpression); ok {
		if text, ok := number.CompareValue.(string); ok {
			if i, err := strconv.Atoi(text); err == nil {
				return b.inside[i]
			}
		}
	}
	return e
}

// compile makes a criterion of a filter, and refuses what could never hold.
func compile(e filter.Expression, schema string, attributes []attribute) (criterion, error) {
	switch e := e.(type) {
	case *filter.LogicalExpression:
		left, err := compile(e.Left, schema, attributes)
		if err != nil {
			return nil, err
		}
		right, err := compile(e.Right, schema, attributes)
		if err != nil {
			return nil, err
		}
		if e.Operator == filter.OR {
			return func(m map[string]any) bool { return left(m) || right(m) }, nil
		}
		return func(m map[string]any) bool { return left(m) && right(m) }, nil
	case *filter.NotExpression:
		inner, err := compile(e.Expression, schema, attributes)
		if err != nil {
			return nil, err
		}
		return func(m map[string]any) bool { return !inner(m) }, nil
	case *filter.ValuePath:
		a, err := attributeAt(e.AttributePath, schema, attributes)
		if err != nil {
			return nil, err
		}
		if len(a.Sub) == 0 {
			return nil, bad(invalidFilter, "filter: "+a.Name+" has no parts")
		}
		inner, err := compile(e.ValueFilter, schema, a.Sub)
		if err != nil {
			return nil, err
		}
		return func(m map[string]any) bool {
			for _, element := range elements(m[a.Name]) {
				if object, ok := element.(map[string]any); ok && inner(object) {
					return true
				}
			}
			return false
		}, nil
	case *filter.AttributeExpression:
		return compare(e, schema, attributes)
	}
	return nil, bad(invalidFilter, "filter: is of no kind that is known here")
}

func attributeAt(path filter.AttributePath, schema string, attributes []attribute) (attribute, error) {
	a, ok := find(attributes, path.AttributeName)
	if uri := path.URI(); !ok || uri != "" && !strings.EqualFold(uri, schema) {
		return a, bad(invalidFilter, "filter: "+path.AttributeName+" is no attribute here that can be asked for")
	}
	return a, nil
}

// elements are the values of an attribute, whether it has one or many.
func elements(value any) []any {
	switch value := value.(type) {
	case nil:
		return nil
	case []any:
		return value
	}
	return []any{value}
}

// compare makes a criterion of one comparison.
func compare(e *filter.AttributeExpression, schema string, attributes []attribute) (criterion, error) {
	a, err := attributeAt(e.AttributePath, schema, attributes)
	if err != nil {
		return nil, err
	}
	leaf, sub := a, e.AttributePath.SubAttributeName()
	if sub == "" && a.Kind == kindComplex && e.Operator != filter.PR {
		sub = "value" // as RFC 7644 has it for emails eq "…"
	}
	if sub != "" {
		var ok bool
		if leaf, ok = find(a.Sub, sub); !ok {
			return nil, bad(invalidFilter, "filter: "+a.Name+" has no part "+sub)
		}
	}
	values := func(m map[string]any) []any {
		if sub == "" {
			return elements(m[a.Name])
		}
		var found []any
		for _, element := range elements(m[a.Name]) {
			if object, ok := element.(map[string]any); ok && object[leaf.Name] != nil {
				found = append(found, object[leaf.Name])
			}
		}
		return found
	}
	if e.Operator == filter.PR {
		return func(m map[string]any) bool { return len(values(m)) > 0 }, nil
	}
	if e.CompareValue == nil { // null is what has no value
		switch e.Operator { //nolint:exhaustive // nothing else can be asked of null
		case filter.EQ:
			return func(m map[string]any) bool { return len(values(m)) == 0 }, nil
		case filter.NE:
			return func(m map[string]any) bool { return len(values(m)) > 0 }, nil
		}
	}
	fits, err := leaf.comparison(e)
	if err != nil {
		return nil, err
	}
	return func(m map[string]any) bool {
		found := values(m)
		if len(found) == 0 {
			return e.Operator == filter.NE // what has no value is unequal to all
		}
		for _, v := range found { // one of many is enough (RFC 7644 §3.4.2.2)
			if fits(v) {
				return true
			}
		}
		return false
	}, nil
}

// comparison of one value of the attribute with what a filter names.
func (a attribute) comparison(e *filter.AttributeExpression) (func(any) bool, error) {
	cannot := bad(invalidFilter, "filter: "+a.Name+" cannot be compared so")
	switch a.Kind {
	case kindBoolean:
		want, ok := boolean(e.CompareValue)
		if !ok || e.Operator != filter.EQ && e.Operator != filter.NE {
			return nil, cannot
		}
		return func(v any) bool { return (v == want) == (e.Operator == filter.EQ) }, nil
	case kindTime:
		text, _ := e.CompareValue.(string)
		want, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, cannot
		}
		holds, ok := ordered(e.Operator)
		if !ok {
			return nil, cannot
		}
		return func(v any) bool {
			text, _ := v.(string)
			at, err := time.Parse(time.RFC3339Nano, text)
			return err == nil && holds(at.Compare(want))
		}, nil
	}
	raw, ok := e.CompareValue.(string)
	if !ok {
		return nil, cannot
	}
	want := unescape(raw)
	if !a.CaseExact {
		want = strings.ToLower(want)
	}
	holds, err := textual(e.Operator, want)
	if err != nil {
		return nil, cannot
	}
	return func(v any) bool {
		text, ok := v.(string)
		if !a.CaseExact {
			text = strings.ToLower(text)
		}
		return ok && holds(text)
	}, nil
}

// unescape is a text of a filter without the escapes of JSON, which the parser leaves in.
func unescape(raw string) string {
	var text string
	if json.Unmarshal([]byte(`"`+raw+`"`), &text) != nil {
		return raw
	}
	return text
}

func ordered(op filter.CompareOperator) (func(int) bool, bool) {
	switch op { //nolint:exhaustive // the others are of texts
	case filter.EQ:
		return func(c int) bool { return c == 0 }, true
	case filter.NE:
		return func(c int) bool { return c != 0 }, true
	case filter.GT:
		return func(c int) bool { return c > 0 }, true
	case filter.GE:
		return func(c int) bool { return c >= 0 }, true
	case filter.LT:
		return func(c int) bool { return c < 0 }, true
	case filter.LE:
		return func(c int) bool { return c <= 0 }, true
	}
	return nil, false
}

func textual(op filter.CompareOperator, want string) (func(string) bool, error) {
	switch op { //nolint:exhaustive // the others follow
	case filter.CO:
		return func(s string) bool { return strings.Contains(s, want) }, nil
	case filter.SW:
		return func(s string) bool { return strings.HasPrefix(s, want) }, nil
	case filter.EW:
		return func(s string) bool { return strings.HasSuffix(s, want) }, nil
	}
	holds, ok := ordered(op)
	if !ok {
		return nil, bad(invalidFilter, "filter: "+string(op)+" is not known")
	}
	return func(s string) bool { return holds(strings.Compare(s, want)) }, nil
}

// narrowed is a query of those that alone can fit a filter: providers ask for one person after
// another, and not all of an account need be looked at for each.
func narrowed(e filter.Expression, into Query) Query {
	switch e := e.(type) {
	case *filter.LogicalExpression:
		if e.Operator == filter.AND {
			return narrowed(e.Right, narrowed(e.Left, into))
		}
	case *filter.AttributeExpression:
		text, ok := e.CompareValue.(string)
		if !ok || e.Operator != filter.EQ || e.AttributePath.SubAttributeName() != "" {
			return into
		}
		text = unescape(text)
		switch strings.ToLower(e.AttributePath.AttributeName) {
		case "username":
			into.Name = text
		case "externalid":
			into.Reference = text
		case "id":
			if id, err := contract.ParseID(text); err == nil {
				into.ID = id
			}
		}
	}
	return into
}
