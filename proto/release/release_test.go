package release_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/proto/release"
)

func sample(t testing.TB, program []byte) (release.Signed, release.Manifest, release.Keys, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(program)
	m := release.Manifest{
		Name: release.AgentName, Version: "1.2.0", Number: 7, Least: 3, System: "linux", Architecture: "amd64",
		Size: int64(len(program)), SHA256: hex.EncodeToString(sum[:]), Released: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
	}
	signed, err := release.Sign(m, "vendor", private)
	if err != nil {
		t.Fatal(err)
	}
	return signed, m, release.Keys{"vendor": public}, private
}

func TestOnlyWhatWasSignedIsBelieved(t *testing.T) {
	t.Parallel()
	program := []byte("a program")
	signed, m, keys, _ := sample(t, program)
	if got, err := signed.Open(keys); err != nil || got != m {
		t.Fatalf("%v, %v", got, err)
	}
	for i := range signed.Manifest {
		bad := signed
		bad.Manifest = bytes.Clone(signed.Manifest)
		bad.Manifest[i] ^= 1
		if _, err := bad.Open(keys); err == nil {
			t.Fatalf("a manifest with byte %d changed is believed", i)
		}
	}
	other, _, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []release.Keys{nil, {"vendor": other}, {"else": keys["vendor"]}, {"vendor": nil}} {
		if _, err := signed.Open(wrong); err == nil {
			t.Errorf("believed with the keys %v", wrong)
		}
	}
	for name, p := range map[string][]byte{"truncated": program[:4], "longer": append(bytes.Clone(program), 'x'), "other": []byte("b program")} {
		if err := release.CopyProgram(io.Discard, bytes.NewReader(p), m); err == nil {
			t.Errorf("a %s program is taken", name)
		}
	}
	if err := release.CopyProgram(io.Discard, bytes.NewReader(program), m); err != nil {
		t.Error(err)
	}
}

func TestManifestsThatAreNone(t *testing.T) {
	t.Parallel()
	_, good, _, key := sample(t, []byte("a program"))
	for name, spoil := range map[string]func(*release.Manifest){
		"no name":        func(m *release.Manifest) { m.Name = "" },
		"a path as name": func(m *release.Manifest) { m.Name = "../agent" },
		"number 0":       func(m *release.Manifest) { m.Number = 0 },
		"least too high": func(m *release.Manifest) { m.Least = m.Number },
		"no hash":        func(m *release.Manifest) { m.SHA256 = "00" },
		"no size":        func(m *release.Manifest) { m.Size = 0 },
		"huge":           func(m *release.Manifest) { m.Size = release.MaxProgramBytes + 1 },
		"no version":     func(m *release.Manifest) { m.Version = "" },
		"system":         func(m *release.Manifest) { m.System = "Linux/.." },
	} {
		m := good
		spoil(&m)
		if _, err := release.Sign(m, "vendor", key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestFilesComeApart(t *testing.T) {
	t.Parallel()
	program := []byte("a program\nof two lines")
	signed, m, keys, _ := sample(t, program)
	header, err := signed.Header()
	if err != nil {
		t.Fatal(err)
	}
	read, rest, n, err := release.ReadHeader(io.MultiReader(bytes.NewReader(header), bytes.NewReader(program)))
	if err != nil || n != int64(len(header)) {
		t.Fatal(n, err)
	}
	if got, err := read.Open(keys); err != nil || got != m {
		t.Fatal(got, err)
	}
	var out bytes.Buffer
	if err := release.CopyProgram(&out, rest, m); err != nil || !bytes.Equal(out.Bytes(), program) {
		t.Fatal(out.String(), err)
	}
	for _, text := range []string{"", "{}", "nothing\n", strings.Repeat("x", 1<<20)} {
		if _, _, _, err := release.ReadHeader(strings.NewReader(text)); err == nil {
			t.Errorf("%.10q is taken for a release file", text)
		}
	}
}

func FuzzReadHeader(f *testing.F) {
	signed, _, keys, _ := sample(f, []byte("a program"))
	header, err := signed.Header()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(header)
	f.Add([]byte("{}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		read, _, _, err := release.ReadHeader(bytes.NewReader(text))
		if err != nil {
			return
		}
		if m, err := read.Open(keys); err == nil && !bytes.Equal(read.Manifest, signed.Manifest) {
			t.Fatalf("%v is believed, and was not signed", m)
		}
	})
}
