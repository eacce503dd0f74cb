package console

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
	"github.com/cetrus/cetrus/tools/stack"
)

// Every way to sign in, of one platform: by password, passkey, recovery code, mailed link and the
// account's own provider, and from one account into the next.
func TestSigningIn(t *testing.T) {
	mails := mailbox(t)
	p, once := start(t, "--smtp-url", mails.SMTPURL(), "--mail-from", "Cetrus <cetrus@example.com>", "--single-sign-on-private-addresses")
	b := open(t, named(p))
	key := b.authenticator()
	for _, part := range []struct {
		name string
		try  func(*testing.T)
	}{
		{"passkeys of the API", func(t *testing.T) { passkeysOfTheAPI(t, b, key, once) }},
		{"passkeys", func(t *testing.T) { passkeys(t, b, key) }},
		{"a passkey that is asked for", func(t *testing.T) { passkeyIsMade(t, p) }},
		{"mailed links", func(t *testing.T) { mailedLinks(t, p, mails) }},
		{"accounts", func(t *testing.T) { switching(t, p, mails) }},
		{"single sign-on", func(t *testing.T) { singleSignOn(t, p) }},
	} {
		if !t.Run(part.name, func(t *testing.T) { b.tb = t; part.try(t) }) {
			return
		}
	}
}

// mailbox takes the mail that the platform sends.
func mailbox(t *testing.T) *inbox.Inbox {
	t.Helper()
	box, err := inbox.New(t.Context(), inbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		if err := box.Run(ctx); err != nil {
			t.Errorf("the mailbox: %v", err)
		}
	})
	return box
}

var mailedLink = regexp.MustCompile(`/(reset-password|accept-invitation)\?token=[\w-]+`)

// linkTo waits for a mail to somebody, and is where its link leads.
func linkTo(t *testing.T, mails *inbox.Inbox, who, path string) (link string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := mails.Wait(ctx, func(m inbox.Mail) bool {
		link = mailedLink.FindString(m.Text)
		return slices.Contains(m.Recipients, who) && strings.HasPrefix(link, path)
	}); err != nil {
		t.Fatalf("no mail to %s: %v", who, err)
	}
	return link
}

// atHome waits for a page of somebody who is signed in, by the name of their account.
func (b *browser) atHome(account string) {
	b.tb.Helper()
	b.until("a page of "+account, "document.readyState === 'complete' && document.querySelector('header .dropdown-menu > div > div')?.textContent === "+quoted(account))
}

func (b *browser) signOut() {
	b.tb.Helper()
	b.do(chromedp.Click("header [data-bs-toggle=dropdown]"), chromedp.WaitVisible("form[action='/sign-out'] button"), chromedp.Click("form[action='/sign-out'] button"))
	b.until("the sign-in", "location.pathname === '/sign-in' && document.querySelector('#account')")
}

// refusedWith waits for what the form says.
func (b *browser) refusedWith(text string) {
	b.tb.Helper()
	b.until("the refusal "+text, "[...document.querySelectorAll('.alert-danger')].some(e => !e.hidden && e.textContent.includes("+quoted(text)+"))")
}

func passkeys(t *testing.T, b *browser, key *authenticator) {
	b.visit("/sign-in?next=/managers")
	b.do(chromedp.WaitVisible("[data-alone]"))
	b.forgive() // what the attacks before were answered with
	b.shoot("sign-in")
	key.recognises(false)
	b.do(chromedp.Click("[data-alone]"))
	b.refusedWith("No passkey was used")
	b.shoot("sign-in-no-passkey")
	key.recognises(true)
	b.do(chromedp.Click("[data-alone]"))
	b.until("the page that was asked for", "location.pathname === '/managers'")
	b.atHome("operator")
	b.wellBehaved("a passkey alone")
	b.signOut()

	b.signIn("operator", "admin", password)
	b.do(chromedp.WaitVisible("#more [data-sign-in]"))
	b.shoot("sign-in-second-factor")
	b.do(chromedp.Click("#more [data-sign-in]"))
	b.atHome("operator")
	b.wellBehaved("a passkey beside the password")
	b.signOut()

	// Where it answers at an address by which it is not known, the page says which is.
	b.do(chromedp.Navigate(strings.Replace(b.base, "localhost", "127.0.0.1", 1)+"/sign-in"), chromedp.WaitVisible("[data-alone]"), chromedp.Click("[data-alone]"))
	b.refusedWith("are for localhost")
	b.forgive()
}

// somebody makes a login, and gives its one-time password.
func somebody(t *testing.T, p *stack.Platform, name, mailAddress string, privileges ...authzv1.Privilege) (login *identityv1.Login, once string) {
	t.Helper()
	login = &identityv1.Login{}
	given := &identityv1.SetOneTimePasswordResponse{}
	if err := p.API.Post(t.Context(), "/v1/logins", &identityv1.Login{Name: name, MailAddress: mailAddress, Privileges: privileges}, login); err != nil {
		t.Fatal(err)
	}
	if err := p.API.Post(t.Context(), "/v1/passwords:setOneTime", &identityv1.SetOneTimePasswordRequest{LoginId: login.GetLoginId()}, given); err != nil {
		t.Fatal(err)
	}
	return login, given.GetPassword()
}

// passkeyIsMade: an account asks for a second factor, and somebody comes who has none and a password for
// one use; the recovery codes that they get let them in.
func passkeyIsMade(t *testing.T, p *stack.Platform) {
	ask := func(needed bool) {
		if err := p.API.Patch(t.Context(), "/v1/signInPolicy", map[string][]string{"updateMask": {"second_factor_required"}}, &identityv1.SignInPolicy{SecondFactorRequired: needed}, &identityv1.SignInPolicy{}); err != nil {
			t.Fatal(err)
		}
	}
	_, once := somebody(t, p, "maker", "", authzv1.Privilege_PRIVILEGE_REPORT)
	ask(true)
	defer ask(false)
	b := open(t, named(p))
	b.authenticator()
	b.visit("/use")
	b.signIn("operator", "maker", once)
	b.do(chromedp.WaitVisible("#more [data-sign-in=create]"))
	b.shoot("sign-in-make-passkey")
	b.do(chromedp.Click("#more [data-sign-in=create]"), chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main .btn-primary:not([data-sign-in])"), chromedp.WaitVisible(".codes"))
	b.shoot("sign-in-recovery-codes")
	code, err := evaluate[string](b, "document.querySelector('.codes code').textContent")
	if err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Click("main a.btn-primary"))
	b.until("the page that was asked for", "location.pathname === '/use'")
	b.wellBehaved("a passkey is made")
	b.signOut()

	b.signIn("operator", "maker", password)
	b.do(chromedp.WaitVisible("#second-factor"), chromedp.SendKeys("#second-factor", code), chromedp.Click("main .btn-primary:not([data-sign-in])"))
	b.atHome("operator")
	b.wellBehaved("a recovery code")
}

func mailedLinks(t *testing.T, p *stack.Platform, mails *inbox.Inbox) {
	_, _ = somebody(t, p, "forgetful", "forgetful@example.org", authzv1.Privilege_PRIVILEGE_REPORT)
	b := open(t, p.REST)
	b.visit("/sign-in")
	b.do(chromedp.Click("a[href='/forgotten-password']"))
	b.until("the form", "location.pathname === '/forgotten-password' && document.querySelector('#login')")
	b.shoot("forgotten-password")
	b.fill("account", "operator")
	b.fill("login", "forgetful")
	b.do(chromedp.Click("main button"))
	b.until("what is said whoever it was", "location.search === '?sent' && document.querySelector('.alert-success')")
	b.shoot("forgotten-password-sent")

	b.visit(linkTo(t, mails, "forgetful@example.org", "/reset-password"))
	b.until("an address without the secret", "location.search === '' && document.querySelector('#again')")
	b.shoot("choose-password")
	choose := func(one, other string) {
		b.fill("password", one)
		b.fill("again", other)
		b.do(chromedp.Click("main button"))
	}
	choose(password, password+"!")
	b.refusedWith("not the same")
	b.forgive()
	choose("password1", "password1")
	b.refusedWith("the new password will not do")
	b.shoot("choose-password-refused")
	b.forgive()
	choose(password, password)
	b.until("the sign-in that says so", "location.pathname === '/sign-in' && document.querySelector('.alert-success')")
	b.shoot("sign-in-password-chosen")
	b.signIn("operator", "forgetful", password)
	b.atHome("operator")
	b.wellBehaved("a mailed link")
	b.signOut()
	b.visit("/reset-password")
	b.refusedWith("not whole")
	b.wellBehaved("a link without its secret")
}

// tokensOf signs somebody in by the API.
func tokensOf(t *testing.T, p *stack.Platform, account, login string) *identityv1.Tokens {
	t.Helper()
	answer := &identityv1.SignInResponse{}
	if err := p.API.Post(t.Context(), "/v1/sessions:signIn", &identityv1.SignInRequest{AccountName: account, LoginName: login, Password: password}, answer); err != nil {
		t.Fatal(err)
	}
	return answer.GetTokens()
}

// switching: a person with logins in two accounts goes from one to the other and back, and is out of both at
// once.
func switching(t *testing.T, p *stack.Platform, mails *inbox.Inbox) {
	if err := p.API.Post(t.Context(), "/v1/accounts", &identityv1.CreateAccountRequest{
		Account: &identityv1.Account{Name: "Acme Ltd"}, AdministratorName: "boss", AdministratorMailAddress: "boss@example.org",
	}, &identityv1.CreateAccountResponse{}); err != nil {
		t.Fatal(err)
	}
	b := open(t, named(p))
	b.visit(linkTo(t, mails, "boss@example.org", "/accept-invitation"))
	b.until("the invitation", "location.search === '' && document.querySelector('#again')")
	b.fill("password", password)
	b.fill("again", password)
	b.do(chromedp.Click("main button"))
	b.until("the sign-in", "location.pathname === '/sign-in'")

	mine, theirs := tokensOf(t, p, "operator", "forgetful"), tokensOf(t, p, "Acme Ltd", "boss")
	var linked struct {
		AccountName string `json:"account_name"`
	}
	if err := b.script(&linked, map[string]any{"mine": mine.GetAccessToken(), "theirs": theirs.GetRefreshToken(), "password": password}, library+`return ask("linkedLogins:link", {refresh_token: theirs, proof: {password}, linked_proof: {password}}, mine)`); err != nil || linked.AccountName != "Acme Ltd" {
		t.Fatalf("linked: %+v, %v", linked, err)
	}

	b.signIn("operator", "forgetful", password)
	b.atHome("operator")
	if menu := menuOf(b); strings.Contains(menu, "/people") {
		t.Fatalf("the menu before: %s", menu)
	}
	const account = "#switch form button"
	choose := func(shows string) {
		b.do(chromedp.Click("header [data-bs-toggle=dropdown]"), chromedp.WaitVisible(account))
		b.until("the accounts", "document.querySelector('#switch').textContent.includes("+quoted(shows)+")")
		b.until("what came late to stand last", "document.querySelector('#switch').nextElementSibling === null")
	}
	choose("Acme Ltd")
	b.shoot("accounts")
	b.do(chromedp.Click(account))
	b.atHome("Acme Ltd")
	if menu := menuOf(b); !strings.Contains(menu, "/people") {
		t.Errorf("the menu there: %s", menu)
	}
	choose("signed in")
	b.shoot("accounts-switched")
	b.do(chromedp.Click(account))
	b.atHome("operator")
	b.wellBehaved("there and back")

	choose("Acme Ltd")
	b.do(chromedp.Click(account))
	b.atHome("Acme Ltd")
	b.signOut()
	b.visit("/now")
	b.until("the sign-in", "location.pathname === '/sign-in'")
	b.wellBehaved("out of both")
	// Of all of them, none is left that the console began.
	login := ask(t, p, "/v1/logins", &identityv1.ListLoginsResponse{})
	for _, l := range login.GetLogins() {
		if l.GetName() != "forgetful" {
			continue
		}
		for _, session := range ask(t, p, "/v1/sessions?login_id="+l.GetLoginId(), &identityv1.ListSessionsResponse{}).GetSessions() {
			if strings.Contains(session.GetUserAgent(), "Chrome") {
				t.Errorf("still signed in: %v", session)
			}
		}
	}
}

// identityProvider starts npm's oidc-provider, and returns its issuer.
func identityProvider(t *testing.T, clientID, secret, redirect string) string {
	t.Helper()
	module, err := filepath.Abs("../../.cache/npm/oidc-provider/node_modules/oidc-provider/lib/index.js")
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	if _, missing := os.Stat(module); err != nil || missing != nil {
		t.Skip("NOT TESTED: the console's single sign-on; tools/bootstrap.sh test installs the provider where there is npm")
	}
	cmd := exec.CommandContext(t.Context(), node, "../../services/identity/sso/testdata/provider.mjs", module, clientID, secret, redirect)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait() // it ends with its input, or is killed with the test's context
	})
	issuer, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the provider did not start: %v", err)
	}
	return strings.TrimSpace(issuer)
}

func singleSignOn(t *testing.T, p *stack.Platform) {
	b := open(t, p.REST)
	b.visit("/sign-in?next=/use")
	const button = "[hx-post='/sign-in/single-sign-on']"
	b.do(chromedp.WaitVisible(button), chromedp.Click(button))
	b.refusedWith("type the name of your account first")
	b.do(chromedp.SendKeys("#account", "operator"), chromedp.Click(button))
	b.refusedWith("no account of this name with single sign-on")
	b.shoot("sign-in-no-single-sign-on")

	const clientID, secret = "cetrus", "a secret of this test run"
	before := ask(t, p, "/v1/identityProvider", &identityv1.IdentityProvider{})
	issuer := identityProvider(t, clientID, secret, before.GetRedirectUrl())
	if err := p.API.Patch(t.Context(), "/v1/identityProvider", nil, &identityv1.IdentityProvider{
		Enabled: true, Issuer: issuer, ClientId: clientID, ClientSecret: secret, Scopes: []string{"profile", "email", "groups"}, CreateLogins: true,
		GroupMappings: []*identityv1.GroupMapping{{Group: "analysts", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}}},
	}, &identityv1.IdentityProvider{}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Click(button))
	b.until("the provider's own page", "location.href.startsWith("+quoted(issuer)+") && document.querySelector('[name=login]')")
	b.do(chromedp.SendKeys("[name=login]", "grace"), chromedp.SendKeys("[name=password]", "any"), chromedp.Click("button[type=submit]"))
	b.until("the question whether she agrees", "location.href.startsWith("+quoted(issuer)+") && document.querySelector('[name=prompt][value=consent]')")
	b.do(chromedp.Click("button[type=submit]"))
	b.until("the page that was asked for", "location.pathname === '/use' && location.host === "+quoted(strings.TrimPrefix(p.REST, "http://")))
	b.atHome("operator")
	b.until("her name", "document.querySelector('header').textContent.includes('grace of the provider')")
	b.forgive() // the provider's pages are not ours to judge
	b.signOut()

	// Nobody comes in by an answer that this browser did not ask for.
	b.visit(strings.TrimPrefix(before.GetRedirectUrl(), p.REST) + "?" + "state=x&code=y&iss=" + issuer)
	b.refusedWith("begin it again")
	b.shoot("sign-in-single-sign-on-refused")
	cookies, err := evaluate[string](b, "document.cookie")
	if text, jsonErr := json.Marshal(cookies); err != nil || jsonErr != nil || cookies != "" {
		t.Errorf("cookies that a script reads: %s %v", text, err)
	}
}
