package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// scimBase is what the paths of SCIM begin with.
const scimBase = "/scim/v2"

// scim passes requests of SCIM on as they are: identity reads and decides them. Its errors are
// those of SCIM, whatever goes wrong.
func (s *Service) scim() (http.Handler, error) {
	method := identityv1.File_cetrus_identity_v1_provisioning_proto.Services().ByName("ProvisioningService").Methods().ByName("HandleScim")
	rule, err := authz.Of(method)
	if err != nil {
		return nil, err
	}
	client := identityv1.NewProvisioningServiceClient(s.deps.Identity)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Before anything is read of the body.
		caller, err := s.authenticate(r)
		if err == nil {
			_, err = rule.Admit(caller)
		}
		if err != nil {
			writeScimError(w, 0, err)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxBodyBytes))
		if err != nil {
			status := http.StatusBadRequest
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				status = http.StatusRequestEntityTooLarge
			}
			writeScimError(w, status, errs.As(errs.Invalid, "gateway.scim", "request body", "is larger than "+strconv.FormatInt(s.cfg.MaxBodyBytes, 10)+" bytes, or ends too early: send less at once", err))
			return
		}
		answer, err := client.HandleScim(withCredentials(r.Context(), r), &identityv1.HandleScimRequest{
			Method: r.Method, Path: strings.TrimPrefix(r.URL.Path, scimBase), Query: r.URL.RawQuery,
			IfMatch: r.Header.Get("If-Match"), IfNoneMatch: r.Header.Get("If-None-Match"), Body: body,
		})
		if err != nil {
			writeScimError(w, 0, err)
			return
		}
		h := w.Header()
		for name, value := range map[string]string{"ETag": answer.GetEtag(), "Location": answer.GetLocation()} {
			if value != "" {
				h.Set(name, value)
			}
		}
		writeScim(w, int(answer.GetStatus()), answer.GetBody())
	}), nil
}

// writeScimError answers with an error as SCIM has it; status is 0 for the one that belongs to it.
func writeScimError(w http.ResponseWriter, status int, err error) {
	st := publicStatus(err)
	if status == 0 {
		status = runtime.HTTPStatusFromCode(st.Code())
	}
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="cetrus"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
	}
	writeScim(w, status, scimError(status, st.Message()))
}

// scimError is the body of an error (RFC 7644 §3.12).
func scimError(status int, detail string) []byte {
	body, _ := json.Marshal(map[string]any{ // texts alone
		"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:Error"}, "status": strconv.Itoa(status), "detail": detail,
	})
	return body
}

func writeScim(w http.ResponseWriter, status int, body []byte) {
	if len(body) > 0 {
		w.Header().Set("Content-Type", "application/scim+json")
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone where this fails
}
