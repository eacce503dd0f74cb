package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"

	"github.com/cetrus/cetrus/manager"
)

// frontName is where the platform's Ingress is; nothing but the proxy knows where that is.
const frontName = "cetrus.invalid:443"

// front is what an Ingress is: it ends TLS, has NATS over WebSocket at /nats and REST beside it.
type front struct {
	address, caFile string
	enrolled        []string
}

func startFront(t *testing.T, webSocket string) *front {
	t.Helper()
	behind, err := url.Parse("http://" + strings.TrimPrefix(webSocket, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	mux := http.NewServeMux()
	mux.Handle("/nats", &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(behind); r.Out.URL.Path = r.In.URL.Path }})
	mux.HandleFunc("POST /v1/managers:enroll", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.enrolled = append(f.enrolled, string(body))
		_, _ = io.WriteString(w, "{}")
	})
	server := httptest.NewUnstartedServer(mux)
	certificate, pemText := selfSigned(t, "cetrus.invalid")
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	server.StartTLS()
	t.Cleanup(server.Close)
	f.address = server.Listener.Addr().String()
	f.caFile = filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(f.caFile, pemText, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// selfSigned is a certificate that is its own authority.
func selfSigned(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A Manager enrols and forwards by one name, on port 443, through a proxy: nothing else is dialled, since the
// name leads nowhere and the proxy leads to nothing else.
func TestOnePortThroughAProxyIsEnough(t *testing.T) {
	server := startAnswering(t, &natsserver.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, AlwaysEnableNonce: true,
		Websocket: natsserver.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: true, SameOrigin: true},
	})
	f := startFront(t, server.WebsocketURL())
	p := startProxy(t, "anna:p@ss", frontName, f.address)
	s := settings{PlatformURL: "wss://cetrus.invalid/nats", Proxy: "http://anna:p%40ss@" + p.address, PlatformCAFile: f.caFile, DataDir: t.TempDir()}
	connect := func(change func(*settings)) error {
		changed := s
		change(&changed)
		nc, err := changed.platform()(t.Context(), contract.ID{1})
		if err == nil {
			nc.Close()
		}
		return err
	}

	token := enrollment.NewManagerToken(contract.ID{1}, contract.ID{2})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	join := manager.JoinConfig{DataDir: s.DataDir, API: "https://cetrus.invalid", Token: token.Text(), Proxy: s.Proxy, CAFile: s.PlatformCAFile}
	if _, _, err := manager.Join(ctx, join); err != nil || len(f.enrolled) != 1 {
		t.Fatalf("it does not enrol: %v", err)
	}
	join.CAFile = ""
	if _, _, err := manager.Join(ctx, join); err == nil || !strings.Contains(err.Error(), "platform_ca_file") {
		t.Errorf("enrolled at a platform that is not known: %v", err)
	}

	nc, err := s.platform()(t.Context(), contract.ID{1})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for range 2 {
		asks(t, nc)
		p.cut()
	}

	for want, change := range map[string]func(*settings){
		"wants a user and a password":       func(s *settings) { s.Proxy = "http://" + p.address },
		"does not take the user":            func(s *settings) { s.Proxy = "http://anna:wrong@" + p.address },
		"name the platform's":               func(s *settings) { s.PlatformCAFile = "" },
		"is not the platform's NATS":        func(s *settings) { s.PlatformURL = "wss://cetrus.invalid/elsewhere" },
		"does not connect to other.invalid": func(s *settings) { s.PlatformURL = "wss://other.invalid/nats" },
	} {
		if err := connect(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, asked := range p.asked {
		if asked != frontName && asked != "other.invalid:443" {
			t.Errorf("the proxy was asked for %s", asked)
		}
	}
}

func TestWhereThePlatformIsIsChecked(t *testing.T) {
	folder := t.TempDir()
	text := filepath.Join(folder, "text")
	if err := os.WriteFile(text, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]settings{
		"":                     {PlatformURL: "wss://cetrus.example.com/nats"},
		"knows nothing of":     {PlatformURL: "tls://cetrus.example.com:4222/nats"},
		"begins with https":    {PlatformURL: "https://cetrus.example.com/nats"},
		"is no wss://":         {PlatformURL: "cetrus.example.com"},
		"holds no certificate": {PlatformCAFile: text},
		"no such file":         {PlatformCAFile: filepath.Join(folder, "none")},
	} {
		err := s.checkPlatform()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%+v: %v, want %q", s, err, want)
		}
	}
}
