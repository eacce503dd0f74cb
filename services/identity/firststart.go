package identity

import (
	"context"
	"fmt"

	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// What the operator's account is called until somebody renames it.
const (
	operatorAccountName = "operator"
	operatorLoginName   = "admin"
)

// FirstStart makes the operator's account and its administrator, where they are not there yet.
func (s *Service) FirstStart(ctx context.Context) error {
	const op = "identity.FirstStart"
	account, _, err := s.commands.accounts.Load(ctx, accountSubject(s.cfg.Operator))
	if err != nil {
		return fmt.Errorf("identity: first start: %w", err)
	}
	if !account.ID.IsZero() {
		return nil
	}
	// Several processes may start at once: they give the same command.
	_, err = s.commands.createAccount(ctx, op, eventlog.Command{ID: "first-start", Actor: "platform"}, newAccount{
		id: s.cfg.Operator, administrator: s.OperatorLogin(),
		name: operatorAccountName, administratorWish: LoginWish{Name: ref(operatorLoginName)},
	})
	return err
}
