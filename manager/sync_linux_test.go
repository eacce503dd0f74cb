package manager

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager/internal/agenttest"
)

const proofDir = "CETRUS_SYNC_PROOF_DIR"

// TestServeForTheSyncProof is the child of the test below, not a test.
func TestServeForTheSyncProof(t *testing.T) {
	dir := os.Getenv(proofDir)
	if dir == "" {
		t.Skip("only runs as a child")
	}
	m, err := New(testConfig(dir), Deps{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "address.new"), []byte(m.AgentsAddress()), 0o600))
	must(t, os.Rename(filepath.Join(dir, "address.new"), filepath.Join(dir, "address")))
	must(t, m.Run(context.Background()))
}

// TestEveryAcknowledgementComesAfterItsSync watches the system calls of a Manager
// in a process of its own. One frame after the other is sent and waited for: each
// acknowledgement must have seen a write to the buffer's message file since its
// frame was sent, and after it the end of a sync of that file.
func TestEveryAcknowledgementComesAfterItsSync(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	dir := t.TempDir()
	trace := filepath.Join(t.TempDir(), "trace")
	child := exec.Command(strace, "-f", "-y", "-ttt", "-T", "-e", "trace=fsync,fdatasync,pwrite64", "-o", trace, os.Args[0], "-test.run=^TestServeForTheSyncProof$")
	child.Env = append(os.Environ(), proofDir+"="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, child.Start())
	defer func() {
		_ = syscall.Kill(-child.Process.Pid, syscall.SIGKILL)
		_ = child.Wait()
	}()
	var address []byte
	eventually(t, "the child serves", func() bool {
		address, err = os.ReadFile(filepath.Join(dir, "address"))
		return err == nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := agenttest.Dial(ctx, string(address))
	must(t, err)
	defer c.Close()
	j := agenttest.NewJournal(rand.New(rand.NewPCG(1, 1)))
	must(t, c.SendHello(agenttest.Hello(j)))
	const frames = 40
	var spans [][2]time.Time
	for range frames {
		f := j.Frame(3)
		sent := time.Now()
		must(t, c.SendFrame(f))
		must(t, c.Acknowledged(j.Epoch, f.GetFirstSeq(), f.GetFirstSeq()+2))
		spans = append(spans, [2]time.Time{sent, time.Now()})
	}
	must(t, syscall.Kill(-child.Process.Pid, syscall.SIGKILL))
	_ = child.Wait()
	writes, syncs := readTrace(t, trace)
	proven := 0
	for i, span := range spans {
		written, ok := firstAfter(writes, span[0])
		synced, ok2 := firstAfter(syncs, written)
		if !ok || !ok2 || synced.After(span[1]) {
			t.Errorf("frame %d was acknowledged %v after it was sent, before its sync", i+1, span[1].Sub(span[0]))
			continue
		}
		proven++
	}
	t.Logf("%d acknowledgements, %d of them after their sync; %d writes and %d syncs of message files", frames, proven, len(writes), len(syncs))
}

func firstAfter(times []time.Time, after time.Time) (time.Time, bool) {
	i := slices.IndexFunc(times, func(t time.Time) bool { return t.After(after) })
	if i < 0 {
		return time.Time{}, false
	}
	return times[i], true
}

// A call that another thread interrupts in the trace is told in two lines.
var (
	wholeCall = regexp.MustCompile(`^(\d+) +(\d+\.\d+) (fsync|fdatasync|pwrite64)\(\d+<([^>]*)>.*\) += +\d+ <(\d+\.\d+)>$`)
	begunCall = regexp.MustCompile(`^(\d+) +(\d+\.\d+) (fsync|fdatasync|pwrite64)\(\d+<([^>]*)>.*<unfinished \.\.\.>$`)
	endedCall = regexp.MustCompile(`^(\d+) +(\d+\.\d+) <\.\.\. (fsync|fdatasync|pwrite64) resumed>.*\) += +\d+ <(\d+\.\d+)>$`)
)

// readTrace tells when writes to message files began and when their syncs ended.
func readTrace(t *testing.T, path string) (writes, syncs []time.Time) {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	at := func(seconds string) time.Time {
		whole, fraction, _ := strings.Cut(seconds, ".")
		s, err := strconv.ParseInt(whole, 10, 64)
		must(t, err)
		n, err := strconv.ParseInt(fmt.Sprintf("%-9s", fraction)[:6], 10, 64)
		must(t, err)
		return time.Unix(s, n*1000)
	}
	note := func(call, path string, began, ended time.Time) {
		switch {
		case !strings.HasSuffix(path, ".blk"):
		case call == "pwrite64":
			writes = append(writes, began)
		default:
			syncs = append(syncs, ended)
		}
	}
	type call struct {
		path  string
		began time.Time
	}
	open := make(map[string]call)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := wholeCall.FindStringSubmatch(line); m != nil {
			took, err := time.ParseDuration(m[5] + "s")
			must(t, err)
			note(m[3], m[4], at(m[2]), at(m[2]).Add(took))
		} else if m := begunCall.FindStringSubmatch(line); m != nil {
			open[m[1]] = call{m[4], at(m[2])}
		} else if m := endedCall.FindStringSubmatch(line); m != nil {
			note(m[3], open[m[1]].path, open[m[1]].began, at(m[2]))
		}
	}
	must(t, lines.Err())
	slices.SortFunc(writes, time.Time.Compare)
	slices.SortFunc(syncs, time.Time.Compare)
	return writes, syncs
}
