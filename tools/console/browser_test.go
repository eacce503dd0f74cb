package console

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
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
		t.Skip("THE CONSOLE IS NOT TRIED: chromium is missing; tools/bootstrap.sh test installs it")
	}
	// Its own look for updates and news would wait for a network that tests have not.
	allocator, end := chromedp.NewExecAllocator(t.Context(), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Flag("disable-background-networking", true),
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

// widths are those of a phone, a tablet and a desk.
var widths = []struct {
	name          string
	width, height int64
}{{"phone", 390, 844}, {"tablet", 820, 1180}, {"desk", 1440, 900}}

// shoot writes what a page looks like, at each width, light and dark, and has axe judge it.
func (b *browser) shoot(name string) {
	b.tb.Helper()
	for _, theme := range []string{"light", "dark"} {
		if _, err := evaluate[bool](b, "document.documentElement.setAttribute('data-bs-theme', '"+theme+"') === undefined"); err != nil {
			b.tb.Fatal(err)
		}
		for _, w := range widths {
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
