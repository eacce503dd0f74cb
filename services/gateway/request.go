package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// keyHeader carries an API key beside Authorization.
const keyHeader = "X-Api-Key"

// forwardedHeader is where proxies say for whom they ask.
const forwardedHeader = "X-Forwarded-For"

const instrumentation = "github.com/cetrus/cetrus/services/gateway"

// observed traces and times each request, and sets the headers that no answer
// goes without.
func (s *Service) observed(next http.Handler) (http.Handler, error) {
	tracer := otel.Tracer(instrumentation)
	duration, err := otel.Meter(instrumentation).Float64Histogram("http.server.request.duration",
		metric.WithUnit("s"), metric.WithDescription("How long requests took; streams to their end."))
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		joinForwarded(r)
		r.Header.Set("User-Agent", rpc.Printable(r.UserAgent()))
		ctx := otel.GetTextMapPropagator().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		ctx, span := tracer.Start(ctx, r.Method, trace.WithSpanKind(trace.SpanKindServer),
			trace.WithAttributes(attribute.String("http.request.method", r.Method), attribute.String("url.path", r.URL.Path)))
		defer span.End()
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		seen := &observation{ResponseWriter: w}
		next.ServeHTTP(seen, r.WithContext(context.WithValue(ctx, observationKey{}, seen)))
		status := attribute.Int("http.response.status_code", seen.code)
		span.SetAttributes(status)
		if seen.code >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, strconv.Itoa(seen.code))
		}
		duration.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(status,
			attribute.String("http.request.method", seen.method), attribute.String("http.route", seen.route)))
	}), nil
}

// observation is what is remembered of one request, for its trace and metrics.
type observation struct {
	http.ResponseWriter
	code int
	// method and route are set only where they are of the contract, so that no
	// stranger can make up series of a metric.
	method, route string
}

type observationKey struct{}

// observe notes which operation a request is for.
func (op *operation) observe(ctx context.Context) {
	trace.SpanFromContext(ctx).SetName(op.Verb + " " + op.Template)
	if seen, ok := ctx.Value(observationKey{}).(*observation); ok {
		seen.method, seen.route = op.Verb, op.Template
	}
}

func (w *observation) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *observation) Write(b []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *observation) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// authenticate finds out who asks, without reading anything of the body.
func (s *Service) authenticate(r *http.Request) (authn.Caller, error) {
	key, err := authn.KeyFromHeaders(r.Header.Values("Authorization"), r.Header.Values(keyHeader))
	if err != nil {
		return authn.Caller{}, err
	}
	return s.deps.Authenticator.Authenticate(r.Context(), key)
}

// admit judges whether whoever asks may call the operation. The service behind it
// judges again, and that is what counts: a stranger's body is not read for nothing.
func (s *Service) admit(r *http.Request, op *operation) error {
	if op.rule.Anybody() {
		return nil
	}
	caller, err := s.authenticate(r)
	if err == nil {
		_, err = op.rule.Admit(caller)
	}
	return err
}

// checked refuses who may not call the operation, and what grpc-gateway would ignore,
// cut or misreport: query parameters and fields that are not known or not readable, and
// bodies that are too large.
func (s *Service) checked(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		pattern, _ := runtime.HTTPPattern(r.Context())
		template := strings.ReplaceAll(pattern.String(), "=*}", "}")
		op, ok := s.ops[r.Method+" "+template]
		if !ok {
			writeError(w, 0, errs.New(errs.Internal, "gateway.checked", template, "no such operation"))
			return
		}
		op.observe(r.Context())
		if err := s.admit(r, op); err != nil {
			writeError(w, 0, err)
			return
		}
		values, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			writeError(w, 0, errs.As(errs.Invalid, "gateway.checked", "", "the query part of the address is malformed: write & between parameters and %XX for special characters", err))
			return
		}
		if err := op.checkQuery(values); err != nil {
			writeError(w, 0, err)
			return
		}
		r.URL.RawQuery = values.Encode()

		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.MaxBodyBytes))
		if err != nil {
			var tooLarge *http.MaxBytesError
			if errors.As(err, &tooLarge) {
				writeError(w, http.StatusRequestEntityTooLarge, errs.New(errs.Exhausted, "gateway.checked", "request body",
					"is larger than "+strconv.FormatInt(s.cfg.MaxBodyBytes, 10)+" bytes: send less at once").WithReason("BODY_TOO_LARGE"))
				return
			}
			writeError(w, http.StatusBadRequest, errs.As(errs.Invalid, "gateway.checked", "request body", "could not be read to its end", err))
			return
		}
		if op.Body == "" && len(bytes.TrimSpace(body)) > 0 {
			writeError(w, 0, errs.New(errs.Invalid, "gateway.checked", "", "this method takes no body; "+op.known()+" as query parameters"))
			return
		}
		if op.Body != "" {
			if err := op.checkBody(body); err != nil {
				writeError(w, 0, err)
				return
			}
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next(w, r, path)
	}
}

// incomingHeader lets exactly the headers through that services read; grpc-gateway
// itself passes Authorization on.
func incomingHeader(name string) (string, bool) {
	switch http.CanonicalHeaderKey(name) {
	case keyHeader:
		return "x-api-key", true
	case "User-Agent":
		return rpc.UserAgentKey, true
	}
	return "", false
}

func noHeader(string) (string, bool) { return "", false }

// readOnly answers GET and HEAD only.
func readOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			writeError(w, http.StatusMethodNotAllowed, errs.New(errs.Unimplemented, "gateway", r.Method+" "+r.URL.Path, "this path can only be read"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func static(contentType string, content []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content) // net/http leaves the body out for HEAD
	})
}

// withCredentials passes on the request's key, and whom it comes from, for calls that do not
// go through grpc-gateway.
func withCredentials(ctx context.Context, r *http.Request) context.Context {
	credentials := rpc.ForwardedOrigin(r)
	for _, name := range []string{"Authorization", keyHeader} {
		credentials.Append(name, r.Header.Values(name)...)
	}
	return metadata.NewOutgoingContext(ctx, credentials)
}

// joinForwarded makes one line of what proxies say for whom they ask: grpc-gateway reads the
// first only, which may be the caller's own invention.
func joinForwarded(r *http.Request) {
	if lines := r.Header.Values(forwardedHeader); len(lines) > 1 {
		r.Header.Set(forwardedHeader, strings.Join(lines, ", "))
	}
}
