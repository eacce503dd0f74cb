package enrollment_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
)

func authority(tb testing.TB) *x509.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	about := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

func TestATokenSurvivesCopying(t *testing.T) {
	t.Parallel()
	ca := authority(t)
	token := enrollment.NewToken(ca)
	text := token.Text()
	read, err := enrollment.ParseToken(" " + text + "\r\n")
	if err != nil || read != token || read.Authority != enrollment.Pin(ca) {
		t.Fatalf("%v, %v", read, err)
	}
	shown, err := enrollment.ParseCredential(token.Credential())
	if err != nil || shown.ID != token.ID || shown.Secret != token.Secret {
		t.Fatalf("%v, %v", shown, err)
	}
	for i := range text { // any letter that is wrong or missing is seen before anybody is asked
		for _, wrong := range []string{text[:i] + text[i+1:], text[:i] + "!" + text[i+1:], text[:i] + string(text[i]^1) + text[i+1:]} {
			if _, err := enrollment.ParseToken(wrong); err == nil {
				t.Errorf("%q is taken for %q", wrong, text)
			} else if strings.Contains(err.Error(), wrong[min(len(wrong), 20):]) {
				t.Errorf("the error tells the token: %v", err)
			}
		}
	}
}

func TestATokenIsNotLogged(t *testing.T) {
	t.Parallel()
	token := enrollment.NewToken(authority(t))
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("it", "token", token)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("it", "token", token)
	fmt.Fprintf(&log, "%v %+v %#v %s", token, token, token, token)
	asJSON, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	log.Write(asJSON)
	numbers := fmt.Sprintf("%v", token.Secret)
	for _, secret := range []string{token.Text(), fmt.Sprintf("%x", token.Secret), numbers, strings.ReplaceAll(numbers, " ", ",")} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q: %s", secret, log.String())
		}
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	id := contract.ID{1, 2, 3}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, err := enrollment.Request(id, key)
	if err != nil {
		t.Fatal(err)
	}
	agent, public, err := enrollment.ParseRequest(good)
	if err != nil || agent != id || !public.Equal(&key.PublicKey) {
		t.Fatalf("%s, %v", agent, err)
	}
	// Who changes any bit of it has not the key.
	for i := range len(good) * 8 {
		tampered := append([]byte(nil), good...)
		tampered[i/8] ^= 1 << (i % 8)
		if agent, public, err := enrollment.ParseRequest(tampered); err == nil && (agent != id || !public.Equal(&key.PublicKey)) {
			t.Errorf("with bit %d turned it is about agent %s", i, agent)
		}
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func() ([]byte, error){
		"another kind of key": func() ([]byte, error) { return enrollment.Request(id, weak) },
		"another curve":       func() ([]byte, error) { return enrollment.Request(id, other) },
		"an agent of no id":   func() ([]byte, error) { return enrollment.Request(contract.ID{}, key) },
		"nobody": func() ([]byte, error) {
			return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		},
		"a Manager": func() ([]byte, error) {
			return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: enrollment.ServerName}}, key)
		},
		"nothing":             func() ([]byte, error) { return nil, nil },
		"more than is read":   func() ([]byte, error) { return append(good, make([]byte, enrollment.MaxRequestBytes)...), nil },
		"something behind it": func() ([]byte, error) { return append(append([]byte(nil), good...), 0), nil },
		"an agent, and others": func() ([]byte, error) {
			s := enrollment.Subject(id)
			s.OrganizationalUnit = append(s.OrganizationalUnit, "x")
			return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: s}, key)
		},
	} {
		raw, err := bad()
		if err != nil {
			t.Fatal(err)
		}
		if agent, _, err := enrollment.ParseRequest(raw); err == nil {
			t.Errorf("%s: taken as agent %s", name, agent)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(enrollment.NewToken(authority(f)).Text())
	f.Add(enrollment.Prefix)
	f.Add(enrollment.Prefix + strings.Repeat("A", 80))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := enrollment.ParseToken(text)
		if err == nil && token.Text() != strings.TrimSpace(text) {
			t.Errorf("%q is read as %q", text, token.Text())
		}
	})
}

func FuzzParseManagerToken(f *testing.F) {
	f.Add(enrollment.NewManagerToken(contract.ID{1}, contract.ID{2}).Text())
	f.Add(enrollment.ManagerPrefix)
	f.Fuzz(func(t *testing.T, text string) {
		token, err := enrollment.ParseManagerToken(text)
		if err == nil && token.Text() != strings.TrimSpace(text) {
			t.Errorf("%q is read as %q", text, token.Text())
		}
	})
}

func TestAManagersToken(t *testing.T) {
	t.Parallel()
	token := enrollment.NewManagerToken(contract.ID{1}, contract.ID{2})
	read, err := enrollment.ParseManagerToken(token.Text() + "\n")
	if err != nil || read != token || read.Hash() != token.Hash() {
		t.Fatalf("%v, %v", read, err)
	}
	if other := enrollment.NewManagerToken(contract.ID{1}, contract.ID{2}); other.Hash() == token.Hash() {
		t.Error("two tokens have one hash")
	}
	asJSON, err := json.Marshal(token)
	if err != nil || strings.Contains(fmt.Sprintf("%v %+v %#v %s", token, token, token, asJSON), fmt.Sprintf("%x", token.Secret[:4])) {
		t.Errorf("it tells itself: %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	good, err := enrollment.Request(contract.ID{1}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, raw []byte) {
		if id, key, err := enrollment.ParseRequest(raw); err == nil && (id.IsZero() || key == nil) {
			t.Errorf("%x is about agent %s", raw, id)
		}
	})
}
