package signin

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// KeptUntilTold are the tables whose rows of a forgotten login [Forget] takes care of: the log
// has still to be told of them.
func KeptUntilTold() []string { return []string{"session", "untold"} }

// Forget takes out of a login's sessions from where and with what they were opened, and ends
// those that have not ended. What the log knows of all of goes at once, the rest once it has been told.
func Forget(ctx context.Context, tx pgx.Tx, account, login contract.ID, actor string, now time.Time) error {
	for _, statement := range []struct {
		sql  string
		more []any
	}{
		{"DELETE FROM session WHERE account_id = $1 AND login_id = $2 AND told", nil},
		{"UPDATE session SET address = '', user_agent = '', vouched_by = '', vouched_as = '' WHERE account_id = $1 AND login_id = $2", nil},
		{
			"UPDATE session SET ended = $3, reason = $4, actor = $5 WHERE account_id = $1 AND login_id = $2 AND ended IS NULL",
			[]any{now, int32(identityv1.SessionEnd_SESSION_END_BY_ADMINISTRATOR), actor},
		},
	} {
		if _, err := tx.Exec(ctx, statement.sql, append([]any{[16]byte(account), [16]byte(login)}, statement.more...)...); err != nil {
			return fmt.Errorf("signin: sessions of login %s: %w", login, err)
		}
	}
	return nil
}
