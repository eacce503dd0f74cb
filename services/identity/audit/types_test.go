package audit

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	// What the contract names must be linked in.
	_ "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	_ "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

var (
	comment   = regexp.MustCompile(`((?:^//[^\n]*\n)+)message (\w+)`)
	eventType = regexp.MustCompile(`CloudEvents type (cetrus\.[a-z]+\.[a-z_]+\.[a-z_]+\.v\d+)`)
)

// Every message of the contract that says which type of event it is, is found by that type; so
// a new event whose name does not lead to its message is seen here.
func TestEveryEventOfTheContractIsKnown(t *testing.T) {
	found := 0
	for _, pattern := range []string{"identity", "metering", "billing", "inventory", "e2p"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "..", "proto", "cetrus", pattern, "v1", "*.proto"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)`+comment.String()).FindAllStringSubmatch(string(text), -1) {
				said := eventType.FindStringSubmatch(strings.Join(strings.Fields(strings.ReplaceAll(m[1], "//", " ")), " "))
				if said == nil {
					continue
				}
				found++
				mt := find(said[1])
				if mt == nil || string(mt.Descriptor().Name()) != m[2] {
					t.Errorf("%s: %s is taken for %v, not for %s", file, said[1], mt, m[2])
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("only %d events were found in the contract", found)
	}
	for _, unknown := range []string{"", "cetrus.metering.application.forgotten.v1", "cetrus.metering.application.defined.v9", "com.example.a.b.v1"} {
		if mt := find(unknown); mt != nil {
			t.Errorf("%q is taken for %s", unknown, mt.Descriptor().FullName())
		}
	}
}
