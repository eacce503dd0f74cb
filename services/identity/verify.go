package identity

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// Verified is what a comparison of the tables with the log has found.
type Verified struct {
	// Position in EVENTS that the tables were at.
	Position uint64
	Tables   []postgres.Compared
}

// verifiedTables are all that the projection writes.
func verifiedTables() []string {
	return []string{"account", "account_entry", "login", "login_link", "login_group", "api_key", "manager", "enrollment_token", "agent_admission"}
}

// Verify builds the tables of the views once more from the log, beside those that there are, and compares both as of
// one moment. Nothing stands still meanwhile, and nothing of it stays. operator is the account of whoever runs the
// platform; told is told how far it is.
func Verify(ctx context.Context, js jetstream.JetStream, views *postgres.Store, operator contract.ID, told func(at, last uint64)) (v Verified, err error) {
	tx, err := views.Projector.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		return v, fmt.Errorf("identity: verify: %w", err)
	}
	// It is never committed: so the tables beside go, too.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// The first question takes the moment as of which all are answered.
	if v.Position, err = projection.Position(ctx, tx, contextName, projection.AllPartitions); err != nil {
		return v, fmt.Errorf("identity: verify: %w", err)
	}
	for _, name := range verifiedTables() {
		// Where a table is temporary it is found before the other of its name.
		from := pgx.Identifier{views.Schema, name}.Sanitize()
		if _, err := tx.Exec(ctx, "CREATE TEMPORARY TABLE "+pgx.Identifier{name}.Sanitize()+" (LIKE "+from+" INCLUDING DEFAULTS INCLUDING INDEXES)"); err != nil {
			return v, fmt.Errorf("identity: verify: make table %s beside: %w", name, err)
		}
	}
	beside := viewsProjection{newRegistry(), operator}
	if err := eventlog.Each(ctx, js, viewSubjects(), eventlog.Position(v.Position), func(m jetstream.Msg, meta *jetstream.MsgMetadata) error {
		told(meta.Sequence.Stream, v.Position)
		return beside.apply(ctx, tx, projection.Message{
			Subject: m.Subject(), Position: meta.Sequence.Stream, Stored: meta.Timestamp, Header: projection.Header(m.Headers()), Data: m.Data(),
		})
	}); err != nil {
		return v, fmt.Errorf("identity: verify: %w", err)
	}
	for _, name := range verifiedTables() {
		t, err := postgres.Compare(ctx, tx, name, views.Schema, "pg_temp")
		if err != nil {
			return v, fmt.Errorf("identity: verify: %w", err)
		}
		v.Tables = append(v.Tables, t)
	}
	return v, nil
}
