package agentlog

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/services/platform/projection"
)

// Config of a Decoder; the zero Config is a sensible one.
type Config struct {
	// MaxFuture is how far beyond the time at which the stream took its message
	// a record may stand; default 48 h.
	MaxFuture time.Duration
	// MaxPast is how far before it; default 5 years.
	MaxPast time.Duration
	// Logger for what is quarantined; default slog.Default().
	Logger *slog.Logger
}

// Decoder turns messages of the AGENT stream into facts. It belongs to one
// projection and is not for concurrent use; Predecode is.
type Decoder struct {
	cfg Config
}

// NewDecoder makes a Decoder.
func NewDecoder(cfg Config) *Decoder { return &Decoder{cfg: cfg} }

// Predecode does what needs no tables - decoding, chains, anchors - ahead of
// Decode. It is meant as projection.Config.Decode.
func (d *Decoder) Predecode(m *projection.Message) {}

// Decode checks the messages and tells the facts that are new, having noted in
// tx what was received, bound and quarantined. An error is Postgres's; nothing
// that an agent or a Manager sends makes one.
func (d *Decoder) Decode(ctx context.Context, tx pgx.Tx, batch []projection.Message) (Facts, error) {
	return Facts{}, errors.New("agentlog: Decode comes within the hour")
}
