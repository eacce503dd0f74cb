package console

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// library is what a page of Cetrus has for passkeys.
const library = `
const ask = async (path, body, token) => {
	const answer = await fetch("/v1/" + path, {method: "POST", headers: token ? {"Authorization": "Bearer " + token} : {}, body: JSON.stringify(body)});
	const json = await answer.json();
	if (!answer.ok) throw new Error(path + " " + answer.status + ": " + JSON.stringify(json));
	return json;
};
const create = async (c) => ({challenge_token: c.challenge_token, credential: (await navigator.credentials.create({publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(c.options.publicKey)})).toJSON()});
const get = async (c) => ({challenge_token: c.challenge_token, credential: (await navigator.credentials.get({publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(c.options.publicKey)})).toJSON()});
`

// signedIn is what a sign-in answers.
type signedIn struct {
	Outcome string
	Tokens  struct {
		AccessToken string `json:"access_token"`
	}
	Session struct {
		SecondFactor bool `json:"second_factor"`
	}
	RecoveryCodes    []string        `json:"recovery_codes"`
	PasskeyChallenge json.RawMessage `json:"passkey_challenge"`
}

// post asks the platform from outside of any browser.
func post(t *testing.T, origin, path string, body any) (status int, answer string) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, origin+"/v1/"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(said)
}

// passkeysOfTheAPI registers a passkey of the first administrator, and tries it as a person would and as an
// attacker.
func passkeysOfTheAPI(t *testing.T, b *browser, authenticator *authenticator, first string) {
	origin := b.base
	names := map[string]any{"account_name": "operator", "login_name": "admin", "password": password}
	do := func(out any, values map[string]any, body string) error { return b.script(out, values, library+body) }

	b.visit("/sign-in")
	var in signedIn
	if err := do(&in, map[string]any{"first": first, "password": password}, `return ask("sessions:signIn", {account_name: "operator", login_name: "admin", password: first, new_password: password})`); err != nil {
		t.Fatal(err)
	}
	var made struct {
		Passkey struct {
			DisplayName  string `json:"display_name"`
			RelyingParty string `json:"relying_party"`
		}
		RecoveryCodes []string `json:"recovery_codes"`
	}
	token := map[string]any{"token": in.Tokens.AccessToken, "password": password}
	if err := do(&made, token, `
		const answer = await create(await ask("passkeys:beginRegistration", {password}, token));
		return ask("passkeys:finishRegistration", {...answer, display_name: "Laptop"}, token)`); err != nil {
		t.Fatal(err)
	}
	if made.Passkey.DisplayName != "Laptop" || made.Passkey.RelyingParty != "localhost" || len(made.RecoveryCodes) == 0 {
		t.Errorf("registered: %+v", made)
	}
	// The browser knows that this authenticator has one.
	if err := do(&made, token, `return create(await ask("passkeys:beginRegistration", {password}, token))`); err == nil || !strings.Contains(err.Error(), "InvalidStateError") {
		t.Errorf("registered twice: %v", err)
	}

	var alone struct {
		In   signedIn
		Body json.RawMessage
	}
	if err := do(&alone, nil, `
		const Body = {passkey: await get(await ask("sessions:beginPasskeySignIn", {}))};
		return {Body, In: await ask("sessions:signInWithPasskey", Body)}`); err != nil {
		t.Fatal(err)
	}
	if alone.In.Outcome != "SIGN_IN_OUTCOME_SIGNED_IN" || !alone.In.Session.SecondFactor {
		t.Errorf("by the passkey alone: %+v", alone.In)
	}
	if status, said := post(t, origin, "sessions:signInWithPasskey", alone.Body); status != http.StatusUnauthorized {
		t.Errorf("replayed: %d %s", status, said)
	}
	var list struct {
		Passkeys []struct {
			DisplayName string `json:"display_name"`
		}
	}
	if err := do(&list, map[string]any{"token": alone.In.Tokens.AccessToken}, `return (await fetch("/v1/passkeys", {headers: {"Authorization": "Bearer " + token}})).json()`); err != nil || len(list.Passkeys) != 1 {
		t.Errorf("what its token is good for: %+v, %v", list, err)
	}

	authenticator.recognises(false)
	if err := do(&in, nil, `return get(await ask("sessions:beginPasskeySignIn", {}))`); err == nil || !strings.Contains(err.Error(), "NotAllowedError") {
		t.Errorf("by somebody whom it does not recognise: %v", err)
	}
	authenticator.recognises(true)
	var second struct{ Asked, In signedIn }
	if err := do(&second, map[string]any{"names": names}, `
		const Asked = await ask("sessions:signIn", names);
		return {Asked, In: await ask("sessions:signIn", {...names, passkey: await get(Asked.passkey_challenge)})}`); err != nil {
		t.Fatal(err)
	}
	if second.Asked.Outcome != "SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED" || second.Asked.Tokens.AccessToken != "" || second.In.Outcome != "SIGN_IN_OUTCOME_SIGNED_IN" || !second.In.Session.SecondFactor {
		t.Errorf("beside the password: %+v", second)
	}

	// Another program's page on this machine has the same host name, so that the browser lets it ask.
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!DOCTYPE html><title>elsewhere</title>")
	}))
	defer elsewhere.Close()
	ask := func() (challenge json.RawMessage) {
		status, said := post(t, origin, "sessions:beginPasskeySignIn", struct{}{})
		if status != http.StatusOK {
			t.Fatal(status, said)
		}
		return json.RawMessage(said)
	}
	b.do(chromedp.Navigate(strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1)))
	var phished json.RawMessage
	if err := do(&phished, map[string]any{"challenge": ask()}, `return get(challenge)`); err != nil {
		t.Fatal(err)
	}
	if status, said := post(t, origin, "sessions:signInWithPasskey", map[string]any{"passkey": phished}); status != http.StatusUnauthorized || !strings.Contains(said, "SIGN_IN_REFUSED") {
		t.Errorf("answered from another origin: %d %s", status, said)
	}
	b.do(chromedp.Navigate(elsewhere.URL))
	if err := do(&phished, map[string]any{"challenge": ask()}, `return get(challenge)`); err == nil || !strings.Contains(err.Error(), "SecurityError") {
		t.Errorf("asked from another host: %v", err)
	}
}
