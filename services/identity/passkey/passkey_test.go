package passkey

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/proto/contract"
)

func TestWherePasskeysAreOffered(t *testing.T) {
	for url, want := range map[string]struct{ id, origin string }{
		"https://cetrus.example.com":          {"cetrus.example.com", "https://cetrus.example.com"},
		"https://Cetrus.Example.com:443/sub/": {"cetrus.example.com", "https://cetrus.example.com"},
		"https://cetrus.example.com:8443":     {"cetrus.example.com", "https://cetrus.example.com:8443"},
		"http://localhost:8080":               {"localhost", "http://localhost:8080"},
		"http://127.0.0.1:8080":               {"localhost", "http://localhost:8080"},
		"http://[::1]:8080":                   {"localhost", "http://localhost:8080"},
		"http://cetrus.localhost":             {"cetrus.localhost", "http://cetrus.localhost"},
		"https://localhost":                   {"localhost", "https://localhost"},
	} {
		p, err := At(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if p.ID() != want.id || p.Origin() != want.origin {
			t.Errorf("%s: %s from %s", url, p.ID(), p.Origin())
		}
		if _, err := p.AskAnybody(); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for url, why := range map[string]string{
		"http://cetrus.example.com": "over https only",
		"http://192.0.2.7:8080":     "IP address",
		"https://192.0.2.7":         "IP address",
		"https://[2001:db8::1]":     "IP address",
		"https://127.0.0.1":         "IP address",
		"http://0.0.0.0:8080":       "IP address",
		"ftp://cetrus.example.com":  "no URL",
		"cetrus.example.com":        "no URL",
		"":                          "no URL",
		"https://":                  "no URL",
		"https://a b":               "no URL",
	} {
		if p, err := At(url); err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "public-url") {
			t.Errorf("%q: %v, %v", url, p, err)
		}
	}
}

// FuzzAnswers gives what browsers are to answer to whoever answers anything else.
func FuzzAnswers(f *testing.F) {
	p, err := At("http://localhost:8080")
	if err != nil {
		f.Fatal(err)
	}
	of := Person{Account: contract.ID{1}, Login: contract.ID{2}, Name: "Ada", Keys: []Key{{ID: []byte{1}, Public: []byte{1}}}}
	asked, err := p.Ask(of)
	if err != nil {
		f.Fatal(err)
	}
	anybody, err := p.AskAnybody()
	if err != nil {
		f.Fatal(err)
	}
	made, err := p.Register(of)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{}`), []byte(nil), []byte(nil), []byte(nil))
	f.Add([]byte(`{"id":"AQ","rawId":"AQ","type":"public-key"}`), make([]byte, 37), []byte(`{"type":"webauthn.get","challenge":"AA","origin":"http://localhost:8080"}`), []byte{0xa0})
	f.Add([]byte(`{"id":"AQ","rawId":"AQ","type":"public-key","clientExtensionResults":{"a":1}}`), append(make([]byte, 32), 0xff), []byte(`{`), []byte("\xa3cfmtdnonegattStmt\xa0hauthDataX%"))
	f.Fuzz(func(t *testing.T, whole, authenticator, client, attestation []byte) {
		answers := [][]byte{whole}
		var object map[string]any
		if json.Unmarshal(whole, &object) == nil && object != nil {
			object["response"] = map[string]any{
				"authenticatorData": base64.RawURLEncoding.EncodeToString(authenticator), "clientDataJSON": base64.RawURLEncoding.EncodeToString(client), "attestationObject": base64.RawURLEncoding.EncodeToString(attestation),
				"signature": base64.RawURLEncoding.EncodeToString(attestation), "userHandle": base64.RawURLEncoding.EncodeToString(handle(of.Account, of.Login)),
			}
			if built, err := json.Marshal(object); err == nil {
				answers = append(answers, built)
			}
		}
		for _, answer := range answers {
			if _, err := p.Registered(of, made.State, answer); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrRefused) {
				t.Errorf("registered by %q: %v", answer, err)
			}
			read, err := Read(answer)
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Errorf("%q: %v", answer, err)
				}
				continue
			}
			_, _, _ = read.Of()
			if _, err := p.Asked(of, asked.State, read); !errors.Is(err, ErrRefused) {
				t.Errorf("second factor by %q: %v", answer, err)
			}
			if _, err := p.AskedAnybody(of, anybody.State, read); !errors.Is(err, ErrRefused) {
				t.Errorf("signed in by %q: %v", answer, err)
			}
		}
	})
}
