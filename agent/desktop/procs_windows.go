package desktop

import "golang.org/x/sys/windows"

// procs are all DLL procedures that the agent resolves itself, beside those that
// package windows of golang.org/x/sys holds. A test of the command (procs_test.go) keeps
// the list of these, and proves of both that nothing that tells keys, positions, images
// or the clipboard is among them.
type procs struct {
	queryInterruptTimePrecise, queryUnbiasedInterruptTime      *windows.LazyProc
	getTickCount, getPackageFullName                           *windows.LazyProc
	getLastInputInfo                                           *windows.LazyProc
	setWinEventHook, unhookWinEvent, getMessage, postThread    *windows.LazyProc
	internalGetWindowText, getWindow, getWindowLong, findChild *windows.LazyProc
	querySessionInformation                                    *windows.LazyProc
	regCreateKey                                               *windows.LazyProc
	startTrace, controlTrace, enableTrace                      *windows.LazyProc
	openTrace, processTrace, closeTrace                        *windows.LazyProc
}

func newProcs() *procs {
	kernel, base := windows.NewLazySystemDLL("kernel32.dll"), windows.NewLazySystemDLL("kernelbase.dll")
	user, advapi := windows.NewLazySystemDLL("user32.dll"), windows.NewLazySystemDLL("advapi32.dll")
	return &procs{
		queryInterruptTimePrecise:  base.NewProc("QueryInterruptTimePrecise"),
		queryUnbiasedInterruptTime: kernel.NewProc("QueryUnbiasedInterruptTime"),
		getTickCount:               kernel.NewProc("GetTickCount"),
		getPackageFullName:         kernel.NewProc("GetPackageFullName"),
		getLastInputInfo:           user.NewProc("GetLastInputInfo"),
		setWinEventHook:            user.NewProc("SetWinEventHook"),
		unhookWinEvent:             user.NewProc("UnhookWinEvent"),
		getMessage:                 user.NewProc("GetMessageW"),
		postThread:                 user.NewProc("PostThreadMessageW"),
		internalGetWindowText:      user.NewProc("InternalGetWindowText"),
		getWindow:                  user.NewProc("GetWindow"),
		getWindowLong:              user.NewProc("GetWindowLongW"),
		findChild:                  user.NewProc("FindWindowExW"),
		querySessionInformation:    windows.NewLazySystemDLL("wtsapi32.dll").NewProc("WTSQuerySessionInformationW"),
		regCreateKey:               advapi.NewProc("RegCreateKeyExW"),
		startTrace:                 advapi.NewProc("StartTraceW"),
		controlTrace:               advapi.NewProc("ControlTraceW"),
		enableTrace:                advapi.NewProc("EnableTraceEx2"),
		openTrace:                  advapi.NewProc("OpenTraceW"),
		processTrace:               advapi.NewProc("ProcessTrace"),
		closeTrace:                 advapi.NewProc("CloseTrace"),
	}
}
