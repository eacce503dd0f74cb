package network_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cetrus/cetrus/tools/faults/network"
)

// pair are two machines at a switch; what is sent to the address is sent back.
func pair(t *testing.T) (n *network.Network, near, far *network.Machine, echo string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip(network.ErrNotRoot)
	}
	n = network.New(1)
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var err error
	if near, err = n.Machine("near"); err != nil {
		t.Fatal(err)
	}
	if far, err = n.Machine("far"); err != nil {
		t.Fatal(err)
	}
	listener, err := far.Listen(t.Context(), net.JoinHostPort(far.Address.String(), "7"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return n, near, far, listener.Addr().String()
}

// says sends bytes and tells whether the same come back.
func says(t *testing.T, from *network.Machine, to string, size int) (time.Duration, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, err := from.DialContext(ctx, "tcp", to)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	text := make([]byte, size)
	for i := range text {
		text[i] = byte(rand.Uint32())
	}
	began := time.Now()
	go func() { _, _ = conn.Write(text) }()
	back := make([]byte, size)
	if _, err := io.ReadFull(conn, back); err != nil {
		return 0, err
	}
	if sha256.Sum256(text) != sha256.Sum256(back) {
		return 0, errors.New("other bytes came back")
	}
	return time.Since(began), nil
}

func TestMachinesReachOneAnotherThroughAnyWeather(t *testing.T) {
	n, near, far, echo := pair(t)
	if _, err := says(t, near, echo, 4<<20); err != nil {
		t.Fatal(err)
	}
	const delay = 30 * time.Millisecond
	n.SetBoth(near, far, network.Condition{Delay: delay})
	took, err := says(t, near, echo, 1)
	if err != nil {
		t.Fatal(err)
	}
	if took < 2*delay {
		t.Errorf("a byte was back after %s, and is held back %s each way", took, delay)
	}
	n.SetBoth(near, far, network.Condition{Lost: 30, Repeated: 30, Damaged: 30, Jitter: 2 * time.Millisecond})
	if _, err := says(t, near, echo, 1<<20); err != nil {
		t.Fatalf("TCP does not get through: %v; %+v", err, n.Figures())
	}
	f := n.Figures()
	if f.Lost == 0 || f.Repeated == 0 || f.Damaged == 0 || f.Held == 0 {
		t.Errorf("nothing was struck: %+v", f)
	}
}

func TestACutLetsNothingThroughUntilItIsMended(t *testing.T) {
	n, near, far, echo := pair(t)
	if _, err := says(t, near, echo, 1); err != nil {
		t.Fatal(err)
	}
	for _, cut := range []struct{ from, to *network.Machine }{{near, far}, {far, near}} {
		n.Set(cut.from, cut.to, network.Condition{Cut: true})
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if conn, err := near.DialContext(ctx, "tcp", echo); err == nil {
			_ = conn.Close()
			t.Errorf("cut from %s to %s, and a connection comes about", cut.from.Name, cut.to.Name)
		}
		cancel()
		n.Set(cut.from, cut.to, network.Condition{})
	}
	if _, err := says(t, near, echo, 1); err != nil {
		t.Fatalf("mended, and yet: %v", err)
	}
}

func TestAProgramRunsOnItsMachine(t *testing.T) {
	_, near, _, _ := pair(t)
	out, err := exec.CommandContext(t.Context(), "nsenter", near.Namespace(), "--", "ip", "-4", "-o", "addr").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !bytes.Contains(out, []byte(near.Address.String())) {
		t.Errorf("it sees other interfaces: %s", out)
	}
}
