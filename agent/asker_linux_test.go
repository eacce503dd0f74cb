package agent

import (
	"context"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// Each person with a session has places of their own; all others share, since one person may
// have as many users as they like.
func TestPlacesOfUsers(t *testing.T) {
	t.Parallel()
	sits := func(uid string) bool { return uid == "70001" || uid == "70002" }
	ann, bob := placeOfUser(70_001, sits), placeOfUser(70_002, sits)
	eve, spare := placeOfUser(70_003, sits), placeOfUser(70_004, sits)
	root, own := placeOfUser(0, sits), placeOfUser(uint32(os.Geteuid()), sits)
	if ann == bob || ann == eve || bob == eve || eve != spare || root != own || root == eve || root == ann {
		t.Errorf("places: %q, %q, %q, %q, %q, %q", ann, bob, eve, spare, root, own)
	}
}

// Whoever stops waits for those who are being answered, and tells them that it does.
func TestStopWaitsForAnswers(t *testing.T) {
	t.Parallel()
	socket := controlIn(t.TempDir())
	listener, err := listenControl(socket)
	if err != nil {
		t.Fatal(err)
	}
	c := newControl(&Agent{}, listener)
	c.names.lookUp = func(context.Context, string) (activity.User, error) { return activity.User{Name: "ann"}, nil }
	asked, stopped := make(chan struct{}), make(chan struct{})
	var answered atomic.Bool
	c.handle("GET /slow", func(_ asker, _ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		select {
		case <-stopped: // too early
		case <-time.After(200 * time.Millisecond):
			answered.Store(true)
		}
	})
	go c.serve()
	conn, err := dialControl(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET /slow HTTP/1.1\r\nHost: agent\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	<-asked
	c.stop()
	close(stopped)
	if !answered.Load() {
		t.Error("it has stopped, and somebody is still being answered")
	}
	if c.answering.begin() {
		t.Error("somebody is answered after it has stopped")
	}
}
