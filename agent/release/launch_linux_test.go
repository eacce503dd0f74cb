package release

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
)

// stoppingVariable makes a process of this test one that is told to stop just as it is to
// become another program, in the way that it names.
const stoppingVariable = "CETRUS_TEST_STOPPING"

// A process that is told to stop as it switches ends; the program in its place, which would not
// know of it, must not go on.
func TestStopIsHeardWhileSwitching(t *testing.T) {
	if way := os.Getenv(stoppingVariable); way != "" {
		switchWhileStopped(t, way)
		return
	}
	for _, way := range []string{"switch", "launch"} {
		for range 20 {
			c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
			c.Env = append(os.Environ(), stoppingVariable+"="+way, launcherVariable+"=/bin/false")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", way, err, out)
			}
		}
	}
}

// switchWhileStopped would become /bin/false, which fails.
func switchWhileStopped(t *testing.T, way string) {
	ctx, done := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer done()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	var err error
	if way == "switch" {
		err = Switch(ctx)
	} else {
		_, err = Launcher{}.goOnAs(ctx, "/bin/false", "/bin/false")
	}
	if err != nil {
		t.Fatal(err)
	}
}
