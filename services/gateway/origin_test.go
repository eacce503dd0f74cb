package gateway_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

func (b *backend) tellOrigin(ctx context.Context) {
	if b.origins != nil {
		b.origins <- authn.OriginFrom(ctx)
	}
}

// A service learns from where a request comes, by both ways through the gateway: whom the
// nearest proxy names, however many lines the caller wrote before.
func TestServicesLearnTheOrigin(t *testing.T) {
	f := start(t)
	f.backend.origins = make(chan authn.Origin, 1)
	// A stream's answer begins with its first message.
	f.backend.live <- &meteringv1.StreamLiveUsageResponse{Complete: true}
	for _, path := range []string{"/v1/applications/" + someID, "/v1/usage:live"} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+f.key)
		request.Header.Set("User-Agent", "Firefox/145")
		request.Header["X-Forwarded-For"] = []string{"203.0.113.5", "198.51.100.1"}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case o := <-f.backend.origins:
			if o.Address.String() != "198.51.100.1" || o.UserAgent != "Firefox/145" {
				t.Errorf("%s: %v", path, o)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s did not arrive: %s", path, response.Status)
		}
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}
