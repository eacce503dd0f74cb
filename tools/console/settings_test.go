package console

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/stack"
)

func changesSettings(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/account-settings")
	b.fill("time_zone", "Nowhere/At all")
	b.fill("person_days", "400")
	b.press("Save")
	b.until("what is wrong with the zone, and what was typed", "document.querySelector('.invalid-feedback, [data-refused]') && document.querySelector('[name=person_days]').value === '400'")
	b.shoot("account-settings-refused")
	b.forgive()
	b.fill("time_zone", "Europe/Vienna")
	b.fill("person_days", "")
	b.fill("pause_reasons", "Lunch")
	b.press("Save")
	b.notice("The settings are changed")
	b.shoot("account-settings")
	set := ask(t, p, "/v1/meteringSettings", &meteringv1.Settings{})
	if set.GetTimeZone() != "Europe/Vienna" || set.GetPerson().GetPauseReasons()[0].GetLabel() != "Lunch" || !set.GetPauseAllowed() {
		t.Errorf("the API knows %v", set)
	}

	b.visit("/sign-in-settings")
	b.do(chromedp.Click("main input[name=links_forbidden]"))
	b.do(chromedp.Click("main form[action='/sign-in-settings'] button"))
	b.notice("What is asked of those who sign in")
	if got := ask(t, p, "/v1/signInPolicy", &identityv1.SignInPolicy{}); !got.GetLinksForbidden() || got.GetSecondFactorRequired() {
		t.Errorf("the API knows %v", got)
	}
	const mappings = "form[action='/sign-in-settings/provisioning'] [name=group_mappings]"
	b.do(chromedp.SendKeys(mappings, "Engineers: Report, Nothing"), chromedp.Click("main form[action='/sign-in-settings/provisioning'] button"))
	b.until("the line that is wrong", "document.activeElement.value === 'Engineers: Report, Nothing' && document.querySelector('.invalid-feedback').textContent.includes('line 1')")
	b.forgive()
	if _, err := evaluate[bool](b, "document.querySelector(\""+mappings+"\").value = 'Engineers: Report', true"); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Click("main form[action='/sign-in-settings/provisioning'] button"))
	b.notice("Provisioning is changed")
	if got := ask(t, p, "/v1/provisioning", &identityv1.Provisioning{}); len(got.GetGroupMappings()) != 1 || got.GetEnabled() {
		t.Errorf("the API knows %v", got)
	}
	b.press("Make the key")
	b.shownOnce()
	b.press("I have kept it: go on")
	b.until("the settings", "location.pathname === '/sign-in-settings'")
	b.shoot("sign-in-settings")

	b.visit("/audit-log?kind=cetrus.identity.signin.")
	b.until("what was changed before", "document.querySelectorAll('tbody tr').length === 1 && document.querySelector('ins')")
	b.shoot("audit-log")
	exported, err := evaluateAwaited[string](b, "fetch([...document.querySelectorAll('main a')].find(a => a.href.includes('format=csv')).href).then(r => r.ok && r.headers.get('Content-Disposition') || '')")
	if err != nil || !strings.HasPrefix(exported, "attachment") {
		t.Errorf("the export is %q, %v", exported, err)
	}
}

// evaluateAwaited waits for what a promise gives.
func evaluateAwaited[T any](b *browser, script string) (T, error) {
	return chromedp.Run(b.ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

func changesOwn(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/my-data")
	b.until("nothing of one who is nobody at the desktops, and nothing to correct", "document.querySelector('.empty') && !document.querySelector('main form')")
	b.shoot("my-data-empty")
	b.visit("/corrections")
	b.until("none", "document.querySelector('.empty')")
	b.shoot("corrections-empty")

	b.visit("/me")
	b.shoot("me")
	b.do(chromedp.SendKeys("main form[action='/me/password'] [name=password]", "wrong"), chromedp.SendKeys("main form[action='/me/password'] [name=new_password]", password+"!"))
	b.press("Change the password")
	b.until("the refusal, without what was typed", "document.querySelector('.invalid-feedback, [data-refused]') && document.querySelector('[name=password]').value === ''")
	b.forgive()
	b.do(chromedp.SendKeys("main form[action='/me/password'] [name=password]", password), chromedp.SendKeys("main form[action='/me/password'] [name=new_password]", password+"!"))
	b.press("Change the password")
	b.notice("Your password is changed")

	b.do(chromedp.SendKeys("main form[action='/me/totp'] [name=password]", password+"!"))
	b.press("Set it up")
	secret := b.shownOnce()
	b.shoot("me-totp")
	b.fill("code", "000000")
	b.press("It shows this code")
	b.until("the code asked for again", "location.pathname === '/me/totp/confirm' && document.querySelector('[name=code]') && document.querySelector('.invalid-feedback, [data-refused]')")
	b.forgive()
	code, err := codeOf(secret, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.fill("code", code)
	b.press("It shows this code")
	if b.shownOnce() == "" {
		t.Error("there are no recovery codes")
	}
	b.press("I have kept it: go on")
	b.press("Remove it")
	b.fill("password", password+"!")
	b.press("Remove it")
	b.notice("The authenticator program is removed")
	admin := ask(t, p, "/v1/logins", &identityv1.ListLoginsResponse{}).GetLogins()[0].GetLoginId()
	if got := ask(t, p, "/v1/secondFactor?login_id="+admin, &identityv1.SecondFactor{}); got.GetTotp() {
		t.Errorf("the API knows %v", got)
	}

	if _, err := chromedp.Call(b.ctx, webauthn.Enable, webauthn.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(b.ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}}); err != nil {
		t.Fatal(err)
	}
	b.visit("/me")
	b.do(chromedp.WaitVisible("main [data-passkey] [name=password]"), chromedp.SendKeys("main [data-passkey] [name=password]", "wrong"))
	b.press("Register a passkey")
	b.until("the refusal", "!document.querySelector('[data-passkey-refused]').hidden && !document.querySelector('[data-passkey] button').disabled")
	b.forgive()
	if _, err := evaluate[bool](b, "document.querySelector('main [data-passkey] [name=password]').value = '', true"); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SendKeys("main [data-passkey] [name=password]", password+"!"))
	b.press("Register a passkey")
	b.shownOnce()
	b.press("I have kept it: go on")
	b.until("the passkey", "document.querySelector('main a[href$=remove]')")
	b.shoot("me-passkey")
	b.press("Remove")
	b.fill("password", password+"!")
	b.press("Remove the passkey")
	b.notice("The passkey is removed")
	if left := ask(t, p, "/v1/passkeys?login_id="+admin, &identityv1.ListPasskeysResponse{}).GetPasskeys(); len(left) > 0 {
		t.Errorf("there are still %v", left)
	}
}

// codeOf is what an authenticator program shows: RFC 6238 with its defaults.
func codeOf(secret string, at time.Time) (string, error) {
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(secret)
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha1.New, key)
	if err := binary.Write(mac, binary.BigEndian, at.Unix()/30); err != nil {
		return "", err
	}
	sum := mac.Sum(nil)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[19]&15:])&0x7fffffff%1_000_000), nil
}

// The guide is where an administrator begins while there is no agent, and its steps turn green by
// themselves.
func showsGuide(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/")
	b.until("the guide", "location.pathname === '/start' && document.querySelector('[data-step=next] h2').textContent === 'Create a Manager'")
	b.shoot("start")
	var made identityv1.CreateManagerResponse
	if err := p.API.Post(t.Context(), "/v1/managers", &identityv1.Manager{DisplayName: "Graz"}, &made); err != nil {
		t.Fatal(err)
	}
	b.until("the next step, without a reload", "document.querySelectorAll('[data-step=done]').length === 1 && document.querySelector('[data-step=next] h2').textContent === 'Install it'")
}

// Who is bound to a person of the desktops sees what is recorded of them, and may ask for a
// correction.
func bindsAPerson(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/people")
	b.do(chromedp.Click("tbody th a"))
	b.until("the people of the desktops", "document.querySelectorAll('main [name=principal_id] option').length === 3")
	b.press("It is theirs")
	b.notice("sees what is recorded of that person")
	b.shoot("login-bound")
	b.visit("/my-data")
	b.until("what is recorded", "document.querySelectorAll('tbody tr').length > 0")
	b.shoot("my-data")
	exported, err := evaluateAwaited[string](b, "fetch('/my-data/export?format=csv').then(r => r.text())")
	if err != nil || strings.Count(exported, "\n") < 2 {
		t.Errorf("the export is %q, %v", exported, err)
	}
	b.fill("text", "I was at lunch.")
	b.press("Ask for a correction")
	b.notice("administrators see")
	b.visit("/corrections")
	b.until("what was asked for", "document.querySelector('tbody')?.textContent.includes('I was at lunch.')")
	b.shoot("corrections")
	b.visit("/agents")
	b.do(chromedp.Click("tbody th a"))
	b.until("one agent", "document.querySelector('a[href$=revoke]')")
	b.shoot("agent")
	b.press("Keep out")
	b.until("the question", "document.querySelector('main .btn-danger')")
	b.shoot("agent-revoke")
	b.press("Leave it as it is")
	b.press("Leave out")
	b.press("Leave it out") // until it is heard of again
	b.notice("The agent is listed no more")
	b.visit("/principals")
	b.until("three people, one of them with a login", "document.querySelectorAll('tbody tr').length === 3 && document.querySelectorAll('tbody td a[href^=\"/people/\"]').length === 1")
	b.shoot("principals")
	b.wellBehaved("binding")
}
