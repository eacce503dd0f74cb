package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
)

// patience is how long a browser may take for one thing, on a busy machine.
const patience = 2 * time.Minute

// Browser is one window of a browser.
type Browser struct {
	t   testing.TB
	ctx context.Context
}

// Open starts a browser that ends with the test.
func Open(t testing.TB) *Browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("no Chromium here: tools/bootstrap.sh test installs it: %v", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:len(chromedp.DefaultExecAllocatorOptions):len(chromedp.DefaultExecAllocatorOptions)],
		chromedp.ExecPath(path), chromedp.WSURLReadTimeout(patience),
		chromedp.NoSandbox, // needs more than a root in a container has; it sees our own pages alone
		chromedp.DisableGPU, chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-dev-shm-usage", true),
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("the browser's end: %v", err)
		}
		stop()
		stopAllocator()
	})
	b := &Browser{t: t, ctx: ctx}
	// The first of all starts it, and must not be given less than its life.
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("Chromium does not start: %v", err)
	}
	return b
}

// on has an action done in a window, within patience.
func on[T any](b *Browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
	return value
}

// call is an action of one command of the DevTools protocol.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[R] {
	return func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, command, params) }
}

// Visit opens an address.
func (b *Browser) Visit(url string) {
	b.t.Helper()
	on(b, "visiting "+url, chromedp.Navigate(url))
}

// Do runs the body of an asynchronous function in the page, with values as its variables, and
// reads what it returns into out, or tells what it threw.
func (b *Browser) Do(out any, values map[string]any, body string) error {
	b.t.Helper()
	if values == nil {
		values = map[string]any{}
	}
	given, err := json.Marshal(values)
	if err != nil {
		b.t.Fatal(err)
	}
	names := strings.Join(slices.Sorted(maps.Keys(values)), ", ")
	script := fmt.Sprintf(`(async () => {
		try { return JSON.stringify({result: await (async ({%s}) => { %s })(%s) ?? null}) } catch (e) { return JSON.stringify({threw: e.name + ": " + e.message}) }
	})()`, names, body, given)
	var answer struct {
		Result json.RawMessage `json:"result"`
		Threw  string          `json:"threw"`
	}
	text := on(b, "a script", chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise))
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		b.t.Fatalf("a script answered %q: %v", text, err)
	}
	if answer.Threw != "" {
		return fmt.Errorf("browser: %s", answer.Threw)
	}
	if err := json.Unmarshal(answer.Result, out); err != nil {
		return fmt.Errorf("browser: %s: %w", answer.Result, err)
	}
	return nil
}

// Authenticator keeps passkeys.
type Authenticator struct {
	b  *Browser
	id webauthn.AuthenticatorID
}

// Authenticator gives the window one, built in as a laptop's, which recognises its person.
func (b *Browser) Authenticator() *Authenticator {
	b.t.Helper()
	on(b, "passkeys", call(webauthn.Enable, webauthn.EnableParams{}))
	added := on(b, "an authenticator", call(webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}}))
	return &Authenticator{b: b, id: added.AuthenticatorID}
}

// Recognises has it recognise its person from now on, or not.
func (a *Authenticator) Recognises(person bool) {
	a.b.t.Helper()
	on(a.b, "the authenticator", call(webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: a.id, IsUserVerified: person}))
}
