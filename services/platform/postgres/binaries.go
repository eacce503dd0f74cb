package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrNoBinaries means that no PostgreSQL server is installed.
var ErrNoBinaries = errors.New("no PostgreSQL server found: install it with \"apt-get install postgresql\" (Debian, Ubuntu), or name the directory of its programs")

// places are where distributions put the server's programs.
var places = []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/lib/postgresql*/bin", "/opt/homebrew/opt/postgresql@*/bin"}

// FindBinaries is the directory of the newest PostgreSQL server on this machine,
// or of the newest of one major version where major is not zero.
func FindBinaries(major int) (string, error) {
	var dirs []string
	for _, place := range places {
		found, err := filepath.Glob(place)
		if err != nil {
			return "", fmt.Errorf("postgres: %q: %w", place, err)
		}
		dirs = append(dirs, found...)
	}
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	best, bestMajor := "", 0
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
			continue
		}
		m := majorOf(dir)
		if (major == 0 || m == major) && m > bestMajor {
			best, bestMajor = dir, m
		}
	}
	switch {
	case best != "":
		return best, nil
	case major != 0:
		return "", fmt.Errorf("postgres: the data were made by PostgreSQL %d, which is not installed: install it with \"apt-get install postgresql-%d\"", major, major)
	}
	return "", fmt.Errorf("postgres: %w", ErrNoBinaries)
}

// majorOf is the major version of the programs in dir, 0 where they do not say.
func majorOf(dir string) int {
	out, err := exec.Command(filepath.Join(dir, "postgres"), "--version").Output()
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(out)) // postgres (PostgreSQL) 15.14 (Debian …)
	if len(fields) < 3 {
		return 0
	}
	digits, _, _ := strings.Cut(fields[2], ".")
	digits = strings.TrimRightFunc(digits, func(r rune) bool { return r < '0' || r > '9' })
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = digits[:i] // 18beta1
	}
	major, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return major
}
