package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/cetrus/cetrus/tools/api"
)

// TestANewKeyIsTaken: where the key is revoked while the table is shown, the one in the
// data folder is used and told, and the refusal is not shown.
func TestANewKeyIsTaken(t *testing.T) {
	asked := make(chan string, 64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		select {
		case asked <- key:
		default:
		}
		if key != "new" {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"code":16,"message":"the key is not valid"}`))
			return
		}
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	v := &view{
		api: api.New(server.URL, "old"), base: server.URL, key: "old", newKey: func() (string, error) { return "new", nil },
		board: newBoard(), greeting: "key old",
	}
	ctx, stop := context.WithCancel(t.Context())
	var polling sync.WaitGroup
	polling.Go(func() { v.poll(ctx) })
	for key := range asked {
		if key == "new" {
			break
		}
	}
	stop()
	polling.Wait()
	if v.problem != "" || v.greeting != "key new" || len(v.notices) != 1 || !strings.Contains(v.notices[0], "new") {
		t.Errorf("problem %q, greeting %q, notices %q", v.problem, v.greeting, v.notices)
	}
}

// TestAKeyThatNobodyHasReplaced is told in words.
func TestAKeyThatNobodyHasReplaced(t *testing.T) {
	client := api.New("http://127.0.0.1:1", "old")
	v := &view{api: client, key: "old", newKey: func() (string, error) { return "old", nil }}
	err := v.renewed(client, &api.Error{HTTPStatus: http.StatusUnauthorized})
	if err == nil || !strings.Contains(err.Error(), "cetrus key new") {
		t.Errorf("it says %v", err)
	}
}
