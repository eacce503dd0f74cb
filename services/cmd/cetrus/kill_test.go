package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the command, so that it can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("BE_CETRUS") != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// startCommand starts `cetrus all` as a process of its own and waits until it
// says that it runs.
func startCommand(t *testing.T, dir string) (*exec.Cmd, *instance) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "all", "--data-dir", dir, "--rest-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0",
		"--nats-listen", "127.0.0.1:0", "--manager-agents-listen", "127.0.0.1:0", "--manager-status-listen", "127.0.0.1:0", "--log-level", "warn")
	cmd.Env = append(os.Environ(), "BE_CETRUS=1")
	cmd.Stderr = testWriter{t}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "Ctrl-C") {
			a, err := addressesOf(dir, "all")
			if err != nil {
				t.Fatal(err)
			}
			key, err := os.ReadFile(dir + "/api-key")
			if err != nil {
				t.Fatal(err)
			}
			return cmd, &instance{t: t, dir: dir, rest: a.REST, key: strings.TrimSpace(string(key))}
		}
	}
	t.Fatalf("it ended before it ran: %v", cmd.Wait())
	return nil, nil
}

// What was answered with success is there after SIGKILL at once, and a signal
// ends the command in time, with status 0.
func TestKilledAndStopped(t *testing.T) {
	dir := testDir(t)
	cmd, first := startCommand(t, dir)
	code, created := first.do("POST", "/v1/applications", `{"display_name":"Editor","rules":[{"executable":"xed"}]}`, first.key)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code != 200 {
		t.Fatalf("create: %d %v", code, created)
	}

	cmd, second := startCommand(t, dir)
	code, answer := second.do("GET", "/v1/applications", "", first.key)
	if list, _ := answer["applications"].([]any); code != 200 || len(list) != 1 || list[0].(map[string]any)["application_id"] != created["application_id"] {
		t.Errorf("after the kill: %d %v", code, answer)
	}
	began := time.Now()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || time.Since(began) > stopWithin {
		t.Errorf("stopped after %s: %v", time.Since(began), err)
	}
	if _, err := os.Stat(dir + "/" + addressesFile("all")); !os.IsNotExist(err) {
		t.Errorf("the addresses of a stopped process are still told: %v", err)
	}
}
