package manager

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
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

	"golang.org/x/sync/errgroup"

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
// in a process of its own while several agents send at once. For each
// acknowledgement the write that carried its frame is found by the frame's bytes; a
// sync of that file must have begun after that write had ended, and ended before the
// acknowledgement came.
func TestEveryAcknowledgementComesAfterItsSync(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	dir := t.TempDir()
	trace := filepath.Join(t.TempDir(), "trace")
	child := exec.Command(strace, "-f", "-y", "-x", "-s", "4194304", "-ttt", "-T", "-e", "trace=fsync,fdatasync,pwrite64", "-o", trace, os.Args[0], "-test.run=^TestServeForTheSyncProof$")
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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const streams, frames = 8, 15
	// proof is a frame that was acknowledged.
	type proof struct {
		record []byte
		came   time.Time
	}
	proofs := make([][]proof, streams)
	group, ctx := errgroup.WithContext(ctx)
	for n := range streams {
		group.Go(func() error {
			c, err := agenttest.Dial(ctx, string(address))
			if err != nil {
				return err
			}
			defer c.Close()
			j := agenttest.NewJournal(rand.New(rand.NewPCG(1, uint64(n))))
			if err := c.SendHello(agenttest.Hello(j)); err != nil {
				return err
			}
			for range frames {
				f := j.Frame(3)
				if err := c.SendFrame(f); err != nil {
					return err
				}
				if err := c.Acknowledged(j.Epoch, f.GetFirstSeq(), f.GetFirstSeq()+2); err != nil {
					return err
				}
				proofs[n] = append(proofs[n], proof{f.GetRecords()[2], time.Now()})
			}
			return nil
		})
	}
	must(t, group.Wait())
	must(t, syscall.Kill(-child.Process.Pid, syscall.SIGKILL))
	_ = child.Wait()
	calls := readTrace(t, trace)
	proven, together := 0, make(map[int]int) // frames by the sync that proves them
	for n := range proofs {
		for i, p := range proofs[n] {
			write := slices.IndexFunc(calls, func(c call) bool { return bytes.Contains(c.data, p.record) })
			if write < 0 {
				t.Errorf("stream %d: frame %d was acknowledged and never written", n, i+1)
				continue
			}
			sync := slices.IndexFunc(calls, func(c call) bool {
				return c.data == nil && c.path == calls[write].path && !c.began.Before(calls[write].ended) && c.ended.Before(p.came)
			})
			if sync < 0 {
				t.Errorf("stream %d: frame %d was acknowledged before a sync of its write had ended", n, i+1)
				continue
			}
			proven++
			together[sync]++
		}
	}
	if len(together) == proven {
		t.Error("no two frames shared a sync: this is no proof of frames that come at once")
	}
	t.Logf("%d acknowledgements to %d streams, %d of them after their sync; %d syncs did it", streams*frames, streams, proven, len(together))
}

// call is a write to a message file, or a sync of one where data is nil.
type call struct {
	path         string
	data         []byte
	began, ended time.Time
}

// A call that another thread interrupts in the trace is told in two lines.
var (
	wholeCall = regexp.MustCompile(`^(\d+) +(\d+\.\d+) (?:fsync|fdatasync|pwrite64)\(\d+<([^>]*)>(?:, "([^"]*)".*)?\) += +\d+ <(\d+\.\d+)>$`)
	begunCall = regexp.MustCompile(`^(\d+) +(\d+\.\d+) (?:fsync|fdatasync|pwrite64)\(\d+<([^>]*)>(?:, "([^"]*)".*)? <unfinished \.\.\.>$`)
	endedCall = regexp.MustCompile(`^(\d+) +(\d+\.\d+) <\.\.\. (?:fsync|fdatasync|pwrite64) resumed>.*\) += +\d+ <(\d+\.\d+)>$`)
)

// readTrace tells the calls on message files.
func readTrace(t *testing.T, path string) (calls []call) {
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
	note := func(c call) {
		if strings.HasSuffix(c.path, ".blk") {
			calls = append(calls, c)
		}
	}
	open := make(map[string]call)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		line := lines.Text()
		if m := wholeCall.FindStringSubmatch(line); m != nil {
			took, err := time.ParseDuration(m[5] + "s")
			must(t, err)
			note(call{m[3], unescape(t, m[4]), at(m[2]), at(m[2]).Add(took)})
		} else if m := begunCall.FindStringSubmatch(line); m != nil {
			open[m[1]] = call{path: m[3], data: unescape(t, m[4]), began: at(m[2])}
		} else if m := endedCall.FindStringSubmatch(line); m != nil {
			c := open[m[1]]
			c.ended = at(m[2])
			note(c)
		}
	}
	must(t, lines.Err())
	return calls
}

// unescape reads what strace -x shows of a buffer: hexadecimal all of it, where it is
// not plain text; nil of none.
func unescape(t *testing.T, text string) []byte {
	if text == "" {
		return nil
	}
	if !strings.HasPrefix(text, `\x`) {
		return []byte(text)
	}
	data, err := hex.DecodeString(strings.ReplaceAll(text, `\x`, ""))
	must(t, err)
	return data
}
