//go:build linux

package wine

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed" // prng.c.txt
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// prng is a DLL that Go's runtime needs and Wine 8 lacks.
//
//go:embed prng.c.txt
var prng []byte

// Wine is a prefix with a desktop.
type Wine struct {
	// Display is the X display.
	Display string
	// Env is what commands of this desktop need.
	Env []string

	tb     testing.TB
	prefix string
}

const (
	makeTimeout = 3 * time.Minute
	stopTimeout = 20 * time.Second

	// notStarted is what Wine says where it could not start a program at all, which happens
	// while its own services are starting.
	notStarted    = "Application could not be started, or no application associated"
	startAttempts = 4
)

// Start copies the prefix and starts a desktop on it; both end with the test. Where
// Wine is not installed the test is skipped, and says so.
func Start(tb testing.TB) *Wine {
	tb.Helper()
	for command, pkg := range map[string]string{"wine": "wine wine64", "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64", "Xvfb": "xvfb", "openbox": "openbox", "xdotool": "xdotool"} {
		if _, err := exec.LookPath(command); err != nil {
			tb.Skipf("NOTHING OF WINDOWS IS TESTED: %s is missing; tools/bootstrap.sh test installs it (Debian: %s)", command, pkg)
		}
	}
	template, err := prefixTemplate()
	if err != nil {
		tb.Fatal(err)
	}
	w := &Wine{tb: tb, prefix: filepath.Join(tb.TempDir(), "prefix")}
	if out, err := exec.Command("cp", "-a", "--reflink=auto", template, w.prefix).CombinedOutput(); err != nil {
		tb.Fatalf("copy the Wine prefix: %v\n%s", err, out)
	}
	w.startDesktop()
	w.Env = append(cleanEnv(), "WINEPREFIX="+w.prefix, "WINEDEBUG=-all", "DISPLAY="+w.Display)
	// The first program starts Wine's own services, which takes seconds.
	w.Run(2*time.Minute, "cmd", "/c", "exit")
	tb.Cleanup(w.shutDown)
	return w
}

// shutDown ends everything that runs on the prefix, and waits.
func (w *Wine) shutDown() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	stop := exec.CommandContext(ctx, "wineserver", "-k", "-w")
	if _, err := exec.LookPath("wineserver"); err != nil {
		stop = exec.CommandContext(ctx, "wine", "wineboot", "-e", "-f")
	}
	stop.Env = w.Env
	_ = stop.Run()
}

func cleanEnv() (env []string) {
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "DISPLAY=") && !strings.HasPrefix(entry, "WINE") && !strings.HasPrefix(entry, "XAUTHORITY=") {
			env = append(env, entry)
		}
	}
	return env
}

// prefixTemplate is a prefix that nothing runs in. It is made once for each version
// of Wine, which takes half a minute.
func prefixTemplate() (string, error) {
	root, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	cache := filepath.Join(root, ".cache", "wine")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	version, err := exec.Command("wine", "--version").Output()
	if err != nil {
		return "", fmt.Errorf("wine --version: %w", err)
	}
	sum := sha256.Sum256(append(version, prng...))
	template := filepath.Join(cache, hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(template); err == nil {
		return template, nil
	}
	making := template + ".making"
	if err := os.RemoveAll(making); err != nil {
		return "", err
	}
	if err := makePrefix(making); err != nil {
		return "", fmt.Errorf("make a Wine prefix: %w", err)
	}
	return template, os.Rename(making, template)
}

func makePrefix(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), makeTimeout)
	defer cancel()
	// Without a display, and without offers to download Mono and Gecko.
	env := append(cleanEnv(), "WINEPREFIX="+dir, "WINEARCH=win64", "WINEDEBUG=-all", "WINEDLLOVERRIDES=mscoree,mshtml=")
	boot := exec.CommandContext(ctx, "wine", "wineboot", "-i")
	boot.Env = env
	boot.WaitDelay = time.Second
	if out, err := boot.CombinedOutput(); err != nil && ctx.Err() != nil {
		return fmt.Errorf("wineboot: %w\n%s", err, out)
	}
	// What has been written is on the disk once the prefix's server has ended.
	for _, name := range []string{"wineserver", "/usr/lib/wine/wineserver", "/usr/lib/wine/wineserver64"} {
		if _, err := exec.LookPath(name); err == nil {
			wait := exec.CommandContext(ctx, name, "-w")
			wait.Env = env
			if out, err := wait.CombinedOutput(); err != nil {
				return fmt.Errorf("%s -w: %w\n%s", name, err, out)
			}
			break
		}
	}
	system32 := filepath.Join(dir, "drive_c", "windows", "system32")
	if _, err := os.Stat(system32); err != nil {
		return fmt.Errorf("wineboot made no prefix: %w", err)
	}
	source := filepath.Join(dir, "prng.c")
	if err := os.WriteFile(source, prng, 0o644); err != nil {
		return err
	}
	compile := exec.CommandContext(ctx, "x86_64-w64-mingw32-gcc", "-shared", "-O1", "-s", "-o", filepath.Join(system32, "bcryptprimitives.dll"), source, "-ladvapi32")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", compile, err, out)
	}
	return nil
}

func (w *Wine) startDesktop() {
	w.tb.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		w.tb.Fatal(err)
	}
	defer read.Close()
	server := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1280x800x24", "-nolisten", "tcp", "-noreset")
	server.ExtraFiles = []*os.File{write}
	w.child(server)
	_ = write.Close()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		w.tb.Fatalf("Xvfb named no display: %v", err)
	}
	w.Display = ":" + strings.TrimSpace(line)
	manager := exec.Command("openbox", "--sm-disable")
	manager.Env = append(cleanEnv(), "DISPLAY="+w.Display)
	w.child(manager)
}

// child starts a process that ends with the test.
func (w *Wine) child(cmd *exec.Cmd) {
	w.tb.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	w.tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// Command is a Windows program, not yet started. Windows finds it as it does.
func (w *Wine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "wine", append([]string{name}, args...)...)
	cmd.Env = w.Env
	cmd.WaitDelay = time.Second // what it started may hold on to its output
	return cmd
}

// Try runs a Windows program to its end and gives what it said. One that Wine did not start
// is tried again.
func (w *Wine) Try(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(w.tb.Context(), limit)
	defer cancel()
	var out []byte
	var err error
	for range startAttempts {
		out, err = w.Command(ctx, name, args...).CombinedOutput()
		if err == nil || ctx.Err() != nil || !strings.Contains(string(out), notStarted) {
			break
		}
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it ended well; Wine's own services, which it started, did not
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%s did not end within %v: %w", name, limit, ctx.Err())
	}
	return string(out), err
}

// Run is Try that fails the test.
func (w *Wine) Run(limit time.Duration, name string, args ...string) string {
	w.tb.Helper()
	out, err := w.Try(limit, name, args...)
	if err != nil {
		w.tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// Running counts the processes of this prefix whose command line holds the words.
func (w *Wine) Running(words string) int { return len(w.processes(words)) }

// processes are the folders in /proc of those whose command line holds the words.
func (w *Wine) processes(words string) (found []string) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range processes {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), words) {
			continue
		}
		if env, err := os.ReadFile(filepath.Join(dir, "environ")); err == nil && strings.Contains(string(env), "WINEPREFIX="+w.prefix+"\x00") {
			found = append(found, dir)
		}
	}
	return found
}

// Memory is what the processes whose command line holds the words have written, in bytes,
// and what of them is in memory. Wine is in both: only differences between programs of ours
// say something of Windows.
func (w *Wine) Memory(words string) (written, resident int64, err error) {
	for _, dir := range w.processes(words) {
		text, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(text)) {
			var kilobytes int64
			if _, err := fmt.Sscanf(line, "Private_Dirty: %d kB", &kilobytes); err == nil {
				written += kilobytes << 10
			} else if _, err := fmt.Sscanf(line, "Rss: %d kB", &kilobytes); err == nil {
				resident += kilobytes << 10
			}
		}
	}
	return written, resident, nil
}

// C is a file on the prefix's drive C: as this system calls it.
func (w *Wine) C(path ...string) string {
	return filepath.Join(append([]string{w.prefix, "drive_c"}, path...)...)
}

// Build builds a Windows program, or with test the test binary of a package, below
// a module's folder, onto drive C:. The linker takes flags.
func (w *Wine) Build(module, pkg, name string, test bool, linker ...string) (onWindows string) {
	w.tb.Helper()
	args := []string{"build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", strings.Join(linker, " "), "-o", w.C(name), pkg}
	if test {
		overlay, err := deletingOverlay()
		if err != nil {
			w.tb.Fatal(err)
		}
		args = []string{"test", "-c", "-overlay", overlay, "-o", w.C(name), pkg}
	}
	_ = os.Getenv("CETRUS_SOURCES") // so that a change of them undoes Go's memory of a test's result
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join("..", "..", module)
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.tb.Fatalf("GOOS=windows go %s in %s: %v\n%s", strings.Join(args, " "), module, err, out)
	}
	return `C:\` + name
}

// deletingOverlay has Go delete files in the way that Wine 8 knows: os.RemoveAll, which
// tests need, asks for a newer one that Wine refuses in words which Go takes for an
// error. Go has both ways; the overlay picks the older.
func deletingOverlay() (string, error) {
	const file, newer, older = "internal/syscall/windows/at_windows.go", "if TestDeleteatFallback {", "if true {"
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", filepath.FromSlash(file))
	text, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	if strings.Count(string(text), newer) != 1 {
		return "", fmt.Errorf("%s has changed; see whether the overlay is still needed", original)
	}
	cache, err := filepath.Abs("../../.cache/wine")
	if err != nil {
		return "", err
	}
	patched, overlay := filepath.Join(cache, "at_windows.go"), filepath.Join(cache, "overlay.json")
	if err := os.WriteFile(patched, []byte(strings.Replace(string(text), newer, older, 1)), 0o644); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: patched}})
	if err != nil {
		return "", err
	}
	return overlay, os.WriteFile(overlay, list, 0o644)
}
