package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
)

// patience is how long a page may take to come to what a test waits for: the machine may be busy
// with other tests.
const patience = 2 * time.Minute

// browser is a tab of its own browser, with what went wrong in it.
type browser struct {
	tb   testing.TB
	ctx  context.Context
	base string

	mu       sync.Mutex
	messages []string // errors and warnings that pages wrote, or that were written of them
	strange  []string // addresses of other hosts that were asked for
}

// open starts a browser before a platform, with nobody signed in.
func open(t *testing.T, base string) *browser {
	t.Helper()
	if _, err := exec.LookPath("chromium"); err != nil {
		t.Fatal("chromium is missing; tools/bootstrap.sh test installs it")
	}
	// Its own look for updates and news would wait for a network that tests have not. Its sandbox needs
	// more than a root in a container has; it sees our own pages alone.
	allocator, end := chromedp.NewExecAllocator(t.Context(), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(patience),
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-dev-shm-usage", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("disable-quic", true))
	t.Cleanup(end)
	ctx, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	b := &browser{tb: t, ctx: ctx, base: base}
	// The browser lives as long as the context of the first step.
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatal(err)
	}
	messages, requests := chromedp.Console(ctx), chromedp.Events(ctx, network.RequestWillBeSent)
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	t.Cleanup(func() { closeTab(); readers.Wait() })
	readers.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			if kind := string(m.Type); kind == "error" || kind == "warning" || kind == string(chromedp.ConsoleException) || m.Source == "security" {
				b.note(&b.messages, fmt.Sprintf("%s %s: %s (%s)", m.Type, m.Source, m.Text, m.URL))
			}
		}
	})
	readers.Go(func() {
		for sent, err := range requests {
			if err != nil {
				return
			}
			if u, err := url.Parse(sent.Request.URL); err == nil && u.Scheme != "data" && !strings.HasPrefix(sent.Request.URL, base) {
				b.note(&b.strange, sent.Request.URL)
			}
		}
	})
	return b
}

func (b *browser) note(list *[]string, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	*list = append(*list, text)
}

// do takes steps, and fails the test where one does not end in time.
func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		at, _ := evaluate[string](b, "location.href + ' ' + document.body.innerText.slice(0, 600)")
		b.tb.Fatalf("%v; the page is %s", err, at)
	}
}

// in has pages read in a time zone; empty: that of this machine.
func (b *browser) in(zone string) {
	b.tb.Helper()
	if _, err := chromedp.Call(b.ctx, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: zone}); err != nil {
		b.tb.Fatal(err)
	}
}

// visit opens a page of the console.
func (b *browser) visit(path string) {
	b.tb.Helper()
	b.do(chromedp.Navigate(b.base + path))
}

func evaluate[T any](b *browser, script string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](script))
}

// until waits for a condition of the page, written in JavaScript.
func (b *browser) until(what, condition string) {
	b.tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		// A page that is just leaving cannot be asked.
		if holds, err := evaluate[bool](b, "Boolean("+condition+")"); err == nil && holds {
			return
		} else if time.Now().After(deadline) {
			at, _ := evaluate[string](b, "location.href + ' ' + document.body.innerText.slice(0, 600)")
			b.tb.Fatalf("waited %v for %s (%v); the page is %s", patience, what, err, at)
		}
		<-time.After(100 * time.Millisecond)
	}
}

// wellBehaved fails the test for what pages did wrong since it was last asked.
func (b *browser) wellBehaved(where string) {
	b.tb.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range b.messages {
		b.tb.Errorf("%s: the browser's console says: %s", where, m)
	}
	for _, u := range b.strange {
		b.tb.Errorf("%s: another host was asked for %s", where, u)
	}
	b.messages, b.strange = nil, nil
}

// forgive forgets what pages did wrong, where the test is about just that.
func (b *browser) forgive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.messages, b.strange = nil, nil
}

// on has an action done in a window, within patience.
func on[T any](b *browser, what string, action chromedp.Action[T]) T {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		b.tb.Fatalf("%s: %v", what, err)
	}
	return value
}

// call is an action of one command of the DevTools protocol.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[R] {
	return func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, command, params) }
}

// script runs the body of an asynchronous function in the page, with values as its variables, and
// reads what it returns into out, or tells what it threw.
func (b *browser) script(out any, values map[string]any, body string) error {
	b.tb.Helper()
	if values == nil {
		values = map[string]any{}
	}
	given, err := json.Marshal(values)
	if err != nil {
		b.tb.Fatal(err)
	}
	names := strings.Join(slices.Sorted(maps.Keys(values)), ", ")
	whole := fmt.Sprintf(`(async () => {
		try { return JSON.stringify({result: await (async ({%s}) => { %s })(%s) ?? null}) } catch (e) { return JSON.stringify({threw: e.name + ": " + e.message}) }
	})()`, names, body, given)
	var answer struct {
		Result json.RawMessage `json:"result"`
		Threw  string          `json:"threw"`
	}
	text := on(b, "a script", chromedp.Evaluate[string](whole, chromedp.EvalAwaitPromise))
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		b.tb.Fatalf("a script answered %q: %v", text, err)
	}
	if answer.Threw != "" {
		return fmt.Errorf("browser: %s", answer.Threw)
	}
	if err := json.Unmarshal(answer.Result, out); err != nil {
		return fmt.Errorf("browser: %s: %w", answer.Result, err)
	}
	return nil
}

// authenticator keeps passkeys.
type authenticator struct {
	b  *browser
	id webauthn.AuthenticatorID
}

// authenticator gives the browser one, built in as a laptop's, which recognises its person.
func (b *browser) authenticator() *authenticator {
	b.tb.Helper()
	on(b, "passkeys", call(webauthn.Enable, webauthn.EnableParams{}))
	added := on(b, "an authenticator", call(webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
		HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
	}}))
	return &authenticator{b: b, id: added.AuthenticatorID}
}

// recognises has it recognise its person from now on, or not.
func (a *authenticator) recognises(person bool) {
	a.b.tb.Helper()
	on(a.b, "the authenticator", call(webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: a.id, IsUserVerified: person}))
}

// widths are those of a phone, a tablet and a desk.
var widths = []struct {
	name          string
	width, height int64
}{{"phone", 390, 844}, {"tablet", 820, 1180}, {atDesk, 1440, 900}}

const atDesk = "desk"

// atRest has what changes its colours little by little be done with it: halfway they are nobody's.
const atRest = `document.getAnimations().every(a => a.effect.getComputedTiming().endTime === Infinity || a.finish() === undefined)`

// shoot writes what a page looks like, at each width and at a desk in the dark, and has axe judge
// it, light and dark.
func (b *browser) shoot(name string) {
	b.tb.Helper()
	for _, theme := range []string{"light", "dark"} {
		if _, err := evaluate[bool](b, "document.documentElement.setAttribute('data-bs-theme', '"+theme+"') === undefined && "+atRest); err != nil {
			b.tb.Fatal(err)
		}
		for _, w := range widths {
			if theme == "dark" && w.name != atDesk {
				continue // colours are the same at every width
			}
			b.do(chromedp.EmulateViewport(w.width, w.height))
			if wide, err := evaluate[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); err != nil || wide > 0 {
				b.tb.Errorf("%s, %s: the page is %d pixels wider than the screen (%v)", name, w.name, wide, err)
			}
			ctx, cancel := context.WithTimeout(b.ctx, patience)
			picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
			cancel()
			if err != nil {
				b.tb.Fatal(err)
			}
			file := filepath.Join("..", "..", "out", "screens", name+"-"+w.name+"-"+theme+".png")
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, picture, 0o644)); err != nil {
				b.tb.Fatal(err)
			}
		}
		b.judge(name + ", " + theme)
	}
}

// judge fails the test for what axe-core finds serious.
func (b *browser) judge(where string) {
	b.tb.Helper()
	axe, err := os.ReadFile(filepath.Join("..", "..", ".cache", "npm", "axe-core", "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		if _, missing := exec.LookPath("npm"); missing == nil {
			b.tb.Fatalf("%s is not judged by axe-core: %v; tools/bootstrap.sh test installs it", where, err)
		}
		b.tb.Logf("%s: NOT JUDGED BY AXE-CORE: %v; tools/bootstrap.sh test installs it where there is npm", where, err)
		return
	}
	if loaded, err := evaluate[bool](b, "typeof axe !== 'undefined'"); err != nil {
		b.tb.Fatal(err)
	} else if !loaded {
		if _, err := evaluate[bool](b, string(axe)+"; true"); err != nil {
			b.tb.Fatal(err)
		}
	}
	if _, err := evaluate[bool](b, atRest); err != nil {
		b.tb.Fatal(err)
	}
	const script = `axe.run().then(r => r.violations.filter(v => v.impact === "serious" || v.impact === "critical").map(v =>
		v.id + ": " + v.help + " " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + " " + n.failureSummary.replace(/\s+/g, " ").slice(0, 240)).join(" | ")))`
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](script, chromedp.EvalAwaitPromise))
	if err != nil {
		b.tb.Fatal(err)
	}
	for _, f := range found {
		b.tb.Errorf("%s: axe-core finds serious: %s", where, f)
	}
}
