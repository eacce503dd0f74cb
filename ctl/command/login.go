package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"

	"github.com/cetrus/cetrus/ctl/contexts"
	"github.com/cetrus/cetrus/ctl/rest"
	"github.com/cetrus/cetrus/ctl/table"
)

// asker asks a person, or reads answers line by line where there is none.
type asker struct {
	s     *session
	lines *bufio.Reader
	// piped says that answers come from the standard input, whatever that is.
	piped bool
}

func (s *session) asker(piped bool) *asker {
	return &asker{s: s, lines: bufio.NewReader(s.In), piped: piped}
}

// errNoAnswer is the end of the answers.
var errNoAnswer = errors.New("the standard input has ended before the answer")

// line asks for something that may be seen.
func (a *asker) line(ctx context.Context, question string) (string, error) {
	if _, is := terminal(a.s.In); is && !a.piped {
		fmt.Fprint(a.s.Err, question+": ")
	}
	return a.read(ctx, question)
}

// secret asks for something that nobody may see.
func (a *asker) secret(ctx context.Context, question string) (string, error) {
	file, ok := a.s.In.(*os.File)
	if _, is := terminal(a.s.In); !ok || !is || a.piped {
		return a.read(ctx, question)
	}
	fmt.Fprint(a.s.Err, question+": ")
	fd := int(file.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", err
	}
	typed := make(chan struct {
		text []byte
		err  error
	}, 1)
	go func() { // owned by whoever ends the process where nothing is typed any more
		text, err := term.ReadPassword(fd)
		typed <- struct {
			text []byte
			err  error
		}{text, err}
	}()
	select {
	case got := <-typed:
		fmt.Fprintln(a.s.Err)
		return string(got.text), got.err
	case <-ctx.Done():
		fmt.Fprintln(a.s.Err)
		return "", errors.Join(ctx.Err(), term.Restore(fd, before))
	}
}

func (a *asker) read(ctx context.Context, question string) (string, error) {
	typed := make(chan struct {
		text string
		err  error
	}, 1)
	go func() { // as in secret
		text, err := a.lines.ReadString('\n')
		typed <- struct {
			text string
			err  error
		}{text, err}
	}()
	select {
	case got := <-typed:
		if errors.Is(got.err, io.EOF) {
			got.err = nil // the last line may lack its end
			if got.text == "" {
				got.err = errNoAnswer
			}
		}
		if got.err != nil {
			return "", fmt.Errorf("%s: %w", strings.ToLower(question), got.err)
		}
		return strings.TrimRight(got.text, "\r\n"), nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *session) loginCommand() *cobra.Command {
	var account, login, name string
	var piped bool
	c := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Sign in, and keep the session as a context",
		Long: `Signs in with account, login and password, and with a second factor where one is asked for: a
code of an authenticator program, or a recovery code. A one-time password is changed at once.

The session is kept in a file that its owner alone can read (cetrusctl context list says which), and
is refreshed by itself until it ends or you log out. Without SERVER it is that of the current context.

With --password-stdin the answers are lines of the standard input, in the order of the questions:
password, then what else is asked for (code, new password).

Who signs in by passkey or single sign-on alone uses an API key made in the console: set
CETRUS_SERVER and CETRUS_API_KEY.`,
		Example: `  cetrusctl login https://cetrus.example.com
  cetrusctl login https://cetrus.example.com --account Acme --login ada --name acme
  pass show cetrus | cetrusctl login --account Acme --login ada --password-stdin`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return s.login(c.Context(), args, account, login, name, piped)
		},
	}
	c.Flags().StringVar(&account, "account", "", "name of the account; asked for where absent")
	c.Flags().StringVar(&login, "login", "", "name of the login; asked for where absent")
	c.Flags().StringVar(&name, "name", "", "name of the context; ACCOUNT@HOST where absent")
	c.Flags().BoolVar(&piped, "password-stdin", false, "read the answers from the standard input")
	return c
}

func (s *session) login(ctx context.Context, args []string, account, login, name string, piped bool) error {
	file, err := s.open()
	if err != nil {
		return err
	}
	state, err := file.Read()
	if err != nil {
		return err
	}
	was := state.Context(cmp.Or(s.flags.context, s.Env("CETRUS_CONTEXT"), state.Current))
	if was == nil {
		was = &contexts.Context{}
	}
	server := cmp.Or(s.flags.server, s.Env("CETRUS_SERVER"), was.Server)
	if len(args) > 0 {
		server = args[0]
	}
	ask := s.asker(piped)
	if server == "" {
		if server, err = ask.line(ctx, "Server, as https://cetrus.example.com"); err != nil {
			return err
		}
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	caFile := cmp.Or(s.flags.caFile, s.Env("CETRUS_CA_FILE"))
	if caFile == "" && strings.TrimSuffix(server, "/") == was.Server {
		caFile = was.CAFile
	}
	base, client, err := s.client(server, caFile)
	if err != nil {
		return err
	}
	for _, q := range []struct {
		question string
		answer   *string
	}{{"Account", &account}, {"Login", &login}} {
		if *q.answer == "" {
			if piped {
				return usagef("with --password-stdin, give --account and --login")
			}
			if *q.answer, err = ask.line(ctx, q.question); err != nil {
				return err
			}
		}
	}
	signIn := identityv1.NewSignInServiceClient(rest.New(base, client, userAgent(), rest.Anonymous{}))
	tokens, err := s.signIn(ctx, ask, signIn, account, login)
	if err != nil {
		return err
	}
	at := &contexts.Context{Name: cmp.Or(name, defaultName(account, base)), Server: base.String(), CAFile: caFile, Account: account, Login: login, Session: contexts.SessionOf(tokens)}
	var before *contexts.Session
	if err := file.Update(ctx, func(state *contexts.State) error {
		if old := state.Context(at.Name); old != nil && old.Server == at.Server {
			before = old.Session
		}
		state.Put(at)
		state.Current = at.Name
		return nil
	}); err != nil {
		// A session that nobody can use any more is ended, too.
		_, ended := signIn.SignOut(ctx, &identityv1.SignOutRequest{RefreshToken: tokens.GetRefreshToken()})
		return errors.Join(err, ended)
	}
	if before != nil { // its session is not left behind; one that has ended already is no loss
		if _, err := signIn.SignOut(ctx, &identityv1.SignOutRequest{RefreshToken: before.RefreshToken}); err != nil && status.Code(err) != codes.Unauthenticated {
			fmt.Fprintln(s.Err, "cetrusctl: the session before could not be ended:", cleanLines(status.Convert(err).Message()))
		}
	}
	_, err = fmt.Fprintf(s.Err, "Signed in as %s of %s at %s (context %s).\n", table.Clean(login), table.Clean(account), at.Server, table.Clean(at.Name))
	return err
}

// defaultName is what a context is called where nobody says.
func defaultName(account string, base *url.URL) string {
	return strings.ToLower(strings.Join(strings.Fields(account), "-")) + "@" + base.Host
}

// signIn asks until the platform has let the person in.
func (s *session) signIn(ctx context.Context, ask *asker, client identityv1.SignInServiceClient, account, login string) (*identityv1.Tokens, error) {
	password, err := ask.secret(ctx, "Password")
	if err != nil {
		return nil, err
	}
	request := &identityv1.SignInRequest{AccountName: account, LoginName: login, Password: password}
	for {
		answer, err := client.SignIn(ctx, request)
		if err != nil {
			return nil, err
		}
		if codes := answer.GetRecoveryCodes(); len(codes) > 0 {
			fmt.Fprintln(s.Err, "Recovery codes: each lets you in once if the second factor is lost. Keep them now, they are not shown again.")
			for _, code := range codes {
				fmt.Fprintln(s.Err, "  "+table.Clean(code))
			}
		}
		switch answer.GetOutcome() {
		case identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN:
			return answer.GetTokens(), nil
		case identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED:
			question := "Code of the authenticator program, or a recovery code"
			if !answer.GetTakesTotp() {
				question = "Recovery code (your second factor is a passkey, which needs a browser)"
			}
			if request.SecondFactor, err = ask.secret(ctx, question); err != nil {
				return nil, err
			}
		case identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED:
			fmt.Fprintln(s.Err, "The account asks for a second factor. Add this to an authenticator program (qrencode -t ansiutf8 draws it):")
			fmt.Fprintln(s.Err, "  "+table.Clean(answer.GetEnrolment().GetUri()))
			if request.SecondFactor, err = ask.line(ctx, "A code of it"); err != nil {
				return nil, err
			}
		case identityv1.SignInOutcome_SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED:
			if request.NewPassword, err = s.newPassword(ctx, ask); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("the platform asks for something that this cetrusctl does not know (%v): get a later one", answer.GetOutcome())
		}
	}
}

// newPassword asks for one, twice where a person types it unseen.
func (s *session) newPassword(ctx context.Context, ask *asker) (string, error) {
	fmt.Fprintln(s.Err, "This password was for one sign-in. Choose your own.")
	for {
		chosen, err := ask.secret(ctx, "New password")
		if err != nil || ask.piped {
			return chosen, err
		}
		again, err := ask.secret(ctx, "New password again")
		if err != nil {
			return "", err
		}
		if chosen == again {
			return chosen, nil
		}
		fmt.Fprintln(s.Err, "These two are not the same.")
	}
}

func (s *session) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session at the server, and forget its tokens",
		Long: "Ends the session of the current context, or of --context, at the server, and forgets its tokens here.\nThe context stays, for the next login.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			file, err := s.open()
			if err != nil {
				return err
			}
			var told string
			err = file.Update(c.Context(), func(state *contexts.State) error {
				name := cmp.Or(s.flags.context, s.Env("CETRUS_CONTEXT"), state.Current)
				at := state.Context(name)
				if at == nil || at.Session == nil {
					told = "There is no session to end."
					return nil
				}
				base, client, err := s.client(at.Server, cmp.Or(s.flags.caFile, s.Env("CETRUS_CA_FILE"), at.CAFile))
				if err != nil {
					return err
				}
				signIn := identityv1.NewSignInServiceClient(rest.New(base, client, userAgent(), rest.Anonymous{}))
				_, err = signIn.SignOut(c.Context(), &identityv1.SignOutRequest{RefreshToken: at.Session.RefreshToken})
				if err != nil && status.Code(err) != codes.Unauthenticated {
					return fmt.Errorf("the session goes on, and its tokens are kept: %w", err)
				}
				at.Session = nil
				told = fmt.Sprintf("Signed out of %s (context %s).", table.Clean(at.Server), table.Clean(at.Name))
				return nil
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.Err, told)
			return err
		},
	}
}
