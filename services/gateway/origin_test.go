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
// nearest proxy names, however many lines the caller wrote before, and what the caller calls itself, as far
// as that can be passed on.
func TestServicesLearnTheOrigin(t *testing.T) {
	f := start(t)
	f.backend.origins = make(chan authn.Origin, 1)
	// A stream's answer begins with its first message.
	f.backend.live <- &meteringv1.StreamLiveUsageResponse{Complete: true}
	one, live := "/v1/applications/"+someID, "/v1/usage:live"
	for _, c := range []struct{ path, says, want string }{
		{one, "Firefox/145", "Firefox/145"},
		{one, "Caf\xe9 \u2615\tFirefox/145", "Caf Firefox/145"},
		{one, "\u2615", ""},
		{one, "", ""},
		{live, "\u2615Firefox/145", "Firefox/145"},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+c.path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+f.key)
		request.Header.Set("User-Agent", c.says)
		request.Header["X-Forwarded-For"] = []string{"203.0.113.5", "198.51.100.1"}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case o := <-f.backend.origins:
			if o.Address.String() != "198.51.100.1" || o.UserAgent != c.want {
				t.Errorf("%s by %q: %v", c.path, c.says, o)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s did not arrive: %s", c.path, response.Status)
		}
		if err := response.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}
