package gateway

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// writeError answers with an error as google.rpc.Status. httpStatus is 0 for the
// one that belongs to the code.
func writeError(w http.ResponseWriter, httpStatus int, err error) {
	st := publicStatus(err)
	if httpStatus == 0 {
		httpStatus = runtime.HTTPStatusFromCode(st.Code())
	}
	body, merr := protojson.MarshalOptions{UseProtoNames: true}.Marshal(st.Proto())
	if merr != nil {
		httpStatus, body = http.StatusInternalServerError, []byte(`{"code":13,"message":"the error could not be written","details":[]}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)+1))
	switch httpStatus {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="cetrus"`)
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		h.Set("Retry-After", "1")
	}
	w.WriteHeader(httpStatus)
	//nolint:gosec // JSON with nosniff, never HTML
	_, _ = w.Write(append(body, '\n')) // the client is gone where this fails
}

// publicStatus is the status of an error as the outside may see it.
func publicStatus(err error) *status.Status {
	if st, ok := status.FromError(err); ok && len(st.Details()) == 0 {
		switch st.Code() {
		case codes.Unavailable:
			// grpc-go's own text names addresses inside.
			err = errs.As(errs.Unavailable, "gateway", "", "the service behind this method cannot be reached now: repeat in a moment", err)
		case codes.InvalidArgument:
			// From grpc-gateway or protojson, which puts no-break spaces in at random.
			text := strings.TrimPrefix(strings.ReplaceAll(strings.ToValidUTF8(st.Message(), "\uFFFD"), "\u00a0", " "), "proto: ")
			err = status.Error(codes.InvalidArgument, text)
		}
	}
	return rpc.Status(err)
}

// onError is grpc-gateway's error handler.
func onError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	var withStatus *runtime.HTTPStatusError
	if errors.As(err, &withStatus) {
		writeError(w, withStatus.HTTPStatus, status.Error(codes.InvalidArgument, withStatus.Err.Error()))
		return
	}
	writeError(w, 0, err)
}

// onRoutingError is grpc-gateway's handler of paths and methods that do not exist.
// Strangers are not told which do.
func (s *Service) onRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int) {
	if _, err := s.authenticate(r); err != nil {
		writeError(w, 0, err)
		return
	}
	switch httpStatus {
	case http.StatusMethodNotAllowed:
		writeError(w, httpStatus, errs.New(errs.Unimplemented, "gateway", r.Method+" "+r.URL.Path, "this path has no such method; /openapi.json lists all"))
	case http.StatusBadRequest:
		writeError(w, httpStatus, errs.New(errs.Invalid, "gateway", r.URL.Path, "this path is malformed"))
	default:
		notFound(w, r)
	}
}

func notFound(w http.ResponseWriter, r *http.Request) {
	writeError(w, 0, errs.New(errs.NotFound, "gateway", r.Method+" "+r.URL.Path, "there is no such path; /openapi.json lists all"))
}
