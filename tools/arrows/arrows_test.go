package arrows

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const (
	root = "../.."
	path = "github.com/cetrus/cetrus/"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath, Doc                    string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

// arrow says what the packages below from may import of this project: the
// packages below to, and those below from itself.
type arrow struct {
	from string
	to   []string
}

// arrows is the table of ARCHITECTURE.md. The first line whose from matches
// counts.
var arrows = []arrow{
	{"proto", nil},
	{"agent", []string{"proto"}},
	{"manager", []string{"proto"}},
	{"ctl", []string{"proto"}},
	{"services/platform", []string{"proto"}},
	{"services/metering", []string{"proto", "services/platform"}},
	{"services/billing", []string{"proto", "services/platform"}},
	{"services/identity", []string{"proto", "services/platform"}},
	{"services/inventory", []string{"proto", "services/platform"}},
	{"services/e2p", []string{"proto", "services/platform"}},
	{"services/gateway", []string{"proto", "services/platform"}},
	{"services/console", []string{"proto", "services/platform"}},
	{"services/cmd", []string{"proto", "services", "manager"}},
	{"tools", []string{"proto", "agent", "manager", "ctl", "services"}},
	{"charts", nil},
}

func TestArrows(t *testing.T) {
	for _, module := range []string{"proto", "agent", "manager", "ctl", "services", "tools", "charts"} {
		for _, p := range list(t, module) {
			from := strings.TrimPrefix(p.ImportPath, path)
			a, known := arrowOf(from)
			if !known {
				t.Errorf("%s: no arrow of the table begins here; add one to it and to ARCHITECTURE.md", from)
				continue
			}
			imports := append(append(p.Imports, p.TestImports...), p.XTestImports...)
			for _, imported := range imports {
				to, ours := strings.CutPrefix(imported, path)
				if !ours || below(to, a.from) {
					continue
				}
				if !anyAbove(to, a.to) {
					t.Errorf("%s imports %s: the arrows allow %v", from, to, a.to)
				}
			}
		}
	}
}

// TestAgentIsLight keeps what would make the agent heavy out of its binary,
// however it might come in.
func TestAgentIsLight(t *testing.T) {
	heavy := []string{
		"github.com/jackc/pgx", "github.com/nats-io", "buf.build/go/protovalidate",
		"github.com/google/cel-go", "github.com/ThreeDotsLabs",
	}
	for _, p := range list(t, "agent") {
		for _, dependency := range p.Deps {
			if anyAbove(dependency, heavy) {
				t.Errorf("%s depends on %s", p.ImportPath, dependency)
			}
		}
	}
}

// TestNoInboxInProduction keeps the mail server that delivers to nobody out of everything
// but tests and developers' tools.
func TestNoInboxInProduction(t *testing.T) {
	for _, p := range list(t, "services") {
		if below(p.ImportPath, path+"services/platform/mail/inbox") {
			continue
		}
		for _, dependency := range p.Deps {
			if anyAbove(dependency, []string{path + "services/platform/mail/inbox", "github.com/emersion/go-smtp"}) {
				t.Errorf("%s depends on %s", p.ImportPath, dependency)
			}
		}
	}
}

// TestDomainFiles keeps technology out of the files that decide.
func TestDomainFiles(t *testing.T) {
	domain := []string{
		"proto/contract/*.go",
		"proto/rules/*.go",
		"proto/expense/*.go",
		"agent/activity/*.go",
		"services/metering/application.go",
		"services/metering/settings.go",
		"services/metering/expense.go",
		"services/metering/concurrency.go",
		"services/metering/persontime.go",
		"services/metering/cells.go",
		"services/metering/zone.go",
		"services/identity/account.go",
		"services/identity/login.go",
		"services/identity/group.go",
		"services/identity/apikey.go",
		"services/identity/name.go",
	}
	technology := []string{
		"github.com/jackc/pgx", "github.com/nats-io", "google.golang.org/grpc",
		"database/sql", "net", "os",
	}
	for _, pattern := range domain {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Error(err)
				continue
			}
			for _, spec := range f.Imports {
				imported, err := strconv.Unquote(spec.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if anyAbove(imported, technology) {
					t.Errorf("%s imports %s: files that decide import no technology", file, imported)
				}
			}
		}
	}
}

// TestEveryPackageSaysWhy asks each package for its package comment.
func TestEveryPackageSaysWhy(t *testing.T) {
	for _, module := range []string{"proto", "agent", "manager", "ctl", "services", "tools", "charts"} {
		for _, p := range list(t, module) {
			dir := filepath.Join(root, strings.TrimPrefix(p.ImportPath, path))
			if generated, err := filepath.Glob(filepath.Join(dir, "*.pb.go")); err != nil || len(generated) > 0 {
				continue
			}
			if p.Doc == "" {
				t.Errorf("%s does not say why it exists: give it a doc.go", p.ImportPath)
			}
		}
	}
}

// TestCrossCompiles is the promise that the agent also builds for Windows.
func TestCrossCompiles(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles the agent twice")
	}
	if len(list(t, "agent")) == 0 {
		t.Fatal("the agent has no packages")
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, "./...")
	build.Dir = filepath.Join(root, "agent")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("GOOS=windows go build: %v\n%s", err, out)
	}
}

func arrowOf(from string) (arrow, bool) {
	for _, a := range arrows {
		if below(from, a.from) {
			return a, true
		}
	}
	// The root package of a module holds nothing but its doc.go.
	return arrow{}, false
}

// below tells whether the import path p is top or lies under it.
func below(p, top string) bool { return p == top || strings.HasPrefix(p, top+"/") }

func anyAbove(p string, tops []string) bool {
	for _, top := range tops {
		if below(p, top) {
			return true
		}
	}
	return false
}

func list(t *testing.T, module string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps=false", "-test=false",
		"-json=ImportPath,Doc,Imports,TestImports,XTestImports,Deps", "./...")
	cmd.Dir = filepath.Join(root, module)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pkgs []pkg
	for decoder := json.NewDecoder(out); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("go list in %s: %v\n%s", module, err, complaints.String())
	}
	return pkgs
}
