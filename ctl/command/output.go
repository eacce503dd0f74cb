package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/cetrus/cetrus/ctl/table"
)

// minuteLayout is how a time is written for people, in the zone that is meant.
const minuteLayout = "2006-01-02 15:04"

// column is a column of a list or a report.
type column[T any] struct {
	title string
	// wide: only with -o wide, and in CSV.
	wide bool
	// flex: it may be shortened where the terminal is narrow.
	flex  bool
	value func(T) any
}

// col, flex, wide and wideFlex are columns of the kinds that there are.
func col[T any](title string, value func(T) any) column[T] {
	return column[T]{title: title, value: value}
}

func flex[T any](title string, value func(T) any) column[T] {
	return column[T]{title: title, flex: true, value: value}
}

func wide[T any](title string, value func(T) any) column[T] {
	return column[T]{title: title, wide: true, value: value}
}

func wideFlex[T any](title string, value func(T) any) column[T] {
	return column[T]{title: title, wide: true, flex: true, value: value}
}

// format is what -o and --no-headers say.
type format struct {
	name      string
	noHeaders bool
}

func (f *format) flags(c *cobra.Command, names ...string) {
	c.Flags().StringVarP(&f.name, "output", "o", names[0], "one of "+strings.Join(names, ", "))
	c.Flags().BoolVar(&f.noHeaders, "no-headers", false, "leave the line of names out")
	must(c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)))
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if !slices.Contains(names, f.name) {
			return usagef("%q is no output of %s: it writes %s", f.name, c.CommandPath(), strings.Join(names, ", "))
		}
		if before != nil {
			return before(c, args)
		}
		return nil
	}
}

// writer writes items page by page in the form that was asked for.
type writer[T proto.Message] interface {
	write(items []T) error
	// close ends the output: nothing follows.
	close() error
}

// writerOf is the writer of a format; manifest, where it is there, is how YAML shows an item.
func writerOf[T proto.Message](ctx context.Context, s *session, f format, columns []column[T], manifest func(T) ([]byte, error)) writer[T] {
	switch f.name {
	case "json":
		return &jsonWriter[T]{out: s.Out}
	case "yaml":
		if manifest == nil {
			manifest = genericYAML[T]
		}
		return &yamlWriter[T]{out: s.Out, manifest: manifest}
	case "csv":
		var shown []table.Column
		for _, c := range columns {
			shown = append(shown, table.Column{Title: c.title})
		}
		return &rowWriter[T]{s: s, out: s.Out, ctx: ctx, columns: columns, machine: true, to: table.NewCSV(s.Out, !f.noHeaders, shown)}
	}
	if f.name != "wide" {
		columns = slices.DeleteFunc(slices.Clone(columns), func(c column[T]) bool { return c.wide })
	}
	return &rowWriter[T]{s: s, out: s.Out, ctx: ctx, columns: columns, header: !f.noHeaders}
}

// rowWriter writes tables and CSV.
type rowWriter[T any] struct {
	s       *session
	out     io.Writer
	ctx     context.Context // a writer lives as long as the command that asks
	columns []column[T]
	machine bool
	header  bool
	any     bool
	to      interface{ Write([][]string) error }
}

func (w *rowWriter[T]) write(items []T) error {
	rows := make([][]string, 0, len(items))
	right := make([]bool, len(w.columns))
	for _, item := range items {
		row := make([]string, len(w.columns))
		for i, c := range w.columns {
			value := c.value(item)
			row[i] = cell(value, w.zone(value), w.machine)
			right[i] = right[i] || figure(value)
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil
	}
	w.begin(right)
	w.any = true
	return w.to.Write(rows)
}

// begin makes the table, of which the first rows tell which columns hold figures.
func (w *rowWriter[T]) begin(right []bool) {
	if w.to != nil {
		return
	}
	shown := make([]table.Column, len(w.columns))
	for i, c := range w.columns {
		shown[i] = table.Column{Title: c.title, Flex: c.flex, Right: right[i]}
	}
	width, _ := terminal(w.out)
	w.to = table.New(w.out, width, w.header, shown)
}

// zone is asked for only where a time is written.
func (w *rowWriter[T]) zone(value any) *time.Location {
	if t, ok := value.(*timestamppb.Timestamp); ok && t != nil {
		return w.s.zone(w.ctx)
	}
	return time.UTC
}

func (w *rowWriter[T]) close() error {
	if w.any {
		return nil
	}
	if w.machine {
		return w.to.Write(nil)
	}
	_, err := fmt.Fprintln(w.s.Err, "There are none.")
	return err
}

// figures is a text of figures, which is lined up to the right.
type figures string

// figure tells whether a value is lined up to the right.
func figure(value any) bool {
	switch value.(type) {
	case int, int32, int64, *durationpb.Duration, figures:
		return true
	}
	return false
}

// cell is a value as a table shows it, or as machines read it.
func cell(value any, zone *time.Location, machine bool) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case figures:
		return string(v)
	case []string:
		return strings.Join(v, ", ")
	case bool:
		if machine {
			return strconv.FormatBool(v)
		}
		if v {
			return "yes"
		}
		return ""
	case *timestamppb.Timestamp:
		switch {
		case v == nil:
			return ""
		case machine:
			return v.AsTime().In(zone).Format("2006-01-02T15:04:05.999Z07:00")
		}
		return v.AsTime().In(zone).Format(minuteLayout)
	case *durationpb.Duration:
		switch {
		case v == nil:
			return ""
		case machine:
			return seconds(v.AsDuration())
		}
		return clock(v.AsDuration())
	case protoreflect.Enum:
		return enumWord(v)
	}
	return fmt.Sprint(value)
}

// seconds is a duration in seconds, exact to the millisecond.
func seconds(d time.Duration) string {
	ms := d.Milliseconds()
	sign := ""
	if ms < 0 {
		sign, ms = "-", -ms
	}
	return strings.TrimSuffix(fmt.Sprintf("%s%d.%03d", sign, ms/1000, ms%1000), ".000")
}

// clock is a duration as hours, minutes and seconds: 1:12:40, 38:07, 0:09.
func clock(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	total := int64(d / time.Second)
	if hours := total / 3600; hours > 0 {
		return fmt.Sprintf("%s%d:%02d:%02d", sign, hours, total/60%60, total%60)
	}
	return fmt.Sprintf("%s%d:%02d", sign, total/60, total%60)
}

// enumWord is the value of an enumeration as people write it: file_name.
func enumWord(e protoreflect.Enum) string {
	values := e.Descriptor().Values()
	value := values.ByNumber(e.Number())
	if value == nil {
		return strconv.Itoa(int(e.Number()))
	}
	if value.Number() == 0 {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(string(value.Name()), enumPrefix(e.Descriptor())))
}

// enumPrefix is what the names of an enumeration's values begin with.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	return strings.TrimSuffix(string(e.Values().ByNumber(0).Name()), "UNSPECIFIED")
}

// enumOf reads such a word; the error says which there are.
func enumOf[E protoreflect.Enum](flag, word string) (E, error) {
	var zero E
	if word == "" {
		return zero, nil
	}
	full := enumPrefix(zero.Descriptor()) + strings.ToUpper(strings.ReplaceAll(word, "-", "_"))
	value := zero.Descriptor().Values().ByName(protoreflect.Name(full))
	if value == nil || value.Number() == 0 {
		return zero, usagef("--%s: %q is none of %s", flag, word, strings.Join(enumWords[E](), ", "))
	}
	return zero.Type().New(value.Number()).(E), nil
}

// enumWords are the values of an enumeration, as words.
func enumWords[E protoreflect.Enum]() []string {
	var zero E
	var words []string
	for i := range zero.Descriptor().Values().Len() {
		if v := zero.Descriptor().Values().Get(i); v.Number() != 0 {
			words = append(words, strings.ReplaceAll(enumWord(zero.Type().New(v.Number())), "_", "-"))
		}
	}
	return words
}

// apiJSON is a message as the API writes it.
func apiJSON(m proto.Message, prefix string) ([]byte, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var steady bytes.Buffer // protojson varies its spaces on purpose
	if err := json.Indent(&steady, text, prefix, "  "); err != nil {
		return nil, err
	}
	return steady.Bytes(), nil
}

// jsonWriter writes one array.
type jsonWriter[T proto.Message] struct {
	out   io.Writer
	begun bool
}

func (w *jsonWriter[T]) write(items []T) error {
	for _, item := range items {
		text, err := apiJSON(item, "  ")
		if err != nil {
			return err
		}
		before := ",\n"
		if !w.begun {
			w.begun, before = true, "[\n"
		}
		if _, err := fmt.Fprintf(w.out, "%s  %s", before, text); err != nil {
			return err
		}
	}
	return nil
}

func (w *jsonWriter[T]) close() error {
	end := "\n]\n"
	if !w.begun {
		end = "[]\n"
	}
	_, err := io.WriteString(w.out, end)
	return err
}

// yamlWriter writes a document for each item.
type yamlWriter[T proto.Message] struct {
	out      io.Writer
	manifest func(T) ([]byte, error)
	begun    bool
}

func (w *yamlWriter[T]) write(items []T) error {
	for _, item := range items {
		text, err := w.manifest(item)
		if err != nil {
			return err
		}
		if w.begun {
			text = append([]byte("---\n"), text...)
		}
		w.begun = true
		if _, err := w.out.Write(text); err != nil {
			return err
		}
	}
	return nil
}

func (w *yamlWriter[T]) close() error { return nil }

// genericYAML is a message as the API writes it, in YAML, in the order of its JSON.
func genericYAML[T proto.Message](m T) ([]byte, error) {
	text, err := apiJSON(m, "")
	if err != nil {
		return nil, err
	}
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil { // JSON is YAML
		return nil, err
	}
	blockStyle(&node)
	return yamlText(&node)
}

// blockStyle undoes the brackets and quotes of JSON.
func blockStyle(n *yaml.Node) {
	n.Style = 0 // the encoder quotes what would else be read as something else
	for _, below := range n.Content {
		blockStyle(below)
	}
}

func yamlText(n *yaml.Node) ([]byte, error) {
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := encoder.Encode(n); err != nil {
		return nil, err
	}
	return text.Bytes(), encoder.Close()
}

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }
