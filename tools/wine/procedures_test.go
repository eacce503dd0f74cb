//go:build linux

package wine

import (
	"debug/pe"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "add to the lists of what service and helper resolve")

// lookUp is a line of Wine's trace: process, procedure, and where the call came from.
var lookUp = regexp.MustCompile(`(?:([0-9a-f]+):[0-9a-f]+:)?Call KERNEL32\.GetProcAddress\([0-9a-f]+,[0-9a-f]+ "(\w+)"\) ret=([0-9a-f]+)`)

// resolved reads a trace: what each process of a Go program has asked for, of what was
// asked from within the program itself.
func resolved(t *testing.T, trace, program string) map[string][]string {
	t.Helper()
	image, err := pe.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	header, ok := image.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		t.Fatalf("%s is no program of 64 bits", program)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, match := range lookUp.FindAllStringSubmatch(string(text), -1) {
		from, err := strconv.ParseUint(match[3], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		if from >= header.ImageBase && from < header.ImageBase+uint64(header.SizeOfImage) {
			all[match[1]] = append(all[match[1]], match[2])
		}
	}
	for process, procedures := range all {
		// Wine's own programs lie at the same address; each Go program begins with this.
		if process != "" && procedures[0] != "ProcessPrng" {
			delete(all, process)
			continue
		}
		slices.Sort(procedures)
		all[process] = slices.Compact(procedures)
	}
	return all
}

// What the service, the session helper and the icon really ask Windows for, from their start to
// their end, is on a list for each. The agent's own tests see that nothing on these tells
// keys, positions, images or the clipboard; the helper's has no way out of the machine. The
// other two may also ask for whatever else is linked: not every road is taken here.
func TestProceduresThatAreResolved(t *testing.T) {
	t.Parallel()
	trace := filepath.Join(t.ArtifactDir(), "resolved")
	file, err := os.Create(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := Start(t)
	// Services, and what they start, have their environment from the registry as it is when
	// Wine starts.
	w.Run(time.Minute, "reg", "add", `HKCU\Software\Wine\Debug`, "/v", "RelayInclude", "/d", "kernel32.GetProcAddress", "/f")
	w.Run(time.Minute, "reg", "add", `HKLM\SYSTEM\CurrentControlSet\Control\Session Manager\Environment`, "/v", "WINEDEBUG", "/d", "-all,+pid,+relay", "/f")
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	w.shutDown()
	// Services say what they say where the program says it that has started Wine. Its window
	// is something to look at, until the test ends.
	notepad := w.Command(t.Context(), "notepad.exe")
	notepad.Stderr = file
	if err := notepad.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = notepad.Wait() })
	eventually(t, time.Minute, "Wine's services", func() (string, bool) {
		n := w.Running("services.exe")
		return fmt.Sprint(n, " processes"), n > 0
	})
	const data = `C:\agent data`
	w.Run(time.Minute, agent, "install", "--manager", "127.0.0.1:1", "--data-dir", data)
	w.Run(time.Minute, agent, "start")
	eventually(t, time.Minute, "the service to see through a helper", func() (string, bool) {
		out, err := w.Try(20*time.Second, agent, "status", "--data-dir", data)
		return out, err == nil && !blind(out) && w.Running("session-helper") == 1
	})
	for _, last := range []string{"GetClassNameW", "Shell_NotifyIconW"} {
		eventually(t, time.Minute, "helper and icon to ask for "+last, func() (string, bool) {
			text, err := os.ReadFile(trace)
			return fmt.Sprint(len(text), " bytes of trace"), err == nil && strings.Contains(string(text), `"`+last+`"`)
		})
	}
	w.Run(time.Minute, agent, "stop")
	eventually(t, 30*time.Second, "service and helper to end", func() (string, bool) {
		n := w.Running("cetrus-agent.exe")
		return fmt.Sprint(n, " processes"), n == 0
	})

	roles := map[string][]string{}
	for process, procedures := range resolved(t, trace, w.C("cetrus-agent.exe")) {
		role := "helper"
		if slices.Contains(procedures, "Shell_NotifyIconW") {
			role = "tray"
		}
		if process == "" || slices.Contains(procedures, "StartServiceCtrlDispatcherW") {
			role = "service" // or a line that two processes wrote into
		}
		roles[role] = append(roles[role], procedures...)
	}
	linked := words(t, filepath.Join("..", "..", "agent", "cmd", "cetrus-agent", "testdata", "procedures.txt"))
	for role, sees := range map[string]string{"service": "CreateProcessAsUserW", "helper": "GetLastInputInfo", "tray": "Shell_NotifyIconW"} {
		if !slices.Contains(roles[role], sees) || len(roles[role]) < 40 {
			t.Fatalf("the %s asks for %q: this test does not see what it looks for", role, roles[role])
		}
		list := filepath.Join("..", "..", "agent", "cmd", "cetrus-agent", "testdata", role+".txt")
		listed := words(t, list)
		if *update {
			for _, procedure := range roles[role] {
				if role == "helper" || !slices.Contains(linked, procedure) {
					listed = append(listed, procedure)
				}
			}
			slices.Sort(listed)
			if err := os.WriteFile(list, []byte(strings.Join(slices.Compact(listed), "\n")+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		known := slices.Clone(listed)
		if role != "helper" {
			known = append(known, linked...)
		}
		for _, procedure := range roles[role] {
			if !slices.Contains(known, procedure) {
				t.Errorf("the %s asks for %s, which is not in %s", role, procedure, list)
			}
		}
	}
}

func words(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}
