package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/ctl/table"
)

// What a run ends with.
const (
	ExitOK = iota
	ExitError
	ExitUsage
	// ExitDifferences is of `diff`, where what is there is not what is wanted.
	ExitDifferences
)

// World is what a run sees of the world.
type World struct {
	In       io.Reader
	Out, Err io.Writer
	Env      func(string) string
	Now      func() time.Time
}

// usageError is a mistake in what was typed.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// errDifferences ends `diff` where there are some; they are told already.
var errDifferences = errors.New("there are differences")

// Run runs cetrusctl with its arguments, and is what the process exits with.
func Run(ctx context.Context, w World, args []string) int {
	s := &session{World: w}
	root := s.root()
	root.SetArgs(args)
	root.SetIn(w.In)
	root.SetOut(w.Out)
	root.SetErr(w.Err)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return ExitOK
	case errors.Is(err, errDifferences):
		return ExitDifferences
	}
	s.tell(ctx, err)
	if usage := (usageError{}); errors.As(err, &usage) {
		return ExitUsage
	}
	return ExitError
}

// tell writes an error with the way out, a field of the request on each line.
func (s *session) tell(ctx context.Context, err error) {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled) {
		fmt.Fprintln(s.Err, "cetrusctl: interrupted")
		return
	}
	st, said := status.FromError(err)
	if !said {
		fmt.Fprintln(s.Err, "cetrusctl: "+cleanLines(err.Error()))
		return
	}
	message := st.Message()
	if outer := err.Error(); outer != st.Err().Error() {
		message = strings.TrimSuffix(outer, st.Err().Error()) + st.Message() // what was added on the way
		if strings.Contains(message, "rpc error: ") {
			message = st.Message()
		}
	}
	switch st.Code() {
	case codes.PermissionDenied:
		message += s.whoAmI()
	case codes.Unauthenticated:
		if s.key != "" {
			message += " (the API key of CETRUS_API_KEY)"
		}
	default:
	}
	fmt.Fprintln(s.Err, "cetrusctl: "+cleanLines(message))
	for _, detail := range st.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				if strings.Contains(message, v.GetField()+": "+v.GetDescription()) {
					continue // the message is about this one alone
				}
				fmt.Fprintf(s.Err, "  %s: %s\n", table.Clean(v.GetField()), table.Clean(v.GetDescription()))
			}
		}
	}
}

// cleanLines is a text for a terminal, line by line.
func cleanLines(text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := range lines {
		lines[i] = table.Clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

func (s *session) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cetrusctl",
		Short: "Cetrus in a terminal: who uses which software, and what is to be done about it",
		Long: `cetrusctl does in a terminal what Cetrus's console does in a browser: it lists, reports,
applies settings that are kept as files, lets machines in, and follows live use.

Begin with cetrusctl login https://cetrus.example.com. For scripts, set CETRUS_SERVER and
CETRUS_API_KEY instead.

Exit codes: 0 fine, 1 an error, 2 a mistake in what was typed, 3 differences (diff).`,
		Example: `  cetrusctl login https://cetrus.example.com
  cetrusctl get applications
  cetrusctl report use --period last-month --by application
  cetrusctl diff -f settings/ ; cetrusctl apply -f settings/
  cetrusctl live`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
	})
	flags := root.PersistentFlags()
	flags.StringVar(&s.flags.context, "context", "", "server and account to use, as cetrusctl context list tells them (CETRUS_CONTEXT)")
	flags.StringVar(&s.flags.server, "server", "", "address of the platform, for CETRUS_API_KEY (CETRUS_SERVER)")
	flags.StringVar(&s.flags.caFile, "ca-file", "", "certificates of authorities to trust beside the system's, PEM (CETRUS_CA_FILE)")
	flags.StringVar(&s.flags.config, "config", "", "file of contexts and tokens (CETRUS_CONFIG)")
	flags.BoolVar(&s.flags.noColour, "no-color", false, "write no colours (NO_COLOR)")
	must(root.MarkPersistentFlagFilename("ca-file"))
	must(root.MarkPersistentFlagFilename("config"))
	must(root.RegisterFlagCompletionFunc("context", s.completeContexts))
	root.AddCommand(
		s.loginCommand(), s.logoutCommand(), s.contextCommand(), s.whoamiCommand(),
		s.getCommand(), s.reportCommand(), s.sendCommand(), s.liveCommand(), s.exportCommand(), s.diffCommand(), s.applyCommand(),
		s.enrolCommand(), s.agentsCommand(), s.managersCommand(), s.apiCommand(), s.versionCommand(),
	)
	usageOnly(root)
	return root
}

// usageOnly has wrong arguments of every command be mistakes of usage.
func usageOnly(c *cobra.Command) {
	c.SuggestionsMinimumDistance = 2
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return usageError{fmt.Errorf("%w (see %s --help)", err, c.CommandPath())}
			}
			return nil
		}
	}
	if c.HasSubCommands() && c.Run == nil && c.RunE == nil {
		c.Args = cobra.ArbitraryArgs
		c.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				hint := ""
				if near := c.SuggestionsFor(args[0]); len(near) > 0 {
					hint = ", did you mean " + strings.Join(near, " or ") + "?"
				}
				return usagef("there is no %q in %s%s (see %s --help)", args[0], c.CommandPath(), hint, c.CommandPath())
			}
			return c.Help()
		}
	}
	for _, below := range c.Commands() {
		usageOnly(below)
	}
}

// must is for what only a mistake in this package makes fail.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Version is what this build calls itself.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, modified := "", ""
	for _, setting := range info.Settings {
		switch setting.Key {
		case "vcs.revision":
			revision = setting.Value
		case "vcs.modified":
			if setting.Value == "true" {
				modified = "+changes"
			}
		}
	}
	if revision == "" {
		return info.Main.Version
	}
	const short = 12
	return revision[:min(short, len(revision))] + modified
}

func (s *session) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell which build this is", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(s.Out, "cetrusctl %s %s %s/%s\n", Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
