package metering

import (
	"bytes"
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"
)

// reasonTold is the reason of what a Manager told beside the log and that breaks the
// contract. There is nothing to replay: what is told is told again.
const reasonTold = "TOLD_INVALID"

// maxAside bounds what is remembered of it, over all Managers; each has few kinds.
const maxAside = 10_000

// origin is who tells something: the subject says so, where the server lets each Manager
// speak for itself alone; never what is told.
type origin struct{ account, manager contract.ID }

// aside remembers, for data quality and operators, what was told and could not be used. It
// lives as long as the process, as what it is about is not stored either.
type aside struct {
	log       *slog.Logger
	validator protovalidate.Validator

	mu     sync.Mutex
	faults map[asideKey]*toldFault
}

type asideKey struct {
	from origin
	what string
}

// toldFault is how often one Manager told one kind of thing that could not be used.
type toldFault struct {
	detail string // of the last
	count  int64
	last   time.Time
}

func newAside(log *slog.Logger) (*aside, error) {
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("metering: validator: %w", err)
	}
	return &aside{log: log, validator: validator, faults: make(map[asideKey]*toldFault)}, nil
}

// check tells what a message breaks of the contract.
func (a *aside) check(m proto.Message) error { return a.validator.Validate(m) }

// checked takes in for an account what keeps to the contract.
func checked[P proto.Message](a *aside, take func(account contract.ID, told P, now time.Time)) func(origin, P, time.Time) error {
	return func(from origin, told P, now time.Time) error {
		if err := a.check(told); err != nil {
			return err
		}
		take(from.account, told, now)
		return nil
	}
}

// set sets something aside.
func (a *aside) set(from origin, what string, err error, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := asideKey{from, what}
	f := a.faults[key]
	if f == nil {
		if len(a.faults) >= maxAside {
			a.log.Warn(what+" cannot be used, and too many Managers tell such for it to be counted", "account", from.account.String(), "manager", from.manager.String(), "error", err)
			return
		}
		f = &toldFault{}
		a.faults[key] = f
	}
	f.count++
	f.last, f.detail = now, fmt.Sprintf("%s of Manager %s: %v", what, from.manager, err)
	// One that goes on is not told each time.
	if f.count&(f.count-1) == 0 {
		a.log.Warn(what+" is set aside", "account", from.account.String(), "manager", from.manager.String(), "count", f.count, "error", err)
	}
}

// of lists what an account's Managers told, or all where account is nil.
func (a *aside) of(account *contract.ID) (list []Quarantined) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, key := range sortedKeys(a.faults, func(x, y asideKey) int {
		return cmp.Or(bytes.Compare(x.from.account[:], y.from.account[:]), bytes.Compare(x.from.manager[:], y.from.manager[:]), cmp.Compare(x.what, y.what))
	}) {
		if f := a.faults[key]; account == nil || *account == key.from.account {
			list = append(list, Quarantined{Account: key.from.account.String(), Reason: reasonTold, Detail: f.detail, Size: 1, Count: f.count, Last: f.last})
		}
	}
	slices.SortStableFunc(list, func(x, y Quarantined) int { return y.Last.Compare(x.Last) })
	return list
}
