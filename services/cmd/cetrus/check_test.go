package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckAsksWhetherAPlatformDoesItsWork(t *testing.T) {
	ready := true
	platform := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/readyz" && ready:
			_, _ = fmt.Fprint(w, "ok")
		case r.URL.Path == "/readyz":
			http.Error(w, "metering does not serve", http.StatusServiceUnavailable)
		case r.URL.Path == "/v1/applications" && r.Header.Get("X-API-Key") == "good":
			_, _ = fmt.Fprint(w, `{"applications":[{},{}]}`)
		default:
			http.Error(w, "who are you?", http.StatusUnauthorized)
		}
	}))
	t.Cleanup(platform.Close)
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority := file("ca.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: platform.Certificate().Raw})))
	key := file("api-key", "good\n")
	check := func(args ...string) (int, string) {
		var out bytes.Buffer
		code := run(append([]string{"check", "--url", platform.URL, "--api-key-file", key, "--ca-file", authority}, args...), &out, &out)
		return code, out.String()
	}
	if code, said := check(); code != 0 || !strings.Contains(said, "has 2") {
		t.Errorf("one that does its work: %d %s", code, said)
	}
	missing := filepath.Join(dir, "missing")
	if code, said := check("--api-key-optional"); code != 0 || !strings.Contains(said, "has 2") {
		t.Errorf("with a key that might be missing: %d %s", code, said)
	}
	if code, said := check("--api-key-optional", "--api-key-file", missing); code != 0 || !strings.Contains(said, "Nothing was read") {
		t.Errorf("without a key: %d %s", code, said)
	}
	for name, wrong := range map[string][]string{
		"401":          {"--api-key-file", file("other-key", "bad")},
		"api-key-file": {"--api-key-file", missing},
		"who are you":  {"--api-key-optional", "--api-key-file", file("third-key", "bad")},
		"PEM":          {"--ca-file", file("broken.crt", "x")},
		"certificate":  {"--ca-file", filepath.Join(dir, "missing.crt")},
		"REST address": {"--url", "cetrus.example.com"},
	} {
		if code, said := check(wrong...); code == 0 || !strings.Contains(said, name) {
			t.Errorf("%v: %d %s", wrong, code, said)
		}
	}
	ready = false
	for _, args := range [][]string{nil, {"--api-key-optional", "--api-key-file", missing}} {
		if code, said := check(args...); code == 0 || !strings.Contains(said, "metering does not serve") {
			t.Errorf("one that is not ready, asked with %v: %d %s", args, code, said)
		}
	}
}
