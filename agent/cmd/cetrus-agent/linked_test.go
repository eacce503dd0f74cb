package main

import (
	"bytes"
	"debug/pe"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/procedures.txt anew")

// variables finds what a procedure's variable is called in the sources of a package.
var variables = regexp.MustCompile(`(?m)^\s*(?:var )?(proc\w+|\w+Proc|_\w+)\s*=\s*\w+\.NewProc\("(\w+)"\)`)

// testdata/procedures.txt is every DLL procedure that is linked into the Windows program:
// what its import table names, and the variables of procedures that the linker has kept.
// Those that the agent's own packages name elsewhere are ownProcedures; what is resolved
// while the service and its helper run is compared with these lists by tools/wine.
func TestProceduresThatAreLinked(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "cetrus-agent.exe")
	environment := append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off")
	run := func(args ...string) []byte {
		t.Helper()
		command := exec.Command("go", args...)
		command.Env = environment
		out, err := command.Output()
		if err != nil {
			var failed *exec.ExitError
			if errors.As(err, &failed) {
				t.Logf("%s", failed.Stderr)
			}
			t.Fatalf("go %s: %v", strings.Join(args, " "), err)
		}
		return out
	}
	run("build", "-trimpath", "-tags", "grpcnotrace", "-o", program, ".")

	names := map[string]string{} // of procedures, by the symbols of their variables
	for decoder := json.NewDecoder(bytes.NewReader(run("list", "-deps", "-json=ImportPath,Dir,GoFiles", "."))); ; {
		var p struct {
			ImportPath, Dir string
			GoFiles         []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, file := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range variables.FindAllSubmatch(text, -1) {
				names[p.ImportPath+"."+string(match[1])] = string(match[2])
			}
		}
	}
	image, err := pe.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	imported, err := image.ImportedSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var linked []string
	for _, symbol := range imported { // "procedure:library"
		procedure, _, _ := strings.Cut(symbol, ":")
		linked = append(linked, procedure)
	}
	for line := range strings.Lines(string(run("tool", "nm", program))) {
		if fields := strings.Fields(line); len(fields) >= 3 {
			if name, is := names[fields[2]]; is {
				linked = append(linked, name)
			}
		}
	}
	slices.Sort(linked)
	linked = slices.Compact(linked)
	if len(imported) < 20 || len(linked) < 100 {
		t.Fatalf("%d procedures, %d of them imported: this test does not see what it looks for", len(linked), len(imported))
	}
	for _, procedure := range linked {
		if spying.MatchString(procedure) && !slices.Contains(ownProcedures, procedure) {
			t.Errorf("%s is linked", procedure)
		}
	}
	const list = "testdata/procedures.txt"
	if *update {
		if err := os.WriteFile(list, []byte(strings.Join(linked, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	known := strings.Fields(string(text))
	for _, procedure := range linked {
		if !slices.Contains(known, procedure) {
			t.Errorf("%s is linked, and is not in %s; should the agent be able to call it, write the list with -update", procedure, list)
		}
	}
	for _, procedure := range known {
		if !slices.Contains(linked, procedure) {
			t.Errorf("%s is in %s, and is not linked any more; write the list with -update", procedure, list)
		}
	}
}

// out are procedures by which a program reaches others: the network, files that it makes,
// programs that it starts.
var out = regexp.MustCompile(`^(WSASocket|WSAConnect|WSASend|connect$|bind$|socket$|sendto|GetAddrInfo|Dns|ConnectEx|CreateProcess|ShellExecute|CreateNamedPipe|NtCreate.*Pipe|DeleteFile|MoveFile|CreateDirectory|Internet|WinHttp|RegSet|RegCreate)`)

// What tools/wine allows service and helper to resolve tells no more than what is linked, and
// the helper has no way out but the pipe that it opens as a file.
func TestListsOfWhatIsResolved(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"service", "helper", "tray"} {
		text, err := os.ReadFile("testdata/" + role + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		list := strings.Fields(string(text))
		if !slices.IsSorted(list) || len(list) < 5 {
			t.Errorf("the list of the %s is none: %q", role, list)
		}
		for _, procedure := range list {
			if spying.MatchString(procedure) {
				t.Errorf("the %s may ask for %s", role, procedure)
			}
			if role == "helper" && out.MatchString(procedure) {
				t.Errorf("the helper may ask for %s, which leads out", procedure)
			}
		}
	}
}
