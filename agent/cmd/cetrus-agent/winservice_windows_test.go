package main

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/mgr"
)

// These tests run on Windows, and under Wine by tools/wine.

// talking is a conversation with a service manager that behaves as documented: it sends one
// request after the other and takes every status.
type talking struct {
	*conversation
	requests chan svc.ChangeRequest
	over     chan struct{}
	code     uint32
	ownCode  bool

	mu    sync.Mutex
	told  []svc.Status
	looks int
	stops int
}

func talk(t *testing.T, stop func()) *talking {
	t.Helper()
	c := &talking{requests: make(chan svc.ChangeRequest), over: make(chan struct{})}
	c.conversation = &conversation{
		ctx: t.Context(), log: slog.New(slog.DiscardHandler), failed: make(chan struct{}),
		start: func() error { return nil }, complete: func() error { return errors.New("Wine does not know it") },
		look: func() { c.count(&c.looks) },
		stop: func() {
			c.count(&c.stops)
			stop()
		},
	}
	return c
}

func (c *talking) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

func (c *talking) begin() {
	changes := make(chan svc.Status)
	go func() {
		for status := range changes {
			c.mu.Lock()
			c.told = append(c.told, status)
			c.mu.Unlock()
		}
	}()
	go func() {
		defer close(c.over)
		defer close(changes)
		c.ownCode, c.code = c.Execute(nil, c.requests, changes)
	}()
}

func TestConversationOfAService(t *testing.T) {
	for _, end := range []svc.Cmd{svc.Stop, svc.Shutdown, svc.PreShutdown} {
		synctest.Test(t, func(t *testing.T) {
			c := talk(t, func() {})
			c.begin()
			for _, ask := range []svc.Cmd{svc.SessionChange, svc.PowerEvent, svc.Interrogate, svc.ParamChange} {
				c.requests <- svc.ChangeRequest{Cmd: ask}
			}
			c.requests <- svc.ChangeRequest{Cmd: end}
			<-c.over
			synctest.Wait()
			if c.ownCode || c.code != 0 || c.late || c.looks != 2 || c.stops != 1 {
				t.Errorf("told to end by %d: code %v %d, late %v, %d looks, %d stops", end, c.ownCode, c.code, c.late, c.looks, c.stops)
			}
			var states []svc.State
			for _, status := range c.told {
				states = append(states, status.State)
			}
			if len(c.told) != 4 || states[0] != svc.StartPending || states[1] != svc.Running || states[2] != svc.Running || states[3] != svc.StopPending {
				t.Fatalf("the service manager is told %v", states)
			}
			if c.told[1].Accepts&svc.AcceptPreShutdown == 0 || c.told[1].Accepts&svc.AcceptSessionChange == 0 || c.told[3].WaitHint != 10_000 {
				t.Errorf("accepts %b, and stops within %d ms", c.told[1].Accepts, c.told[3].WaitHint)
			}
		})
	}
}

// A machine that shuts down waits for 10 s, and an agent that hangs is not to be ended by force.
func TestConversationEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang, letGo := context.WithCancel(t.Context())
		defer letGo()
		c := talk(t, func() { <-hang.Done() })
		c.begin()
		began := time.Now()
		c.requests <- svc.ChangeRequest{Cmd: svc.PreShutdown}
		<-c.over
		if took := time.Since(began); took >= stopHint || !c.late {
			t.Errorf("an agent that hangs: over after %v, late %v", took, c.late)
		}
	})
}

func TestConversationTellsOfAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := talk(t, func() {})
		failed := make(chan struct{})
		c.failed = failed
		c.begin()
		close(failed)
		<-c.over
		if !c.ownCode || c.code == 0 {
			t.Error("the service manager takes a failure for a good end, and does not start the service again")
		}
	})
}

func TestShutDownWaitsAsLongAsStoppingTakes(t *testing.T) {
	manager, err := mgr.Connect()
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Disconnect()
	s, err := manager.CreateService("cetrus-test", `C:\nothing.exe`, mgr.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	defer func() {
		if err := s.Delete(); err != nil {
			t.Error(err)
		}
	}()
	if err := boundShutDown(s); err != nil {
		t.Fatal(err)
	}
	var info preShutDown
	var needed uint32
	if err := windows.QueryServiceConfig2(s.Handle, windows.SERVICE_CONFIG_PRESHUTDOWN_INFO, (*byte)(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)), &needed); err != nil {
		t.Fatal(err)
	}
	if info.timeoutMillis != 10_000 {
		t.Errorf("a machine that shuts down waits for %d ms", info.timeoutMillis)
	}
}
