package metering

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// principalAPI serves cetrus.metering.v1.PrincipalService.
type principalAPI struct {
	meteringv1.UnimplementedPrincipalServiceServer
	service *Service
}

// PrincipalsOf are those that a login is to metering: those bound to it, and what was merged
// into them. Others' use is not the login's own.
func (s *Service) PrincipalsOf(ctx context.Context, account, login contract.ID) (principals []contract.ID, err error) {
	err = s.inAccount(ctx, account, func(tx pgx.Tx) error {
		principals, err = principalsOf(ctx, tx, account, "login_id", login)
		return err
	})
	return principals, errs.Wrap("metering.PrincipalsOf", "", err)
}

// principalsOf are the principals in whose row a column holds an id, and what was merged into
// them.
func principalsOf(ctx context.Context, tx pgx.Tx, account contract.ID, column string, id contract.ID) ([]contract.ID, error) {
	rows, err := tx.Query(ctx, `WITH RECURSIVE theirs AS (
			SELECT principal_id FROM principal WHERE account_id = $1::uuid AND `+column+` = $2::uuid
			UNION
			SELECT p.principal_id FROM principal AS p JOIN theirs ON p.merged_into = theirs.principal_id WHERE p.account_id = $1::uuid
		) SELECT principal_id FROM theirs ORDER BY principal_id`, account, id)
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (contract.ID, error) {
		var id contract.ID
		return id, row.Scan((*[16]byte)(&id))
	})
}

// principalsSQL lists every principal that anything is known of, from an id on.
const principalsSQL = `SELECT k.principal_id, p.login_id, p.merged_into, p.forgotten FROM (
		SELECT principal_id FROM principal_machine WHERE account_id = $1::uuid
		UNION SELECT principal_id FROM sealed_name WHERE account_id = $1::uuid
		UNION SELECT principal_id FROM principal WHERE account_id = $1::uuid
	) AS k LEFT JOIN principal AS p ON p.account_id = $1::uuid AND p.principal_id = k.principal_id`

// readPrincipals reads principals with their names, where is a condition on k with $2 …
func (s *Service) readPrincipals(ctx context.Context, account contract.ID, where string, args ...any) ([]*meteringv1.Principal, error) {
	var found []*meteringv1.Principal
	names := newNameSet()
	var sealed []*usagev1.SealedName
	err := s.inAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, principalsSQL+" WHERE "+where, append([]any{account}, args...)...)
		if err != nil {
			return err
		}
		var id [16]byte
		var login, merged *[16]byte
		var forgotten *time.Time
		if _, err := pgx.ForEachRow(rows, []any{&id, &login, &merged, &forgotten}, func() error {
			p := &meteringv1.Principal{PrincipalId: contract.ID(id).String()}
			if login != nil {
				p.LoginId = contract.ID(*login).String()
			}
			if merged != nil {
				p.MergedIntoId = contract.ID(*merged).String()
			}
			if forgotten != nil {
				p.ForgetTime = timestamppb.New(*forgotten)
			}
			names.want(contract.ID{}, id, contract.ID{}, contract.ID{})
			found = append(found, p)
			return nil
		}); err != nil {
			return err
		}
		sealed, err = names.read(ctx, tx, account)
		return err
	})
	if err == nil {
		err = names.open(ctx, s.names, account, sealed)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range found {
		if id, err := contract.ParseID(p.GetPrincipalId()); err == nil {
			p.Name = names.principals[id]
		}
	}
	return found, nil
}

func (a *principalAPI) ListPrincipals(ctx context.Context, req *meteringv1.ListPrincipalsRequest) (*meteringv1.ListPrincipalsResponse, error) {
	const op = "metering.ListPrincipals"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	found, next, err := resource.Page(op, op+caller.Account.String(), req, func(behind resource.Mark, most int) ([]*meteringv1.Principal, error) {
		return a.service.readPrincipals(ctx, caller.Account, "k.principal_id > $2::uuid ORDER BY k.principal_id LIMIT $3", behind.ID, most)
	}, func(p *meteringv1.Principal) (time.Time, string) { return time.UnixMicro(0), p.GetPrincipalId() })
	if err != nil {
		return nil, err
	}
	return &meteringv1.ListPrincipalsResponse{Principals: found, NextPageToken: next}, nil
}

// decide has something decided about a principal that is known, and tells how it is then.
func (a *principalAPI) decide(ctx context.Context, op string, req resource.Request, principal string, decide func(contract.ID, Principal) ([]proto.Message, error)) (*meteringv1.Principal, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "principal_id", principal)
	if err != nil {
		return nil, err
	}
	if err := a.known(ctx, op, caller.Account, id); err != nil {
		return nil, err
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	result, err := a.service.commands.principals.Execute(ctx, principalSubject(caller.Account, id), command,
		func(p Principal) ([]proto.Message, error) { return decide(id, p) })
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	return a.after(ctx, op, caller.Account, id, result.Position)
}

// after reads a principal once what was decided can be read.
func (a *principalAPI) after(ctx context.Context, op string, account, id contract.ID, position eventlog.Position) (*meteringv1.Principal, error) {
	if err := a.service.waitForCatalog(ctx, account, position); err != nil {
		return nil, err
	}
	found, err := a.service.readPrincipals(ctx, account, "k.principal_id = $2::uuid", id)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if len(found) == 0 {
		return &meteringv1.Principal{PrincipalId: id.String()}, nil // a worker about whom nothing is decided
	}
	return found[0], nil
}

// known refuses what was never heard of: to forget a made-up id would bar it for good.
func (a *principalAPI) known(ctx context.Context, op string, account, id contract.ID) error {
	found, err := a.service.readPrincipals(ctx, account, "k.principal_id = $2::uuid", id)
	if err != nil || len(found) > 0 {
		return errs.Wrap(op, "", err)
	}
	expense, _, err := a.service.commands.expenses.Load(ctx, expenseSubject(account))
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	for _, w := range expense.Decided.GetExpenseToProject().GetWorkers() {
		if bytes.Equal(w.GetWorkerId(), id[:]) {
			return nil
		}
	}
	return errs.New(errs.NotFound, op, "principal "+id.String(), "nothing is recorded of such a principal")
}

func (a *principalAPI) BindLogin(ctx context.Context, req *meteringv1.BindLoginRequest) (*meteringv1.BindLoginResponse, error) {
	const op = "metering.BindLogin"
	login, err := resource.ParseID(op, "login_id", req.GetLoginId())
	if err != nil {
		return nil, err
	}
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.service.commands.loginThere(ctx, op, caller.Account, login); err != nil {
		return nil, err
	}
	p, err := a.decide(ctx, op, req, req.GetPrincipalId(), func(id contract.ID, p Principal) ([]proto.Message, error) { return p.DecideBind(id, login) })
	return &meteringv1.BindLoginResponse{Principal: p}, err
}

func (a *principalAPI) UnbindLogin(ctx context.Context, req *meteringv1.UnbindLoginRequest) (*meteringv1.UnbindLoginResponse, error) {
	p, err := a.decide(ctx, "metering.UnbindLogin", req, req.GetPrincipalId(), func(id contract.ID, p Principal) ([]proto.Message, error) { return p.DecideUnbind(id) })
	return &meteringv1.UnbindLoginResponse{Principal: p}, err
}

func (a *principalAPI) MergePrincipal(ctx context.Context, req *meteringv1.MergePrincipalRequest) (*meteringv1.MergePrincipalResponse, error) {
	const op = "metering.MergePrincipal"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	into, err := resource.ParseID(op, "into_principal_id", req.GetIntoPrincipalId())
	if err != nil {
		return nil, err
	}
	if err := a.known(ctx, op, caller.Account, into); err != nil {
		return nil, err
	}
	p, err := a.decide(ctx, op, req, req.GetPrincipalId(), func(id contract.ID, p Principal) ([]proto.Message, error) {
		other, _, err := a.service.commands.principals.Load(ctx, principalSubject(caller.Account, into))
		if err != nil {
			return nil, err
		}
		return p.DecideMerge(id, into, other)
	})
	return &meteringv1.MergePrincipalResponse{Principal: p}, err
}

// ForgetPrincipal destroys keys once the order stands in the log, which the reactor then
// follows again: a process that dies in between leaves nothing unforgotten.
func (a *principalAPI) ForgetPrincipal(ctx context.Context, req *meteringv1.ForgetPrincipalRequest) (*meteringv1.ForgetPrincipalResponse, error) {
	const op = "metering.ForgetPrincipal"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if a.service.commands.people.keys == nil {
		return nil, errs.New(errs.Precondition, op, "", "this process has no keyring: start it with one")
	}
	id, err := resource.ParseID(op, "principal_id", req.GetPrincipalId())
	if err != nil {
		return nil, err
	}
	if err := a.known(ctx, op, caller.Account, id); err != nil {
		return nil, err
	}
	all := []contract.ID{id}
	if err := a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		merged, err := principalsOf(ctx, tx, caller.Account, "merged_into", id)
		all = append(all, merged...)
		return err
	}); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	defer a.service.known.forget(caller.Account)
	var position eventlog.Position
	for _, each := range all {
		result, err := a.service.commands.principals.Execute(ctx, principalSubject(caller.Account, each), eventlog.Command{Actor: caller.Actor},
			func(p Principal) ([]proto.Message, error) {
				if each == id && !p.Forgotten { // of a merged one, half of the person would be left
					if err := p.open(op, id); err != nil {
						return nil, err
					}
				}
				return p.DecideForget(each)
			})
		if err != nil {
			return nil, resource.CommandError(op, err)
		}
		position = max(position, result.Position)
	}
	if err := a.service.commands.people.forget(ctx, caller.Account, all); err != nil {
		return nil, err
	}
	p, err := a.after(ctx, op, caller.Account, id, position)
	return &meteringv1.ForgetPrincipalResponse{Principal: p}, err
}

// mine is one page of what is recorded about the caller.
type mine struct {
	principals []*meteringv1.Principal
	instances  []*meteringv1.MyInstance
	next       string
	since      *timestamppb.Timestamp
}

func (a *principalAPI) mine(ctx context.Context, op string, size int32, token string) (page mine, err error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return page, err
	}
	if caller.Login.IsZero() {
		return page, nil // a key of the account, of which no use can be its own
	}
	q := instanceQuery{to: 1 << 60, pageSize: resource.PageSize(size, 20)}
	question := "mine" + caller.Account.String() + caller.Login.String()
	if q.after, err = readInstanceMark(op, question, token); err != nil {
		return page, err
	}
	if q.filter.principals, err = a.service.PrincipalsOf(ctx, caller.Account, caller.Login); err != nil || len(q.filter.principals) == 0 {
		return page, err
	}
	if page.principals, err = a.service.readPrincipals(ctx, caller.Account, "k.principal_id = ANY ($2::uuid[]) ORDER BY k.principal_id", raw(q.filter.principals)); err != nil {
		return page, errs.Wrap(op, "", err)
	}
	var found []instance
	var more bool
	intervals, documents := map[contract.ID][]decided{}, map[contract.ID][]document{}
	names := newNameSet()
	var sealed []*usagev1.SealedName
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) (err error) {
		kept, err := readHorizons(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		page.since = since(0, kept.instances)
		if found, more, err = listInstances(ctx, tx, caller.Account, q); err != nil {
			return err
		}
		for _, n := range found {
			names.want(n.application, n.principal, n.machine, contract.ID{})
			if intervals[n.id], documents[n.id], err = allOf(ctx, tx, caller.Account, n.id); err != nil {
				return err
			}
			for _, d := range documents[n.id] {
				names.want(contract.ID{}, contract.ID{}, contract.ID{}, d.id)
			}
		}
		sealed, err = names.read(ctx, tx, caller.Account)
		return err
	})
	if err == nil {
		err = names.open(ctx, a.service.names, caller.Account, sealed)
	}
	if err != nil {
		return page, errs.Wrap(op, "", err)
	}
	for i := range found {
		n := &meteringv1.MyInstance{Instance: found[i].message(names)}
		for _, d := range intervals[found[i].id] {
			n.Intervals = append(n.Intervals, d.interval())
		}
		for j := range documents[found[i].id] {
			n.Documents = append(n.Documents, documents[found[i].id][j].message(names))
		}
		page.instances = append(page.instances, n)
	}
	if more {
		last := found[len(found)-1]
		page.next = markToken(question, last.opened, last.id)
	}
	return page, nil
}

// maxMine bounds what is told of one run.
const maxMine = 100_000

// allOf is all that is recorded of an instance: its own intervals, then those of its documents.
func allOf(ctx context.Context, tx pgx.Tx, account, instance contract.ID) (intervals []decided, documents []document, err error) {
	documents, more, err := listDocuments(ctx, tx, account, instance, nil, maxMine)
	if err != nil {
		return nil, nil, err
	}
	of := []contract.ID{{}}
	for _, d := range documents {
		of = append(of, d.id)
	}
	for _, document := range of {
		part, partMore, err := listDecided(ctx, tx, account, instance, document, nil, maxMine)
		if err != nil {
			return nil, nil, err
		}
		intervals, more = append(intervals, part...), more || partMore
		if more || len(intervals) > maxMine {
			return nil, nil, errs.New(errs.Exhausted, "metering.GetMyData", "instance "+instance.String(), fmt.Sprintf("more than %d intervals are recorded of it: list them page by page", maxMine))
		}
	}
	return intervals, documents, nil
}

func (a *principalAPI) GetMyData(ctx context.Context, req *meteringv1.GetMyDataRequest) (*meteringv1.GetMyDataResponse, error) {
	page, err := a.mine(ctx, "metering.GetMyData", req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	return &meteringv1.GetMyDataResponse{Principals: page.principals, Instances: page.instances, NextPageToken: page.next, DataSinceTime: page.since}, nil
}

func (a *principalAPI) ExportMyData(ctx context.Context, req *meteringv1.ExportMyDataRequest) (*meteringv1.ExportMyDataResponse, error) {
	const op = "metering.ExportMyData"
	page, err := a.mine(ctx, op, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	w := csv.NewWriter(&text)
	lines := [][]string{{"person", "machine", "application", "instance_id", "opened", "document", "from", "to", "attention", "state", "reason"}}
	stamp := func(t *timestamppb.Timestamp) string { return t.AsTime().Format(time.RFC3339Nano) }
	for _, n := range page.instances {
		documents := map[string]string{}
		for _, d := range n.GetDocuments() {
			documents[d.GetDocumentId()] = d.GetDocumentName()
		}
		i := n.GetInstance()
		for _, v := range n.GetIntervals() {
			lines = append(lines, []string{
				i.GetPrincipalName(), i.GetMachineName(), i.GetApplicationName(), i.GetInstanceId(), stamp(i.GetOpenTime()), documents[v.GetDocumentId()],
				stamp(v.GetStartTime()), stamp(v.GetEndTime()), v.GetAttention().String(), v.GetState().String(), v.GetReason().String(),
			})
		}
	}
	for _, line := range lines {
		for i := range line {
			line[i] = harmless(line[i])
		}
	}
	if err := w.WriteAll(lines); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	return &meteringv1.ExportMyDataResponse{Csv: text.String(), NextPageToken: page.next}, nil
}

// harmless keeps spreadsheets from taking a text, such as a file's name, for a formula.
func harmless(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}

// whatCorrection is what a correction's text is to the keyring.
const whatCorrection = "correction"

func (a *principalAPI) AskForCorrection(ctx context.Context, req *meteringv1.AskForCorrectionRequest) (*meteringv1.AskForCorrectionResponse, error) {
	const op = "metering.AskForCorrection"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	keys := a.service.commands.people.keys
	switch {
	case caller.Login.IsZero():
		return nil, errs.New(errs.Precondition, op, "", "the caller is nobody's login: sign in")
	case keys == nil:
		return nil, errs.New(errs.Precondition, op, "", "this process has no keyring: start it with one")
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	id := resource.NewID()
	if command.ID != "" {
		id = resource.DerivedID(caller.Account, whatCorrection, command.ID)
	}
	principals, err := a.service.PrincipalsOf(ctx, caller.Account, caller.Login)
	if err != nil {
		return nil, err
	}
	if len(principals) == 0 {
		return nil, errs.New(errs.Precondition, op, "", "nothing is recorded that is known to be yours: ask an administrator to bind your login")
	}
	key, err := keys.KeyOf(ctx, caller.Account, principals[0])
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	event := &meteringv1.CorrectionAsked{
		CorrectionId: id[:], LoginId: caller.Login[:], PrincipalId: principals[0][:],
		SealedText: keyring.SealText(key, principals[0], whatCorrection, req.GetText()),
	}
	result, err := a.service.commands.corrections.Execute(ctx, correctionSubject(caller.Account, id), command, func(n corrections) ([]proto.Message, error) {
		if n > 0 {
			return nil, errors.New("metering: there is such a correction already")
		}
		return []proto.Message{event}, nil
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	if err := a.service.waitForCatalog(ctx, caller.Account, result.Position); err != nil {
		return nil, err
	}
	found, err := a.service.readCorrections(ctx, caller.Account, "correction_id = $2::uuid", id)
	if err != nil || len(found) == 0 {
		return nil, errs.Wrap(op, "", errors.Join(err, errors.New("it was recorded and is not read")))
	}
	return &meteringv1.AskForCorrectionResponse{Correction: found[0]}, nil
}

func (a *principalAPI) ListCorrections(ctx context.Context, req *meteringv1.ListCorrectionsRequest) (*meteringv1.ListCorrectionsResponse, error) {
	const op = "metering.ListCorrections"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	found, next, err := resource.Page(op, op+caller.Account.String(), req, func(behind resource.Mark, most int) ([]*meteringv1.Correction, error) {
		return a.service.readCorrections(ctx, caller.Account, "(asked, correction_id) > ($2::timestamptz, $3::uuid) ORDER BY asked, correction_id LIMIT $4", behind.At, behind.ID, most)
	}, func(c *meteringv1.Correction) (time.Time, string) {
		return c.GetAskTime().AsTime(), c.GetCorrectionId()
	})
	if err != nil {
		return nil, err
	}
	return &meteringv1.ListCorrectionsResponse{Corrections: found, NextPageToken: next}, nil
}

func (s *Service) readCorrections(ctx context.Context, account contract.ID, where string, args ...any) (found []*meteringv1.Correction, err error) {
	var texts []keyring.Text
	err = s.inAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT correction_id, login_id, principal_id, sealed_text, asked FROM correction WHERE account_id = $1::uuid AND "+where, append([]any{account}, args...)...)
		if err != nil {
			return err
		}
		var id, login, principal [16]byte
		var sealed []byte
		var asked time.Time
		_, err = pgx.ForEachRow(rows, []any{&id, &login, &principal, &sealed, &asked}, func() error {
			found = append(found, &meteringv1.Correction{CorrectionId: contract.ID(id).String(), LoginId: contract.ID(login).String(), AskTime: timestamppb.New(asked)})
			texts = append(texts, keyring.Text{Principal: principal, What: whatCorrection, Sealed: bytes.Clone(sealed)})
			return nil
		})
		return err
	})
	if err != nil || len(found) == 0 || s.commands.people.keys == nil {
		return found, err
	}
	opened, err := s.commands.people.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, err
	}
	for i := range found {
		found[i].Text = opened[i]
	}
	return found, nil
}
