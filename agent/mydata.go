package agent

import (
	"net/http"
	"strconv"
	"time"

	"github.com/cetrus/cetrus/agent/journal"
	"github.com/cetrus/cetrus/agent/ledger"
	"github.com/cetrus/cetrus/proto/contract"
)

// MyData is what was recorded of a person on the last days.
type MyData struct {
	User string `json:"user"`
	// Days is how many days it goes back, today not counted.
	Days int       `json:"days"`
	Made time.Time `json:"made"`
	// Rows are sorted by day, the latest first, application and document. Use that goes on
	// is in it up to the last quarter of an hour.
	Rows []ledger.Row `json:"rows"`
}

// enter notes in the ledger what was journalled.
func (a *Agent) enter(batch journal.Batch) {
	if a.ledger == nil {
		return
	}
	names := make([]ledger.Name, 0, len(batch.Labels)+1)
	for _, l := range batch.Labels {
		document, err := contract.IDFrom(l.GetDocumentId())
		person, personErr := contract.IDFrom(l.GetPrincipalAlias())
		if err == nil && personErr == nil {
			names = append(names, ledger.Name{Person: person, ID: document, Document: true, Name: l.GetName()})
		}
	}
	a.mu.Lock()
	policy := a.policy
	a.mu.Unlock()
	var last ledger.Name
	for _, e := range batch.Usage {
		person, err := contract.IDFrom(e.GetPrincipalAlias())
		application, appErr := contract.IDFrom(e.GetApplicationId())
		if err != nil || appErr != nil || person == last.Person && application == last.ID {
			continue
		}
		last = ledger.Name{Person: person, ID: application}
		for _, app := range policy.GetApplications() {
			if string(app.GetApplicationId()) == string(e.GetApplicationId()) {
				last.Name = app.GetDisplayName()
				names = append(names, last)
				break
			}
		}
	}
	err := a.ledger.Names(names)
	if addErr := a.ledger.Add(batch.Usage, batch.Anchors); addErr != nil {
		err = addErr
	}
	switch {
	case err != nil && !a.looking.ledgerFails:
		a.log.Error("what people see of their own use lacks what is recorded now; the journal has it", "reason", err)
	case err == nil && a.looking.ledgerFails:
		a.log.Info("what people see of their own use is kept again")
	}
	a.looking.ledgerFails = err != nil
}

// mostDays is how far back anybody may ask.
const mostDays = 3660

func (a *Agent) serveMyData(who asker, w http.ResponseWriter, r *http.Request) {
	days := 30
	if asked := r.URL.Query().Get("days"); asked != "" {
		var err error
		if days, err = strconv.Atoi(asked); err != nil || days < 0 || days > mostDays {
			http.Error(w, "agent: days is a number from 0 to "+strconv.Itoa(mostDays), http.StatusBadRequest)
			return
		}
	}
	if a.ledger == nil {
		http.Error(w, "agent: this agent keeps no days of use", http.StatusNotFound)
		return
	}
	a.mu.Lock()
	alias := a.aliases[who.user.Key()]
	now := time.UnixMilli(a.utcNow())
	a.mu.Unlock()
	told := MyData{User: called(who.user), Days: min(days, a.config.LedgerDays), Made: now.UTC(), Rows: []ledger.Row{}}
	if !alias.IsZero() {
		rows, err := a.ledger.Person(alias, now.Local(), told.Days) //nolint:gosmopolitan // Days are the machine's own.
		if err != nil {
			a.log.ErrorContext(r.Context(), "somebody's own use cannot be told", "reason", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if rows != nil {
			told.Rows = rows
		}
	}
	answer(w, told)
}
