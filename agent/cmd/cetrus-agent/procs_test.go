package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Go resolves DLL procedures at run time, by names in the source: an import table would
// prove nothing. So all source that goes into the Windows program is read. A procedure
// that is not named there cannot be asked for.

// ownProcedures are those that the agent's own packages resolve.
var ownProcedures = []string{
	"AdjustWindowRectExForDpi", "AppendMenuW", "BeginPaint", "CloseTrace", "ControlTraceW", "CreateIconFromResourceEx", "CreatePopupMenu", "CreateWindowExW",
	"DefWindowProcW", "DestroyIcon", "DestroyMenu", "DestroyWindow", "DispatchMessageW", "EnableTraceEx2", "EndPaint", "FindWindowExW", "FlashWindowEx",
	"GetDpiForWindow", "GetLastInputInfo", "GetMessageW", "GetMessageW", "GetMonitorInfoW", "GetPackageFullName",
	"GetSystemFirmwareTable", "GetTickCount", "GetWindow", "GetWindowLongW", "GetWindowRect", "ImpersonateNamedPipeClient", "InternalGetWindowText", "InvalidateRect",
	"LoadCursorW", "MonitorFromWindow", "NtResumeProcess", "NtSuspendProcess", "OpenTraceW", "PostMessageW", "PostQuitMessage", "PostThreadMessageW", "ProcessTrace",
	"QueryInterruptTimePrecise", "QueryUnbiasedInterruptTime", "RegCreateKeyExW", "RegisterClassExW", "RegisterWindowMessageW",
	"SetDIBitsToDevice", "SetForegroundWindow", "SetThreadDpiAwarenessContext", "SetWinEventHook", "SetWindowPos", "Shell_NotifyIconW",
	"ShowWindow", "StartTraceW", "TrackPopupMenu", "TranslateMessage", "UnhookWinEvent", "WTSQuerySessionInformationW",
}

// resolvers are the other packages that may resolve procedures.
var resolvers = regexp.MustCompile(`^(syscall|internal/.*|crypto/.*|vendor/golang\.org/x/sys/.*|os(/user)?|net|time|runtime|golang\.org/x/sys/(cpu|windows(/.*)?)|github\.com/Microsoft/go-winio(/.*)?|github\.com/inconshreveable/mousetrap)$`)

// spying are procedures that tell keys, positions, images or the clipboard, that put
// code of ours into other programs, or that act in a person's place.
var spying = regexp.MustCompile(`^(SetWindowsHook.*|CallNextHookEx|Get(Async)?Key(board)?State|RegisterRawInputDevices|GetRawInput.*|AttachThreadInput|RegisterHotKey|` +
	`Get(Physical)?CursorPos|GetCursorInfo|GetMouseMovePointsEx|OpenClipboard|GetClipboardData|AddClipboardFormatListener|` +
	`BitBlt|StretchBlt|PrintWindow|GetDIBits|CreateCompatibleBitmap|GetDC|GetWindowDC|GetDCEx|D3D11CreateDevice.*|` +
	`WriteProcessMemory|CreateRemoteThread(Ex)?|SendInput|keybd_event|mouse_event|SendMessage.*|GetWindowText[AW]?)$`)

func TestProceduresThatWindowsIsAskedFor(t *testing.T) {
	t.Parallel()
	list := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles", ".")
	list.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	named := regexp.MustCompile(`(?:\.NewProc|\.MustFindProc|\.FindProc|GetProcAddress\(\w+,|//go:cgo_import_dynamic \S+)[( ]"?(\w+)`)
	byVariable := regexp.MustCompile(`\.(NewProc|MustFindProc|FindProc)\([^")]`)
	called := regexp.MustCompile(`\b(?:windows|syscall)\.(\w+)\b`)
	var own []string
	all, packages := 0, 0
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir string
			GoFiles         []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages++
		for _, name := range p.GoFiles {
			text, err := os.ReadFile(filepath.Join(p.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range called.FindAllSubmatch(text, -1) {
				if spying.Match(match[1]) {
					t.Errorf("%s/%s calls %s", p.ImportPath, name, match[1])
				}
			}
			ours := strings.HasPrefix(p.ImportPath, "github.com/cetrus/")
			if byVariable.Match(text) && p.ImportPath != "golang.org/x/sys/windows" && p.ImportPath != "syscall" {
				t.Errorf("%s/%s asks for a procedure whose name the source does not show", p.ImportPath, name)
			}
			for _, match := range named.FindAllSubmatch(text, -1) {
				all++
				procedure := string(match[1])
				// x/sys holds much that nobody here calls, which is looked at below.
				if spying.MatchString(procedure) && p.ImportPath != "golang.org/x/sys/windows" {
					t.Errorf("%s/%s can ask for %s", p.ImportPath, name, procedure)
				}
				switch {
				case ours:
					own = append(own, procedure)
				case !resolvers.MatchString(p.ImportPath):
					t.Errorf("%s/%s asks for %s, and is not known to ask for anything", p.ImportPath, name, procedure)
				}
			}
		}
	}
	if all < 200 || packages < 100 {
		t.Fatalf("%d procedures in %d packages: this test does not see what it looks for", all, packages)
	}
	slices.Sort(own)
	if !slices.Equal(own, ownProcedures) {
		t.Errorf("the agent asks for %q, the list says %q", own, ownProcedures)
	}
}
