package archive

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// TestOfAStoreMoreIsWaitedForAsLongAsItMoves: an object may take longer than a store may stand still, in either direction.
func TestOfAStoreMoreIsWaitedForAsLongAsItMoves(t *testing.T) {
	const (
		within = 2 * time.Second
		parts  = 30
		apart  = within / 10
	)
	ended := make(chan struct{})
	slowly := func(part func()) {
		tick := time.NewTicker(apart)
		defer tick.Stop()
		for range parts {
			part()
			<-tick.C
		}
	}
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		send := func() {
			_, _ = w.Write([]byte("."))
			w.(http.Flusher).Flush()
		}
		switch r.URL.Path {
		case "/slow":
			slowly(send)
		case "/still":
			send()
			<-ended
		case "/taken":
			n, err := io.Copy(io.Discard, r.Body)
			if n != parts || err != nil {
				t.Errorf("%d bytes came: %v", n, err)
			}
		}
	}))
	defer store.Close()
	defer close(ended)
	transport, err := moving(false, within)
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: transport}
	defer client.CloseIdleConnections()
	load := func(path string) ([]byte, error) {
		answer, err := client.Get(store.URL + path)
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		return io.ReadAll(answer.Body)
	}
	if content, err := load("/slow"); err != nil || !bytes.Equal(content, bytes.Repeat([]byte("."), parts)) {
		t.Errorf("of a slow store: %q, %v", content, err)
	}
	if _, err := load("/still"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("of a store that stands still: %v", err)
	}
	body, give := io.Pipe()
	go func() {
		slowly(func() { _, _ = give.Write([]byte(".")) })
		_ = give.Close()
	}()
	answer, err := client.Post(store.URL+"/taken", "", body)
	if err != nil {
		t.Fatalf("to a store that takes slowly: %v", err)
	}
	_ = answer.Body.Close()
}
