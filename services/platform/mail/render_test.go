package mail

import (
	"flag"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	at      = time.Date(2026, 11, 28, 21, 4, 5, 0, time.UTC)
	from    = Origin{Address: netip.MustParseAddr("2001:db8::7"), Device: Device("Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0")}
	person  = Recipient{Name: "Zoë Obi-Dvořák", Address: "zoe@example.com", Account: "Brücken & Söhne"}
	samples = map[string]Content{
		"password-reset":            PasswordReset{Login: "zoë", Secret: "s3cret_-", At: at, Expires: at.Add(time.Hour), From: Origin{Address: from.Address}},
		"password-reset-bare":       PasswordReset{Login: "zoë", Secret: "s3cret_-", At: at, Expires: at.Add(time.Hour)},
		"invitation":                Invitation{Login: "zoë", Secret: "s3cret_-", Expires: at.Add(72 * time.Hour)},
		"password-changed":          PasswordChanged{Login: "zoë", At: at, From: from},
		"password-changed-by-other": PasswordChanged{Login: "zoë", At: at, ByAdministrator: true},
		"passkey-added":             SecondFactorChanged{Login: "zoë", What: "a passkey", At: at, From: from},
		"passkey-removed":           SecondFactorChanged{Login: "zoë", What: "a passkey", Removed: true, At: at, From: from},
		"totp-removed-by-other":     SecondFactorChanged{Login: "zoë", What: "an authenticator program", Removed: true, At: at, ByAdministrator: true},
		"passkey-suspended":         PasskeySuspended{Login: "zoë", At: at, From: from},
		"address-changed":           AddressChanged{Login: "zoë", At: at},
		"logins-linked":             LoginsLinked{Login: "zoë", OtherLogin: "z.obi", OtherAccount: "Office <3>", At: at, From: from},
		"logins-unlinked":           LoginsLinked{Login: "zoë", Ended: true, At: at, From: from},
		"logins-unlinked-by-other":  LoginsLinked{Login: "zoë", OtherLogin: "z.obi", OtherAccount: "Office <3>", Ended: true, ByOther: true, At: at},
		"new-device":                NewDevice{Login: "zoë", At: at, From: from},
		"api-key-made":              APIKeyMade{Login: "zoë", Key: "nightly <export>", Privileges: []string{"Report"}, Expires: at.AddDate(1, 0, 0), At: at, From: from},
		"privileges-changed":        PrivilegesChanged{Login: "zoë", Given: []string{"Report", "Purchasing", "Financial"}, Taken: []string{"Account Administrator"}, At: at},
		"report":                    Report{Report: "5c1d0a3e-0000-8000-8000-000000000001", Name: "Idle <CAD>", Kind: "Idle", Period: "2026-10-01 to 2026-10-31, Europe/Vienna", Owner: "Ada & Co", At: at, File: "idle.xlsx"},
		"report-too-large":          Report{Report: "5c1d0a3e-0000-8000-8000-000000000001", Name: "All runs", Kind: "Runs", At: at, ByHand: true, TooLarge: true},
		"maintenance":               Maintenance{Starts: at.Add(24 * time.Hour), Ends: at.Add(26 * time.Hour), What: "The database moves to a larger machine."},
	}
)

func render(t *testing.T, to Recipient, c Content) rendered {
	t.Helper()
	public, err := url.Parse("https://cetrus.example.com")
	if err != nil {
		t.Fatal(err)
	}
	all, err := loadTemplates()
	if err != nil {
		t.Fatal(err)
	}
	words, err := all.render(public, to, c)
	if err != nil {
		t.Fatal(err)
	}
	return words
}

// Every content says what its golden files say; `go test -update` writes them anew.
func TestGolden(t *testing.T) {
	seen := map[reflect.Type]bool{}
	for name, c := range samples {
		seen[reflect.TypeOf(c)] = true
		words := render(t, person, c)
		for ext, got := range map[string]string{"txt": "Subject: " + words.subject + "\n\n" + words.text, "html": words.html} {
			file := filepath.Join("testdata", name+"."+ext)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s: -want +got\n%s", file, diff)
			}
		}
	}
	for _, c := range contents() {
		if !seen[reflect.TypeOf(c)] {
			t.Errorf("%T has no golden file", c)
		}
	}
}

// What an account's name or a login holds is shown as text in HTML, and is one line.
func TestWordsOfOthersStayWords(t *testing.T) {
	const bad = "<script>alert(1)</script>\r\n\r\nClick \u202Ehttp://evil"
	words := render(t, Recipient{Name: bad, Account: bad}, PasswordReset{Login: bad, Secret: bad, At: at, Expires: at})
	if strings.Contains(words.html, "<script") {
		t.Error("HTML of a name is HTML of the mail")
	}
	for _, form := range []string{words.subject, words.text, words.html} {
		if strings.Contains(form, "\nClick") || strings.ContainsAny(form, "\r\u202E") {
			t.Errorf("a name made a line of its own: %q", form)
		}
	}
}

// A user agent is whatever a stranger wrote; of it only known words are told.
func TestDevice(t *testing.T) {
	for agent, want := range map[string]string{
		"": "", "Your account is lost, call +49 …": "",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0": "Edge on Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/605.1.15":         "Safari on macOS",
		"Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36":         "Chrome on Android",
		"curl/8.5.0": "curl", "Mozilla/5.0 (Windows NT 10.0)": "an unknown program on Windows",
	} {
		if got := Device(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}
