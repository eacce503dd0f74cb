package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/cetrus/cetrus/manager"
)

// version is set by the linker.
var version = "dev"

const stopPatience = 10 * time.Second

// execute runs one command line and returns the exit code.
func execute(args []string, out, errOut io.Writer) int {
	root := &cobra.Command{
		Use:           "cetrus-manager",
		Short:         "The hub of a site: takes what agents observe and forwards it to the platform",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	defineFlags(root.PersistentFlags())
	root.AddCommand(
		command("run", "Run until interrupted, or as the service that the system started", run),
		statusCommand(),
		command("takeover", "Let this Manager follow data of another buffer under its id, or renew a damaged identity", takeover),
		command("acknowledge", "Say that you know what the running Manager's buffer has lost, and which agents it refused or found copied: these alarms end", acknowledge),
	)
	root.AddCommand(releaseCommand(), tokenCommand(), agentCommand(), authorityCommand(), enrollCommand())
	for _, action := range []struct{ name, short string }{
		{"install", "Install the Manager as a service of this system, with the settings given here"},
		{"uninstall", "Remove the service; the data folder stays"},
		{"start", "Start the service"},
		{"stop", "Stop the service"},
	} {
		root.AddCommand(command(action.name, action.short, control(action.name)))
	}
	if err := root.Execute(); err != nil {
		var code exitCodeError
		if errors.As(err, &code) {
			return int(code)
		}
		_, _ = fmt.Fprintln(errOut, "cetrus-manager:", err)
		return 1
	}
	return 0
}

type exitCodeError int

func (c exitCodeError) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

func command(name, short string, act func(*cobra.Command, settings) error) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
		s, err := load(c.Flags())
		if err != nil {
			return err
		}
		return act(c, s)
	}}
}

func run(c *cobra.Command, s settings) error {
	config, err := s.config()
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
	program := &program{build: func() (*manager.Manager, error) {
		return manager.New(config, manager.Deps{Platform: s.platform(), Log: log, Version: version})
	}, log: log}
	host, err := service.New(program, serviceConfig(c))
	if err != nil {
		return err
	}
	if !service.Interactive() {
		return host.Run()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return program.run(ctx)
}

// program is the Manager as the operating system's service manager sees it.
type program struct {
	build  func() (*manager.Manager, error)
	log    *slog.Logger
	cancel context.CancelFunc
	ended  chan struct{}
}

func (p *program) run(ctx context.Context) error {
	stopMetrics, err := telemetry(ctx)
	if err != nil {
		return err
	}
	defer stopMetrics()
	m, err := p.build()
	if err != nil {
		return err
	}
	return m.Run(ctx)
}

// Start is called by the service manager, and must return soon.
func (p *program) Start(host service.Service) error {
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	p.ended = make(chan struct{})
	go func() {
		defer close(p.ended)
		if err := p.run(ctx); err != nil {
			p.log.Error("the Manager ended", "error", err)
			// The service manager is to see a failure, and to start it again.
			os.Exit(1)
		}
	}()
	return nil
}

// Stop is called by the service manager.
func (p *program) Stop(service.Service) error {
	p.cancel()
	select {
	case <-p.ended:
		return nil
	case <-time.After(stopPatience):
		return fmt.Errorf("the Manager did not stop within %v", stopPatience)
	}
}

// telemetry exports metrics and traces where the OTEL_* environment asks for it.
func telemetry(ctx context.Context) (func(), error) {
	otel.SetTextMapPropagator(propagation.TraceContext{})
	about := resource.NewSchemaless(attribute.String("service.name", "cetrus-manager"))
	// OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win over ours.
	if merged, err := resource.Merge(about, resource.Environment()); err == nil {
		about = merged
	}
	var stops []func(context.Context) error
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		for _, stop := range stops {
			_ = stop(ctx)
		}
	}
	if exported("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return nil, fmt.Errorf("telemetry: %w", err)
		}
		meters := metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(about))
		otel.SetMeterProvider(meters)
		stops = append(stops, meters.Shutdown)
	}
	if exported("TRACES") {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			stop()
			return nil, fmt.Errorf("telemetry: %w", err)
		}
		traces := trace.NewTracerProvider(trace.WithBatcher(exporter), trace.WithResource(about))
		otel.SetTracerProvider(traces)
		stops = append(stops, traces.Shutdown)
	}
	return stop, nil
}

// exported tells whether the OTEL_* environment asks for a signal (TRACES,
// METRICS): the platform's own rule, so that one endpoint serves all tiers.
func exported(signal string) bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

func serviceConfig(c *cobra.Command) *service.Config {
	arguments := []string{"run"}
	c.Flags().Visit(func(f *pflag.Flag) {
		value := f.Value.String()
		if list, ok := f.Value.(pflag.SliceValue); ok {
			value = strings.Join(list.GetSlice(), ",") // its String has brackets
		}
		switch f.Name {
		case "config", "data-dir", "tls-certificate", "tls-key", "tls-client-ca", "release-keys", "plugin-keys", "platform-credentials":
			// A service runs in another folder.
			if absolute, err := filepath.Abs(value); err == nil && value != "" {
				value = absolute
			}
		}
		arguments = append(arguments, "--"+f.Name+"="+value)
	})
	return &service.Config{
		Name:        "cetrus-manager",
		DisplayName: "Cetrus Manager",
		Description: "Takes what Cetrus agents observe and forwards it to the platform",
		Arguments:   arguments,
	}
}

func control(action string) func(*cobra.Command, settings) error {
	return func(c *cobra.Command, s settings) error {
		if action == "install" {
			if _, err := s.config(); err != nil {
				return err
			}
		}
		host, err := service.New(&program{}, serviceConfig(c))
		if err != nil {
			return err
		}
		return service.Control(host, action)
	}
}

func statusCommand() *cobra.Command {
	alive := false
	c := command("status", "Tell how the running Manager is doing; exit code 2 while something needs attention", func(c *cobra.Command, s settings) error {
		if !alive {
			return status(c, s)
		}
		answer, err := ask(c.Context(), s, "/healthz")
		if err == nil {
			_, err = c.OutOrStdout().Write(answer)
		}
		return err
	})
	c.Flags().BoolVar(&alive, "alive", false, "only whether it answers: for probes, which must not restart one that needs a person's attention")
	return c
}

func status(c *cobra.Command, s settings) error {
	answer, err := ask(c.Context(), s, "/api/v1/status")
	if err != nil {
		return err
	}
	var st manager.Status
	if err := json.Unmarshal(answer, &st); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	connected := 0
	for _, a := range st.Agents {
		if a.Connected {
			connected++
		}
	}
	out := c.OutOrStdout()
	_, _ = fmt.Fprintf(out, "Manager %s of account %s\n", st.ManagerID, st.AccountID)
	_, _ = fmt.Fprintf(out, "agents    %d connected, %d heard of, on %s\n", connected, len(st.Agents), st.AgentsAddress)
	_, _ = fmt.Fprintf(out, "platform  %s, %d messages wait for it\n", st.Platform, st.Backlog)
	_, _ = fmt.Fprintf(out, "buffer    %d of %d bytes, %d bytes free on disk\n", st.Buffer.UsedBytes, st.Buffer.MaxBytes, st.Buffer.FreeBytes)
	_, _ = fmt.Fprintf(out, "policy    revision %d, %d applications\n", st.Policy.Revision, st.Policy.Applications)
	for _, l := range st.Forward {
		_, _ = fmt.Fprintf(out, "lane      %-7s %s %s\n", l.Lane, l.Phase, l.Trouble)
	}
	for _, a := range st.Alarms {
		_, _ = fmt.Fprintf(out, "ALARM     %s\n", a.Text)
	}
	if len(st.Alarms) > 0 {
		return exitCodeError(2)
	}
	return nil
}

func takeover(c *cobra.Command, s settings) error {
	_, err := order(c.Context(), s, orderPatience, "/api/v1/takeover", nil)
	if err == nil {
		_, _ = fmt.Fprintln(c.OutOrStdout(), "the running Manager takes over")
		return nil
	}
	var refused *refusedError
	if errors.As(err, &refused) {
		return err
	}
	// Nobody answers: prepare the folder, so that the next start takes over.
	config, err := s.config()
	if err != nil {
		return err
	}
	if err := manager.Takeover(config, slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(c.OutOrStdout(), "the Manager takes over when it is started next")
	return nil
}

func acknowledge(c *cobra.Command, s settings) error {
	if _, err := order(c.Context(), s, orderPatience, "/api/v1/acknowledge", nil); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(c.OutOrStdout(), "acknowledged; the status page's API goes on listing what the buffer lost")
	return nil
}
