package scim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
)

// foreign are implementations of SCIM that Cetrus did not write, in a process of their own.
type foreign struct {
	in  io.Writer
	out *bufio.Reader
}

// abroad starts them, as tools/bootstrap.sh has installed them.
func abroad(t *testing.T) *foreign {
	t.Helper()
	modules, err := filepath.Abs("../../../.cache/npm/scim/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	if _, missing := os.Stat(modules); err != nil || missing != nil {
		t.Skip("NOT TESTED: SCIM against implementations that Cetrus did not write; tools/bootstrap.sh test installs them where there is npm")
	}
	cmd := exec.CommandContext(t.Context(), node, "testdata/foreign.mjs", modules)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // it ends with its input, or is killed with the test's context
	})
	return &foreign{in, bufio.NewReader(out)}
}

// failer is a test or a case of rapid.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// ask asks one of them; refused says why it would not.
func (f *foreign) ask(t failer, what string, request map[string]any) (value any, refused string) {
	t.Helper()
	request["ask"] = what
	line, err := json.Marshal(request)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if _, err := f.in.Write(append(line, '\n')); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	answer, err := f.out.ReadBytes('\n')
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	var read struct {
		Value   any
		Refused *string
	}
	if err := json.Unmarshal(answer, &read); err != nil {
		t.Fatalf("%s: %s: %v", what, answer, err)
	}
	if read.Refused != nil {
		return nil, *read.Refused + " "
	}
	return read.Value, ""
}

// must asks, and fails where it is refused.
func (f *foreign) must(t failer, what string, request map[string]any) any {
	t.Helper()
	value, refused := f.ask(t, what, request)
	if refused != "" {
		t.Fatalf("%s refuses %v: %s", what, request, refused)
	}
	return value
}

// plainJSON is a value as it is read from JSON.
func plainJSON(t failer, value any) any {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var read any
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatalf("%v", err)
	}
	return read
}

// TestAgainstImplementationsOfOthers compares what is read, changed and answered here with what
// scim2-parse-filter, scim-patch and scimmy make of it.
func TestAgainstImplementationsOfOthers(t *testing.T) {
	f := abroad(t)
	t.Run("filters", func(t *testing.T) { rapid.Check(t, f.filters) })
	t.Run("no filters", func(t *testing.T) { rapid.Check(t, f.noFilters) })
	t.Run("patches of users", func(t *testing.T) { rapid.Check(t, f.patchesOfUsers) })
	t.Run("patches of groups", func(t *testing.T) { rapid.Check(t, f.patchesOfGroups) })
	t.Run("bodies", func(t *testing.T) { rapid.Check(t, f.bodies) })
	t.Run("discovery", f.discovery)
	t.Run("errors", f.errors)
}

// Few words and few values, so that things meet. Lower case: parse-filter knows no texts in which
// case does not count.
var (
	words = rapid.SampledFrom([]string{"ada", "adam", "of works", `"ada"`, "lovelace", "ž", "0a21"})
	mails = rapid.SampledFrom([]string{"ada@works.example", "adam@works.example", "a@home.example"})
	ids   = rapid.Custom(func(t *rapid.T) contract.ID {
		return contract.ID{rapid.ByteRange(1, 4).Draw(t, "id"), 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}
	})
	times = rapid.Custom(func(t *rapid.T) time.Time {
		return time.Date(2026, 5, rapid.IntRange(1, 3).Draw(t, "day"), 12, 0, 0, 0, time.UTC)
	})
)

func anyUser(t *rapid.T) User {
	some := rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "none") {
			return ""
		}
		return words.Draw(t, "word")
	})
	u := User{
		ID: ids.Draw(t, "id"), Name: words.Draw(t, "userName"), Reference: some.Draw(t, "externalId"), DisplayName: some.Draw(t, "displayName"),
		GivenName: some.Draw(t, "givenName"), FamilyName: some.Draw(t, "familyName"), Active: rapid.Bool().Draw(t, "active"),
		Created: times.Draw(t, "created"), Updated: times.Draw(t, "updated"), Revision: 1,
	}
	if rapid.Bool().Draw(t, "has mail") {
		u.MailAddress = mails.Draw(t, "mail")
	}
	for _, id := range rapid.SliceOfNDistinct(ids, 0, 2, rapid.ID).Draw(t, "groups") {
		u.Groups = append(u.Groups, Group{ID: id, Name: words.Draw(t, "group")})
	}
	return u
}

// comparisonOf is a comparison of the part of a user that a path names.
func comparisonOf(t *rapid.T, path string) string {
	cased := func(text string) string {
		return rapid.SampledFrom([]string{text, strings.ToUpper(text)}).Draw(t, text)
	}
	pr := path + " " + cased("pr")
	operators := []string{"eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le"}
	var values *rapid.Generator[string]
	switch last := path[strings.LastIndex(path, ".")+1:]; {
	case path == "name", path == "emails", path == "groups":
		return pr
	case last == "active", last == "primary":
		operators, values = []string{"eq"}, rapid.SampledFrom([]string{"true", "false"})
	case last == "created", last == "lastModified":
		operators = []string{"eq", "gt", "ge", "lt", "le"}
		values = rapid.Map(times, func(at time.Time) string { return quoted(at.Format(time.RFC3339)) })
	case last == "id", path == "groups.value":
		values = rapid.Map(rapid.OneOf(rapid.Map(ids, contract.ID.String), words), quoted)
	case last == "type":
		values = rapid.Map(rapid.SampledFrom([]string{"work", "home", "or"}), quoted)
	case strings.HasPrefix(path, "emails"), path == "value":
		values = rapid.Map(mails, quoted)
	default:
		// Also a part of a word, so that texts begin and end with it.
		values = rapid.Custom(func(t *rapid.T) string {
			all := []rune(words.Draw(t, "word"))
			from := rapid.IntRange(0, len(all)-1).Draw(t, "from")
			return quoted(string(all[from:rapid.IntRange(from+1, len(all)).Draw(t, "to")]))
		})
	}
	operator := rapid.SampledFrom(append(operators, "pr")).Draw(t, "operator")
	if operator == "pr" {
		return pr
	}
	comparison := path + " " + cased(operator) + " " + values.Draw(t, "value")
	if operator == "ne" {
		// What has no value is unequal to all here, and to nothing in parse-filter.
		return "(" + pr + " and " + comparison + ")"
	}
	return comparison
}

func quoted(text string) string { return `"` + strings.ReplaceAll(text, `"`, `\"`) + `"` }

// filterOn is a filter of comparisons of some paths; more, where it is not nil, are other parts of it.
func filterOn(t *rapid.T, paths *rapid.Generator[string], deep int, more func() string) string {
	one := func() string { return filterOn(t, paths, deep-1, more) }
	kinds := []string{"comparison", "more", "and", "or", "not", "()"}
	if deep == 0 {
		kinds = kinds[:2]
	}
	switch kind := rapid.SampledFrom(kinds).Draw(t, "kind"); {
	case kind == "more" && more != nil:
		return more()
	case kind == "and":
		return one() + rapid.SampledFrom([]string{" and ", " AND "}).Draw(t, "and") + one()
	case kind == "or":
		return one() + rapid.SampledFrom([]string{" or ", " OR "}).Draw(t, "or") + one()
	case kind == "not":
		return "not (" + one() + ")"
	case kind == "()":
		return "(" + one() + ")"
	}
	return comparisonOf(t, paths.Draw(t, "path"))
}

func anyFilter(t *rapid.T, deep int) string {
	paths := rapid.SampledFrom([]string{
		"userName", "USERNAME", "externalId", "displayName", "active", "id", "name.givenName", "name.familyName", "name.formatted", "name",
		"emails", "emails.value", "emails.type", "emails.primary", "groups", "groups.value", "groups.display", "meta.created", "meta.lastModified",
	})
	return filterOn(t, paths, deep, func() string {
		return "emails[" + filterOn(t, rapid.SampledFrom([]string{"value", "type", "primary"}), 2, nil) + "]"
	})
}

// filters: who is meant here is who is meant by parse-filter.
func (f *foreign) filters(t *rapid.T) {
	text := anyFilter(t, 3)
	if len(text) > maxFilter {
		t.Skip("too long")
	}
	users := rapid.SliceOfN(rapid.Custom(anyUser), 1, 6).Draw(t, "users")
	_, fits, err := userKind().parseFilter(text)
	if err != nil {
		t.Fatalf("%s is refused: %v", text, err)
	}
	f.sameAnswer(t, text, fits, users)
}

func (f *foreign) sameAnswer(t *rapid.T, text string, fits criterion, users []User) {
	t.Helper()
	var resources []any
	for _, u := range users {
		resources = append(resources, u.shown("/"))
	}
	theirs, _ := f.must(t, "filter", map[string]any{"text": text, "resources": resources}).([]any)
	for i, u := range users {
		if got := fits(u.shown("/")); got != theirs[i] {
			t.Fatalf("%s: %v here, %v by parse-filter: %v", text, got, theirs[i], plainJSON(t, u.shown("/")))
		}
	}
}

// noFilters: what parse-filter cannot read is no filter here either.
func (f *foreign) noFilters(t *rapid.T) {
	parts := strings.SplitAfter(anyFilter(t, 2), " ")
	for range rapid.IntRange(1, 3).Draw(t, "changes") {
		at := rapid.IntRange(0, len(parts)-1).Draw(t, "at")
		switch rapid.SampledFrom([]string{"drop", "double", "insert"}).Draw(t, "change") {
		case "drop":
			parts[at] = strings.TrimLeft(parts[at], "abcdefghijklmnopqrstuvwxyz\"")
		case "double":
			parts[at] += parts[at]
		default:
			parts[at] += rapid.SampledFrom([]string{"(", ")", "[", "]", `"`, "and ", "not ", "eq ", ".", "userName "}).Draw(t, "what")
		}
	}
	text := strings.Join(parts, "")
	_, refused := f.ask(t, "filter", map[string]any{"text": text, "resources": []any{}})
	if _, _, err := userKind().parseFilter(text); err == nil && refused != "" {
		t.Fatalf("%s is a filter here, and none by parse-filter: %s", text, refused)
	}
}

// What a PATCH can leave of a user or group, and has no version, time or name of others in it.
func keptOf(resource any) map[string]any {
	m, _ := resource.(map[string]any)
	kept := map[string]any{}
	for _, name := range []string{"userName", "displayName", "externalId", "active"} {
		if m[name] != nil {
			kept[name] = m[name]
		}
	}
	name, _ := m["name"].(map[string]any)
	for _, part := range []string{"givenName", "familyName"} {
		if name[part] != nil {
			kept["name."+part] = name[part]
		}
	}
	for _, many := range []string{"emails", "members"} {
		var values []string
		for _, v := range elements(m[many]) {
			values = append(values, valueOf(v))
		}
		if slices.Sort(values); len(values) > 0 {
			kept[many] = fmt.Sprint(slices.Compact(values)) // scimmy adds what is there already
		}
	}
	return kept
}

func operation(op, path string, value any) map[string]any {
	o := map[string]any{"op": op}
	if path != "" {
		o["path"] = path
	}
	if value != nil {
		o["value"] = value
	}
	return o
}

// changed compares what a PATCH makes of a resource.
func (f *foreign) changed(t *rapid.T, kind string, before any, operations []any, after any, by ...string) {
	t.Helper()
	body := map[string]any{"schemas": []string{patchMessage}, "Operations": operations}
	for _, theirs := range by {
		patched, refused := f.ask(t, theirs, map[string]any{"kind": kind, "resource": before, "body": body})
		switch {
		case strings.Contains(refused, "Impossible to search on a mono valued attribute"):
			continue // scim-patch chooses none of none so
		case refused != "":
			t.Fatalf("%s refuses %v: %s", theirs, operations, refused)
		}
		got, want := keptOf(plainJSON(t, after)), keptOf(patched)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\non %v:\n%v here\n%v by %s", operations, plainJSON(t, before), got, want, theirs)
		}
	}
}

func bodyOf(t failer, operations []any) []byte {
	t.Helper()
	body, err := json.Marshal(map[string]any{"schemas": []string{patchMessage}, "Operations": operations})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return body
}

func (f *foreign) patchesOfUsers(t *rapid.T) {
	u := anyUser(t)
	before := u.shown("https://cetrus.example/scim/v2")
	word := func() string { return words.Draw(t, "word") }
	both := func() map[string]any { return map[string]any{"givenName": word(), "familyName": word()} }
	one := func() map[string]any {
		return map[string]any{rapid.SampledFrom([]string{"givenName", "familyName"}).Draw(t, "part"): word()}
	}
	mail := func() any {
		return []any{map[string]any{"value": mails.Draw(t, "mail"), "type": "work", "primary": true}}
	}
	by := []string{"scim-patch", "scimmy"}
	// only says that the other one does not follow RFC 7644 here.
	only := func(who string) { by = slices.DeleteFunc(by, func(name string) bool { return name != who }) }
	var operations []any
	for range rapid.IntRange(1, 4).Draw(t, "operations") {
		op := rapid.SampledFrom([]string{"add", "replace"}).Draw(t, "op")
		operations = append(operations, rapid.SampledFrom([]func() map[string]any{
			func() map[string]any { return operation(op, "userName", word()) },
			func() map[string]any { return operation(op, "displayName", word()) },
			func() map[string]any { return operation(op, "externalId", word()) },
			func() map[string]any { return operation(op, "active", rapid.Bool().Draw(t, "active")) },
			func() map[string]any { return operation(op, "name.givenName", word()) },
			func() map[string]any { return operation(op, "name.familyName", word()) },
			func() map[string]any { return operation(op, "name", both()) },
			func() map[string]any {
				only("scim-patch") // scimmy takes away what is not named (§3.5.2.3)
				return operation(op, "name", one())
			},
			func() map[string]any {
				only("scimmy") // scim-patch takes away what is not named
				return operation(op, "", map[string]any{"name": one()})
			},
			func() map[string]any {
				return operation(op, "", map[string]any{"displayName": word(), "active": rapid.Bool().Draw(t, "active"), "externalId": word()})
			},
			func() map[string]any { return operation("add", "", map[string]any{"name": both()}) },
			func() map[string]any { return operation("replace", "emails", mail()) },
			func() map[string]any {
				only("scim-patch") // scimmy finds no such address where there is none
				return operation(op, `emails[type eq "work"].value`, mails.Draw(t, "mail"))
			},
			func() map[string]any { return operation("remove", "displayName", nil) },
			func() map[string]any { return operation("remove", "externalId", nil) },
			func() map[string]any { return operation("remove", "name.givenName", nil) },
			func() map[string]any { return operation("remove", "name.familyName", nil) },
			func() map[string]any { return operation("remove", "name", nil) },
			func() map[string]any { return operation("remove", "emails", nil) },
		}).Draw(t, "operation")())
	}
	if err := patch(&u, bodyOf(t, operations)); err != nil {
		t.Fatalf("%v: %v", operations, err)
	}
	f.changed(t, "User", before, operations, u.shown("/"), by...)
}

func (f *foreign) patchesOfGroups(t *rapid.T) {
	member := func(id contract.ID) map[string]any { return map[string]any{"value": id.String()} }
	members := func() []any {
		var list []any
		for _, id := range rapid.SliceOfNDistinct(ids, 1, 3, rapid.ID).Draw(t, "members") {
			list = append(list, member(id))
		}
		return list
	}
	g := Group{ID: ids.Draw(t, "id"), Name: words.Draw(t, "displayName"), Revision: 1, Created: times.Draw(t, "created"), Updated: times.Draw(t, "updated")}
	for _, id := range rapid.SliceOfNDistinct(ids, 0, 3, rapid.ID).Draw(t, "before") {
		g.Members = append(g.Members, Member{ID: id})
	}
	before := g.shown("https://cetrus.example/scim/v2")
	// scim-patch removes by value what is the same in all parts: none but the value is given.
	bare := []any{}
	for _, m := range g.Members {
		bare = append(bare, member(m.ID))
	}
	before["members"] = bare
	var operations []any
	for range rapid.IntRange(1, 4).Draw(t, "operations") {
		op := rapid.SampledFrom([]string{"add", "replace"}).Draw(t, "op")
		operations = append(operations, rapid.SampledFrom([]func() map[string]any{
			func() map[string]any { return operation(op, "displayName", words.Draw(t, "name")) },
			func() map[string]any { return operation(op, "externalId", words.Draw(t, "name")) },
			func() map[string]any { return operation(op, "", map[string]any{"displayName": words.Draw(t, "name")}) },
			func() map[string]any { return operation(op, "members", members()) },
			func() map[string]any { return operation("add", "", map[string]any{"members": members()}) },
			func() map[string]any { return operation("remove", "members", nil) },
			func() map[string]any {
				return operation("remove", `members[value eq "`+ids.Draw(t, "who").String()+`"]`, nil)
			},
		}).Draw(t, "operation")())
	}
	if err := patch(&g, bodyOf(t, operations)); err != nil {
		t.Fatalf("%v: %v", operations, err)
	}
	f.changed(t, "Group", before, operations, g.shown("/"), "scim-patch", "scimmy")
}

// bodies: what scimmy sends is read here, and what is answered passes scimmy's schemas whole.
func (f *foreign) bodies(t *rapid.T) {
	const base = "https://cetrus.example/scim/v2"
	u := anyUser(t)
	body, err := json.Marshal(f.must(t, "send", map[string]any{"kind": "User", "resource": u.shown(base)}))
	if err != nil {
		t.Fatalf("%v", err)
	}
	made, err := userOf(User{ID: u.ID, Groups: u.Groups, Created: u.Created, Updated: u.Updated, Revision: u.Revision}, body)
	if err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if u.DisplayName == "" {
		made.DisplayName = "" // made of the two names
	}
	if !reflect.DeepEqual(made, u) {
		t.Fatalf("%s\nis read as %+v\nnot as    %+v", body, made, u)
	}
	g := Group{ID: ids.Draw(t, "id"), Name: words.Draw(t, "name"), Reference: words.Draw(t, "reference"), Members: []Member{{ID: u.ID, Name: u.Name}}, Created: u.Created, Updated: u.Updated, Revision: 2}
	for kind, shown := range map[string]map[string]any{"User": u.shown(base), "Group": g.shown(base)} {
		got := f.must(t, "conform", map[string]any{"kind": kind, "resource": shown, "base": base + "/" + kind + "s"})
		if want := plainJSON(t, shown); !reflect.DeepEqual(withTimes(got), withTimes(want)) {
			t.Fatalf("%v\nis left of %v", got, want)
		}
	}
	list := plainJSON(t, listed([]any{u.shown(base), g.shown(base)}, 7, 3))
	if got := f.must(t, "list", map[string]any{"resource": list}); !reflect.DeepEqual(got, list) {
		t.Fatalf("%v\nis read of %v", got, list)
	}
}

// withTimes is a resource whose times are written in one way.
func withTimes(resource any) any {
	m, _ := resource.(map[string]any)
	meta, _ := m["meta"].(map[string]any)
	for _, name := range []string{"created", "lastModified"} {
		if text, ok := meta[name].(string); ok {
			if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
				meta[name] = at.UTC().Format(time.RFC3339Nano)
			}
		}
	}
	return resource
}

// discovery: what is said of schemas is what scimmy knows of them.
func (f *foreign) discovery(t *testing.T) {
	const base = "https://cetrus.example/scim/v2"
	for _, k := range []kind{userKind(), groupKind()} {
		described, _ := f.must(t, "describe", map[string]any{"kind": k.name}).(map[string]any)
		ours, _ := plainJSON(t, k.schemaShown(base)).(map[string]any)
		if described["id"] != ours["id"] {
			t.Errorf("%v is %v there", ours["id"], described["id"])
		}
		sameAttributes(t, k.name, ours["attributes"], described["attributes"])
		shown := k.typeShown(base)
		got, _ := f.must(t, "conform", map[string]any{"kind": "ResourceType", "resource": shown}).(map[string]any)
		for _, name := range []string{"name", "endpoint", "schema", "description"} {
			if got[name] != shown[name] {
				t.Errorf("%s: %s is read as %v", k.name, name, got[name])
			}
		}
	}
	config := plainJSON(t, configShown(base))
	got := f.must(t, "conform", map[string]any{"kind": "ServiceProviderConfig", "resource": config})
	for _, scheme := range elements(config.(map[string]any)["authenticationSchemes"]) { //nolint:forcetypeassert // a failure of the test
		delete(scheme.(map[string]any), "primary") //nolint:forcetypeassert // likewise; RFC 7643 §8.5 has it, scimmy not
	}
	if !reflect.DeepEqual(got, config) {
		t.Errorf("%v\nis left of %v", got, config)
	}
}

// narrower are the characteristics that are other than in scimmy, which are those of RFC 7643: what
// is not kept here is not offered either, and case counts in ids.
func narrower() map[string]string {
	return map[string]string{
		"User.name.formatted mutability": "readOnly", "User.emails.type canonicalValues": "[work]",
		"User.groups.value caseExact": "true", "User.groups.$ref caseExact": "true", "User.groups.$ref referenceTypes": "[Group]", "User.groups.type canonicalValues": "[direct]",
		"Group.displayName uniqueness": "server", "Group.members.value caseExact": "true", "Group.members.$ref caseExact": "true", "Group.members.$ref referenceTypes": "[User]",
		"Group.members.display mutability": "readOnly", "Group.members.type canonicalValues": "[User]",
	}
}

func sameAttributes(t *testing.T, of string, ours, theirs any) {
	t.Helper()
	named := map[string]map[string]any{}
	for _, a := range elements(theirs) {
		if m, ok := a.(map[string]any); ok {
			named[fmt.Sprint(m["name"])] = m
		}
	}
	for _, a := range elements(ours) {
		mine, _ := a.(map[string]any)
		path := of + "." + fmt.Sprint(mine["name"])
		their, ok := named[fmt.Sprint(mine["name"])]
		if !ok {
			t.Errorf("%s is no attribute by scimmy", path)
			continue
		}
		for _, characteristic := range []string{"type", "multiValued", "required", "caseExact", "mutability", "returned", "uniqueness", "canonicalValues", "referenceTypes"} {
			said, want := fmt.Sprint(mine[characteristic]), fmt.Sprint(their[characteristic])
			if value, ok := narrower()[path+" "+characteristic]; ok {
				want = value
			}
			// scimmy leaves out what is so by default.
			if said != want && (want != fmt.Sprint(nil) || said != map[string]string{"caseExact": "false", "uniqueness": "none"}[characteristic]) {
				t.Errorf("%s: %s is %s, not %s", path, characteristic, said, want)
			}
		}
		sameAttributes(t, path, mine["subAttributes"], their["subAttributes"])
	}
}

// errors: each that is answered with is one of SCIM.
func (f *foreign) errors(t *testing.T) {
	for _, scimType := range []string{"", invalidFilter, invalidSyntax, invalidPath, invalidValue, noTarget, mutability} {
		f.isError(t, errorBody(400, scimType, "why"))
	}
	for _, status := range []int{401, 403, 404, 412, 413, 500, 501} {
		f.isError(t, errorBody(status, "", "why"))
	}
	f.isError(t, errorBody(409, uniqueness, "why"))
}

func (f *foreign) isError(t *testing.T, body []byte) {
	t.Helper()
	var want any
	if err := json.Unmarshal(body, &want); err != nil {
		t.Fatal(err)
	}
	if got := f.must(t, "error", map[string]any{"resource": want}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v\nis read of %v", got, want)
	}
}
