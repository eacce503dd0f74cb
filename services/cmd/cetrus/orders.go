package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/telemetry"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

const (
	// progressEvery is how often a rebuild's progress is shown.
	progressEvery = time.Second
	// answerWithin is how long an order that takes no time may take.
	answerWithin = 10 * time.Second
	// reachedWithin is how long servers elsewhere may take to be reached.
	reachedWithin = 30 * time.Second
	// databaseWithin is how long a database may take to be reached: as long as another server takes one's place.
	databaseWithin = time.Minute
)

// rebuildCommand has a service build its tables anew from the log.
func rebuildCommand(stdout io.Writer) *cobra.Command {
	return group("rebuild", "Build a service's tables anew from the log, while it runs and answers", orderCommand("metering", "Build metering's tables anew; ends when they answer in place of the present ones",
		func(ctx context.Context, nc *nats.Conn) error {
			began, err := metering.Give(ctx, nc, metering.OrderRebuild)
			if err != nil {
				return err
			}
			far := tellingRebuild(stdout)
			tick := time.NewTicker(progressEvery)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					_, _ = fmt.Fprintln(stdout, "The rebuild goes on without this command; the service's log tells how far it is.")
					return ctx.Err()
				case <-tick.C:
				}
				r, err := metering.Give(ctx, nc, metering.OrderProgress)
				switch {
				case ctx.Err() != nil:
				case err != nil:
					return err
				case r.Rebuilding != "":
					far(r)
				case r.Serving == began.Serving:
					return errs.New(errs.Internal, "cetrus", r.Serving, "the rebuild has failed and the tables stay: the service's log says why")
				default:
					_, _ = fmt.Fprintf(stdout, "%s answers now.\n", r.Serving)
					return nil
				}
			}
		}))
}

// tellingRebuild tells how far a rebuild is, and nothing where that is as it was.
func tellingRebuild(out io.Writer) func(metering.Report) {
	said := ""
	return func(r metering.Report) {
		if far := fmt.Sprintf("%s: %d of %d messages", r.Rebuilding, r.Done, r.Total); far != said {
			_, _ = fmt.Fprintln(out, far)
			said = far
		}
	}
}

// quarantineCommand shows and tries again what was set aside: what agents sent and
// metering could not count, and decisions that could not be acted on.
func quarantineCommand(stdout io.Writer) *cobra.Command {
	return group("quarantine", "Look at what was set aside: events of agents that could not be counted, decisions that could not be acted on",
		orderCommand("list", "List the latest of it, with reasons", func(ctx context.Context, nc *nats.Conn) error {
			ctx, cancel := context.WithTimeout(ctx, answerWithin)
			defer cancel()
			r, err := metering.Give(ctx, nc, metering.OrderListQuarantine)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "LAST CAME\tREASON\tACCOUNT\tAGENT\tRECORDS\tTIMES\tDETAIL")
			for _, q := range r.Quarantine {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%q\n", q.Last.UTC().Format(time.RFC3339), q.Reason, q.Account, q.Agent, q.Records, q.Count, q.Detail)
			}
			if len(r.Poisoned) > 0 {
				_, _ = fmt.Fprintln(table, "\nSET ASIDE\tDECISION\tEVENT\tPOSITION\tREASON")
				for _, p := range r.Poisoned {
					_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%q\n", p.Since.UTC().Format(time.RFC3339), cmp.Or(p.Type, p.Subject), p.Event, p.Position, p.Reason)
				}
			}
			return table.Flush()
		}),
		orderCommand("replay", "Try all of it again, as after an upgrade that can read more", func(ctx context.Context, nc *nats.Conn) error {
			r, err := metering.Give(ctx, nc, metering.OrderReplayQuarantine)
			if err != nil {
				return err
			}
			_, _ = fmt.Fprintf(stdout, "%s tried: %s counted, %d set aside again\n%s acted on\n",
				count(r.Tried, "payload"), count(r.Counted, "event"), r.Aside, count(r.Acted, "decision"))
			if r.Stayed != "" {
				return errs.New(errs.Precondition, "cetrus", "decisions", "some could not be acted on and stay set aside: "+r.Stayed)
			}
			return nil
		}),
	)
}

// count is a number with what it counts.
func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// orderCommand gives orders to the platform of a data directory, or to the one
// that the settings name.
func orderCommand(use, short string, give func(context.Context, *nats.Conn) error) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: s.asOperator(give),
	}
	s.operatorFlags(cmd.Flags())
	return cmd
}

// asOperator reads the settings of a command, and gives it a connection to the platform that runs.
func (s *settings) asOperator(give func(context.Context, *nats.Conn) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if err := config.Load(cmd.Flags()); err != nil {
			return err
		}
		nc, err := s.connectToRunning(cmd.Context())
		if err != nil {
			return err
		}
		defer nc.Close()
		return give(cmd.Context(), nc)
	}
}

// logged gives what runs here a log on standard error, metrics and traces, under its name.
func (s *settings) logged(ctx context.Context, name string, do func(*slog.Logger) error) (err error) {
	tel, err := telemetry.Setup(ctx, telemetry.Config{Service: "cetrus-" + name, Version: release(), LogLevel: s.logLevel, LogFormat: s.logFormat})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tel.Shutdown(context.WithoutCancel(ctx))) }()
	return do(tel.Logger)
}

// connectToRunning connects to the NATS server of a platform that runs, as the operator.
func (s *settings) connectToRunning(ctx context.Context) (*nats.Conn, error) {
	url := s.natsURL
	for _, target := range []string{"all", "nats"} {
		if url != "" {
			break
		}
		running, err := addressesOf(s.dataDir, target)
		if err != nil {
			return nil, err
		}
		url = running.NATSURLs[natsserver.Operator]
	}
	if url == "" {
		return nil, errs.New(errs.Precondition, "cetrus", "data directory "+s.dataDir, "no platform runs on it: start that, or name another with --data-dir or --nats-url")
	}
	var encrypted encryption
	if s.tlsDir != "" {
		var err error
		if encrypted.parts, err = tlsfiles.Open(s.tlsDir, slog.New(slog.DiscardHandler)); err != nil {
			return nil, err
		}
	}
	options, err := s.natsOptions(natsserver.Operator, encrypted)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	for {
		nc, err := nats.Connect(url, append(options, nats.Name("operator"))...)
		if err == nil {
			return nc, nil
		}
		// A pod may begin before the network lets it out, or while a server is replaced.
		if s.natsURL == "" || !errors.Is(err, nats.ErrNoServers) || time.Since(begun) > reachedWithin {
			return nil, errs.As(errs.Unavailable, "cetrus", "NATS", "cannot be reached: does the platform run?", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
