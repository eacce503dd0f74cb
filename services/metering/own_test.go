package metering

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// asOwn is a context in which somebody asks who sees only what those principals did.
func asOwn(ctx context.Context, account contract.ID, own ...contract.ID) context.Context {
	return asLogin(ctx, account, resource.NewID(), own...)
}

// asLogin is the same of a login that is known.
func asLogin(ctx context.Context, account, login contract.ID, own ...contract.ID) context.Context {
	return authn.WithOwn(authn.WithCaller(ctx, authn.Caller{Account: account, Login: login, Actor: "test", Reach: authzv1.Reach_REACH_SELF, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)}), own)
}

// Whoever sees only what is their own is answered as somebody who sees all, and has asked
// for these people; and of the others learns nothing.
func TestOwnUseIsWhatAFilterLeaves(t *testing.T) {
	s := newService(t, Config{})
	api := &usageAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		own := rapid.SliceOfDistinct(rapid.SampledFrom(w.persons), func(p contract.ID) contract.ID { return p }).Draw(t, "own")
		own = w.merged.resolved().all(own)  // what was merged into theirs is theirs
		own = append(own, resource.NewID()) // bound, and never seen at work
		all, mine := as(t.Context(), w.account), asOwn(t.Context(), w.account, own...)
		narrowed := func(f *meteringv1.UsageFilter) *meteringv1.UsageFilter {
			f = proto.CloneOf(f)
			asked := f.GetPrincipalIds()
			f.PrincipalIds = nil
			for _, p := range own {
				if len(asked) == 0 || slices.Contains(asked, p.String()) {
					f.PrincipalIds = append(f.PrincipalIds, p.String())
				}
			}
			if len(f.PrincipalIds) == 0 {
				f.PrincipalIds = []string{resource.NewID().String()}
			}
			return f
		}
		same := func(what string, want, got proto.Message, errs ...error) {
			t.Helper()
			for _, err := range errs {
				if err != nil {
					t.Fatal(what, err)
				}
			}
			for _, m := range []proto.Message{want, got} { // a page token knows which question it belongs to
				if field := m.ProtoReflect().Descriptor().Fields().ByName("next_page_token"); field != nil {
					m.ProtoReflect().Clear(field)
				}
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Fatalf("%s (-filtered +own): %s", what, diff)
			}
		}
		req := drawSummary(t, w)
		filtered := proto.CloneOf(req)
		filtered.Filter = narrowed(req.GetFilter())
		want, err1 := api.SummarizeUsage(all, filtered)
		got, err2 := api.SummarizeUsage(mine, req)
		same("summary", want, got, err1, err2)

		list := &meteringv1.ListInstancesRequest{Filter: req.GetFilter()}
		filteredList := &meteringv1.ListInstancesRequest{Filter: filtered.GetFilter()}
		wantList, err1 := api.ListInstances(all, filteredList)
		gotList, err2 := api.ListInstances(mine, list)
		same("instances", wantList, gotList, err1, err2)

		peaks := &meteringv1.QueryConcurrencyRequest{StartTime: req.GetStartTime(), EndTime: req.GetEndTime(), Filter: req.GetFilter(), Step: seconds(3600)}
		filteredPeaks := proto.CloneOf(peaks)
		filteredPeaks.Filter = filtered.GetFilter()
		wantPeaks, err1 := api.QueryConcurrency(all, filteredPeaks)
		gotPeaks, err2 := api.QueryConcurrency(mine, peaks)
		same("concurrency", wantPeaks, gotPeaks, err1, err2)

		seen := map[contract.ID]bool{}
		for _, u := range w.usage {
			if seen[u.Instance] {
				continue
			}
			seen[u.Instance] = true
			id := u.Instance.String()
			one, err1 := api.GetInstance(mine, &meteringv1.GetInstanceRequest{InstanceId: id})
			intervals, err2 := api.ListIntervals(mine, &meteringv1.ListIntervalsRequest{InstanceId: id})
			documents, err3 := api.ListDocuments(mine, &meteringv1.ListDocumentsRequest{InstanceId: id})
			if !slices.Contains(own, u.Principal) {
				for _, err := range []error{err1, err2, err3} {
					if !errs.Is(errs.NotFound, err) {
						t.Fatalf("another's instance: %v, %v", one, err)
					}
				}
				continue
			}
			wantOne, err4 := api.GetInstance(all, &meteringv1.GetInstanceRequest{InstanceId: id})
			same("instance", wantOne, one, err1, err4)
			wantIntervals, err4 := api.ListIntervals(all, &meteringv1.ListIntervalsRequest{InstanceId: id})
			same("intervals", wantIntervals, intervals, err2, err4)
			wantDocuments, err4 := api.ListDocuments(all, &meteringv1.ListDocumentsRequest{InstanceId: id})
			same("documents", wantDocuments, documents, err3, err4)
		}
	})
}

// saveReport writes a saved report of a login, and one time that it was sent.
func (w *world) saveReport(t *rapid.T, s *Service, owner contract.ID) {
	report := resource.NewID()
	for _, write := range []struct {
		sql  string
		args []any
	}{
		{"INSERT INTO saved_report VALUES ($1, $2, $3, false, '', NULL, NULL, NULL, 1, now(), now())", []any{w.account, report, owner}},
		{"INSERT INTO report_run VALUES ($1, $2, $3, '', now(), NULL, NULL)", []any{w.account, report, resource.NewID()}},
	} {
		if _, err := s.stores.Views.Projector.Exec(t.Context(), write.sql, write.args...); err != nil {
			t.Fatal(err)
		}
	}
}

// keepFile writes a file of a report of a login.
func (w *world) keepFile(t *rapid.T, s *Service, owner contract.ID) {
	file := resource.NewID()
	for _, write := range []struct {
		sql  string
		args []any
	}{
		{"INSERT INTO report_file (account_id, report_file_id, owner_login_id, question, format, privileges, state, expires) VALUES ($1, $2, $3, '', 1, 0, 3, now())", []any{w.account, file, owner}},
		{"INSERT INTO report_file_part VALUES ($1, $2, 0, '')", []any{w.account, file}},
	} {
		if _, err := s.stores.Files.Projector.Exec(t.Context(), write.sql, write.args...); err != nil {
			t.Fatal(err)
		}
	}
}

// Whatever SQL a handler writes, those who see only what is their own read nobody else's
// rows, and no table that was not given to them.
func TestOwnRowsByRawSQL(t *testing.T) {
	s := newService(t, Config{})
	shared := []string{"application", "settings", "recognised_document", "projection_checkpoint", "retention", "site_name"}
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		w.applyBatches(t.Context(), t, s.stores)
		own := w.persons[:rapid.IntRange(0, len(w.persons)).Draw(t, "own")]
		login := resource.NewID()
		for _, owner := range []contract.ID{login, resource.NewID()} {
			w.saveReport(t, s, owner)
			w.keepFile(t, s, owner)
		}
		for _, table := range []string{"report_file", "report_file_part"} {
			for account, want := range map[contract.ID]int{w.account: 1, resource.NewID(): 0} {
				ctx, got := asLogin(t.Context(), account, login, own...), 0
				if err := s.stores.Files.InAccount(ctx, account, func(tx pgx.Tx) error {
					return tx.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&got)
				}); err != nil || got != want {
					t.Fatalf("%s: %d rows, not %d: %v", table, got, want, err)
				}
			}
		}
		rows, err := s.stores.Views.Projector.Query(t.Context(), "SELECT tablename::text FROM pg_tables WHERE schemaname = $1", s.stores.Views.Schema)
		if err != nil {
			t.Fatal(err)
		}
		tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		// What each table should show, asked of all rows by the role that sees them.
		condition := map[string]string{
			"instance": "principal_id = ANY ($2)", "cell": "principal_id = ANY ($2)", "document_cell": "principal_id = ANY ($2)",
			"principal_machine": "principal_id = ANY ($2)", "principal_application": "principal_id = ANY ($2)", "sealed_name": "principal_id = ANY ($2)",
			"principal": "principal_id = ANY ($2)", "correction": "principal_id = ANY ($2)",
			"interval":     "instance_id IN (SELECT instance_id FROM instance WHERE principal_id = ANY ($2))",
			"document":     "instance_id IN (SELECT instance_id FROM instance WHERE principal_id = ANY ($2))",
			"machine":      "machine_id IN (SELECT machine_id FROM principal_machine WHERE principal_id = ANY ($2))",
			"agent":        "machine_id IN (SELECT machine_id FROM principal_machine WHERE principal_id = ANY ($2))",
			"login_group":  "login_id IN (SELECT login_id FROM principal WHERE principal_id = ANY ($2))",
			"saved_report": "owner_login_id = ANY ($2)",
			"report_run":   "saved_report_id IN (SELECT saved_report_id FROM saved_report WHERE owner_login_id = ANY ($2))",
			"group_name":   "group_id IN (SELECT group_id FROM login_group WHERE login_id IN (SELECT login_id FROM principal WHERE principal_id = ANY ($2)))",
		}
		count := func(account contract.ID, table string) (n int, err error) {
			ctx := asLogin(t.Context(), account, login, own...)
			err = s.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
				return tx.QueryRow(ctx, "SELECT count(*) FROM "+pgx.Identifier{table}.Sanitize()).Scan(&n)
			})
			return n, err
		}
		for _, table := range tables {
			got, err := count(w.account, table)
			where, known := condition[table]
			switch {
			case slices.Contains(shared, table) && err != nil:
				t.Fatalf("%s: %v", table, err)
			case slices.Contains(shared, table):
			case !known && (err == nil || !strings.Contains(err.Error(), "permission denied")):
				t.Fatalf("%s: %d rows, %v", table, got, err)
			case known:
				var want int
				sql := fmt.Sprintf("SELECT count(*) FROM %s WHERE account_id = $1 AND %s", pgx.Identifier{table}.Sanitize(), where)
				if err := s.stores.Views.Projector.QueryRow(t.Context(), sql, w.account, append(slices.Clone(own), login)).Scan(&want); err != nil {
					t.Fatal(err)
				}
				if err != nil || got != want {
					t.Fatalf("%s: %d rows, not %d: %v", table, got, want, err)
				}
			}
			if stranger, err := count(resource.NewID(), table); known && (err != nil || stranger != 0) {
				t.Fatalf("%s: the same people of another account read %d rows: %v", table, stranger, err)
			}
		}
	})
}

// What is shown live comes from memory, which no wall of PostgreSQL stands around: what is handed
// out of it is the caller's own all the same, whatever a handler does with it; and nobody hears of
// the end of a session that they were not shown.
func TestOwnLiveUsage(t *testing.T) {
	me, other, account := resource.NewID(), resource.NewID(), resource.NewID()
	begun := func(principal contract.ID) (contract.ID, *usagev1.LiveSnapshot) {
		session := resource.NewID()
		return session, &usagev1.LiveSnapshot{SessionId: session[:], PrincipalId: principal[:], MachineId: session[:], RunId: 1, Serial: 1, ValidMillis: 90_000}
	}
	mine, mySnapshot := begun(me)
	theirs, theirSnapshot := begun(other)
	_, early := begun(contract.ID{}) // the Manager has not said yet whose alias that is
	early.PrincipalId, early.PrincipalAlias = nil, me[:]
	for name, c := range map[string]struct {
		ctx                            context.Context
		shown, changed, lost, theirEnd int
	}{
		"all":      {as(t.Context(), account), 3, 1, 0, 1},
		"own":      {asOwn(t.Context(), account, me), 2, 0, 1, 0},
		"nobody's": {asOwn(t.Context(), account), 0, 0, 0, 0},
	} {
		v, now := newLiveView(slog.New(slog.DiscardHandler)), time.Now()
		for _, s := range []*usagev1.LiveSnapshot{mySnapshot, theirSnapshot, early} {
			v.take(account, s, now)
		}
		w := v.watch(c.ctx, account)
		there, gone := v.fetch(account, w)
		if len(there) != c.shown || len(gone) != 0 {
			t.Errorf("%s: %d sessions are shown, %d gone", name, len(there), len(gone))
		}
		// My session becomes another's, who then goes.
		changed := proto.CloneOf(mySnapshot)
		changed.PrincipalId, changed.Serial = other[:], 2
		v.take(account, changed, now)
		there, gone = v.fetch(account, w)
		if len(there) != c.changed || len(gone) != c.lost || len(gone) == 1 && gone[0] != mine {
			t.Errorf("%s: of a session that is another's now %d are shown, %v gone", name, len(there), gone)
		}
		ended := proto.CloneOf(theirSnapshot)
		ended.Ended, ended.Serial = true, 2
		v.take(account, ended, now)
		if _, gone = v.fetch(account, w); len(gone) != c.theirEnd || len(gone) == 1 && gone[0] != theirs {
			t.Errorf("%s: %v are told to be gone", name, gone)
		}
	}
	// What a caller asks for beside that is the filter's.
	for name, c := range map[string]struct {
		asked []string
		mine  bool
	}{"own": {nil, true}, "own, asked for": {[]string{me.String(), other.String()}, true}, "another's, asked for": {[]string{other.String()}, false}} {
		f, err := filterOf(asOwn(t.Context(), account, me), "test", &meteringv1.UsageFilter{PrincipalIds: c.asked})
		if err != nil {
			t.Fatal(err)
		}
		if got := liveSessionOf(mySnapshot, f, newNameSet()) != nil; got != c.mine {
			t.Errorf("%s: my session is shown: %t", name, got)
		}
	}
}
