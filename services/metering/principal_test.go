package metering

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// staff is an office of two people with names, and the service that counts their use.
type staff struct {
	*office
	t          *testing.T
	nc         *nats.Conn
	keys       *keyring.Keyring
	service    *Service
	api        *principalAPI
	admin      context.Context
	principals [2]contract.ID
	names      [2]string
	file       string // a document that the first of them has named
	cfg        Config
	deps       Deps
	stop       func()
}

// run has a service run, as another start of the process would.
func (s *staff) run() {
	s.t.Helper()
	var err error
	if s.service, err = New(s.cfg, s.deps); err != nil {
		s.t.Fatal(err)
	}
	s.stop = begin(s.t, s.service)
}

func newStaff(t *testing.T, change ...func(*Config, *Deps)) *staff {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	s := &staff{t: t, office: newOffice(rnd, 1, 300), nc: platformtest.NATS(t), keys: openKeyring(t), names: [2]string{"Grete Unverwechselbar", "Hugo Bleibt"}, file: "Vertrag Unverwechselbar.odt"}
	s.deps = Deps{NATS: s.nc, Stores: openStores(t), Names: s.keys, Keys: s.keys, Logger: platformtest.Logger(t)}
	for _, f := range change {
		f(&s.cfg, &s.deps)
	}
	s.run()
	s.api, s.admin = &principalAPI{service: s.service}, as(t.Context(), s.account)
	var names []*usagev1.SealedName
	seal := func(principal contract.ID, name *usagev1.SealedName, text string) {
		key, err := s.keys.KeyOf(t.Context(), s.account, principal)
		if err != nil {
			t.Fatal(err)
		}
		name.PrincipalId = principal[:]
		if err := keyring.Seal(key, name, text); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	for i := range s.principals {
		s.principals[i] = contract.ID(s.bindings[0][i].GetPrincipalId())
		seal(s.principals[i], &usagev1.SealedName{Subject: &usagev1.SealedName_Person{Person: true}}, s.names[i])
	}
	document := resource.NewID()
	seal(s.principals[0], &usagev1.SealedName{Subject: &usagev1.SealedName_DocumentId{DocumentId: document[:]}}, s.file)
	data, err := proto.Marshal(&usagev1.AgentBatch{AccountId: s.account[:], ManagerId: s.managers[0][:], Names: names})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: contract.AgentSubject(s.account, s.managers[0], usagev1.Lane_LANE_USAGE), Data: data, Header: nats.Header{contract.HeaderType: {contract.AgentBatchType}},
	}); err != nil {
		t.Fatal(err)
	}
	last := s.publish(t, s.nc, rnd, s.frames(rnd, 40), 3)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := s.service.WaitForUsage(ctx, last); err != nil {
		t.Fatal(err)
	}
	return s
}

// self is a context in which somebody asks about themselves.
func (s *staff) self(login contract.ID) context.Context {
	s.t.Helper()
	own, err := s.service.PrincipalsOf(s.t.Context(), s.account, login)
	if err != nil {
		s.t.Fatal(err)
	}
	return authn.WithOwn(authn.WithCaller(s.t.Context(), authn.Caller{Account: s.account, Login: login, Actor: "login:test", Reach: authzv1.Reach_REACH_SELF}), own)
}

// hired makes a login that identity has made, and perhaps deleted.
func (s *staff) hired(login contract.ID, deleted bool) contract.ID {
	s.t.Helper()
	events := []eventlog.Event{{Type: "cetrus.identity.login.created.v1"}}
	if deleted {
		events = append(events, eventlog.Event{Type: "cetrus.identity.login.deleted.v1"})
	}
	subject := contract.EventSubject(s.account, "identity", "login", login.String())
	if _, err := s.service.commands.log.Append(s.t.Context(), subject, 0, events...); err != nil {
		s.t.Fatal(err)
	}
	return login
}

func (s *staff) bind(principal, login contract.ID) error {
	_, err := s.api.BindLogin(s.admin, &meteringv1.BindLoginRequest{PrincipalId: principal.String(), LoginId: login.String()})
	return err
}

// summary is what reports tell of the office.
func (s *staff) summary(by ...meteringv1.GroupBy) *meteringv1.SummarizeUsageResponse {
	s.t.Helper()
	resp, err := (&usageAPI{service: s.service}).SummarizeUsage(s.admin, &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(s.booted.Add(-24 * time.Hour).Truncate(24 * time.Hour)), EndTime: timestamppb.New(s.booted.Add(40 * 24 * time.Hour).Truncate(24 * time.Hour)), GroupBy: by,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return resp
}

// everything is all that somebody is told of themselves, page by page.
func (s *staff) everything(login contract.ID) (instances []*meteringv1.MyInstance, lines [][]string) {
	s.t.Helper()
	ctx := s.self(login)
	for token := ""; ; {
		page, err := s.api.GetMyData(ctx, &meteringv1.GetMyDataRequest{PageSize: 7, PageToken: token})
		if err != nil {
			s.t.Fatal(err)
		}
		export, err := s.api.ExportMyData(ctx, &meteringv1.ExportMyDataRequest{PageSize: 7, PageToken: token})
		if err != nil || export.GetNextPageToken() != page.GetNextPageToken() {
			s.t.Fatalf("the export goes another way: %v", err)
		}
		read, err := csv.NewReader(strings.NewReader(export.GetCsv())).ReadAll()
		if err != nil || len(read) == 0 {
			s.t.Fatalf("the export is no CSV: %v", err)
		}
		instances, lines = append(instances, page.GetInstances()...), append(lines, read[1:]...)
		if token = page.GetNextPageToken(); token == "" {
			return instances, lines
		}
	}
}

// People see all of their own use, and nobody else's; what is merged is theirs too.
func TestMyDataIsMine(t *testing.T) {
	s := newStaff(t)
	anna, berta := s.hired(resource.NewID(), false), s.hired(resource.NewID(), false)
	if instances, _ := s.everything(anna); len(instances) != 0 {
		t.Errorf("somebody whom nobody knows has used %d", len(instances))
	}
	if err := s.bind(s.principals[0], anna); err != nil {
		t.Fatal(err)
	}
	want := map[string]*meteringv1.UsageTotals{}
	for _, g := range s.summary(meteringv1.GroupBy_GROUP_BY_PRINCIPAL).GetGroups() {
		want[g.GetPrincipalId()] = g.GetTotals()
	}
	check := func(login contract.ID, principals ...contract.ID) {
		t.Helper()
		var open, told, listed time.Duration
		instances, lines := s.everything(login)
		for _, n := range instances {
			if !slices.Contains(principals, uuid(t, n.GetInstance().GetPrincipalId())) {
				t.Errorf("told is an instance of %s", n.GetInstance().GetPrincipalId())
			}
			for _, v := range n.GetIntervals() {
				told += v.GetEndTime().AsTime().Sub(v.GetStartTime().AsTime())
			}
		}
		for _, line := range lines {
			from, err := time.Parse(time.RFC3339Nano, line[6])
			to, toErr := time.Parse(time.RFC3339Nano, line[7])
			if err != nil || toErr != nil {
				t.Fatal(line)
			}
			listed += to.Sub(from)
		}
		for _, p := range principals {
			open += want[p.String()].GetOpen().AsDuration()
		}
		if open == 0 || told != open || listed != open {
			t.Errorf("open was %v, told is %v, exported %v", open, told, listed)
		}
	}
	check(anna, s.principals[0])
	if err := s.bind(s.principals[0], berta); !errs.Is(errs.Conflict, err) {
		t.Errorf("one principal is two people's: %v", err)
	}
	if err := s.bind(resource.NewID(), berta); !errs.Is(errs.NotFound, err) {
		t.Errorf("a principal that is made up: %v", err)
	}
	for what, login := range map[string]contract.ID{"that is made up": resource.NewID(), "that is deleted": s.hired(resource.NewID(), true)} {
		if err := s.bind(s.principals[1], login); !errs.Is(errs.NotFound, err) {
			t.Errorf("a login %s: %v", what, err)
		}
	}
	merge := func(from, into contract.ID) error {
		_, err := s.api.MergePrincipal(s.admin, &meteringv1.MergePrincipalRequest{PrincipalId: from.String(), IntoPrincipalId: into.String()})
		return err
	}
	if err := merge(s.principals[0], s.principals[1]); !errs.Is(errs.Precondition, err) {
		t.Errorf("a bound one is merged: %v", err)
	}
	if err := merge(s.principals[1], s.principals[1]); !errs.Is(errs.Invalid, err) {
		t.Errorf("one is merged into itself: %v", err)
	}
	for range 2 { // twice is once
		if err := merge(s.principals[1], s.principals[0]); err != nil {
			t.Fatal(err)
		}
	}
	check(anna, s.principals[:]...)
	usage := &usageAPI{service: s.service}
	runs, err := usage.ListInstances(s.admin, &meteringv1.ListInstancesRequest{Filter: &meteringv1.UsageFilter{PrincipalIds: []string{s.principals[1].String()}}, PageSize: 1000})
	if err != nil || len(runs.GetInstances()) == 0 {
		t.Fatalf("%d runs of one who was merged: %v", len(runs.GetInstances()), err)
	}
	for _, n := range runs.GetInstances() {
		one, err := usage.GetInstance(s.admin, &meteringv1.GetInstanceRequest{InstanceId: n.GetInstanceId()})
		if want := s.principals[0].String(); err != nil || n.GetPrincipalId() != want || one.GetInstance().GetPrincipalId() != want {
			t.Fatalf("a run is listed as of %s, and told as of %s: %v", n.GetPrincipalId(), one.GetInstance().GetPrincipalId(), err)
		}
	}
	if err := s.bind(s.principals[1], berta); !errs.Is(errs.Precondition, err) {
		t.Errorf("a merged one is bound: %v", err)
	}
	if _, err := s.api.ForgetPrincipal(s.admin, &meteringv1.ForgetPrincipalRequest{PrincipalId: s.principals[1].String()}); !errs.Is(errs.Precondition, err) {
		t.Errorf("half of a person is forgotten: %v", err)
	}
	if _, err := s.api.UnbindLogin(s.admin, &meteringv1.UnbindLoginRequest{PrincipalId: s.principals[0].String()}); err != nil {
		t.Fatal(err)
	}
	if instances, _ := s.everything(anna); len(instances) != 0 {
		t.Errorf("after unbinding %d are told", len(instances))
	}
	if resp, err := s.api.GetMyData(s.admin, &meteringv1.GetMyDataRequest{}); err != nil || len(resp.GetInstances()) > 0 {
		t.Errorf("a key that is nobody's login has used %v, %v", resp, err)
	}
}

func uuid(t *testing.T, text string) contract.ID {
	t.Helper()
	id, err := contract.ParseID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// After somebody is forgotten no byte string of their name is found in the log, what it opens
// to, the databases, or what people are told; totals stay as they were.
func TestAPersonIsForgotten(t *testing.T) {
	s := newStaff(t)
	login := s.hired(resource.NewID(), false)
	if err := s.bind(s.principals[0], login); err != nil {
		t.Fatal(err)
	}
	asks, hugo := s.self(login), s.principals[1]
	if _, err := s.api.AskForCorrection(asks, &meteringv1.AskForCorrectionRequest{Text: "Unverwechselbar was on leave"}); err != nil {
		t.Fatal(err)
	}
	settings, err := (&expenseAPI{service: s.service}).UpdateExpenseToProject(s.admin, &meteringv1.UpdateExpenseToProjectRequest{
		ExpenseToProject: &meteringv1.ExpenseToProject{Workers: []*meteringv1.Worker{{Label: s.names[0]}, {Label: s.names[1]}}, SharedLogins: []string{"room"}},
		UpdateMask:       &fieldmaskpb.FieldMask{Paths: []string{"workers", "shared_logins"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	// told is everything that anybody is told of the office, but for what changes with it.
	told := func() string {
		t.Helper()
		var text strings.Builder
		say := func(m proto.Message, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			text.WriteString(protojson.Format(m))
		}
		principals, err := s.api.ListPrincipals(s.admin, &meteringv1.ListPrincipalsRequest{})
		say(principals, err)
		corrections, err := s.api.ListCorrections(s.admin, &meteringv1.ListCorrectionsRequest{})
		say(corrections, err)
		expense, err := (&expenseAPI{service: s.service}).GetExpenseToProject(s.admin, &meteringv1.GetExpenseToProjectRequest{})
		say(expense, err)
		instances, err := (&usageAPI{service: s.service}).ListInstances(s.admin, &meteringv1.ListInstancesRequest{PageSize: 1000})
		say(instances, err)
		say(s.summary(meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_APPLICATION), nil)
		mine, err := s.api.GetMyData(asks, &meteringv1.GetMyDataRequest{PageSize: 100})
		say(mine, err)
		export, err := s.api.ExportMyData(asks, &meteringv1.ExportMyDataRequest{PageSize: 100})
		say(export, err)
		return text.String()
	}
	const name = "Unverwechselbar"
	if n := strings.Count(told(), name); n < 6 {
		t.Fatalf("before, the name is told %d times, so that its absence proves nothing", n)
	}
	before := s.summary(meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_APPLICATION)
	js, err := jetstream.New(s.nc)
	if err != nil {
		t.Fatal(err)
	}
	policies, err := js.Stream(t.Context(), contract.PolicyStream)
	if err != nil {
		t.Fatal(err)
	}
	agentsAreTold := func() bool {
		m, err := policies.GetLastMsgForSubject(t.Context(), contract.PolicySubject(s.account))
		if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
			t.Fatal(err)
		}
		return err == nil && bytes.Contains(m.Data, []byte(name))
	}
	eventually(t, "agents are not told of the worker", agentsAreTold)

	for _, id := range []string{s.principals[0].String(), settings.GetExpenseToProject().GetWorkers()[0].GetWorkerId()} {
		if _, err := s.api.ForgetPrincipal(s.admin, &meteringv1.ForgetPrincipalRequest{PrincipalId: id}); err != nil {
			t.Fatal(err)
		}
	}
	if text := told(); strings.Contains(text, name) || !strings.Contains(text, s.names[1]) {
		t.Errorf("after, there is told %s", text)
	}
	after := s.summary(meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_APPLICATION)
	for _, resp := range []*meteringv1.SummarizeUsageResponse{before, after} {
		for _, g := range resp.GetGroups() {
			g.PrincipalName = ""
		}
	}
	if !proto.Equal(before, after) {
		t.Errorf("totals were %v and are %v", before, after)
	}

	absent := func(where string, b []byte) {
		t.Helper()
		for _, form := range [][]byte{[]byte(name), []byte(hex.EncodeToString([]byte(name)))} {
			if bytes.Contains(b, form) {
				t.Errorf("%s holds the name", where)
			}
		}
	}
	ordered, opened := 0, 0
	for _, stream := range []string{contract.EventStream, contract.AgentStream} {
		eachMessage(t, s.nc, stream, func(m *jetstream.RawStreamMsg) {
			absent(stream+" "+m.Subject, m.Data)
			for key, values := range m.Header {
				absent(stream+" "+key, []byte(strings.Join(values, " ")))
			}
			if m.Header.Get(contract.HeaderType) == "cetrus.metering.principal.forgotten.v1" {
				ordered++
			}
			var batch usagev1.AgentBatch
			if stream != contract.AgentStream || proto.Unmarshal(m.Data, &batch) != nil {
				return
			}
			texts, err := s.keys.OpenNames(t.Context(), s.account, batch.GetNames())
			if err != nil {
				t.Fatal(err)
			}
			for i, n := range batch.GetNames() {
				if of := contract.ID(n.GetPrincipalId()); (of == hugo) != (texts[i] != "") {
					t.Errorf("a name of %s opens as %q", of, texts[i])
				}
				opened++
			}
		})
	}
	if ordered != 2 || opened != 3 {
		t.Errorf("the log holds %d orders to forget and %d names", ordered, opened)
	}
	for where, pool := range map[string]interface {
		Query(context.Context, string, ...any) (pgx.Rows, error)
	}{"tables of metering": s.service.stores.Views.Projector, "secrets of metering": s.service.stores.Secrets.Projector, "files of metering": s.service.stores.Files.Projector} {
		rows, err := pool.Query(t.Context(), `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)' AND has_schema_privilege(schemaname, 'USAGE') AND has_table_privilege(format('%I.%I', schemaname, tablename), 'SELECT')`)
		if err != nil {
			t.Fatal(err)
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(tables) == 0 {
			t.Fatalf("%s: %d tables, %v", where, len(tables), err)
		}
		for _, table := range tables {
			rows, err := pool.Query(t.Context(), "SELECT t::text FROM "+table+" AS t")
			if err != nil {
				t.Fatal(err)
			}
			lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range lines {
				absent(table, []byte(line))
			}
		}
	}

	// Nothing can be written of them again, and the order is followed again by whoever reads it.
	if err := s.bind(s.principals[0], login); !errs.Is(errs.Precondition, err) {
		t.Errorf("the forgotten are bound: %v", err)
	}
	principal := resource.NewID()
	if _, err := s.keys.KeyOf(t.Context(), s.account, principal); err != nil {
		t.Fatal(err)
	}
	order, err := s.service.registry.Encode(&meteringv1.PrincipalForgotten{PrincipalId: principal[:]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.service.commands.principals.Log.Append(t.Context(), principalSubject(s.account, principal), 0, order); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an order to forget that stood in the log alone was not followed", func() bool {
		_, err := s.keys.KeyOf(t.Context(), s.account, principal)
		return errs.Is(errs.Precondition, err)
	})
	eventually(t, "agents are told the name of the forgotten", func() bool { return !agentsAreTold() })
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !yes(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// Who looks at the use of named people is recorded, once for a question that is asked again,
// with the reason sealed, and refused one where the account asks for it; figures of nobody in
// particular, and what is one's own, need neither.
func TestViewsOfNamedUseAreRecorded(t *testing.T) {
	s := newStaff(t)
	api, login := &usageAPI{service: s.service}, resource.NewID()
	viewer := authn.WithCaller(t.Context(), authn.Caller{Account: s.account, Login: login, Actor: "login:viewer", Reach: authzv1.Reach_REACH_ACCOUNT})
	views := func() (all []*meteringv1.NamedUseViewed) {
		t.Helper()
		if _, err := s.service.commands.principals.Log.Each(t.Context(), viewSubject(s.account, login), func(e eventlog.Event) error {
			m, err := s.service.registry.Decode(e)
			if err == nil && e.Actor != "login:viewer" {
				t.Errorf("the viewer is %q", e.Actor)
			}
			all = append(all, m.(*meteringv1.NamedUseViewed))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return all
	}
	require := func(wanted bool) {
		t.Helper()
		resp, err := (&settingsAPI{service: s.service}).UpdateSettings(s.admin, &meteringv1.UpdateSettingsRequest{Settings: &meteringv1.Settings{ViewReasonRequired: wanted}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"view_reason_required"}}})
		if err != nil || resp.GetSettings().GetViewReasonRequired() != wanted {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	summarize := func(ctx context.Context, reason string, by ...meteringv1.GroupBy) error {
		_, err := api.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(s.booted.Truncate(24 * time.Hour)), EndTime: timestamppb.New(s.booted.Add(240 * time.Hour).Truncate(24 * time.Hour)), GroupBy: by, Reason: reason,
		})
		return err
	}
	list := func(ctx context.Context, reason string, of ...contract.ID) error {
		req := &meteringv1.ListInstancesRequest{Reason: reason, Filter: &meteringv1.UsageFilter{}}
		for _, p := range of {
			req.Filter.PrincipalIds = append(req.Filter.PrincipalIds, p.String())
		}
		_, err := api.ListInstances(ctx, req)
		return err
	}
	for range 2 {
		for _, err := range []error{
			summarize(viewer, "", meteringv1.GroupBy_GROUP_BY_PRINCIPAL), summarize(viewer, "", meteringv1.GroupBy_GROUP_BY_APPLICATION),
			list(viewer, "", s.principals[0]), list(s.self(login), ""),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if all := views(); len(all) != 2 || all[0].GetMethod() != "SummarizeUsage" || len(all[0].GetPrincipalIds()) != 0 || all[1].GetMethod() != "ListInstances" ||
		len(all[1].GetPrincipalIds()) != 1 || contract.ID(all[1].GetPrincipalIds()[0]) != s.principals[0] || len(all[1].GetSealedReason()) != 0 {
		t.Fatalf("recorded is %v", all)
	}

	require(true)
	if p := errs.PublicOf(list(viewer, " ", s.principals[0])); p.Kind != errs.Invalid || len(p.Fields) != 1 || p.Fields[0].Path != "reason" {
		t.Errorf("without a reason: %v", p)
	}
	if err := summarize(viewer, "", meteringv1.GroupBy_GROUP_BY_APPLICATION); err != nil {
		t.Errorf("a question about nobody: %v", err)
	}
	if err := list(s.self(login), ""); err != nil {
		t.Errorf("one's own: %v", err)
	}
	const reason = "Ticket 17: licence of Grete"
	if err := list(viewer, reason, s.principals[0]); err != nil {
		t.Fatal(err)
	}
	all := views()
	if len(all) != 3 || bytes.Contains(all[2].GetSealedReason(), []byte("Grete")) {
		t.Fatalf("recorded is %v", all)
	}
	opened, err := s.keys.OpenTexts(t.Context(), s.account, []keyring.Text{{Principal: login, What: keyring.WhatReason, Sealed: all[2].GetSealedReason()}})
	if err != nil || opened[0] != reason {
		t.Errorf("the reason opens as %q, %v", opened, err)
	}
	require(false)
	if err := list(viewer, "", s.principals[1]); err != nil || len(views()) != 4 {
		t.Errorf("another person's: %v, %d views", err, len(views()))
	}

	demand := func(of ...contract.ID) error {
		f := &meteringv1.UsageFilter{}
		for _, p := range of {
			f.PrincipalIds = append(f.PrincipalIds, p.String())
		}
		_, err := api.QueryConcurrency(viewer, &meteringv1.QueryConcurrencyRequest{
			StartTime: timestamppb.New(s.booted), EndTime: timestamppb.New(s.booted.Add(time.Hour)), Filter: f,
		})
		return err
	}
	if err := demand(); err != nil || len(views()) != 4 {
		t.Errorf("everybody's demand: %v, %d views", err, len(views()))
	}
	if err := demand(s.principals[1]); err != nil || len(views()) != 5 {
		t.Errorf("a person's demand: %v, %d views", err, len(views()))
	}

	// Many at once are all recorded.
	var asking sync.WaitGroup
	for range 10 {
		asking.Go(func() {
			if err := list(viewer, resource.NewID().String(), s.principals[1]); err != nil {
				t.Error(err)
			}
		})
	}
	asking.Wait()
	if n := len(views()); n != 15 {
		t.Errorf("%d views", n)
	}
}

// eachMessage reads a stream whole.
func eachMessage(t *testing.T, nc *nats.Conn, stream string, yield func(*jetstream.RawStreamMsg)) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), stream)
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	if state.Msgs == 0 {
		t.Fatalf("%s is empty", stream)
	}
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		yield(m)
	}
}
