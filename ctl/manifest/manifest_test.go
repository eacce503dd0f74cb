package manifest

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

// texts are what people type, and what YAML would take for something else.
var texts = rapid.OneOf(
	rapid.SampledFrom([]string{"true", "null", "~", "1", "0x1f", "1e3", "2026-03-01", "- a", "a: b", "#x", "&x", "*x", "!x", "'", "\"", "%", "@x", " x ", "x\ny", "x\n", "\t", "yes", "=", "<<", "Пётр", "無題", "\u2028", "\u0085", "{}", "[]", "|", ">"}),
	rapid.StringMatching(`[ -~]{1,20}`),
	rapid.StringN(1, 20, -1),
)

// filled is any message that files can say.
func filled(t *rapid.T, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if key(f) == "" || !rapid.Bool().Draw(t, string(f.Name())) {
			continue
		}
		if one := f.ContainingOneof(); one != nil && !one.IsSynthetic() && m.WhichOneof(one) != nil {
			continue
		}
		if f.IsList() {
			list := m.Mutable(f).List()
			for range rapid.IntRange(0, 3).Draw(t, "n") {
				list.Append(drawn(t, f, list.NewElement()))
			}
			continue
		}
		m.Set(f, drawn(t, f, m.NewField(f)))
	}
}

func drawn(t *rapid.T, f protoreflect.FieldDescriptor, empty protoreflect.Value) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.MessageKind:
		if _, is := empty.Message().Interface().(*durationpb.Duration); is {
			return protoreflect.ValueOfMessage(durationpb.New(time.Duration(rapid.Int64Range(1, 1e12).Draw(t, "ms")) * time.Millisecond).ProtoReflect())
		}
		filled(t, empty.Message())
		return empty
	case protoreflect.EnumKind:
		n := rapid.IntRange(1, f.Enum().Values().Len()-1).Draw(t, "enum")
		return protoreflect.ValueOfEnum(f.Enum().Values().Get(n).Number())
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(texts.Draw(t, "text"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "bool"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "int32"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "uint32"))
	default:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "int64"))
	}
}

// TestWhatIsWrittenReadsTheSame: a document of any kind, with anything in it, decodes to what was
// encoded, and is then no change.
func TestWhatIsWrittenReadsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := rapid.SampledFrom(kinds).Draw(t, "kind")
		d := &Document{Kind: k.name, Message: k.new()}
		filled(t, d.Message.ProtoReflect())
		if f := fieldOf(d.Message.ProtoReflect().Descriptor(), "name"); f != nil && d.Name() == "" {
			d.Message.ProtoReflect().Set(f, protoreflect.ValueOfString("x"))
		}
		for i := range d.Message.ProtoReflect().Descriptor().Fields().Len() {
			if f := d.Message.ProtoReflect().Descriptor().Fields().Get(i); key(f) != "" {
				d.Says = append(d.Says, string(f.Name()))
			}
		}
		if k.name == Group && rapid.Bool().Draw(t, "members") {
			members := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,9}`), 0, 4, func(s string) string { return s }).Draw(t, "members")
			d.Members = &members
		}
		written, err := Encode(d)
		if err != nil {
			t.Fatal(err)
		}
		read, err := Decode("x.yaml", written)
		if a, ok := d.Message.(*meteringv1.Application); ok {
			complete(a)
			if a.GetDisplayName() == "" { // spaces alone are no name, and told so
				return
			}
		}
		if err != nil || len(read) != 1 {
			t.Fatalf("%v: %d documents of\n%s", err, len(read), written)
		}
		if !proto.Equal(read[0].Message, d.Message) {
			t.Fatalf("read   %v\nwanted %v\nfrom\n%s", read[0].Message, d.Message, written)
		}
		if (d.Members == nil) != (read[0].Members == nil) || d.Members != nil && strings.Join(*d.Members, ",") != strings.Join(*read[0].Members, ",") {
			t.Fatalf("members %v, not %v", read[0].Members, d.Members)
		}
		again, err := Encode(read[0])
		if err != nil || string(again) != string(written) {
			t.Fatalf("%v: written again as\n%s\nnot as\n%s", err, again, written)
		}
	})
}

// TestWhatThePlatformHasIsNoChange: what was exported plans nothing.
func TestWhatThePlatformHasIsNoChange(t *testing.T) {
	live := office()
	var documents []*Document
	for _, kind := range Kinds() {
		for _, d := range live.Documents(kind) {
			text, err := Encode(d)
			if err != nil {
				t.Fatal(err)
			}
			read, err := Decode(kind, text)
			if err != nil {
				t.Fatalf("%v of\n%s", err, text)
			}
			documents = append(documents, read...)
		}
	}
	changes, err := Plan(live, documents, []string{Application, Group})
	if err != nil || len(changes) != 0 {
		t.Errorf("%v: %+v", err, changes)
	}
}

// office is what a platform has.
func office() *Live {
	return &Live{
		Applications: []*meteringv1.Application{
			{ApplicationId: "a1", DisplayName: "Firefox", Etag: "3", Rules: []*meteringv1.Rule{{RuleId: "r1", Executable: "firefox"}, {RuleId: "r2", Executable: "firefox-esr"}}},
			{ApplicationId: "a2", DisplayName: "Revit", Etag: "1", Rules: []*meteringv1.Rule{{RuleId: "r3", Executable: "revit"}}},
		},
		Groups: []*identityv1.Group{{GroupId: "g1", DisplayName: "Design", DeniedApplicationIds: []string{"a2", "a1"}, Etag: "7"}},
		Logins: []*identityv1.Login{
			{LoginId: "l1", Name: "zoe", GroupIds: []string{"g1"}, Etag: "1"}, {LoginId: "l2", Name: "ada", GroupIds: []string{"g1"}, Etag: "1"}, {LoginId: "l3", Name: "bo", Etag: "1"},
		},
		Settings: &meteringv1.Settings{TimeZone: "Europe/Prague", PauseAllowed: true, SmallestGroup: 5, Managers: []string{"m:10041"}},
		SignIn:   &identityv1.SignInPolicy{SecondFactorRequired: true},
		Expense: &meteringv1.ExpenseToProject{
			Projects: []*meteringv1.Project{{ProjectId: "p1", Label: "Bridge"}, {ProjectId: "p2", Label: "Dam"}},
			Rules: []*meteringv1.AssignmentRule{
				{AssignmentRuleId: "ar1", ApplicationId: "a2", Folder: `P:\dam`, Assigned: &meteringv1.AssignmentRule_ProjectId{ProjectId: "p2"}},
				{AssignmentRuleId: "ar2", User: "root", Assigned: &meteringv1.AssignmentRule_NotChargeable{NotChargeable: true}},
			},
			Workers: []*meteringv1.Worker{{WorkerId: "w1", Label: "Ada"}}, Etag: "4",
		},
	}
}

func TestPlan(t *testing.T) {
	const files = `
kind: Group
name: " design "
denied_applications: [firefox, New]
members: [ADA, bo]
---
kind: Application
name: New
rules: [{executable: new}]
---
kind: Settings
pause_allowed: false
---
kind: Application
name: firefox
rules: [{executable: firefox-esr, priority: 3}, {executable: firefox}, {executable: other}]
`
	documents, err := Decode("files.yaml", []byte(files))
	if err != nil {
		t.Fatal(err)
	}
	live := office()
	changes, err := Plan(live, documents, []string{Application})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, c := range changes {
		told = append(told, c.Action.String()+" "+c.Title)
	}
	if got := strings.Join(told, "; "); got != "update Settings; create Application New; update Application firefox; update Group  design ; delete Application Revit" {
		t.Errorf("planned %s", got)
	}
	if before := string(changes[0].Before); before != "kind: Settings\npause_allowed: true\n" {
		t.Errorf("of settings, only what is named is compared, not\n%s", before)
	}
	if after := string(changes[3].After); !strings.Contains(after, "members:\n  - ada\n  - bo\n") || !strings.Contains(after, "denied_applications:\n  - Firefox\n  - New\n") {
		t.Errorf("names stand as they are called:\n%s", after)
	}
	got := ApplicationOf(changes[2].Wanted, live.Applications[0])
	if got.GetEtag() != "3" || got.GetRules()[0].GetRuleId() != "r2" || got.GetRules()[1].GetRuleId() != "r1" || got.GetRules()[2].GetRuleId() != "" {
		t.Errorf("rules keep their ids: %v", got)
	}
}

func TestExpenseKeepsItsIDs(t *testing.T) {
	documents, err := Decode("e.yaml", []byte("kind: ExpenseToProject\nprojects: [{label: Dam}, {label: New}]\nrules:\n  - {user: x, project: New}\n  - {application: REVIT, folder: 'P:\\dam', project: Dam}\nworkers: [{label: Ada}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	live := office()
	changes, err := Plan(live, documents, nil)
	if err != nil || len(changes) != 1 {
		t.Fatalf("%v, %v", changes, err)
	}
	got := ExpenseOf(changes[0].Wanted, live.Expense, live, func() string { return "fresh" })
	want := &meteringv1.ExpenseToProject{
		Projects: []*meteringv1.Project{{ProjectId: "p2", Label: "Dam"}, {ProjectId: "fresh", Label: "New"}},
		Rules: []*meteringv1.AssignmentRule{
			{User: "x", Assigned: &meteringv1.AssignmentRule_ProjectId{ProjectId: "fresh"}},
			{AssignmentRuleId: "ar1", ApplicationId: "a2", Folder: `P:\dam`, Assigned: &meteringv1.AssignmentRule_ProjectId{ProjectId: "p2"}},
		},
		Workers: []*meteringv1.Worker{{WorkerId: "w1", Label: "Ada"}}, Etag: "4",
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestMistakesAreToldWhereTheyStand: all of a file's mistakes, each with line and column.
func TestMistakesAreToldWhereTheyStand(t *testing.T) {
	for text, want := range map[string]string{
		"kind: Application\nname: x\ntmeout: 3s":                              `f:3:1: "tmeout" is not known here`,
		"kind: Application\nname: x\nrules:\n- executabel: x":                 `f:4:3: "executabel" is not known here`,
		"kind: Application\nname: x\ntimeout: soon":                           `f:3:10: timeout is "soon"`,
		"kind: Application\nname: x\ntimeout: -3s":                            `f:3:10: timeout is "-3s"`,
		"kind: Application\nname: x\ndocuments: on":                           `f:3:12: documents is "on", and is to be true or false`,
		"kind: Application\nname: x\ndocument_reduction: some":                `f:3:21: document_reduction is "some", and is to be one of nothing, category`,
		"kind: Application\nname: x\nrules: x":                                `f:3:8: rules is "x", and is to be a list`,
		"kind: Application\nname: x\nrules: [x]":                              `f:3:9: is "x", and is to have priority`,
		"kind: Application\nname: x\nname: y":                                 `f:3:1: name is there already, in line 2`,
		"kind: Application":                                                   `f:1:1: has no name`,
		"kind: Application\nname:":                                            `f:2:6: is empty`,
		"name: x":                                                             `f:1:1: says no kind`,
		"kind: Grup\nname: x":                                                 `f:1:7: "Grup" is no kind`,
		"- x":                                                                 `f:1:1: is no document`,
		"kind: Group\nname: x\nmembers: [ada, Ada]":                           `f:3:16: Ada is a member already`,
		"kind: Group\nname: x\nmembers: {}":                                   `f:3:10: members is a mapping`,
		"kind: Settings\nmanagers: a\nsmallest_group: 1.5":                    `f:3:17: smallest_group is "1.5", and is to be a whole number`,
		"kind: Application\nname: x\napplication_id: y":                       `f:3:1: "application_id" is not known here`,
		"kind: ExpenseToProject\nrules: [{project: a, not_chargeable: true}]": `f:2:22: project and not_chargeable exclude each other`,
		"kind: Settings\nx: &a [*a]":                                          `f:2:1: "x" is not known here`,
		"kind: Settings\nmanagers: &a [*a]":                                   `managers is a list`,
		"kind: [\n":                                                           `is no YAML`,
		"kind: Settings\n\ttime_zone: x":                                      `is no YAML`,
	} {
		documents, err := Decode("f", []byte(text))
		if err == nil || len(documents) != 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want %s", text, documents, err, want)
		}
	}
}

func TestWhatIsEmptyIsNothing(t *testing.T) {
	for _, text := range []string{"", "---\n", "# only words\n---\n---\n", "null"} {
		if documents, err := Decode("f", []byte(text)); err != nil || len(documents) != 0 {
			t.Errorf("%q: %v, %v", text, documents, err)
		}
	}
}

// FuzzDecode: no bytes make it panic or hang, and what it takes it writes and reads again.
func FuzzDecode(f *testing.F) {
	f.Add("kind: Application\nname: x\nrules:\n  - executable: x\ntimeout: 30m\n---\nkind: Group\nname: y\nmembers: [a]\n")
	f.Add("kind: Settings\nperson: {pause_reasons: [{label: x}]}\nretention:\n")
	f.Add("a: &a [*a, *a]\nkind: *a")
	f.Add("kind: ExpenseToProject\nrules: [{project: x}]\n<<: {}")
	f.Fuzz(func(t *testing.T, text string) {
		documents, err := Decode("f", []byte(text))
		if err != nil {
			return
		}
		for _, d := range documents {
			written, err := Encode(d)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Decode("f", written)
			if err != nil || len(again) != 1 || !proto.Equal(again[0].Message, d.Message) {
				t.Fatalf("%v: %q was written as %q", err, text, written)
			}
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	f.Add("30m")
	f.Add("99999d")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if again, err := ParseDuration(Duration(d)); err != nil || again != d {
			t.Errorf("%q is %v, which is written %q and read %v, %v", text, d, Duration(d), again, err)
		}
	})
}
