package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

func serve(t *testing.T, handler http.HandlerFunc) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return New(server.URL+"/", "secret")
}

func TestErrorsSayWhatTheAPISaid(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("authorization is %q", r.Header.Get("Authorization"))
		}
		w.WriteHeader(http.StatusNotFound)
		if r.Method == http.MethodDelete {
			fmt.Fprint(w, "plain words")
			return
		}
		fmt.Fprint(w, `{"code":5,"message":"no such instance","details":[],"more":1}`)
	})
	var failure *Error
	err := client.Get(t.Context(), "/v1/instances/x", nil, &meteringv1.Instance{})
	if !errors.As(err, &failure) || failure.HTTPStatus != 404 || failure.Status.GetMessage() != "no such instance" {
		t.Errorf("got %v", err)
	}
	if err := client.Delete(t.Context(), "/v1/x"); !errors.As(err, &failure) || failure.Text != "plain words" {
		t.Errorf("got %v", err)
	}
}

func TestApplicationsReadsAllPages(t *testing.T) {
	client := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("page_token") == "" {
			fmt.Fprint(w, `{"applications":[{"display_name":"One"}],"next_page_token":"2"}`)
			return
		}
		fmt.Fprint(w, `{"applications":[{"displayName":"Two","unknown":7}]}`)
	})
	all, err := client.Applications(t.Context())
	if err != nil || len(all) != 2 || all[1].GetDisplayName() != "Two" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestLiveTellsEachAnswerAndItsEnd(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want int
		end  func(error) bool
	}{
		"cut":   {"{\"result\":{\"complete\":true}}\n\n{\"result\":{}}\n", 2, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"error": {"{\"result\":{}}\n{\"error\":{\"message\":\"stopping\"}}\n", 1, func(err error) bool { return err != nil }},
		"bytes": {"{\"result\":\n", 0, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			client := serve(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, test.body) })
			got := 0
			err := client.Live(context.Background(), nil, func(*meteringv1.StreamLiveUsageResponse) { got++ })
			if got != test.want || !test.end(err) {
				t.Errorf("%d answers, then %v", got, err)
			}
		})
	}
}
