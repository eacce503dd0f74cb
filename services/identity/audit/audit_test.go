package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

const patience = 2 * time.Minute

type fixture struct {
	t     *testing.T
	nc    *nats.Conn
	js    jetstream.JetStream
	log   eventlog.Log
	keys  *keyring.Keyring
	store *postgres.Store
	last  eventlog.Position
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, nc: platformtest.NATS(t)}
	var err error
	if f.js, err = jetstream.New(f.nc); err != nil {
		t.Fatal(err)
	}
	f.log = eventlog.NewJetStream(f.nc, contract.EventStream)
	f.keys, err = keyring.New(t.Context(), keyring.Config{KeyFile: filepath.Join(t.TempDir(), "name-key")},
		keyring.Deps{Store: platformtest.Store(t, keyring.StoreConfig()), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	f.store = platformtest.Store(t, StoreConfig())
	return f
}

// run builds the tables of a store, up to what the log holds now.
func (f *fixture) run(store *postgres.Store) *api {
	f.t.Helper()
	s, err := New(Deps{NATS: f.nc, Store: store, Keys: f.keys, Logger: platformtest.Logger(f.t)})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	waiting, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	if err := s.runner.WaitFor(waiting, projection.AllPartitions, uint64(f.last)); err != nil {
		f.t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		f.t.Fatal(err)
	}
	return &api{service: s}
}

// happen appends an event.
func (f *fixture) happen(account contract.ID, aggregate, id, kind string, message proto.Message, actor, origin string) {
	f.t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		f.t.Fatal(err)
	}
	subject := contract.EventSubject(account, "identity", aggregate, id)
	last, err := f.log.Last(f.t.Context(), subject)
	if err != nil {
		f.t.Fatal(err)
	}
	f.last, err = f.log.Append(f.t.Context(), subject, last, eventlog.Event{Type: kind, Data: data, Actor: actor, Origin: origin})
	if err != nil {
		f.t.Fatal(err)
	}
}

// viewerOf an office is a login that has looked at named use.
func viewerOf() contract.ID { return contract.ID{7} }

// office is two accounts with a history.
func (f *fixture) office() (ours, theirs contract.ID) {
	f.t.Helper()
	ours, theirs = resource.NewID(), resource.NewID()
	login := resource.NewID()
	origin, err := f.keys.SealOrigin(f.t.Context(), ours, login, authn.Origin{Address: netip.MustParseAddr("198.51.100.1"), UserAgent: "Firefox"})
	if err != nil {
		f.t.Fatal(err)
	}
	privileges := func(p ...authzv1.Privilege) proto.Message { return &identityv1.LoginPrivilegesChanged{Privileges: p} }
	for i, account := range []contract.ID{ours, theirs, ours} {
		id := fmt.Sprintf("%s-%d", login, i)
		f.happen(account, "login", id, "cetrus.identity.login.created.v1", &identityv1.LoginCreated{LoginId: login[:], SealedName: []byte("x")}, "login:ada", origin)
		f.happen(account, "login", id, "cetrus.identity.login.privileges_changed.v1", privileges(authzv1.Privilege_PRIVILEGE_REPORT), "login:ada", "")
		f.happen(account, "login", id, "cetrus.identity.login.privileges_changed.v1", privileges(authzv1.Privilege_PRIVILEGE_FINANCIAL), "", "")
		f.happen(account, "login", id, "cetrus.identity.login.unheard_of.v1", &identityv1.LoginDisabled{}, "", "")
	}
	f.happen(contract.ID{}, "name", "of-an-account", "cetrus.identity.name.reserved.v1", &identityv1.NameReserved{}, "", "")
	viewer := viewerOf()
	key, err := f.keys.KeyOf(f.t.Context(), ours, viewer)
	if err != nil {
		f.t.Fatal(err)
	}
	f.happen(ours, "view", "viewer", "cetrus.metering.view.named_use.v1",
		&meteringv1.NamedUseViewed{Method: "m", KeyId: viewer[:], SealedReason: keyring.SealText(key, viewer, keyring.WhatReason, "a complaint")}, "login:ada", "")
	f.happen(ours, "login", "last", "cetrus.identity.login.disabled.v1", &identityv1.LoginDisabled{}, "login:eve", "")
	return ours, theirs
}

func (f *fixture) as(account contract.ID) context.Context {
	return authn.WithCaller(f.t.Context(), authn.Caller{Account: account, Actor: "login:ada", Privileges: authn.AllPrivileges(), Reach: authzv1.Reach_REACH_ACCOUNT})
}

// An administrator reads what happened in the own account and no other: who, what, from where,
// before and after; page by page, narrowed, and as documents.
func TestList(t *testing.T) {
	f := newFixture(t)
	ours, theirs := f.office()
	a := f.run(f.store)
	var all []*identityv1.AuditEntry
	for token := ""; ; {
		resp, err := a.ListAuditEntries(f.as(ours), &identityv1.ListAuditEntriesRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp.GetAuditEntries()...)
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(all) != 10 {
		t.Fatalf("%d entries", len(all))
	}
	if e := all[0]; e.GetActor() != "login:eve" || e.GetType() != "cetrus.identity.login.disabled.v1" || e.GetAggregate() != "login" || e.GetAggregateId() != "last" {
		t.Errorf("the newest is %v", e)
	}
	if e := all[9]; e.GetAddress() != "198.51.100.1" || e.GetUserAgent() != "Firefox" || !e.GetFieldsKnown() {
		t.Errorf("the oldest is %v", e)
	}
	if c := all[7].GetChanges(); len(c) != 1 || c[0].GetBefore() != `["PRIVILEGE_REPORT"]` || c[0].GetAfter() != `["PRIVILEGE_FINANCIAL"]` {
		t.Errorf("privileges: %v", c)
	}
	if e := all[6]; e.GetFieldsKnown() || len(e.GetChanges()) != 0 {
		t.Errorf("what is not known is shown: %v", e)
	}
	if e := all[1]; e.GetType() != "cetrus.metering.view.named_use.v1" || len(e.GetChanges()) != 1 || e.GetReason() != "a complaint" {
		t.Errorf("the view is %v", e)
	}
	for name, c := range map[string]struct {
		req  *identityv1.ListAuditEntriesRequest
		want int
	}{
		"actor":   {&identityv1.ListAuditEntriesRequest{Actor: "login:eve"}, 1},
		"type":    {&identityv1.ListAuditEntriesRequest{TypePrefix: "cetrus.identity.login.privileges_"}, 4},
		"what":    {&identityv1.ListAuditEntriesRequest{AggregateId: "last"}, 1},
		"later":   {&identityv1.ListAuditEntriesRequest{StartTime: timestamppb.New(time.Now().Add(time.Hour))}, 0},
		"earlier": {&identityv1.ListAuditEntriesRequest{EndTime: timestamppb.New(time.Now().Add(time.Hour))}, 10},
		"SQL":     {&identityv1.ListAuditEntriesRequest{Actor: "' OR true --", TypePrefix: "%", AggregateId: "'"}, 0},
	} {
		resp, err := a.ListAuditEntries(f.as(ours), c.req)
		if err != nil || len(resp.GetAuditEntries()) != c.want {
			t.Errorf("%s: %d entries, want %d: %v", name, len(resp.GetAuditEntries()), c.want, err)
		}
	}
	later, earlier := timestamppb.New(time.Now().Add(time.Hour)), timestamppb.Now()
	_, listErr := a.ListAuditEntries(f.as(ours), &identityv1.ListAuditEntriesRequest{StartTime: later, EndTime: earlier})
	_, exportErr := a.ExportAuditEntries(f.as(ours), &identityv1.ExportAuditEntriesRequest{Format: identityv1.AuditFormat_AUDIT_FORMAT_CSV, StartTime: later, EndTime: earlier})
	for _, err := range []error{listErr, exportErr} {
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "start_time: is after end_time") {
			t.Errorf("an interval that ends before it begins: %v", err)
		}
	}
	if resp, err := a.ListAuditEntries(f.as(theirs), &identityv1.ListAuditEntriesRequest{}); err != nil || len(resp.GetAuditEntries()) != 4 {
		t.Errorf("the other account has %d: %v", len(resp.GetAuditEntries()), err)
	}
	err := f.store.InAccount(t.Context(), theirs, func(tx pgx.Tx) error {
		var foreign int
		err := tx.QueryRow(t.Context(), "SELECT count(*) FROM audit_entry WHERE account_id <> $1::uuid", theirs).Scan(&foreign)
		if foreign != 0 {
			t.Errorf("%d entries of another account are seen", foreign)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for format, contentType := range map[identityv1.AuditFormat]string{identityv1.AuditFormat_AUDIT_FORMAT_CSV: "text/csv; charset=utf-8", identityv1.AuditFormat_AUDIT_FORMAT_JSON: "application/json"} {
		doc, err := a.ExportAuditEntries(f.as(ours), &identityv1.ExportAuditEntriesRequest{Format: format})
		if err != nil || doc.GetContentType() != contentType || doc.GetTruncated() || strings.Count(doc.GetContent(), "cetrus.identity.login.created.v1") != 2 || !strings.Contains(doc.GetContent(), "a complaint") {
			t.Errorf("%s: %v: %v", format, doc, err)
		}
		if format == identityv1.AuditFormat_AUDIT_FORMAT_JSON {
			var list []map[string]any
			if err := json.Unmarshal([]byte(doc.GetContent()), &list); err != nil || len(list) != 10 {
				t.Errorf("%d of %v", len(list), err)
			}
		}
	}
}

// Of who was forgotten the reasons and addresses are not told any more, and the chain holds.
func TestTheForgottenInTheAuditLog(t *testing.T) {
	f := newFixture(t)
	ours, _ := f.office()
	a := f.run(f.store)
	before, err := Verify(t.Context(), f.js, f.store, ours, Head{})
	if err != nil || before.Difference != "" {
		t.Fatalf("%+v, %v", before, err)
	}
	list := func() []*identityv1.AuditEntry {
		t.Helper()
		resp, err := a.ListAuditEntries(f.as(ours), &identityv1.ListAuditEntriesRequest{})
		if err != nil || len(resp.GetAuditEntries()) != 10 {
			t.Fatalf("%d entries, %v", len(resp.GetAuditEntries()), err)
		}
		return resp.GetAuditEntries()
	}
	header := strings.SplitN(f.originOf(ours, list()[9].GetPosition()), ":", 2)[0]
	caller, err := contract.ParseID(header)
	if err != nil {
		t.Fatal(err)
	}
	for _, person := range []contract.ID{viewerOf(), caller} {
		if err := f.keys.Forget(t.Context(), ours, person); err != nil {
			t.Fatal(err)
		}
	}
	if entries := list(); entries[1].GetReason() != "" || entries[9].GetAddress() != "" || entries[9].GetUserAgent() != "" {
		t.Errorf("there is told %v and %v", entries[1], entries[9])
	}
	after, err := Verify(t.Context(), f.js, f.store, ours, before.Head)
	if err != nil || after.Difference != "" || after.Head != before.Head {
		t.Errorf("the chain was %+v and is %+v, %v", before, after, err)
	}
}

// What was once written with names of people in the clear is an entry, and no table repeats a name: also
// not as what was before the next decision.
func TestNamesInTheClearAreNotRepeated(t *testing.T) {
	f := newFixture(t)
	ours, worker := resource.NewID(), resource.NewID()
	named := &policyv1.ExpenseToProject{Workers: []*policyv1.PromptWorker{{WorkerId: worker[:], Label: "Olga Old"}}, SharedLogins: []string{"olga-room"}}
	f.happen(ours, "expense", "all", inTheClear, &meteringv1.ExpenseToProjectChanged{ExpenseToProject: named}, "", "")
	f.happen(ours, "expense", "all", "cetrus.metering.expense_to_project.changed.v2", &meteringv1.ExpenseToProjectDecided{ExpenseToProject: &policyv1.ExpenseToProject{}}, "", "")
	resp, err := f.run(f.store).ListAuditEntries(f.as(ours), &identityv1.ListAuditEntriesRequest{})
	if err != nil || len(resp.GetAuditEntries()) != 2 || resp.GetAuditEntries()[1].GetFieldsKnown() {
		t.Fatalf("%v, %v", resp, err)
	}
	for _, table := range []string{"audit_entry", "audit_said"} {
		var text string
		if err := f.store.Projector.QueryRow(t.Context(), "SELECT coalesce(string_agg(t::text, ' '), '') FROM "+table+" AS t").Scan(&text); err != nil || text == "" || strings.Contains(strings.ToLower(text), "olga") {
			t.Errorf("%s holds %s, %v", table, text, err)
		}
	}
	if v, err := Verify(t.Context(), f.js, f.store, ours, Head{}); err != nil || v.Difference != "" {
		t.Errorf("%+v, %v", v, err)
	}
}

// originOf is the header of an entry, as it lies in the table.
func (f *fixture) originOf(account contract.ID, position int64) (header string) {
	f.t.Helper()
	if err := f.store.Projector.QueryRow(f.t.Context(), "SELECT origin FROM audit_entry WHERE account_id = $1 AND position = $2", [16]byte(account), position).Scan(&header); err != nil {
		f.t.Fatal(err)
	}
	return header
}

// Rows that were changed, removed, added or put in another order are found, and the first is
// named; so is a log that is another one than when a head was written down.
func TestTamperingIsFound(t *testing.T) {
	f := newFixture(t)
	ours, theirs := f.office()
	f.run(f.store)
	whether := func(account contract.ID, known Head) Verified {
		t.Helper()
		v, err := Verify(t.Context(), f.js, f.store, account, known)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	whole := whether(ours, Head{})
	if whole.Difference != "" || whole.Entries != 10 || whole.Head.Link == "" {
		t.Fatalf("untouched: %+v", whole)
	}
	if v := whether(ours, whole.Head); v.Difference != "" {
		t.Errorf("its own head: %s", v.Difference)
	}
	if v := whether(ours, Head{whole.Head.Position, strings.Repeat("0", 64)}); !strings.Contains(v.Difference, "the log itself") {
		t.Errorf("another head: %q", v.Difference)
	}
	ahead := Head{whole.Head.Position + 1_000_000, whole.Head.Link}
	if v := whether(ours, ahead); !strings.Contains(v.Difference, "the log ends at") {
		t.Errorf("a head that the log has not come to: %q", v.Difference)
	}
	var third, fourth int64
	if err := f.store.Projector.QueryRow(t.Context(), "SELECT position FROM audit_entry WHERE account_id = $1 ORDER BY position OFFSET 2", [16]byte(ours)).Scan(&third); err != nil {
		t.Fatal(err)
	}
	fourth = third + 1
	for name, c := range map[string]struct {
		sql  []string
		says string
		at   int64
	}{
		"actor":    {[]string{"UPDATE audit_entry SET actor = 'login:mallory' WHERE position = $1"}, "another actor", third},
		"time":     {[]string{"UPDATE audit_entry SET at = at + interval '1 microsecond' WHERE position = $1"}, "another time", third},
		"type":     {[]string{"UPDATE audit_entry SET type = 'cetrus.identity.login.enabled.v1' WHERE position = $1"}, "another type", third},
		"origin":   {[]string{"UPDATE audit_entry SET origin = 'x' WHERE position = $1"}, "another origin", third},
		"changes":  {[]string{"UPDATE audit_entry SET changes = '[]' WHERE position = $1"}, "other changes", third},
		"digest":   {[]string{"UPDATE audit_entry SET data = sha256('x') WHERE position = $1"}, "another digest", third},
		"link":     {[]string{"UPDATE audit_entry SET link = sha256('x') WHERE position = $1"}, "another link", third},
		"reason":   {[]string{`UPDATE audit_entry SET key_id = account_id, sealed_reason = 'x' WHERE position = $1`}, "another reason", third},
		"removed":  {[]string{"DELETE FROM audit_entry WHERE position = $1"}, "is missing", third},
		"the last": {[]string{"DELETE FROM audit_entry WHERE position > $1"}, "is missing", fourth},
		"moved":    {[]string{"UPDATE audit_entry SET account_id = '" + theirs.String() + "' WHERE position = $1"}, "is missing", third},
		"order": {[]string{
			"UPDATE audit_entry SET position = -1 WHERE position = $1", "UPDATE audit_entry SET position = $1::int8 WHERE position = $1::int8 + 1", "UPDATE audit_entry SET position = $1::int8 + 1 WHERE position = -1",
		}, "another event", third},
		"added": {[]string{`INSERT INTO audit_entry SELECT account_id, 1000000, 'made up', type, context, aggregate, aggregate_id, at, actor, origin, command, data, link, changes
			FROM audit_entry WHERE position = $1`}, "is in no log", 1000000},
	} {
		t.Run(name, func(t *testing.T) {
			tx, err := f.store.Projector.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := tx.Rollback(t.Context()); err != nil {
					t.Error(err)
				}
			}()
			for _, sql := range c.sql {
				if _, err := tx.Exec(t.Context(), sql, third); err != nil {
					t.Fatal(err)
				}
			}
			v, err := verify(t.Context(), f.js, tx, uint64(f.last), ours, Head{})
			if err != nil || !strings.Contains(v.Difference, c.says) || !strings.Contains(v.Difference, fmt.Sprintf("position %d ", c.at)) {
				t.Errorf("found %q: %v; want %q at %d", v.Difference, err, c.says, c.at)
			}
		})
	}
}

// What the tables have not come to is no difference; a head of it is refused until they have.
func TestTablesThatAreBehind(t *testing.T) {
	f := newFixture(t)
	ours, _ := f.office()
	f.run(f.store)
	f.happen(ours, "login", "later", "cetrus.identity.login.disabled.v1", &identityv1.LoginDisabled{}, "", "")
	if v, err := Verify(t.Context(), f.js, f.store, ours, Head{}); err != nil || v.Difference != "" || v.Entries != 10 {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := Verify(t.Context(), f.js, f.store, ours, Head{int64(f.last), strings.Repeat("0", 64)}); !errs.Is(errs.Unavailable, err) {
		t.Errorf("%+v, %v", v, err)
	}
}

// Built again, however the events come in batches, the tables are the same, links included.
func TestSameAfterRebuild(t *testing.T) {
	f := newFixture(t)
	ours, _ := f.office()
	read := func(store *postgres.Store) (all []string) {
		f.run(store)
		rows, err := store.Projector.Query(t.Context(), "SELECT row(e.*)::text FROM audit_entry e ORDER BY account_id, position")
		if err != nil {
			t.Fatal(err)
		}
		if all, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
			t.Fatal(err)
		}
		return all
	}
	first, again := read(f.store), read(platformtest.Store(t, StoreConfig()))
	if len(first) != 14 || strings.Join(first, "\n") != strings.Join(again, "\n") {
		t.Errorf("%d and %d rows differ", len(first), len(again))
	}
	// Looks have no before, and there is no end to them.
	var logins, looks int
	if err := f.store.Projector.QueryRow(t.Context(), "SELECT count(*) FILTER (WHERE aggregate = 'login'), count(*) FILTER (WHERE aggregate = 'view') FROM audit_said").Scan(&logins, &looks); err != nil || logins == 0 || looks != 0 {
		t.Errorf("remembered is of %d logins and %d viewers; %v", logins, looks, err)
	}
	// And where the first tables had been built in steps.
	f.happen(ours, "login", "later", "cetrus.identity.login.disabled.v1", &identityv1.LoginDisabled{}, "", "")
	if first, again = read(f.store), read(platformtest.Store(t, StoreConfig())); len(first) != 15 || strings.Join(first, "\n") != strings.Join(again, "\n") {
		t.Errorf("%d and %d rows differ after one more", len(first), len(again))
	}
}

// No two entries that differ have one link, and a link depends on all before it.
func TestLinksDiffer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SampledFrom([]string{"", "a", "ab", "b", "\x00", "a\x00b"})
		draw := func(label string) entry {
			return entry{
				position: rapid.Int64Range(1, 2).Draw(t, label), eventID: text.Draw(t, label), kind: text.Draw(t, label), aggregate: text.Draw(t, label),
				aggregateID: text.Draw(t, label), actor: text.Draw(t, label), origin: text.Draw(t, label), command: text.Draw(t, label), at: time.UnixMicro(rapid.Int64Range(0, 1).Draw(t, label)),
			}
		}
		a, b := draw("a"), draw("b")
		if (a == b) != (a.after(link{}) == b.after(link{})) {
			t.Fatalf("%v and %v", a, b)
		}
		if a.after(link{}) == a.after(b.after(link{})) {
			t.Fatal("a link says nothing of the one before")
		}
	})
}

// A name and a mail address are told before and after, until their login is forgotten; what was
// sealed anew and is the same is no change.
func TestWordsAreToldBeforeAndAfter(t *testing.T) {
	f := newFixture(t)
	account, login := resource.NewID(), resource.NewID()
	key, err := f.keys.KeyOf(t.Context(), account, login)
	if err != nil {
		t.Fatal(err)
	}
	word := func(what, text string) []byte { return keyring.SealText(key, login, what, text) }
	describe := func(name, address string) {
		f.happen(account, "login", login.String(), "cetrus.identity.login.described.v1",
			&identityv1.LoginDescribed{SealedDisplayName: word("display_name", name), SealedMailAddress: word("mail_address", address)}, "login:ada", "")
	}
	f.happen(account, "login", login.String(), "cetrus.identity.login.created.v1", &identityv1.LoginCreated{LoginId: login[:], SealedName: word("name", "bob")}, "login:ada", "")
	describe("Bob", "bob@example.org")
	describe("Bob", "eve@example.org")
	f.happen(account, "login", login.String(), "cetrus.identity.login.renamed.v1", &identityv1.LoginRenamed{SealedName: word("name", "robert")}, "login:ada", "")
	apiKey := resource.NewID()
	f.happen(account, "apikey", apiKey.String(), "cetrus.identity.apikey.created.v1",
		&identityv1.ApiKeyCreated{ApiKeyId: apiKey[:], LoginId: login[:], SealedDisplayName: word("api_key", "nightly")}, "login:ada", "")
	group, rule := resource.NewID(), resource.NewID()
	f.happen(account, "expense", "all", "cetrus.metering.expense_to_project.changed.v2", &meteringv1.ExpenseToProjectDecided{
		Users: []*meteringv1.SealedUser{{AssignmentRuleId: rule[:], User: &usagev1.SealedName{PrincipalId: login[:], Sealed: []byte("of metering")}}},
	}, "login:ada", "")
	// What only looks as what is sealed is recorded hides nothing.
	describe("sealed:Zm9v", "eve@example.org")
	f.happen(account, "group", group.String(), "cetrus.identity.group.defined.v1", &identityv1.GroupDefined{GroupId: group[:], DisplayName: "sealed:Zm9v"}, "login:ada", "")
	a := f.run(f.store)
	told := func() string {
		resp, err := a.ListAuditEntries(f.as(account), &identityv1.ListAuditEntriesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for _, e := range resp.GetAuditEntries() {
			for _, c := range e.GetChanges() {
				if !strings.HasSuffix(c.GetField(), "_id") {
					lines = append(lines, c.GetField()+": "+c.GetBefore()+" "+c.GetAfter())
				}
			}
		}
		return strings.Join(lines, "\n")
	}
	if diff := cmp.Diff(strings.Join([]string{
		`display_name:  "sealed:Zm9v"`,
		`display_name: "Bob" "sealed:Zm9v"`,
		fmt.Sprintf(`users:  [{"assignment_rule_id":"%s","user.principal_id":"%s","user.sealed":"(sealed)"}]`, rule, login),
		`display_name:  "nightly"`,
		`name: "bob" "robert"`,
		`mail_address: "bob@example.org" "eve@example.org"`,
		`display_name:  "Bob"`,
		`mail_address:  "bob@example.org"`,
		`name:  "bob"`,
	}, "\n"), told()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := f.keys.Forget(t.Context(), account, login); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"bob", "Bob", "robert", "example.org", "nightly"} {
		if strings.Contains(told(), word) {
			t.Errorf("%s is told of the forgotten:\n%s", word, told())
		}
	}
}
