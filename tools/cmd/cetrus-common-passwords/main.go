// Cetrus-common-passwords makes services/identity/credential/common.bin of a list of
// passwords, a JSON array of texts: src/passwords.json in the npm package
// @zxcvbn-ts/language-common (MIT).
//
//	cetrus-common-passwords passwords.json common.bin
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cetrus/cetrus/services/identity/credential"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: cetrus-common-passwords passwords.json common.bin")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "cetrus-common-passwords:", err)
		os.Exit(1)
	}
}

func run(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	var passwords []string
	if err := json.Unmarshal(text, &passwords); err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	hashes := make([][]byte, len(passwords))
	for i, p := range passwords {
		hashes[i] = credential.CommonHash(strings.ToLower(p))
	}
	slices.SortFunc(hashes, bytes.Compare)
	return os.WriteFile(to, bytes.Join(slices.CompactFunc(hashes, bytes.Equal), nil), 0o644)
}
