package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/proto/release"
)

func TestKeyAndSign(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	do := func(args ...string) (string, int) {
		var out bytes.Buffer
		code := execute(args, &out, &out)
		return out.String(), code
	}
	key := []string{"key", "--id", "vendor", "--secret", in("secret"), "--public", in("public")}
	if said, code := do(key...); code != 0 {
		t.Fatal(said)
	}
	if info, err := os.Stat(in("secret")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	if said, code := do(key...); code == 0 {
		t.Fatalf("a secret key was written over: %s", said)
	}
	program := []byte("a program")
	if err := os.WriteFile(in("program"), program, 0o600); err != nil {
		t.Fatal(err)
	}
	sign := []string{"sign", in("program"), "--secret", in("secret"), "--version", "1.0.0", "--output", in("release")}
	if said, code := do(sign...); code == 0 || !strings.Contains(said, "number") {
		t.Fatalf("signed without a number: %s", said)
	}
	if said, code := do(append(sign, "--number", "3")...); code != 0 {
		t.Fatal(said)
	}
	text, err := os.ReadFile(in("public"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := release.ParseKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(in("release"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	signed, rest, _, err := release.ReadHeader(f)
	if err != nil {
		t.Fatal(err)
	}
	m, err := signed.Open(keys)
	if err != nil || m.Number != 3 {
		t.Fatal(m, err)
	}
	var copied bytes.Buffer
	if err := release.CopyProgram(&copied, rest, m); err != nil || !bytes.Equal(copied.Bytes(), program) {
		t.Fatal(copied.String(), err)
	}
	if err := os.Chmod(in("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if said, code := do(sign...); code == 0 || !strings.Contains(said, "chmod 600") {
		t.Fatal(said)
	}
}
