package tlsfiles

import (
	"bytes"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	name = "metering.example"
	life = 90 * 24 * time.Hour
)

// place is a folder of files, with a clock and the log of who uses it.
type place struct {
	dir string
	now time.Time
	log bytes.Buffer
}

func newPlace(t *testing.T) *place {
	t.Helper()
	return &place{dir: t.TempDir(), now: time.Now()}
}

func (p *place) write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, file), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// renew puts a new certificate of an authority there, and returns it.
func (p *place) renew(t *testing.T, by *Authority) Pair {
	t.Helper()
	pair, err := by.Issue([]string{name, "127.0.0.1"}, life, p.now)
	if err != nil {
		t.Fatal(err)
	}
	p.write(t, CertificateFile, pair.Certificate)
	p.write(t, KeyFile, pair.Key)
	p.write(t, AuthorityFile, by.Certificate)
	return pair
}

func (p *place) open(t *testing.T) *Files {
	t.Helper()
	f, err := p.tryOpen()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (p *place) tryOpen() (*Files, error) {
	return open(p.dir, true, slog.New(slog.NewTextHandler(&p.log, nil)), func() time.Time { return p.now })
}

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// meet has a client call a server by a name, and returns what the client saw.
func meet(t *testing.T, server, client *tls.Config, called string) (tls.ConnectionState, error) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	answered := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err == nil {
			defer func() { _ = conn.Close() }()
			_, err = tls.Server(conn, server).Write([]byte{1})
		}
		answered <- err
	}()
	client = client.Clone()
	client.ServerName = called
	conn, err := tls.Dial("tcp", lis.Addr().String(), client)
	if err != nil {
		return tls.ConnectionState{}, errors.Join(err, <-answered)
	}
	defer func() { _ = conn.Close() }()
	// In TLS 1.3 a client learns only then that its certificate was refused.
	_, err = conn.Read(make([]byte, 1))
	return conn.ConnectionState(), errors.Join(err, <-answered)
}

func shows(t *testing.T, state tls.ConnectionState, pair Pair) {
	t.Helper()
	want, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	if len(state.PeerCertificates) == 0 || !state.PeerCertificates[0].Equal(want.Leaf) {
		t.Error("another certificate was shown than the one in the files")
	}
}

func TestBothEndsAreKnown(t *testing.T) {
	ours, strangers := authority(t), authority(t)
	server, client, stranger := newPlace(t), newPlace(t), newPlace(t)
	pair := server.renew(t, ours)
	client.renew(t, ours)
	stranger.renew(t, strangers)
	serves, calls, strange := server.open(t), client.open(t), stranger.open(t)

	for _, called := range []string{name, "127.0.0.1"} {
		state, err := meet(t, serves.Server(), calls.Client(), called)
		if err != nil {
			t.Fatal(called, err)
		}
		shows(t, state, pair)
		if state.Version != tls.VersionTLS13 {
			t.Errorf("TLS version %x", state.Version)
		}
	}

	nobody, old := calls.Client(), calls.Client()
	nobody.Certificates = nil
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	pretends := calls.Client()
	pretends.Certificates = strange.Client().Certificates
	for what, refused := range map[string]struct {
		server, client *tls.Config
		called         string
	}{
		"a client without a certificate":         {serves.Server(), nobody, name},
		"a client of another authority":          {serves.Server(), pretends, name},
		"a client that speaks TLS 1.2":           {serves.Server(), old, name},
		"a server of another authority":          {strange.Server(), calls.Client(), name},
		"a server of another name":               {serves.Server(), calls.Client(), "identity.example"},
		"a server of another address":            {serves.Server(), calls.Client(), "127.0.0.2"},
		"a peer of another authority":            {strange.Peer(), calls.Peer(), name},
		"a peer of another name":                 {serves.Peer(), calls.Peer(), "identity.example"},
		"a peer that is called by its address":   {serves.Peer(), calls.Peer(), "127.0.0.1"},
		"a peer that calls with another's paper": {serves.Peer(), strange.Peer(), name},
	} {
		if _, err := meet(t, refused.server, refused.client, refused.called); err == nil {
			t.Error(what, "was let in")
		}
	}
}

// TestPublic is a server for people: browsers show no certificate.
func TestPublic(t *testing.T) {
	ours, p := authority(t), newPlace(t)
	pair := p.renew(t, ours)
	browser := p.open(t).Client()
	browser.Certificates = nil
	if err := os.Remove(filepath.Join(p.dir, AuthorityFile)); err != nil {
		t.Fatal(err)
	}
	f, err := OpenPublic(p.dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	browser.NextProtos = []string{"http/1.1", "h2"}
	state, err := meet(t, f.Server("h2", "http/1.1"), browser, name)
	if err != nil {
		t.Fatal(err)
	}
	shows(t, state, pair)
	if state.NegotiatedProtocol != "h2" {
		t.Errorf("protocol %q", state.NegotiatedProtocol)
	}
}

// TestRenewal has settings made once show what the files become: first another certificate, then another
// authority's.
func TestRenewal(t *testing.T) {
	first, second := authority(t), authority(t)
	server, client := newPlace(t), newPlace(t)
	server.renew(t, first)
	client.renew(t, first)
	serves, calls := server.open(t), client.open(t)
	serving, peer, calling := serves.Server(), serves.Peer(), calls.Peer()
	for _, by := range []*Authority{first, second} {
		pair := server.renew(t, by)
		client.renew(t, by)
		serves.look(t.Context())
		calls.look(t.Context())
		for _, ends := range [][2]*tls.Config{{serving, calls.Client()}, {peer, calling}} {
			state, err := meet(t, ends[0], ends[1], name)
			if err != nil {
				t.Fatal(err)
			}
			shows(t, state, pair)
		}
		if got, err := calls.Certificate(); err != nil || !bytes.Equal(got.Certificate[0], calls.Client().Certificates[0].Certificate[0]) {
			t.Error("Certificate is not what Client shows", err)
		}
	}
	if got := strings.Count(server.log.String(), "the certificate was renewed"); got != 2 {
		t.Errorf("renewals told: %d\n%s", got, &server.log)
	}
}

// TestFormerStays while what replaces it cannot be used; that is told once.
func TestFormerStays(t *testing.T) {
	ours, strangers := authority(t), authority(t)
	for what, damage := range map[string]func(*place){
		"half of a file":         func(p *place) { p.write(t, CertificateFile, []byte("-----BEGIN CERTIFICATE-----\nMIIB")) },
		"another key":            func(p *place) { p.write(t, KeyFile, newPlace(t).renew(t, ours).Key) },
		"another authority":      func(p *place) { p.write(t, AuthorityFile, strangers.Certificate) },
		"an authority of nobody": func(p *place) { p.write(t, AuthorityFile, nil) },
		"no key":                 func(p *place) { _ = os.Remove(filepath.Join(p.dir, KeyFile)) },
		"one that has expired": func(p *place) {
			p.now = p.now.Add(-2 * life)
			p.renew(t, ours)
			p.now = p.now.Add(2 * life)
		},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPlace(t)
			pair := p.renew(t, ours)
			f := p.open(t)
			damage(p)
			if _, err := p.tryOpen(); err == nil {
				t.Error("another start takes them")
			} else if !strings.Contains(err.Error(), p.dir) {
				t.Errorf("the error does not name the file: %v", err)
			}
			f.look(t.Context())
			if p.log.Len() != 0 {
				t.Errorf("files that are being replaced are no error yet: %s", &p.log)
			}
			f.look(t.Context())
			f.look(t.Context())
			if got := strings.Count(p.log.String(), "the former stay"); got != 1 {
				t.Errorf("told %d times: %s", got, &p.log)
			}
			state, err := meet(t, f.Server(), f.Client(), name)
			if err != nil {
				t.Fatal(err)
			}
			shows(t, state, pair)

			pair = p.renew(t, ours)
			f.look(t.Context())
			if state, err = meet(t, f.Server(), f.Client(), name); err != nil {
				t.Fatal(err)
			}
			shows(t, state, pair)
		})
	}
}

func TestExpiry(t *testing.T) {
	p := newPlace(t)
	p.renew(t, authority(t))
	f := p.open(t)
	for _, step := range []struct {
		after time.Duration
		says  string
	}{
		{life / 2, ""},
		{life * 3 / 10, ""},
		{life / 10, "ends soon"},
		{warnEvery / 2, ""},
		{warnEvery / 2, "ends soon"},
		{life, "has expired"},
	} {
		p.now = p.now.Add(step.after)
		p.log.Reset()
		f.look(t.Context())
		if got := p.log.String(); (got == "") != (step.says == "") || !strings.Contains(got, step.says) {
			t.Errorf("after %s it says %q, not %q", step.after, got, step.says)
		}
	}
	if _, err := meet(t, f.Server(), f.Client(), name); err == nil {
		t.Error("a certificate that has expired was taken")
	}
	if _, err := p.tryOpen(); err == nil || !strings.Contains(err.Error(), "expired at") {
		t.Errorf("start with it: %v", err)
	}
}

func TestAuthority(t *testing.T) {
	now := time.Now()
	ours := authority(t)
	again, err := ParseAuthority(ours.Pair)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := again.Issue([]string{name}, life, now)
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]bool{0: false, life * 6 / 10: false, life * 7 / 10: true, 2 * life: true} {
		if got, err := ours.Renews(pair, now.Add(after)); err != nil || got != want {
			t.Errorf("after %s: %v %v", after, got, err)
		}
	}
	if got, err := authority(t).Renews(pair, now.Add(2*life)); err != nil || got {
		t.Errorf("another's certificate: %v %v", got, err)
	}
	if got, err := ours.Renews(Pair{Certificate: pair.Certificate, Key: ours.Key}, now); err != nil || !got {
		t.Errorf("with the key of another: %v %v", got, err)
	}
	if _, err := ours.Renews(Pair{Certificate: []byte("no PEM"), Key: pair.Key}, now); err == nil {
		t.Error("what is no certificate is judged")
	}
	if _, err := ParseAuthority(pair); err == nil {
		t.Error("what is no authority is taken for one")
	}
	late, err := ours.Issue([]string{name}, 2*authorityLife, now)
	if err != nil {
		t.Fatal(err)
	}
	if read, err := tls.X509KeyPair(late.Certificate, late.Key); err != nil || read.Leaf.NotAfter.After(ours.certificate.NotAfter) {
		t.Errorf("a certificate that outlives its authority: %v %v", read.Leaf.NotAfter, err)
	}
}
