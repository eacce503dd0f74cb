package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// nobody is who tests ask as where root would be told something else.
const nobody = 65534

// Root watches all sessions that there are, and waits for the first; a person's own
// agent has one display to watch.
func TestRunWithoutDisplaySaysSo(t *testing.T) {
	if os.Geteuid() == 0 {
		cmd := exec.CommandContext(t.Context(), ownProgram, "-test.run", "^TestRunWithoutDisplaySaysSo$", "-test.v")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		cmd.Dir, cmd.Env = "/", append(os.Environ(), "TMPDIR=/tmp")
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestRunWithoutDisplaySaysSo")) {
			t.Errorf("as nobody: %v\n%s", err, out)
		}
		return
	}
	quiet(t)
	t.Setenv("DISPLAY", "")
	var out, errs bytes.Buffer
	if code := run([]string{"run", "--data-dir", t.TempDir()}, &out, &errs); code == 0 || !strings.Contains(errs.String(), "DISPLAY") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}
