package ports

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// one is a port that is held, to be the only one that there is.
func one(t *testing.T) (*Held, int) {
	t.Helper()
	h, err := Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Release)
	return h, h.Ports[0]
}

func TestAPortIsHeldUntilItIsReleased(t *testing.T) {
	h, port := one(t)
	if _, err := hold(1, port, port); err == nil || !strings.Contains(err.Error(), "stop other programs") {
		t.Errorf("a port that is held was given again: %v", err)
	}
	// Whoever holds it can listen, leave, and listen again.
	for range 2 {
		l, err := net.Listen("tcp", h.Addresses()[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	h.Release()
	h.Release()
	again, err := hold(1, port, port)
	if err != nil {
		t.Fatal("a port that was released is not free:", err)
	}
	again.Release()
}

func TestAPortInUseIsNotGiven(t *testing.T) {
	h, port := one(t)
	l, err := net.Listen("tcp", h.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h.Release()
	if again, err := hold(1, port, port); err == nil {
		again.Release()
		t.Error("a port that somebody listens on was given")
	}
}

// Who dies without a word holds nothing, and who lives holds against other processes.
func TestPortsAreHeldAcrossProcesses(t *testing.T) {
	const holder = "CETRUS_TEST_HOLD_PORTS"
	if os.Getenv(holder) != "" {
		_, port := one(t)
		if _, err := fmt.Fprintln(os.Stdout, port); err != nil {
			t.Fatal(err)
		}
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // until it is killed
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), holder+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var port int
	_, err = fmt.Fscan(out, &port)
	if err == nil {
		var h *Held
		if h, err = hold(1, port, port); err == nil {
			h.Release()
			t.Error("another process's port was given")
		}
	} else {
		t.Error(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if port == 0 {
		return
	}
	h, err := hold(1, port, port)
	if err != nil {
		t.Fatal("a dead process holds its port:", err)
	}
	h.Release()
}

func TestTheKernelsOwnPortsAreLeftToIt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.IntRange(1, highest).Draw(t, "low")
		high := rapid.IntRange(low, highest).Draw(t, "high")
		from, to := outside(low, high)
		if from < lowest || to > highest || to-from+1 < enough {
			t.Fatalf("%d to %d", from, to)
		}
		room := max(low-lowest, highest-max(high, lowest-1)) >= enough
		if apart := to < low || from > high; room && !apart {
			t.Fatalf("%d to %d are the kernel's", from, to)
		}
	})
	if low, high := ephemeral(); low < 1 || high < low {
		t.Errorf("the kernel's own are %d to %d", low, high)
	}
}
