package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

// Whoever opens the pipe is known once they have asked something. Wine takes everybody for
// the process that listens; that a real system tells them apart is in
// docs/windows-checklist.md.
func TestControlKnowsWhoAsks(t *testing.T) {
	t.Parallel()
	pipe := controlIn(t.TempDir())
	listener, err := listenControl(pipe)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	asked := make(chan error, 1)
	go func() {
		// Under Wine whoever comes first finds the pipe before anybody listens at it.
		if early, err := dialControl(t.Context(), pipe); err == nil {
			_ = early.Close()
		}
		conn, err := dialControl(t.Context(), pipe)
		if err != nil {
			asked <- err
			_ = listener.Close()
			return
		}
		defer conn.Close()
		_, err = conn.Write([]byte("?"))
		_, _ = io.ReadAll(conn) // until it is let go of
		asked <- err
	}()
	var conn net.Conn
	for {
		if conn, err = listener.Accept(); err != nil {
			t.Fatal(errors.Join(err, <-asked))
		}
		if _, err = io.ReadFull(conn, make([]byte, 1)); err == nil {
			break
		}
		_ = conn.Close()
	}
	self, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		t.Fatal(err)
	}
	for range 20 { // each question is a thread's that is used again
		who, err := askerOf(conn)
		if err != nil || who.user.SID != self.User.Sid.String() || who.user.Name == "" || !who.administrator {
			t.Fatalf("%+v, %v", who, err)
		}
	}
	_ = conn.Close()
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

// fakeImpersonation fails as it is told.
type fakeImpersonation struct {
	beginErr, tokenErr, endErr error

	thread windows.Handle
	given  windows.Token
	ended  int
}

func (f *fakeImpersonation) begin() error {
	f.thread, _ = windows.OpenThread(windows.SYNCHRONIZE, false, windows.GetCurrentThreadId())
	return f.beginErr
}

func (f *fakeImpersonation) token() (windows.Token, error) {
	if f.tokenErr == nil {
		_ = windows.OpenProcessToken(windows.CurrentProcess(), windows.TOKEN_QUERY, &f.given)
	}
	return f.given, f.tokenErr
}

func (f *fakeImpersonation) end() error {
	f.ended++
	return f.endErr
}

// A thread passes for nobody any longer than it takes to ask, whatever fails; and where it
// cannot be made ours again it is gone.
func TestControlPassesForNobodyAnyLonger(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken on purpose")
	for name, c := range map[string]struct {
		fake  fakeImpersonation
		ended int
		gone  bool
	}{
		"all is well":         {ended: 1},
		"it does not begin":   {fake: fakeImpersonation{beginErr: broken}},
		"there is no token":   {fake: fakeImpersonation{tokenErr: broken}, ended: 1},
		"it does not end":     {fake: fakeImpersonation{endErr: broken}, ended: 1, gone: true},
		"neither of the last": {fake: fakeImpersonation{tokenErr: broken, endErr: broken}, ended: 1, gone: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Go parks the thread that a program began with rather than end it; nothing runs
			// on it either, so that the next one is another.
			var last error
			for range 2 {
				f := c.fake
				token, err := tokenOf(&f)
				if want := f.beginErr != nil || f.tokenErr != nil || f.endErr != nil; (err != nil) != want || want && token != 0 || f.ended != c.ended {
					t.Fatalf("%v, token %v, made ours again %d times", err, token, f.ended)
				}
				if err == nil {
					_ = token.Close()
				}
				if !c.gone {
					_ = windows.CloseHandle(f.thread)
					return
				}
				event, err := windows.WaitForSingleObject(f.thread, uint32((20 * time.Second).Milliseconds()))
				_ = windows.CloseHandle(f.thread)
				if err == nil && event == windows.WAIT_OBJECT_0 {
					return
				}
				last = fmt.Errorf("the thread goes on: %d, %v", event, err)
			}
			t.Error(last)
		})
	}
}
