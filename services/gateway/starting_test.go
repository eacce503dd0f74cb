package gateway

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/services/platform/ports"
)

// While the platform starts, people and programs are told so where it will answer, and its address is free once it
// does.
func TestAnswerStarting(t *testing.T) {
	free, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	defer free.Release()
	address := free.Addresses()[0]
	stop, err := AnswerStarting(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for accept, want := range map[string]string{"text/html,*/*": `http-equiv="refresh"`, "application/json": "Cetrus is starting: repeat this in a moment"} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/now", nil)
		r.Header.Set("Accept", accept)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if answer.Body.Close(); err != nil || answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" || !strings.Contains(string(body), want) {
			t.Errorf("%s is answered %d: %s, %v", accept, answer.StatusCode, body, err)
		}
	}
	stop()
	taken, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("its address is not free: %v", err)
	}
	_ = taken.Close()
}
