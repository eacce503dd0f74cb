package journal_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/agent/journal"
)

// killedDir names the journal of a child that is to be killed.
const killedDir = "CETRUS_TEST_KILLED_JOURNAL"

// TestChildThatIsKilled is the program that TestKilledProcess kills: it says in a line
// each how many records are there at the start, and then each that is appended or
// acknowledged, once that is durable.
func TestChildThatIsKilled(t *testing.T) {
	dir := os.Getenv(killedDir)
	if dir == "" {
		t.Skip("only a child of TestKilledProcess does this")
	}
	c := config(dir)
	c.Sync = nil
	j := open(t, c)
	if d := j.Stats().Damage; d.Reason != "" {
		t.Fatalf("damage: %+v", d)
	}
	ids := drain(t, j)
	fmt.Fprintln(os.Stdout, "there", strings.Join(ids, ","))
	next := 0
	if len(ids) > 0 {
		next = number(t, ids[len(ids)-1]) + 1
	}
	for n := next; ; n += 3 {
		if err := j.Append(t.Context(), batch(n, 3, anchor(int64(n/50)))); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(os.Stdout, "appended", n+3)
		switch n / 3 % 8 {
		case 3:
			if err := j.WriteSlot([]byte("slot")); err != nil {
				t.Fatal(err)
			}
		case 5:
			if err := j.NewEpoch(); err != nil {
				t.Fatal(err)
			}
		case 7:
			f, err := j.Frame(1)
			if err != nil {
				t.Fatal(err)
			}
			if err := j.Acknowledge(j.Epoch(), f.GetFirstSeq(), f.GetFirstSeq()+1); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(os.Stdout, "acknowledged", 2)
		}
	}
}

func number(t *testing.T, id string) int {
	t.Helper()
	n, err := strconv.Atoi(id)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKilledProcess kills a process that writes, with real syncs, at moments that it
// cannot know, and starts it again on what is there.
func TestKilledProcess(t *testing.T) {
	random := random(t, 3)
	dir := t.TempDir()
	// Beyond appended, a batch may have been written of which nobody was told; beyond
	// acknowledged, an acknowledgement.
	appended, acknowledged, told := 0, 0, 0
	check := func(ids []string) {
		t.Helper()
		first, last := appended, 0
		for n, id := range ids {
			at := number(t, id)
			if n == 0 {
				first = at
			} else if at <= last {
				t.Fatalf("%d behind %d: %v", at, last, ids)
			}
			last = at
		}
		if first < acknowledged || first > acknowledged+2 && first < appended {
			t.Fatalf("it begins at %d, acknowledged up to %d: %v", first, acknowledged, ids)
		}
		there := map[string]bool{}
		for _, id := range ids {
			there[id] = true
		}
		for _, id := range numbers(first, appended) {
			if !there[id] {
				t.Fatalf("record %s is lost, of %d appended: %v", id, appended, ids)
			}
		}
		if last >= appended+3 {
			t.Fatalf("record %d was never appended", last)
		}
		acknowledged, appended = first, max(appended, last+1)
	}
	// Just behind a kill, Wine may not start the program once ("Internal error.").
	start := func() (child *exec.Cmd, out io.ReadCloser) {
		for attempt := 1; ; attempt++ {
			child = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChildThatIsKilled$")
			child.Env = append(os.Environ(), killedDir+"="+dir)
			child.Stderr = os.Stderr
			out, err := child.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err = child.Start(); err == nil {
				return child, out
			}
			if attempt == 5 {
				t.Fatal(err)
			}
		}
	}
	for range 12 {
		child, out := start()
		lines, said := 1+random.IntN(60), 0
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			word, rest, _ := strings.Cut(scanner.Text(), " ")
			switch word {
			case "there":
				var ids []string
				if rest != "" {
					ids = strings.Split(rest, ",")
				}
				check(ids)
			case "appended":
				if _, err := fmt.Sscan(rest, &appended); err != nil {
					t.Fatal(err)
				}
			case "acknowledged":
				acknowledged += 2
			default:
				t.Fatalf("the child says %q", scanner.Text())
			}
			// It goes on writing: the lines behind this one are read too.
			if said++; said == lines {
				_ = child.Process.Kill()
			}
		}
		if err := child.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		told += said
	}
	c := config(dir)
	c.Sync = nil
	j, err := journal.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	check(drain(t, j))
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d steps told, %d records, %d acknowledged", told, appended, acknowledged)
}
