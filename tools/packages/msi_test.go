//go:build linux

package packages

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/wine"
)

// signer is a certificate that signs programs, valid for an hour, with its key.
func signer(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test of Cetrus's packages"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// enrolling is a Manager at which agents enrol.
func enrolling(t *testing.T) *manager.Manager {
	t.Helper()
	m, err := manager.New(manager.Config{
		DataDir: t.TempDir(), AccountID: contract.ID{1}, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0",
	}, manager.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return m
}

func verify(msi, cert string) (string, error) {
	out, err := exec.Command("osslsigncode", "verify", "-CAfile", cert, "-in", msi).CombinedOutput()
	return string(out), err
}

// The MSI is rolled out silently, configured by its properties, replaced by a newer
// one and removed; a service is there exactly while it should be, and data stays.
func TestMSI(t *testing.T) {
	t.Parallel()
	tools(t, "wixl", "msibuild", "osslsigncode")
	w := wine.Start(t)
	cert, key := signer(t)
	signed := []string{"CETRUS_SIGN_CERT=" + cert, "CETRUS_SIGN_KEY=" + key}
	out := t.TempDir()
	first := build(t, out, "msi", append(signed, "CETRUS_VERSION=1.0.0")...)["msi"]
	second := build(t, out, "msi", append(signed, "CETRUS_VERSION=1.0.1")...)["msi"]

	for _, msi := range []string{first, second} {
		if said, err := verify(msi, cert); err != nil {
			t.Errorf("%s is not signed: %v\n%s", filepath.Base(msi), err, said)
		}
	}
	content, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	tampered := filepath.Join(out, "tampered.msi")
	at := bytes.Index(content, []byte("MSCF")) // in the cabinet with the program
	if at < 0 {
		t.Fatal("the MSI holds no cabinet")
	}
	content[at+4096] ^= 1
	if err := os.WriteFile(tampered, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := verify(tampered, cert); err == nil {
		t.Errorf("a package that was changed is taken for genuine:\n%s", said)
	}

	msiexec := func(args ...string) {
		t.Helper()
		w.Run(2*time.Minute, "msiexec", append(args, "/qn")...)
	}
	install := func(msi string, properties ...string) {
		t.Helper()
		text, err := os.ReadFile(msi)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(msi)
		if err := os.WriteFile(w.C(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		msiexec(append([]string{"/i", `C:\` + name}, properties...)...)
	}
	const program = `C:\Program Files\Cetrus\Agent\cetrus-agent.exe`
	exe := w.C("Program Files", "Cetrus", "Agent", "cetrus-agent.exe")
	settings := w.C("Program Files", "Cetrus", "Agent", "agent.yaml")
	data := w.C("ProgramData", "Cetrus", "Agent")
	imagePath := func() string {
		said, _ := w.Try(time.Minute, "reg", "query", `HKLM\SYSTEM\CurrentControlSet\Services\cetrus-agent`, "/v", "ImagePath")
		return said
	}
	works := func(version, manager string) {
		t.Helper()
		eventually(t, time.Minute, "the service of "+version+" to answer", func() (string, bool) {
			said, err := w.Try(20*time.Second, program, "status")
			return said, err == nil && strings.Contains(said, "version "+version) && strings.Contains(said, manager+",")
		})
		eventually(t, time.Minute, "one service with one helper", func() (string, bool) {
			return imagePath(), w.Running(`cetrus-agent.exe run`)+w.Running(`cetrus-agent.exe" run`) == 1 && w.Running("session-helper") == 1
		})
	}

	const nobody = "127.0.0.1:1"
	install(first, "MANAGER="+nobody)
	works("1.0.0", nobody)
	if said := imagePath(); !strings.Contains(said, `--config "C:\Program Files\Cetrus\Agent\agent.yaml" --data-dir "C:\ProgramData\Cetrus\Agent" --manager "127.0.0.1:1"`) {
		t.Errorf("the service is not configured as the property says: %s", said)
	}
	identity := read(t, filepath.Join(data, "identity.json"))
	const mine = "# kept\r\nlog-level: debug\r\n"
	if err := os.WriteFile(settings, []byte(mine), 0o600); err != nil {
		t.Fatal(err)
	}

	// The address is remembered, settings and data stay.
	install(second)
	works("1.0.1", nobody)
	if read(t, settings) != mine {
		t.Error("an upgrade has replaced the settings")
	}
	if read(t, filepath.Join(data, "identity.json")) != identity {
		t.Error("an upgrade has made another agent of this one")
	}
	if n := strings.Count(w.Run(time.Minute, "reg", "query", `HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall`, "/s"), "Cetrus agent"); n != 1 {
		t.Errorf("the list of programs has Cetrus %d times", n)
	}
	// An older one does not replace it.
	if said, err := w.Try(2*time.Minute, "msiexec", "/i", `C:\`+filepath.Base(first), "/qn"); err == nil {
		t.Errorf("a newer agent was replaced by an older one: %s", said)
	}
	works("1.0.1", nobody)

	msiexec("/x", `C:\`+filepath.Base(second))
	ended := func() {
		t.Helper()
		eventually(t, time.Minute, "the agent to end", func() (string, bool) {
			return imagePath(), w.Running("cetrus-agent.exe") == 0
		})
	}
	ended()
	// Wine's installer removes the program as soon as the service says that it has stopped,
	// and does not come back to a file whose process still ends, as Windows does.
	if err := os.Remove(exe); err == nil {
		t.Log("the program was in use until after its removal")
	} else if !os.IsNotExist(err) {
		t.Error(err)
	}
	if said := imagePath(); strings.Contains(said, "cetrus") {
		t.Errorf("the service outlives its package: %s", said)
	}
	if read(t, filepath.Join(data, "identity.json")) != identity || read(t, settings) != mine {
		t.Error("removing the program has removed data or settings")
	}

	// A token goes to the data folder, and to nobody who may look at the service; by it the
	// agent enrols. One that is not whole is no silent success.
	site := enrolling(t)
	token, err := site.CreateToken("msi", 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if said, err := w.Try(2*time.Minute, "msiexec", "/i", `C:\`+filepath.Base(second), "/qn", "MANAGER="+site.AgentsAddress(), "ENROLLMENT_TOKEN="+token[:60]); err == nil {
		t.Errorf("half a token is taken: %s", said)
	}
	install(second, "MANAGER="+site.AgentsAddress(), "ENROLLMENT_TOKEN="+token)
	works("1.0.1", site.AgentsAddress())
	eventually(t, time.Minute, "the agent to enrol", func() (string, bool) {
		said, _ := w.Try(20*time.Second, program, "status")
		agents := site.Status().Agents
		return said, len(agents) == 1 && agents[0].Connected
	})
	if said := imagePath(); strings.Contains(said, token) {
		t.Errorf("the service's command line tells the token: %s", said)
	}
	if _, err := os.Stat(filepath.Join(data, "enrollment-token")); !os.IsNotExist(err) {
		t.Errorf("the token is used, and still there: %v", err)
	}

	// On request nothing is left.
	w.Run(time.Minute, program, "stop")
	ended()
	msiexec("/x", `C:\`+filepath.Base(second), "REMOVEDATA=1")
	for _, gone := range []string{data, settings, filepath.Dir(exe)} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
}
