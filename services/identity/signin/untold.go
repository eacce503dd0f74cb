package signin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// untold is a change of what a login proves itself with, that the log has still to be told of.
//
// The change lies in tables, its event in the log, and nothing can write both at once. So the event
// is kept with the change, in one transaction, and told afterwards: at once by the call that
// made it, or by Run, as often as it takes. Its id is the command's: the log has it once.
type untold struct {
	id, account, login contract.ID
	at                 time.Time
	actor, origin      string
	event              eventlog.Event
}

// news prepares to tell of a change that is about to be made. From where it was asked for is
// sealed now: whoever tells of it later does not know.
func (s *Service) news(ctx context.Context, op, actor string, account, login contract.ID, event proto.Message) (untold, error) {
	u := untold{id: resource.NewID(), account: account, login: login, at: s.now(), actor: actor}
	var err error
	if u.event, err = s.credentials.Registry.Encode(event); err != nil {
		return u, errs.Wrap(op, "", err)
	}
	u.origin, err = eventlog.SealedOrigin(ctx)
	return u, errs.Wrap(op, "", err)
}

// also is the news of another event of the same change, which shows in its transaction only.
func (s *Service) also(u untold, event proto.Message) (untold, error) {
	u.id = resource.NewID()
	var err error
	u.event, err = s.credentials.Registry.Encode(event)
	return u, err
}

// keep is to be called in the transaction of the change.
func (u untold) keep(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, "INSERT INTO untold (account_id, untold_id, login_id, at, type, data, actor, origin) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
		[16]byte(u.account), [16]byte(u.id), [16]byte(u.login), u.at, u.event.Type, u.event.Data, u.actor, u.origin)
	return err
}

// tellNow tells the log at once of what was kept of a login; where that fails, Run does it again: the
// change stands, and so does the answer to who asked for it.
func (s *Service) tellNow(ctx context.Context, login contract.ID) {
	if err := s.tellOf(ctx, login); err != nil {
		s.log.WarnContext(ctx, "the log was not told what a login proves itself with; it is tried again", "error", err)
	}
}

// tellAll tells the log of all that was kept.
func (s *Service) tellAll(ctx context.Context) error { return s.tellOf(ctx, contract.ID{}) }

// tellOf is tellAll for one login; zero: for all. One that cannot be told holds up no other.
func (s *Service) tellOf(ctx context.Context, login contract.ID) error {
	// Of every account: a matter of the platform's own, whose rows no answer shows.
	rows, err := s.secrets.Projector.Query(ctx, `SELECT account_id, untold_id, login_id, at, type, data, actor, origin FROM untold
		WHERE $1::uuid = '00000000-0000-0000-0000-000000000000' OR login_id = $1::uuid ORDER BY at LIMIT 1000`, [16]byte(login))
	if err != nil {
		return fmt.Errorf("signin: untold: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (u untold, err error) {
		err = row.Scan((*[16]byte)(&u.account), (*[16]byte)(&u.id), (*[16]byte)(&u.login), &u.at, &u.event.Type, &u.event.Data, &u.actor, &u.origin)
		return u, err
	})
	if err != nil {
		return fmt.Errorf("signin: untold: %w", err)
	}
	var failed error
	for _, u := range all {
		if err := s.tellOne(ctx, u); err != nil {
			failed = errors.Join(failed, fmt.Errorf("signin: telling of login %s: %w", u.login, err))
		}
	}
	return failed
}

func (s *Service) tellOne(ctx context.Context, u untold) error {
	message, err := s.credentials.Registry.Decode(u.event)
	if err != nil {
		return err
	}
	ctx = eventlog.WithOrigin(ctx, func(context.Context) (string, error) { return u.origin, nil })
	_, err = s.credentials.Execute(ctx, credentialSubject(u.account, u.login), eventlog.Command{ID: u.id.String(), Actor: u.actor, At: u.at},
		func(credentials) ([]proto.Message, error) { return []proto.Message{message}, nil })
	if err != nil {
		return err
	}
	_, err = s.secrets.Projector.Exec(ctx, "DELETE FROM untold WHERE account_id = $1 AND untold_id = $2", [16]byte(u.account), [16]byte(u.id))
	return err
}
