package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/audit"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// mostSilent is how often in a row metering may have nothing to tell of a comparison.
const mostSilent = 60

func verifyCommand(stdout io.Writer) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read the whole log and its archive, compare both, the audit log, and the tables of identity and metering with it; says where they differ, and ends with an error then",
		Args:  cobra.NoArgs,
		RunE: s.asOperator(func(ctx context.Context, nc *nats.Conn) error {
			return s.logged(ctx, "verify", func(log *slog.Logger) error {
				v := &verification{settings: &s, out: stdout, nc: nc, logger: log}
				v.database = sync.OnceValues(func() (string, error) { return s.reachedDatabase(ctx, log) })
				return v.run(ctx)
			})
		}),
	}
	s.flags(cmd.Flags())
	return cmd
}

// verification compares all that can be compared, and goes on where something differs.
type verification struct {
	settings *settings
	out      io.Writer
	nc       *nats.Conn
	logger   *slog.Logger
	// database is its URL, once it was reached.
	database func() (string, error)
	differ   int
	// archiveDiffers is true where nothing can be built from it.
	archiveDiffers bool
}

func (v *verification) run(ctx context.Context) error {
	var problems []error
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{{"the log", v.log}, {"the archive", v.archive}, {"the audit log", v.audit}, {"the tables of identity", v.identity}, {"the tables of metering", v.tables}} {
		if err := step.do(ctx); err != nil {
			v.say("%s: could not be looked at: %v", step.what, err)
			problems = append(problems, fmt.Errorf("%s: %w", step.what, err))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	v.say("There is no ledger to compare yet.")
	if v.differ > 0 {
		problems = append(problems, errs.New(errs.Precondition, "cetrus", "verify", fmt.Sprintf("%s found: see above", count(v.differ, "difference"))))
	}
	return errors.Join(problems...)
}

func (v *verification) say(format string, args ...any) {
	_, _ = fmt.Fprintf(v.out, format+"\n", args...)
}

func (v *verification) differs(what, how string) {
	v.differ++
	v.say("DIFFERS: %s: %s", what, how)
}

// telling tells now and then how far a step is.
func (v *verification) telling(what string) func(at, last uint64) {
	due := nowAndThen()
	return func(at, last uint64) {
		if due() {
			v.say("%s: %d of %d", what, at, last)
		}
	}
}

func (v *verification) stream(ctx context.Context, name string) (jetstream.Stream, error) {
	js, err := jetstream.New(v.nc)
	if err != nil {
		return nil, err
	}
	return js.Stream(ctx, name)
}

func (v *verification) log(ctx context.Context) error {
	for _, name := range []string{contract.AgentStream, contract.EventStream} {
		stream, err := v.stream(ctx, name)
		if err != nil {
			return err
		}
		found, err := archive.VerifyStream(ctx, stream, name == contract.EventStream, v.telling(name))
		for _, d := range found.Differences {
			v.differs(name, d)
		}
		if err != nil {
			return fmt.Errorf("stream %s: %w", name, err)
		}
		v.say("%s: %d messages were read, %d to %d.", name, found.Messages, found.First, found.Last)
	}
	return nil
}

func (v *verification) archive(ctx context.Context) error {
	if v.settings.archive.url == "" {
		v.say("archive: none is set (--archive-url).")
		return nil
	}
	store, keys, err := v.settings.archiveToRead()
	if err != nil {
		return err
	}
	stream, err := v.stream(ctx, contract.AgentStream)
	if err != nil {
		return err
	}
	found, err := archive.New(store, keys, contract.AgentStream, stream.CachedInfo().Created).Verify(ctx, stream, v.telling("archive"))
	v.archiveDiffers = err != nil || len(found.Differences) > 0
	for _, d := range found.Differences {
		v.differs("archive", d)
	}
	if err == nil {
		v.say("archive: %d messages were read, %d to %d; %d of them are in the log, too.", found.Messages, found.First, found.Last, found.Compared)
	}
	return err
}

func (v *verification) audit(ctx context.Context) error {
	account, err := v.settings.accountNamed("")
	if err != nil {
		return err
	}
	database, err := v.database()
	if err != nil {
		return err
	}
	found, err := verifyAudit(ctx, v.nc, database, account, audit.Head{})
	if err != nil {
		return err
	}
	if found.Difference != "" {
		v.differs("audit log of account "+account.String(), found.Difference)
		return nil
	}
	v.say("audit log of account %s: %d entries. Those of other accounts: cetrus audit verify --account-id.", account, found.Entries)
	return nil
}

// identity compares the tables that identity keeps, beside what they are by the log.
func (v *verification) identity(ctx context.Context) error {
	operator, err := v.settings.accountNamed("")
	if err != nil {
		return err
	}
	cfg := identity.ViewsConfig()
	cfg.Logger = v.logger
	if cfg.URL, err = v.database(); err != nil {
		return err
	}
	js, err := jetstream.New(v.nc)
	if err != nil {
		return err
	}
	views, err := postgres.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer views.Close()
	found, err := identity.Verify(ctx, js, views, operator, v.telling("identity"))
	if err != nil {
		return err
	}
	v.compared("identity's ", found.Tables)
	v.say("identity: compared as of position %d of EVENTS.", found.Position)
	return nil
}

// compared tells of tables that were compared; whose is what stands before their names.
func (v *verification) compared(whose string, tables []postgres.Compared) {
	for _, t := range tables {
		if t.Same() {
			v.say("%stable %s: %d rows, sum %s.", whose, t.Name, t.Rows, t.Sum)
			continue
		}
		v.differs(whose+"table "+t.Name, fmt.Sprintf("it has %d rows (sum %s), by the log it should have %d (sum %s)", t.HasRows, t.HasSum, t.Rows, t.Sum))
		for _, row := range t.TooMany {
			v.say("  has      %s", row)
		}
		for _, row := range t.Missing {
			v.say("  has not  %s", row)
		}
	}
}

func (v *verification) tables(ctx context.Context) error {
	if v.archiveDiffers {
		v.say("metering: its tables are not compared: they would have to be built from an archive that is not as it was.")
		return nil
	}
	began, err := metering.Give(ctx, v.nc, metering.OrderVerify)
	if err != nil {
		return err
	}
	silent, far := 0, tellingRebuild(v.out)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("nobody waits for the answer any more; metering goes on comparing: %w", ctx.Err())
		case <-tick.C:
		}
		r, err := metering.Give(ctx, v.nc, metering.OrderProgress)
		switch {
		case err != nil:
			return err
		case r.Verified == nil || r.Verified.Order != began.Ordered:
			// Of several processes of metering the one that compares has the answer, and any is asked.
			if silent++; r.Rebuilding != "" {
				silent = 0
				far(r)
			}
			if silent > mostSilent {
				return errors.New("no process of metering compares any more: its log says why")
			}
			continue
		case r.Verified.Problem != "":
			return errors.New(r.Verified.Problem)
		}
		v.compared("", r.Verified.Tables)
		v.say("metering: compared as of position %d of AGENT, %d of EVENTS.", r.Verified.Position, r.Verified.Catalog)
		return nil
	}
}
