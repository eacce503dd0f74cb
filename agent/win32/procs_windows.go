package win32

import "golang.org/x/sys/windows"

// procs are all procedures that this package resolves.
type procs struct {
	registerClass, createWindow, destroyWindow, defWindow *windows.LazyProc
	showWindow, setForegroundWindow, flashWindow          *windows.LazyProc
	getMessage, translateMessage, dispatchMessage         *windows.LazyProc
	postMessage, postQuit                                 *windows.LazyProc
	beginPaint, endPaint, invalidate, setDIBits           *windows.LazyProc
	setWindowPos, getWindowRect, adjustRect, loadCursor   *windows.LazyProc
	monitorFromWindow, getMonitorInfo                     *windows.LazyProc
	setThreadDPI, getWindowDPI                            *windows.LazyProc
	notifyIcon, createIcon, destroyIcon, registerMessage  *windows.LazyProc
	createMenu, appendMenu, trackMenu, destroyMenu        *windows.LazyProc
}

func newProcs() *procs {
	user, gdi, shell := windows.NewLazySystemDLL("user32.dll"), windows.NewLazySystemDLL("gdi32.dll"), windows.NewLazySystemDLL("shell32.dll")
	return &procs{
		registerClass:       user.NewProc("RegisterClassExW"),
		createWindow:        user.NewProc("CreateWindowExW"),
		destroyWindow:       user.NewProc("DestroyWindow"),
		defWindow:           user.NewProc("DefWindowProcW"),
		showWindow:          user.NewProc("ShowWindow"),
		setForegroundWindow: user.NewProc("SetForegroundWindow"),
		flashWindow:         user.NewProc("FlashWindowEx"),
		getMessage:          user.NewProc("GetMessageW"),
		translateMessage:    user.NewProc("TranslateMessage"),
		dispatchMessage:     user.NewProc("DispatchMessageW"),
		postMessage:         user.NewProc("PostMessageW"),
		postQuit:            user.NewProc("PostQuitMessage"),
		beginPaint:          user.NewProc("BeginPaint"),
		endPaint:            user.NewProc("EndPaint"),
		invalidate:          user.NewProc("InvalidateRect"),
		setDIBits:           gdi.NewProc("SetDIBitsToDevice"),
		setWindowPos:        user.NewProc("SetWindowPos"),
		getWindowRect:       user.NewProc("GetWindowRect"),
		adjustRect:          user.NewProc("AdjustWindowRectExForDpi"),
		loadCursor:          user.NewProc("LoadCursorW"),
		monitorFromWindow:   user.NewProc("MonitorFromWindow"),
		getMonitorInfo:      user.NewProc("GetMonitorInfoW"),
		setThreadDPI:        user.NewProc("SetThreadDpiAwarenessContext"),
		getWindowDPI:        user.NewProc("GetDpiForWindow"),
		notifyIcon:          shell.NewProc("Shell_NotifyIconW"),
		createIcon:          user.NewProc("CreateIconFromResourceEx"),
		destroyIcon:         user.NewProc("DestroyIcon"),
		registerMessage:     user.NewProc("RegisterWindowMessageW"),
		createMenu:          user.NewProc("CreatePopupMenu"),
		appendMenu:          user.NewProc("AppendMenuW"),
		trackMenu:           user.NewProc("TrackPopupMenu"),
		destroyMenu:         user.NewProc("DestroyMenu"),
	}
}
